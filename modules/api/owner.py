"""Whose conversations, jobs and notes the page shows: one person's, until there are accounts."""

OWNER = "local"
