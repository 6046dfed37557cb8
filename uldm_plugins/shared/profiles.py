"""Colour profiles: from what an image's numbers mean to sRGB."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from typing import cast

import numpy as np
from PIL import Image, ImageCms

_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}
_SHARED, _EXACT = 0x0040, 0x0100  # littlecms' flags: no state, so that threads may share it; no shortcuts
_ROUNDING = 2  # of 255: by so much profiles of sRGB differ
_log = logging.getLogger(__name__)


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return an image of mode ``L``, ``LA``, ``RGB``, ``RGBA``, ``CMYK`` or ``LAB`` in sRGB's colours.

    Grey stays grey, alpha stays as it is. A profile that is broken, of another number of channels or sRGB's
    own changes nothing.
    """
    if not profile and image.mode != "LAB":
        return image
    colours = image.convert(image.mode[:-1]) if image.mode in ("LA", "RGBA") else image
    convert = _conversion(profile, colours.mode)
    if convert is None:
        return image
    converted = convert(colours)
    if colours is not image:
        converted.putalpha(image.getchannel("A"))
    return converted


@lru_cache(maxsize=64)
def _conversion(profile: bytes, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    """Return what brings a mode's colours to sRGB, nothing where they are left alone."""
    try:
        transform = _transform(profile, mode)
    except (OSError, TypeError, ValueError) as error:
        _log.debug("a colour profile is ignored: %s", error)
        return None
    if mode == "L":  # littlecms' own shortcut is coarse where grey is dark
        levels = transform.apply(Image.fromarray(np.arange(256, dtype=np.uint8)[None])).convert("L").tobytes()
        return lambda image: image.point(levels)
    return None if mode == "RGB" and _changes_nothing(transform) else transform.apply


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    """Return littlecms' transform.

    Raises:
        OSError: the profile is broken.
        ValueError: it is one for other colours.
    """
    lab = mode == "LAB"  # of which a file need not say more
    source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB") if lab else BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    if space != _SPACES[mode]:
        raise ValueError(f"it is one for {space}, the image is {mode}")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    flags = cast(ImageCms.Flags, _SHARED | (_EXACT if mode == "L" else 0))  # an enum only since Pillow 10.3
    return ImageCms.ImageCmsTransform(source, srgb, mode, "RGB", flags=flags)


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Return whether a transform from RGB is sRGB's own: it changes no colour by more than rounding."""
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    after = np.asarray(transform.apply(Image.fromarray(np.ascontiguousarray(colours))))
    return bool(np.abs(colours.astype(int) - after).max() <= _ROUNDING)
