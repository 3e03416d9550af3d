"""The starter model: text, tokenizer, training, export and evaluation. Knows nothing of the server."""
