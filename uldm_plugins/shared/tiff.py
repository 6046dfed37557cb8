"""TIFF's directories, in which EXIF is written too."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from operator import add

from attrs import frozen
from PIL import TiffTags

_STARTS = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_PIECES = ((273, 279), (324, 325))  # where strips and tiles begin, and how long they are
_BLOBS = (1, 2, 7)  # types whose values are one run of bytes
# tags of what makes pixels; of the rest, and of pages behind the first, Pillow is told nothing
_LAYOUT = {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 332, 338, 339}
_OF_COMPRESSIONS = {292, 293, 347, *range(512, 522), 529, 530, 532}
_PIXELS = _LAYOUT | _OF_COMPRESSIONS


@frozen
class Entry:
    """What is stored under a tag.

    Args:
        kind: TIFF's number of a type.
        count: how many values there are.
        field: the values if they are short, else where they stand.
    """

    kind: int
    count: int
    field: bytes

    @property
    def size(self) -> int:
        """Bytes of all values."""
        return self.count * _BYTES.get(self.kind, 0)


@frozen
class Directory:
    """The first directory of a TIFF, which describes its first page.

    Args:
        content: the whole file.
        order: of bytes, ``<`` or ``>``.
        big: whether it is a BigTIFF.
        entries: by their tags.
        following: where the next page's directory is, 0 if there is none.
    """

    content: bytes
    order: str
    big: bool
    entries: Mapping[int, Entry]
    following: int

    def raw(self, tag: int) -> bytes:
        """Return the bytes stored under a tag, nothing if there is none.

        Raises:
            ValueError: they lie behind the file's end.
        """
        entry = self.entries.get(tag)
        if entry is None:
            return b""
        if entry.size <= len(entry.field):
            return entry.field[: entry.size]
        (start,) = struct.unpack(self.order + ("Q" if self.big else "I"), entry.field)
        if start + entry.size > len(self.content):
            raise ValueError("cut short")
        return self.content[start : start + entry.size]

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return the integers stored under a tag, none if it has others."""
        entry = self.entries.get(tag)
        if entry is None or entry.kind not in _INTEGERS:
            return ()
        return struct.unpack(f"{self.order}{entry.count}{_INTEGERS[entry.kind]}", self.raw(tag))

    def number(self, tag: int, default: int) -> int:
        """Return the one integer stored under a tag."""
        found = self.numbers(tag)
        return found[0] if len(found) == 1 else default

    def first_page(self) -> bytes:
        """Return the file as one of a page, with what makes its pixels alone.

        Raises:
            ValueError: a part of this is behind the file's end, or several values stand where one belongs.
        """
        kept = {tag: entry for tag, entry in self.entries.items() if tag in _PIXELS and entry.size}
        for tag, entry in kept.items():
            if TiffTags.lookup(tag).length == 1 and entry.count != 1 and entry.kind not in _BLOBS:
                raise ValueError(f"damaged: {entry.count} values of its tag {tag}")
            self.raw(tag)
        for offsets, sizes in _PIECES:
            if any(map(len(self.content).__lt__, map(add, self.numbers(offsets), self.numbers(sizes)))):
                raise ValueError("cut short")
        start = len(self.content) + len(self.content) % 2
        lines = [struct.pack(f"{self.order}Q" if self.big else f"{self.order}H", len(kept))]
        for tag, entry in sorted(kept.items()):
            head = struct.pack(self.order + ("HHQ" if self.big else "HHI"), tag, entry.kind, entry.count)
            lines.append(head + entry.field)
        head = self.content[:8] + struct.pack(f"{self.order}Q", start)
        if not self.big:
            head = self.content[:4] + struct.pack(f"{self.order}I", start)
        padding = bytes(start - len(self.content))
        return b"".join((head, self.content[len(head) :], padding, *lines, bytes(8 if self.big else 4)))


def is_tiff(content: bytes) -> bool:
    """Return whether bytes begin as a TIFF does."""
    return content[:4] in _STARTS


def first_directory(content: bytes) -> Directory:
    """Return the first directory of a TIFF.

    Raises:
        struct.error: it is cut short.
        KeyError: it is no TIFF.
    """
    order, big = _STARTS[content[:4]]
    count_is, entry_is, offset_is = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    (start,) = struct.unpack_from(order + offset_is, content, 8 if big else 4)
    if start > len(content):
        raise struct.error("the directory is behind the end")
    (count,) = struct.unpack_from(order + count_is, content, start)
    place = start + struct.calcsize(order + count_is)
    entries = {}
    for _ in range(count):
        tag, *rest = struct.unpack_from(order + entry_is, content, place)
        entries[tag] = Entry(*rest)
        place += struct.calcsize(order + entry_is)
    following = content[place : place + struct.calcsize(order + offset_is)]
    return Directory(content, order, big, entries, int(any(following)))
