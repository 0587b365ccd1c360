"""`compute:` in the job file: a run, its dispatchers and its progress."""
