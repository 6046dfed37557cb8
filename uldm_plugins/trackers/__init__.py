"""Those who are told of a run while it goes on."""
