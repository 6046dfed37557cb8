"""Broken components, each a plausible mistake, and sound ones: what the contract checks are checked with."""
