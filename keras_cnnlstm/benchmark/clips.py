"""Clips a second, from video files to frames of a model's size, beside other ways to read them."""

import importlib
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnnlstm.benchmark.timings import (
    Call,
    Row,
    Settings,
    in_turns,
    left_out,
    median_row,
    ready_calls,
    turns_within,
)
from keras_cnnlstm.data.clip_cache import ClipCache, read_chosen
from keras_cnnlstm.data.clips import Clip, ClipInfo, find_clips, probe, read_clip, sample_indices
from keras_cnnlstm.data.videos import write_video
from keras_cnnlstm.utils.environment import num_cores, required

SIZE = (224, 224)
"""`(H, W)` to which all ways bring the frames."""

REFERENCE = "PyAV and Pillow, one thread"
"""The loop that one would write first."""

_FILM = (60, 360, 640)  # frames, height and width of a clip that is written,
_CLIPS = 8  # of which there is this number
_MOST = 24  # clips of a folder that are read
_BUDGET = 60.0  # seconds for all turns of one T; three turns take longer if they must


def clips(settings: Settings) -> list[Row]:
    """Times the reading of T frames of each of some clips, as the frames of 224x224 pixels.

    The clips are the videos of `settings.data`, at most 24 from all over it; by default films of 60
    frames of 640x360 pixels, which are written first. All ways choose the same frames, and take
    turns. A package that is not installed is left out.

    Returns:
        For each T the seconds a clip takes each way.
    """
    required("av", extra="video")
    with tempfile.TemporaryDirectory() as folder:
        found = _videos(settings.data) if settings.data else _written(Path(folder), settings)
        rows = []
        for length in settings.lengths:
            section = f"clips to {length} frames of {SIZE[0]}x{SIZE[1]}"
            if not found:
                rows.append(left_out(section, "all", f"there is no video in {settings.data}"))
                continue
            calls, missing = ready_calls(section, _ways(found, length), settings.log)
            rows += compared(section, calls, len(found), settings.repeats) + missing
    return rows


def compared(
    section: str,
    calls: dict[str, Call],
    count: int,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """A row for each way to read `count` clips."""

    def seconds(call):
        start = clock()
        call()
        return (clock() - start) / count

    measures = {name: partial(seconds, call) for name, call in calls.items()}
    first = in_turns(measures, 1)  # how long a turn takes
    turn = count * sum(one for (one,) in first.values())
    turns = in_turns(measures, turns_within(_BUDGET, turn, repeats))
    reference = turns.get(REFERENCE)
    rows = []
    for name, times in turns.items():
        speed = f"{1 / np.median(times):,.1f} clips a second"
        remark = f"as fast as {REFERENCE}; {speed}" if reference else speed
        rows.append(median_row(section, name, times, reference=reference, remark=remark))
    return rows


def _videos(data) -> list[Clip]:
    videos = [clip for clip in find_clips(data) if clip.is_video]
    return videos[:: -(-len(videos) // _MOST)] if videos else []


def _written(folder, settings) -> list[Clip]:
    """Films of a smooth scene that moves, with noise as a camera makes it."""
    settings.log(f"writing {_CLIPS} clips")
    rng, (count, height, width) = np.random.default_rng(0), _FILM
    coarse = rng.integers(40, 200, (height // 20 + 1, width // 10 + 1, 3))
    scene = np.kron(coarse, np.ones((20, 20, 1)))  # twice as wide as a frame
    for number in range(_CLIPS):
        views = (scene[:height, 4 * t : 4 * t + width] for t in range(count))
        noisy = [view + rng.normal(0, 3, view.shape) for view in views]
        frames = np.clip(noisy, 0, 255).astype(np.uint8)
        write_video(folder / f"{number}.mp4", frames, rate=30)
    return [Clip(path, "", path.name) for path in sorted(folder.iterdir())]


def _ways(found: Sequence[Clip], length: int) -> dict[str, Callable[[], Call]]:
    """What makes a call that reads all clips, by name; it may lack its package."""
    cores = num_cores()
    ways: dict[str, Callable[[], Any]] = {
        "keras_cnnlstm": lambda: _ours,
        "PyAV and Pillow": lambda: _pyav,
        "OpenCV": lambda: partial(_opencv, importlib.import_module("cv2")),
        "decord": lambda: partial(_decord, importlib.import_module("decord")),
    }
    made: dict[str, Callable[[], Call]] = {}
    for name, make in ways.items():
        made[f"{name}, one thread"] = partial(_in_threads, 1, make, found, length)
        if cores > 1:
            made[f"{name}, {cores} threads"] = partial(_in_threads, cores, make, found, length)
    made["keras_cnnlstm, from the cache"] = partial(_in_threads, 1, _cached, found, length)
    return made


def _in_threads(threads, make, found, length) -> Call:
    read = make()

    def call():
        with ThreadPoolExecutor(threads) as pool:
            for frames in pool.map(partial(read, length=length), found):
                assert frames.shape[1:] == (*SIZE, 3)

    return call


def _chosen(count, length):
    return sample_indices(count, length, "segments")


def _ours(clip, length):
    indices = _chosen(probe(clip).frames, length)
    return read_clip(clip, indices, image_size=SIZE, channels=3, fit="stretch")


def _cached():
    form: Any = {"image_size": SIZE, "channels": 3, "invert": False, "fit": "stretch"}
    cache = ClipCache(form, memory=1 << 40)

    def choose(info: ClipInfo, length):
        return _chosen(info.frames, length)

    return lambda clip, length: read_chosen(
        clip, partial(choose, length=length), cache=cache, form=form
    )


def _pyav(clip, length):
    import av
    from PIL import Image

    with av.open(str(clip.path)) as container:
        stream = container.streams.video[0]
        wanted = set(_chosen(stream.frames or probe(clip).frames, length).tolist())
        frames = itertools.islice(container.decode(stream), max(wanted) + 1)
        images = [frame.to_image() for n, frame in enumerate(frames) if n in wanted]
    return _stacked(image.resize(SIZE[::-1], Image.Resampling.BOX) for image in images)


def _opencv(cv2, clip, length):
    film = cv2.VideoCapture(str(clip.path))
    count = int(film.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted, frames = set(_chosen(count, length).tolist()), []
    for number in range(max(wanted) + 1):
        film.grab()
        if number in wanted:
            _, frame = film.retrieve()
            frame = cv2.resize(frame, SIZE[::-1], interpolation=cv2.INTER_AREA)
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    film.release()
    return _stacked(frames)


def _decord(decord, clip, length):
    film = decord.VideoReader(str(clip.path), width=SIZE[1], height=SIZE[0], num_threads=1)
    return film.get_batch(_chosen(len(film), length).tolist()).asnumpy()


def _stacked(frames: Iterator[Any] | list[Any]) -> np.ndarray:
    return np.stack([np.asarray(frame) for frame in frames])
