"""Images by index."""
