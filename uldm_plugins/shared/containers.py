"""PNG, JPEG and WebP files as containers: what in them makes pixels, apart from what lies around it.

Pillow is given the pixels alone. So a broken profile, a comment of gigabytes, a second picture or a film
behind the first cannot spoil an image that is whole.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

from attrs import frozen

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_GREY, _RGB = 0, 2
_BARE_MARKERS = (0x01, *range(0xD0, 0xD9))
_START_OF_SCAN = 0xDA
_ORIENTATION = 0x0112
_INTEGERS = {1: "B", 3: "H", 4: "I"}
_MOST_TEXT = 1 << 20


@frozen
class Container:
    """What of an image file makes pixels, and how they are to be read.

    Args:
        kind: ``JPEG``, ``PNG`` or ``WEBP``.
        data: the file without its metadata.
        orientation: EXIF's, 1 (upright) to 8.
        bits: of each sample; PNG only.
        transparent: the one grey or RGB colour that is transparent, of so many bits; PNG only.
    """

    kind: str
    data: bytes
    orientation: int = 1
    bits: int = 8
    transparent: tuple[int, ...] = ()


def parse(content: bytes) -> Container:
    """Find the pixels of an image file, whatever its name.

    Raises:
        ValueError: it is no PNG, JPEG or WebP, is cut short, or a checksum is wrong.
    """
    if not content:
        raise ValueError("empty")
    if content.startswith(_PNG):
        return _png(content)
    if content.startswith(b"\xff\xd8\xff"):
        return _jpeg(content)
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return _webp(content)
    raise ValueError("no PNG, JPEG or WebP")


def _png(content: bytes) -> Container:
    if len(content) < 33:  # the first chunk, with size, bits and colours
        raise ValueError("cut short")
    kept, exif, xmp, transparent = [_PNG], b"", b"", b""
    grey_or_rgb = content[25:26] in (b"\0", b"\2")
    for kind, whole in _png_chunks(content):
        body = whole[8:-4]
        if kind == b"tRNS" and grey_or_rgb:
            transparent = body
        elif kind in _PNG_PIXELS:
            kept.append(whole)
        elif kind == b"eXIf":
            exif = body
        elif kind in (b"tEXt", b"zTXt") and body.startswith(b"Raw profile type exif\0"):
            exif = exif or _raw_profile(body, compressed=kind == b"zTXt")
        elif kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0"):
            xmp = body
    bits, colour = content[24], content[25]
    count = {_GREY: 1, _RGB: 3}.get(colour, 0)
    key = struct.unpack(f">{count}H", transparent) if len(transparent) == 2 * count else ()
    low = tuple(value & ((1 << bits) - 1) for value in key)
    return Container("PNG", b"".join(kept), _orientation(exif, xmp), bits, low)


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each chunk up to the last, its kind and all of its bytes."""
    place, kind = len(_PNG), b""
    while kind != b"IEND":
        length, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        whole = content[place : place + 12 + length]
        if len(whole) < 12 + length:
            raise ValueError("cut short")
        checksum = int.from_bytes(whole[-4:], "big")
        if kind in _PNG_PIXELS and zlib.crc32(memoryview(whole)[4:-4]) != checksum:
            raise ValueError("damaged: a checksum is wrong")
        yield kind, whole
        place += len(whole)


def _raw_profile(body: bytes, *, compressed: bool) -> bytes:
    """Return EXIF as ImageMagick writes it into PNG: three lines of head, then hexadecimal digits."""
    _, _, text = body.partition(b"\0")
    try:
        if compressed:
            text = zlib.decompressobj().decompress(text[1:], _MOST_TEXT)
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except (ValueError, zlib.error):
        return b""


def _jpeg(content: bytes) -> Container:
    """Leave out segments of metadata; what follows the head is copied as it is, to the end."""
    kept, exif, xmp, place = [b"\xff\xd8"], b"", b"", 2
    while place + 4 <= len(content):
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if content[place] != 0xFF or marker in (0x00, 0xFF):  # junk or padding
            place += 1
            continue
        if marker in _BARE_MARKERS:
            place += 2
            continue
        if marker == _START_OF_SCAN:
            break
        segment = content[place : place + 2 + length]
        place += max(4, len(segment))
        if segment[4:].startswith(b"Exif\0\0"):
            exif += segment[10:]
        elif segment[4:].startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp += segment
        elif _makes_pixels(marker, length):
            kept.append(segment)
    return Container("JPEG", b"".join((*kept, content[place:])), _orientation(exif, xmp))


def _makes_pixels(marker: int, length: int) -> bool:
    """Whether a decoder needs a segment: of the applications', JFIF's and Adobe's name the colours."""
    if marker in (0xE0, 0xEE):
        return length >= 14  # decoders ignore shorter ones
    return not (0xE0 <= marker <= 0xEF or marker == 0xFE)


def _webp(content: bytes) -> Container:
    exif, xmp, place = b"", b"", 12
    end = 8 + int.from_bytes(content[4:8], "little")
    if end > len(content):
        raise ValueError("cut short")
    while place + 8 <= end:
        kind, length = content[place : place + 4], int.from_bytes(content[place + 4 : place + 8], "little")
        body = content[place + 8 : place + 8 + length] if kind in (b"EXIF", b"XMP ") else b""
        exif, xmp = (body, xmp) if kind == b"EXIF" else (exif, body or xmp)
        place += 8 + length + length % 2
    return Container("WEBP", content, _orientation(exif, xmp))


def _orientation(exif: bytes, xmp: bytes) -> int:
    """Return the orientation that EXIF states, else XMP; 1 where neither is sound."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    try:
        found = _first_directory(tiff, order).get(_ORIENTATION) if order else None
    except struct.error:
        found = 1
    if found is None:
        stated = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)
        found = int(stated[1]) if stated else 1
    return found if 1 <= found <= 8 else 1


def _first_directory(tiff: bytes, order: str) -> dict[int, int]:
    """Return the integers of TIFF's first directory by their tags."""
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    found = {}
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", tiff, place)
        if kind in _INTEGERS and number == 1:
            (found[tag],) = struct.unpack_from(order + _INTEGERS[kind], tiff, place + 8)
    return found
