"""The model hub: what a person may paste, what a repository offers, and its bytes on this disk, whole or not at all."""
