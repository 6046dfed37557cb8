"""Latents to codes of a codebook."""
