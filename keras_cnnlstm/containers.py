"""How long a video file should be, by what its container says of itself.

A file that was cut off while it was copied or recorded often decodes without an error, up to where
it ends. All containers but GIF say how many bytes they hold, and GIF how it ends. Decodes nothing.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from keras_cnnlstm.arguments import as_path

_MATROSKA = b"\x1aE\xdf\xa3"


def promised_size(path: str | Path) -> int:
    """The bytes that a file has if it is whole.

    Args:
        path: a file that holds AVI, Matroska, WebM, MP4, MOV or GIF.

    Returns:
        How many it should have at least; 0 if it does not say, as a live recording. A GIF that
        does not end as such should have one more than it has.
    """
    path = as_path("promised_size: `path`", path)
    whole = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        if start.startswith(b"GIF8"):
            return whole if _ends_as_gif(file, whole) else whole + 1
        if start.startswith(b"RIFF"):  # AVI
            return 8 + int.from_bytes(start[4:], "little")
        if start.startswith(_MATROSKA):
            return _end_of_segment(file, whole)
        return max(_ends_of_boxes(file, whole), default=0)


def _ends_as_gif(file: BinaryIO, whole: int) -> bool:
    file.seek(max(whole - 1024, 0))
    return file.read().rstrip(b"\0").endswith(b";")  # zeros may follow


def _end_of_segment(file: BinaryIO, whole: int) -> int:
    """Matroska and WebM are a header, and a segment that holds the rest; each has a name of 4."""
    file.seek(4)
    header = _variable_int(file) or 0
    file.seek(min(file.tell() + header + 4, whole))
    size = _variable_int(file)
    return 0 if size is None else file.tell() + size


def _variable_int(file: BinaryIO) -> int | None:
    """A size in Matroska; `None` if it was not known when it was written."""
    first = int.from_bytes(file.read(1), "big")
    more = 8 - first.bit_length()  # bytes that follow: as many as there are leading zeros
    value = int.from_bytes(bytes([first & 0x7F >> more]) + file.read(more), "big")
    return None if value == (1 << 7 * (more + 1)) - 1 else value


def _ends_of_boxes(file: BinaryIO, whole: int) -> Iterator[int]:
    """MP4 and MOV are a row of boxes: 4 bytes of size, 4 of name, the content."""
    end = 0
    while end < whole:
        file.seek(end)
        size = int.from_bytes(file.read(4), "big")
        if size == 1:  # a larger one follows the name
            size = int.from_bytes(file.read(12)[4:], "big")
        if size < 8:  # 0: to the end of the file
            return
        end += size
        yield end
