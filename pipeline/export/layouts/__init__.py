"""Folders in the form that the suites' own scorers read, a module each; `export/registry.py` says what it holds."""
