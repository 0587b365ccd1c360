"""A page over a dataset while it is made."""
