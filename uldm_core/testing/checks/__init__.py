"""The contracts: one module a kind, one function a check; ``module`` holds those of every ``nn.Module``."""
