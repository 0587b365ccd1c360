"""A job for a cluster of which this machine is no node, through Ray Jobs: its REST interface, and no part of Ray."""
