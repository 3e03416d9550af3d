"""Long work on weights: an adapter as a GGUF file, an adapter merged into its base model."""
