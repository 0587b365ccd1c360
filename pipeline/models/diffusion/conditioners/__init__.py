"""What conditions an image, a file a kind, with `make(parts)`; whatever lies here is used (`diffusion/registry.py`)."""
