"""`output:` in the job file: the folder, its keys, the commit, its state, verify and retry."""
