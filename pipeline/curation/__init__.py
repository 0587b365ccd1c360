"""Views of what was made: which samples of a dataset count, without making or moving any."""
