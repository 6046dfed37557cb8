"""What the denoiser is told of an image beside the time."""
