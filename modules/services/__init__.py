"""Use cases: what the page and the API can ask for, and the one place where everything is put together."""
