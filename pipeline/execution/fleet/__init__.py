"""Ray's only door: actors, their deaths, lost devices, the search for a poison sample."""
