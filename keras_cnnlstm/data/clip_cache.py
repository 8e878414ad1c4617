"""Clips that are decoded once: their frames in memory or in files, and what was found in them."""

import functools
import hashlib
import json
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_cnnlstm.data.clips import (
    Clip,
    ClipInfo,
    Problem,
    clip_frames,
    film_step,
    frames_at,
    probe,
    read_clip,
)
from keras_cnnlstm.data.frames import SIGNATURE, frame_files
from keras_cnnlstm.data.videos import Observe
from keras_cnnlstm.utils.files import replacing


class Found(NamedTuple):
    """What one pass over a clip finds.

    `info` and `digest`, a hash of the content, are `None` if the clip cannot be used; `signatures`
    are `frames.signature` of each frame, `(n, 16, 16)` uint8.
    """

    info: ClipInfo | None
    digest: bytes | None
    problems: list[Problem]
    signatures: np.ndarray


class ClipCache:
    """The frames of clips in the form that a model takes, each clip decoded once.

    They are kept in memory while there is room, then in a folder, a file of `n * H * W * C` bytes
    for each clip. Where that is full, files that this process has not used make room, the oldest
    first; a clip for which there is none is not kept. A clip whose files change is decoded again.
    The folder can be deleted at any time.

    Args:
        form: `image_size`, `channels`, `invert` and `fit` of `clips.read_clip`.
        frames_per_second: rate of the frames that are kept, as in `clips.sample_indices`.
        folder: an existing folder; `None` for memory alone.
        memory: bytes in memory at most.
        disk: bytes in the folder at most; `None` for any number.
    """

    def __init__(
        self,
        form: Mapping[str, Any],
        *,
        frames_per_second: float | None = None,
        folder: Path | None = None,
        memory: int = 0,
        disk: int | None = None,
    ) -> None:
        self.form, self.frames_per_second = form, frames_per_second
        self._shape = (*form["image_size"], form["channels"])
        self._folder, self._memory, self._disk = folder, memory, disk
        self._held: dict[str, np.ndarray] = {}
        self._lock, self._used, self._others = threading.Lock(), 0, deque[tuple[Path, int]]()
        if folder and disk is not None:
            self._others = _by_age(folder)
            self._used = sum(size for _, size in self._others)

    def chosen(self, info: ClipInfo) -> np.ndarray:
        """The numbers of the frames of a clip that are kept."""
        return frames_at(info.frames, film_step(info.rate, self.frames_per_second))

    def frames(self, clip: Clip) -> np.ndarray | None:
        """The frames `chosen`, `(n, H, W, C)` uint8; `None` if there is no room for them."""
        name = self.name(clip)
        kept = self._held.get(name)
        if kept is None and self._folder:
            kept = self._opened(self._folder / f"{name}.npy")
        return self.decode(clip) if kept is None else kept

    def decode(self, clip: Clip, observe: Observe | None = None) -> np.ndarray | None:
        """Decodes a clip and keeps its frames, if there is room, or something observes them all."""
        info, name = info_of(clip), self.name(clip)
        step = film_step(info.rate, self.frames_per_second)
        frames = clip_frames(clip, step=step, observe=observe, **self.form)
        shape = (len(self.chosen(info)), *self._shape)
        if self._takes(math.prod(shape)):
            return self._held.setdefault(name, _collected(frames, np.empty(shape, np.uint8)))
        if self._folder and self._makes_room(math.prod(shape)):
            file = self._folder / f"{name}.npy"
            _write(file, frames, shape)
            return self._opened(file)
        for _ in frames if observe else ():
            pass
        return None

    def found(self, clip: Clip) -> Found | None:
        """What was found in a clip before, if its files are still the same."""
        try:
            with self._record(clip).open("rb") as file, np.load(file) as stored:
                stated = json.loads(stored["found"].tobytes())
                problems = [Problem(**problem) for problem in stated["problems"]]
                signatures = stored["signatures"].reshape(-1, *SIGNATURE)
                digest = bytes.fromhex(stated["digest"])
                return Found(ClipInfo(*stated["info"]), digest, problems, signatures)
        except Exception:  # there is none, or a damaged one, which can fail anywhere
            return None

    def remember(self, clip: Clip, found: Found) -> None:
        """Keeps what was found in a clip, unless it cannot be used and may be mended."""
        if self._folder and found.info and found.digest:
            stated: dict[str, Any] = {"info": found.info, "digest": found.digest.hex()}
            stated |= {"problems": [asdict(problem) for problem in found.problems]}
            stored = np.frombuffer(json.dumps(stated).encode(), np.uint8)
            with replacing(self._record(clip)) as temporary, temporary.open("wb") as file:
                np.savez(file, found=stored, signatures=found.signatures)

    def name(self, clip: Clip) -> str:
        """A name for the frames of a clip that changes with its files and with the form."""
        return fingerprint(clip, {**self.form, "frames_per_second": self.frames_per_second})

    def _record(self, clip) -> Path:
        state = {"name": clip.name, "content": _ends(clip.path) if clip.is_video else ""}
        assert self._folder is not None
        return self._folder / f"{fingerprint(clip, state)}.npz"

    def _takes(self, size):
        """Whether memory has room, which is then taken."""
        with self._lock:
            fits = size <= self._memory
            self._memory -= size * fits
            return fits

    def _makes_room(self, size):
        """Whether the folder has room, which is then taken."""
        with self._lock:
            while self._disk is not None and self._used + size > self._disk and self._others:
                other, freed = self._others.popleft()
                if not _is_used(other):
                    other.unlink(missing_ok=True)
                    self._used -= freed
            fits = self._disk is None or self._used + size <= self._disk
            self._used += size * fits
            return fits

    def _opened(self, file):
        """The frames in a file as a memory map; `None` if it is not there or damaged."""
        try:
            frames = np.lib.format.open_memmap(file, mode="r")
            os.utime(file)  # the oldest ones make room
        except Exception:  # a damaged file can fail anywhere in the reading of it
            return None
        fits = frames.size and frames.shape[1:] == self._shape and frames.dtype == np.uint8
        return frames if fits else None


