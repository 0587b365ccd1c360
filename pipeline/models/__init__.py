"""`model:` in the job file. `catalog/` answers before torch is imported; `diffusion/` and `clip/` are torch's door."""
