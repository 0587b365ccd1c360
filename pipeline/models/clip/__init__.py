"""A loaded open_clip model: images and captions to embeddings and cosines."""
