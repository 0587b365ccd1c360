"""A dataset against a reference set."""
