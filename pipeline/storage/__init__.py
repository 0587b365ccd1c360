"""The one door to file systems: local disk and object storage, with patience."""
