"""Long work that measures models. Knows loaders and files; knows no training, no services and no page."""
