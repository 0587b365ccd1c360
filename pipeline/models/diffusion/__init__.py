"""A loaded diffusers pipeline: prompts to pixels, one seed a sample."""
