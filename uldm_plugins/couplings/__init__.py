"""Which noise is paired with which latent in training."""
