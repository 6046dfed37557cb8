"""Image files as containers: what in them makes pixels, apart from what lies around it.

Pillow is given the pixels alone. So a broken profile, a comment of gigabytes, a second picture or a film
behind the first cannot spoil an image that is whole.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

from attrs import frozen

from uldm_plugins.shared.tiff import Directory, first_directory, is_tiff

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_GREY, _RGB = 0, 2
_BARE_MARKERS = (0x01, *range(0xD0, 0xD9))
_START_OF_SCAN = 0xDA
_ORIENTATION = 0x0112
_GIF_IMAGE, _GIF_EXTENSION, _GIF_CONTROL = 0x2C, 0x21, 0xF9
_MOST_TEXT = 1 << 20
_MOST_PROFILE = 1 << 24
_ICC = b"ICC_PROFILE\0"
_WEBP_ANIMATED = 0x02
_SIGNED, _FLOATS = 2, 3
_MOST_SAMPLES = 6  # colours, alpha and what Pillow leaves out
_TILE = 1 << 24  # pixels of one, beyond which it is a bomb if the image is smaller


FORMATS = "PNG, JPEG, WebP, BMP, TIFF or GIF"


@frozen
class Container:
    """What of an image file makes pixels, and how they are to be read.

    Args:
        kind: Pillow's name of the format.
        data: the file without its metadata.
        orientation: EXIF's, 1 (upright) to 8.
        profile: of the colours (ICC), not checked; nothing where there is none.
        more: why the file has further images, ``animated`` or ``of several pages``, if it does.
        bits: of each sample; PNG and TIFF only.
        transparent: the one grey or RGB colour that is transparent, of so many bits; PNG only.
        inverted: whether 0 is white, and Pillow does not know it; TIFF only.
    """

    kind: str
    data: bytes
    orientation: int = 1
    profile: bytes = b""
    more: str = ""
    bits: int = 8
    transparent: tuple[int, ...] = ()
    inverted: bool = False


def parse(content: bytes) -> Container:
    """Find the pixels of an image file, whatever its name.

    Raises:
        ValueError: it is of no format that is read, is cut short, or a checksum is wrong.
    """
    if not content:
        raise ValueError("empty")
    if content.startswith(_PNG):
        return _png(content)
    if content.startswith(b"\xff\xd8\xff"):
        return _jpeg(content)
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return _webp(content)
    if content.startswith((b"GIF87a", b"GIF89a")):
        return _gif(content)
    if is_tiff(content):
        return _tiff(content)
    if content.startswith(b"BM"):
        return Container("BMP", content)
    raise ValueError(f"no {FORMATS}")


def _png(content: bytes) -> Container:
    if len(content) < 33:  # the first chunk, with size, bits and colours
        raise ValueError("cut short")
    kept, exif, xmp, transparent, profile, frames = [_PNG], b"", b"", b"", b"", 1
    grey_or_rgb = content[25:26] in (b"\0", b"\2")
    for kind, whole in _png_chunks(content):
        body = whole[8:-4]
        if kind == b"tRNS" and grey_or_rgb:
            transparent = body
        elif kind in _PNG_PIXELS:
            kept.append(whole)
        elif kind == b"eXIf":
            exif = body
        elif kind == b"iCCP":
            profile = _inflated(body.partition(b"\0")[2][1:], _MOST_PROFILE)
        elif kind == b"acTL":
            frames = int.from_bytes(body[:4], "big")
        elif kind in (b"tEXt", b"zTXt") and body.startswith(b"Raw profile type exif\0"):
            exif = exif or _raw_profile(body, compressed=kind == b"zTXt")
        elif kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0"):
            xmp = body
    bits, colour = content[24], content[25]
    count = {_GREY: 1, _RGB: 3}.get(colour, 0)
    key = struct.unpack(f">{count}H", transparent) if len(transparent) == 2 * count else ()
    low = tuple(value & ((1 << bits) - 1) for value in key)
    more = "animated" if frames > 1 else ""
    return Container("PNG", b"".join(kept), _orientation(exif, xmp), profile, more, bits, low)


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
    text = _inflated(text[1:], _MOST_TEXT) if compressed else text
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


def _inflated(data: bytes, most: int) -> bytes:
    """Return what is compressed, so many bytes of it at most; nothing if it is damaged."""
    try:
        return zlib.decompressobj().decompress(data, most)
    except zlib.error:
        return b""


def _jpeg(content: bytes) -> Container:
    """Leave out segments of metadata; what follows the head is copied as it is, to the end."""
    kept, exif, xmp, profile, place = [b"\xff\xd8"], b"", b"", dict[int, bytes](), 2
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
        elif segment[4:].startswith(_ICC):  # its parts are numbered
            profile[segment[16] if len(segment) > 16 else 0] = segment[18:]
        elif _makes_pixels(marker, length):
            kept.append(segment)
    parts = b"".join(part for _, part in sorted(profile.items()))
    return Container("JPEG", b"".join((*kept, content[place:])), _orientation(exif, xmp), parts)


def _makes_pixels(marker: int, length: int) -> bool:
    """Whether a decoder needs a segment: of the applications', JFIF's and Adobe's name the colours."""
    if marker in (0xE0, 0xEE):
        return length >= 14  # decoders ignore shorter ones
    return not (0xE0 <= marker <= 0xEF or marker == 0xFE)


