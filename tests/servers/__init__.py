"""Real neighbours for tests, on loopback: an S3 server, a proxy that breaks things before it, a disk that fills."""
