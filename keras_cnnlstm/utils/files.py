"""Files of the package. A file is either whole or not there: it is written under a temporary name,
then renamed.
"""

import contextlib
import hashlib
import io
import json
import os
import platform
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from filelock import FileLock, Timeout

from keras_cnnlstm.utils.validation import as_numbers

_BLOCK = 1 << 20  # numbers of an array that are hashed at a time
_HOST = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
_MARK = f".writing-{_HOST}-"  # other machines, whose processes are not known here, have another one
_swept: set[Path] = set()
_sweeping = threading.Lock()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to `path` when the block ends without an error."""
    temporary = temporary_beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """A name in the folder of `path` for a file or directory that is written and then renamed.

    Before a process writes into a folder for the first time, it removes what processes of this
    machine that are gone have left there under such names.
    """
    _remove_abandoned(path.parent.absolute())
    return path.with_name(f"{_MARK}{os.getpid()}-{threading.get_ident()}-{path.name}")


def _remove_abandoned(folder):
    with _sweeping:  # before any thread of this process writes there
        if folder in _swept:
            return
        _swept.add(folder)
        for found in folder.glob(f"{_MARK}*"):
            pid = found.name.removeprefix(_MARK).partition("-")[0]
            if pid.isdecimal() and (int(pid) == os.getpid() or not psutil.pid_exists(int(pid))):
                with contextlib.suppress(OSError):
                    shutil.rmtree(found) if found.is_dir() else found.unlink()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock on the file `path` until the block, or the process, ends. Makes the file."""
    try:
        lock = FileLock(path).acquire(timeout=0)
    except Timeout as error:
        raise BlockingIOError(f"{path}: expected a free lock; another process holds it.") from error
    with lock:
        yield


def natural_order(path: Path) -> tuple:
    """The key that sorts paths of one folder with the numbers in their names in order of size."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts], path.name


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: Path) -> str:
    """Reads a text file in UTF-8.

    Raises:
        ValueError: if it is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text; {error}.") from error


def read_json(path: Path) -> Any:
    """Reads the value in a JSON file."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON; {error}.") from error


@contextlib.contextmanager
def naming_in_errors(path: Path) -> Iterator[None]:
    """Adds the name of a file to each `ValueError` of the block."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_run_file(run: Path, name: str) -> None:
    """Refuses a run directory without a certain file."""
    if not (run / name).is_file():
        found = "it has no" if run.is_dir() else "there is no such directory, hence no"
        raise FileNotFoundError(
            f"{run}: expected a run directory, as keras-cnnlstm train writes it; {found} {name}."
        )


def png_bytes(frame: np.ndarray) -> bytes:
    """A frame `(H, W, C)` uint8, C 1 or 3, as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).save(file, "PNG")
    return file.getvalue()


def content_hash(parts: Iterable[bytes | np.ndarray]) -> "hashlib.blake2b":
    """A hash of 16 bytes over bytes, and over the dtype, shape and values of arrays.

    Arrays may be mapped from files: little of them is in memory at a time.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, bytes):
            digest.update(part)
            continue
        digest.update(f"{part.dtype} {part.shape}".encode())
        array = np.atleast_1d(part)
        rows = max(1, _BLOCK // max(1, array[:1].size))
        for start in range(0, len(array), rows):
            digest.update(np.ascontiguousarray(array[start : start + rows]).view(np.uint8).data)
    return digest


def frames_key(frames: np.ndarray) -> str:
    """A key for `FeatureCache.features` that tells arrays apart by their content."""
    frames = as_numbers("frames_key: `frames`", frames, kinds="biuf")
    if not frames.ndim:
        raise ValueError("frames_key: `frames` must have shape (N, ...); received a single number.")
    return content_hash([frames]).hexdigest()
