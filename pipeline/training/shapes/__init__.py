"""How the built-in model was trained, stage by stage."""
