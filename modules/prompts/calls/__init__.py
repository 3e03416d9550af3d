"""Calls of tools in the text of replies: how families of models write them, and how they are read while they come."""