def _webp(content: bytes) -> Container:
    found, frames, place = dict[bytes, bytes](), 0, 12
    end = 8 + int.from_bytes(content[4:8], "little")
    if end > len(content):
        raise ValueError("cut short")
    while place + 8 <= end:
        kind, length = content[place : place + 4], int.from_bytes(content[place + 4 : place + 8], "little")
        frames += kind == b"ANMF"
        if kind in (b"EXIF", b"XMP ", b"ICCP"):
            found.setdefault(kind, content[place + 8 : place + 8 + length])
        place += 8 + length + length % 2
    turn = _orientation(found.get(b"EXIF", b""), found.get(b"XMP ", b""))
    return Container("WEBP", content, turn, found.get(b"ICCP", b""), "animated" if frames > 1 else "")


def _gif(content: bytes) -> Container:
    """Keep the screen, the first image, and which of its colours is transparent."""
    try:
        head = content[: 13 + _gif_table(content[10])]
        place, control, images = len(head), b"", list[bytes]()
        while content[place : place + 1] not in (b"", b";") and len(images) < 2:
            start = place
            if content[place] == _GIF_EXTENSION:
                place = _gif_blocks_end(content, place + 2)
                if content[start + 1] == _GIF_CONTROL and not images:
                    control = content[start:place]
            elif content[place] == _GIF_IMAGE:
                place = start + 10 + _gif_table(content[start + 9])
                place = _gif_blocks_end(content, place + 1) if not images else place
                images.append(content[start:place])
            else:
                place += 1
    except IndexError as error:
        raise ValueError("cut short") from error
    if not images:
        raise ValueError("no image in it" if content[place:] else "cut short")
    clear = b"!\xf9\4\1\0\0" + control[6:7] + b"\0" if len(control) == 8 and control[3] & 1 else b""
    left, top, width, height = struct.unpack_from("<4H", images[0], 1)
    screen = struct.unpack_from("<2H", head, 6)
    size = struct.pack("<2H", *(min(max(pair), 65535) for pair in zip(screen, (left + width, top + height))))
    data = b"".join((head[:6], size, head[10:], clear, images[0], b";"))
    return Container("GIF", data, more="animated" if len(images) > 1 else "")


def _gif_table(flags: int) -> int:
    """Return the bytes of a table of colours."""
    return 6 << (flags & 7) if flags & 0x80 else 0


def _gif_blocks_end(content: bytes, place: int) -> int:
    while length := content[place]:
        place += 1 + length
    return place + 1


def _tiff(content: bytes) -> Container:
    """Keep the first page."""
    try:
        page = first_directory(content)
        orientation, profile = page.number(_ORIENTATION, 1), page.raw(34675)
        bits = page.numbers(258) or (1,)
        _refuse_tiff(page, bits[0])
        data = page.first_page()
    except struct.error as error:
        raise ValueError("cut short") from error
    return Container(
        "TIFF",
        data,
        orientation if 1 <= orientation <= 8 else 1,
        profile,
        "of several pages" if page.following else "",
        bits[0],
        inverted=page.number(262, 1) == 0 and bits == (16,),
    )


def _refuse_tiff(page: Directory, bits: int) -> None:
    """Raise ``ValueError`` for pages that are no image, or whose white is not known."""
    formats = page.numbers(339)
    if _FLOATS in formats:
        raise ValueError("floating-point samples, whose white is not known: convert to 8 or 16 bits")
    if _SIGNED in formats or bits > 16:
        raise ValueError("signed samples or of over 16 bits, whose white is not known: convert to 8 or 16")
    if page.number(277, 1) > _MOST_SAMPLES:
        raise ValueError(f"over {_MOST_SAMPLES} samples a pixel")
    if page.number(254, 0) & 1:
        raise ValueError("its first page is a small copy of another")
    if 50706 in page.entries or page.number(262, 1) == 32803:
        raise ValueError("a camera's raw data: develop it first")
    tile = page.number(322, 0) * page.number(323, 0)
    if tile > max(_TILE, page.number(256, 0) * page.number(257, 0)):
        raise ValueError("damaged: its tiles are larger than the image")


def _orientation(exif: bytes, xmp: bytes) -> int:
    """Return the orientation that EXIF states, else XMP; 1 where neither is sound."""
    tiff = exif.removeprefix(b"Exif\0\0")
    try:
        found = first_directory(tiff).number(_ORIENTATION, 0) if is_tiff(tiff) else 0
    except (struct.error, ValueError):
        found = 1
    if not found:
        stated = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)
        found = int(stated[1]) if stated else 1
    return found if 1 <= found <= 8 else 1