def read_chosen(
    clip: Clip,
    choose: Callable[[ClipInfo], np.ndarray],
    *,
    cache: ClipCache | None,
    form: Mapping[str, Any],
) -> np.ndarray:
    """Reads frames of a clip that are chosen by what is known of it.

    Args:
        clip: the clip.
        choose: from the number and rate of the frames to the indices of those to read, which are
            among those that the cache keeps.
        cache: of frames in this form, or `None`.
        form: `image_size`, `channels`, `invert` and `fit` of `clips.read_clip`.

    Returns:
        `(n, H, W, C)` uint8.
    """
    try:
        info = info_of(clip)
        kept = cache.frames(clip) if cache else None
        if cache is None or kept is None:
            return read_clip(clip, choose(info), **form)
        return np.asarray(kept)[np.searchsorted(cache.chosen(info), choose(info))]
    except (OSError, ValueError) as error:
        raise ValueError(str(error)) from error


def info_of(clip: Clip) -> ClipInfo:
    """What `probe` finds, remembered of videos; of a folder of images no size, which is not needed.

    Raises:
        FileNotFoundError: if the clip is not there, or a folder without frames.
        ValueError: if the video cannot be read.
    """
    if not clip.is_video:
        return ClipInfo(len(frame_files(clip.path)), 0, 0, None)
    status = clip.path.stat()
    return _info_of_video(clip, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _info_of_video(clip, size, changed):
    """Counting takes as long as decoding a short clip, so only if the file has changed."""
    return probe(clip)


def _collected(frames, array):
    """The frames in an array that was made for them."""
    count = 0
    for count, frame in enumerate(frames, start=1):
        array[count - 1 : count] = frame
    return array[:count]


def _write(file, frames: Iterator[np.ndarray], shape) -> None:
    """Writes frames into a file one by one; only one is in memory at a time."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with replacing(file) as temporary, temporary.open("wb") as output:
        np.lib.format.write_array_header_1_0(output, header)
        for frame in frames:
            output.write(np.ascontiguousarray(frame).data)


def fingerprint(clip: Clip, form: Mapping[str, Any]) -> str:
    """A name for what is made of a clip, which changes with its files and with the form.

    Args:
        clip: the clip.
        form: what it depends on besides, such as the form of the frames.
    """
    files = [clip.path] if clip.is_video else frame_files(clip.path)
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    described = [_CACHE_VERSION, os.path.abspath(clip.path), states, sorted(form.items())]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]


_CACHE_VERSION = 4  # to be increased whenever frames are decoded or scaled differently
_STARTED = time.time()


def _is_used(file):
    """Whether a file was made or opened since this process began, by whichever process."""
    try:
        return file.stat().st_mtime >= _STARTED
    except OSError:
        return False


def _by_age(folder):
    """The files of decoded clips with their sizes, the oldest first."""
    states = [(file, file.stat()) for file in folder.glob("*.npy")]
    states.sort(key=lambda state: state[1].st_mtime)
    return deque((file, state.st_size) for file, state in states)


def _ends(path):
    """A hash of the first and the last 64 KiB of a file."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        digest.update(file.read(_END))
        file.seek(max(0, path.stat().st_size - _END))
        digest.update(file.read())
    return digest.hexdigest()


_END = 1 << 16
