"""Commands that know components."""
