"""Samples that are led away from those of a worse denoiser."""
