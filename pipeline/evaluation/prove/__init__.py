"""`promptmill prove`: does training on the synthetic set help, by a protocol that can say no."""
