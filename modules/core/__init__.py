"""Values and protocols that every layer shares: standard library, pydantic and yaml only."""
