"""Blocks that several rooms share."""
