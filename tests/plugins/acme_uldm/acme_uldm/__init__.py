"""A stranger's plugin for uldm."""
