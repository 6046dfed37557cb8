"""Noisy latents and time to a prediction."""
