"""Changed copies of training images."""
