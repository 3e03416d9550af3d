"""The HTTP side: OpenAI-compatible API, the page's own routes, and the guard in front of both."""
