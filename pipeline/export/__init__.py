"""A dataset for other tools: card, Croissant, layouts."""
