"""`prompts:` in the job file: sources, formats, suites, their checks, and the reader of a shard's rows."""
