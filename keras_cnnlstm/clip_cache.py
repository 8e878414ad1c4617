"""The frames of clips, decoded each time or kept on disk as they were decoded."""

import functools
import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnnlstm.clips import Clip, probe, read_clip
from keras_cnnlstm.files import replacing
from keras_cnnlstm.frames import frame_files


def read_chosen(
    clip: Clip,
    choose: Callable[[int], np.ndarray],
    *,
    cache: Path | None,
    form: Mapping[str, Any],
) -> np.ndarray:
    """Reads the frames of a clip that are chosen once it is known how many there are.

    Args:
        clip: the clip.
        choose: from the number of frames to the indices of those to read.
        cache: an existing folder to keep decoded clips in, or `None`.
        form: the options of `clips.read_clip` that say what frames are brought to.

    Returns:
        `(n, H, W, C)` uint8.

    Raises:
        ValueError: if the clip, or a frame of it, is not there or cannot be read.
    """
    try:
        if cache is None:
            return read_clip(clip, choose(_count(clip)), **form)
        frames = _cached(clip, cache, form)
        return np.asarray(frames)[choose(len(frames))]
    except (OSError, ValueError) as error:
        raise ValueError(str(error)) from error


def _count(clip):
    if not clip.is_video:
        return len(frame_files(clip.path))
    status = clip.path.stat()
    return _count_of_video(clip, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _count_of_video(clip, size, changed):
    """To count takes as long as to decode a short clip; again only if the file has changed."""
    return probe(clip).frames


def _cached(clip, cache, form):
    """All frames of a clip, from the cache, or decoded and put there."""
    file = cache / f"{fingerprint(clip, form)}.npy"
    frames = _opened(file, (*form["image_size"], form["channels"]))
    if frames is not None:
        return frames
    frames = read_clip(clip, **form)
    with _WRITING, replacing(file) as temporary, temporary.open("wb") as output:
        np.save(output, frames)
    return frames


_WRITING = threading.Lock()  # the same clip may be due twice at once, at the turn of a pass


def _opened(file, frame_shape):
    """The frames in a file of the cache as a memory map; `None` if it is not there or damaged."""
    try:
        frames = np.lib.format.open_memmap(file, mode="r")
    except Exception:  # a damaged file can fail anywhere in the reading of it
        return None
    fits = frames.size and frames.shape[1:] == frame_shape and frames.dtype == np.uint8
    return frames if fits else None


def fingerprint(clip: Clip, form: Mapping[str, Any]) -> str:
    """A name for the decoded clip; another one when its files or their form have changed.

    Args:
        clip: the clip.
        form: the options of `clips.read_clip` that say what frames are brought to.
    """
    files = [clip.path] if clip.is_video else frame_files(clip.path)
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    told = [_CACHE_VERSION, os.path.abspath(clip.path), states, sorted(form.items())]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


_CACHE_VERSION = 1  # counts up whenever frames are decoded or brought to shape in another way
