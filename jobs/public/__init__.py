"""Prompts in, a scored image-caption dataset out."""
