"""For every test: one thread, since the tests' tensors are too small to share, and Hypothesis's profile."""

import os
import tempfile

import torch
from hypothesis import settings

os.environ["TRACKIO_DIR"] = tempfile.mkdtemp(prefix="trackio")  # not a person's own, nor another worker's

torch.set_num_threads(1)

settings.register_profile("everyday", deadline=None, max_examples=50)
settings.load_profile("everyday")
