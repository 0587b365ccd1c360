"""`generation:` and `select:` in the job file: `shard.py` has `process_shard`, the path of one shard."""
