"""Training, with torch: the loop that every trainer shares."""
