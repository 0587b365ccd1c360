"""Real neighbours for tests, on loopback: an S3 server, a proxy that breaks things in front of it, a disk that fills."""
