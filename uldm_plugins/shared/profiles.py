"""Colour profiles: from what an image's numbers mean to sRGB."""

from __future__ import annotations

import logging
from functools import lru_cache
from io import BytesIO
from typing import cast

import numpy as np
from PIL import Image, ImageCms

_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}
_NO_CACHE = 0x40  # littlecms' flag: a transform may be used by several threads
_NEAR = 2  # of 255: profiles of sRGB differ by their rounding
_log = logging.getLogger(__name__)


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return an image of mode ``L``, ``LA``, ``RGB``, ``RGBA``, ``CMYK`` or ``LAB`` in sRGB's colours.

    Grey stays grey, alpha stays as it is. A profile that is broken, of another number of channels or sRGB's
    own changes nothing.
    """
    if not profile and image.mode != "LAB":
        return image
    colours = image.convert(image.mode[:-1]) if image.mode in ("LA", "RGBA") else image
    transform = _transform(profile, colours.mode)
    if transform is None:
        return image
    converted = transform.apply(colours)
    converted = converted.convert("L") if colours.mode == "L" else converted
    if colours is not image:
        converted.putalpha(image.getchannel("A"))
    return converted


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what brings a mode's colours to sRGB, nothing where they are left alone."""
    try:
        lab = mode == "LAB"  # of which a file need not say more
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB") if lab else BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space != _SPACES[mode]:
            _log.debug("a colour profile for %s is ignored: the image is %s", space, mode)
            return None
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        flags = cast(ImageCms.Flags, _NO_CACHE)  # which Pillow 10 has under another name
        transform = ImageCms.ImageCmsTransform(source, srgb, mode, "RGB", flags=flags)
    except (OSError, TypeError, ValueError) as error:
        _log.debug("a colour profile is ignored: %s", error)
        return None
    return None if mode in ("L", "RGB") and _changes_nothing(transform, mode) else transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    before = Image.fromarray(np.ascontiguousarray(colours)).convert(mode)
    after = transform.apply(before)
    return bool(np.abs(np.asarray(before.convert("RGB"), int) - np.asarray(after, int)).max() <= _NEAR)
