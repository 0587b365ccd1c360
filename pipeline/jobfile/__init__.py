"""`name.yaml` to a checked, frozen job: YAML as strict text, overrides, errors with file and line."""
