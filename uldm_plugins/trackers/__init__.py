"""Trackers: they are notified of a run's progress."""
