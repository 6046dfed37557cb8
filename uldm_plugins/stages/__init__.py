"""The verbs of recipes."""
