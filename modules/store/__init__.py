"""What is kept in SQLite: conversations as trees of messages, their search, and notebooks; every row has an owner, checked here."""
