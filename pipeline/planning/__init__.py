"""`sweep:` and `seed:` in the job file: variants, shards and ids by arithmetic alone."""
