"""The page and its numbers. Reads a dataset, never writes into its data."""
