"""Where in a TOML text things stand, and why one cannot be read. Knows nothing of recipes."""
