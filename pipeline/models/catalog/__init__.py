"""What a model folder or hub id is, found out without torch: classes, weights, schedulers, sizes."""
