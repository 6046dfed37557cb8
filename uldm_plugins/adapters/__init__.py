"""Doors to other libraries' components: each a plugin of its own, importing its library when built."""
