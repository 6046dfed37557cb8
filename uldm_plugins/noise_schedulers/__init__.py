"""Forward processes and what the denoiser predicts."""
