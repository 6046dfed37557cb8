"""The engine: stages and their content keys, the training loop, checkpoints, randomness, devices."""
