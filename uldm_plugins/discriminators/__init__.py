"""Real or fake, a logit a patch."""
