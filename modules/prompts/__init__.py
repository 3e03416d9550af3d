"""Prompts: chat templates in a sandbox, prompt templates as files, and fitting a conversation into a context."""
