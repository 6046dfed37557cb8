"""For every test: one thread, since the tests' tensors are too small to share, and Hypothesis's profile."""

import torch
from hypothesis import settings

torch.set_num_threads(1)

settings.register_profile("everyday", deadline=None, max_examples=50)
settings.load_profile("everyday")
