"""Latents to unit variance and back."""
