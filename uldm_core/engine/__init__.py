"""The engine: runs, the training loop, randomness, devices, trackers, opened runs."""
