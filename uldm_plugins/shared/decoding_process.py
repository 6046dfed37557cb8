"""The process of a worker that decodes images; ``decoding_workers`` is its other side. It imports no torch.

A request is a line of JSON: ``reading``, the options of a ``Reading``; ``paths`` of files; and ``hashes`` of
their contents in hexadecimal digits, or nothing. The answer is a row of bytes for each file: 1 and the image,
or zeros if it cannot be decoded, or if a hash is given, and it has another one or further images.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from uldm_plugins.shared.containers import parse
from uldm_plugins.shared.files import Reading, content_of, hash_of

READY = b"ready to decode\n"
"""Comes before the first answer."""
_BUFFER = 1 << 16  # were each image written by itself, both sides would be woken for it


def work() -> None:
    """Decode what is asked for, until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # which are for the program: it may need images to finish
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb", _BUFFER)
    os.dup2(2, 1)  # what a library prints is no answer
    answers.write(READY)
    answers.flush()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        options = request["reading"]
        reading = Reading(**{**options, "size": tuple(options["size"])})
        nothing = bytes(1 + reading.channels * reading.size[0] * reading.size[1])
        for path, digest in zip(request["paths"], request["hashes"]):
            answers.write(_row(reading, Path(path), digest) or nothing)
        answers.flush()


def _row(reading: Reading, path: Path, digest: str) -> bytes:
    """Return a 1 and the bytes of an image, or nothing."""
    try:
        content = content_of(path)
        if digest and (hash_of(content).hex() != digest or parse(content).more):
            return b""
        return b"\1" + reading.decode(content).transpose(2, 0, 1).tobytes()
    except Exception:  # whatever it is: the program reads the file itself, and meets the same
        return b""
