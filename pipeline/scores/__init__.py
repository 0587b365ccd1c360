"""`score:` in the job file: one file a kind of score."""
