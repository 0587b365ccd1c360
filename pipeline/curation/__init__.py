"""Which samples of a dataset count: views beside it, and copies of it without duplicates and leaks."""
