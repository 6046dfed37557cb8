"""The classes that a denoiser is conditioned on."""
