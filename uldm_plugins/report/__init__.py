"""A run as one page to look at: what was trained, how it went, what came of it."""
