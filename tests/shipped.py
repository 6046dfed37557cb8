"""The shipped recipes, and what those are given that have no data of their own."""

from pathlib import Path

import numpy as np
from PIL import Image

from uldm_core.recipe import Recipe

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(FOLDER.glob("*.toml"))
OF_A_FOLDER = ("faces_256", "images_latent")
OF_A_RUN = ("finetune",)
COMPLETE = [path for path in RECIPES if path.stem not in (*OF_A_FOLDER, *OF_A_RUN)]
"""Those that need nothing but themselves."""
RUNNABLE = [path for path in RECIPES if path.stem not in OF_A_RUN]
"""Those that need at most a folder of images."""


def loaded(path, images, *overrides):
    """Load a shipped recipe, with a folder of images where it asks for one."""
    root = (f"dataset.root={images}",) if path.stem in (*OF_A_FOLDER, *OF_A_RUN) else ()
    return Recipe.load(path, (*root, *overrides))


def write_images(folder, count=120):
    """Write small colour images of noise, and return their folder."""
    pixels = np.random.default_rng(0).integers(256, size=(count, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder
