"""The line of each key of a TOML text, and why a text is not TOML. Knows nothing of recipes."""
