"""Paddock's packages; see modules/README.md for the layers and the life of a request."""
