"""Checks a folder of clips before a training: decodes every frame of every clip once.

Nothing in the folder stops the check: files that cannot be read are reported with the reason. The
same pass makes a small signature of each frame, by which those are found that two parts of a split
share, and can hand the frames to a cache.
"""

import contextlib
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_cnnlstm.data.captions import TABLE
from keras_cnnlstm.data.clip_cache import ClipCache, Found, info_of
from keras_cnnlstm.data.clip_report import ClipReport
from keras_cnnlstm.data.clips import (
    Clip,
    ClipInfo,
    Problem,
    checked_clips,
    clip_frames,
    link_target,
    observe_image,
    scan_clips,
    stray_files,
)
from keras_cnnlstm.data.frames import (
    IMAGE_SUFFIXES,
    SIGNATURE,
    is_hidden,
    is_image,
    natural_order,
    opened_image,
    upright_image,
)
from keras_cnnlstm.data.labels import labelled_clips, read_labels
from keras_cnnlstm.data.splits import groups_of, training_splits
from keras_cnnlstm.data.videos import check_whole
from keras_cnnlstm.tasks import task_class
from keras_cnnlstm.utils.environment import Progress, num_cores
from keras_cnnlstm.utils.validation import as_path, check_instance, check_integer

_DARK = 8192  # an eighth of 65,536
_LARGE = 4096  # pixels of a side from which an image is probably not meant as a frame
_ALIKE = 4  # levels by which no pixel of the signatures of one frame differs
_PLAIN = 16  # levels between the darkest and the lightest pixel of a signature that tells something
_CANDIDATES = 4  # nearest frames by coarse signatures that are compared by whole ones
_NONE = 1e9  # a step over all frames


def check_clips(
    root: str | Path,
    *,
    labels: str | Path | None = None,
    frame_numbers: bool = False,
    progress: Progress | None = None,
    workers: int | None = None,
) -> ClipReport:
    """Decodes every frame under a folder of clips, and reports what there is and what is wrong.

    Fatal problems, on which `find_clips` or the reading of a clip would fail: an image or video
    that is damaged, empty, too large or of another type than its name says, a clip or class that
    is empty, a frame that is a broken link, a link that leads out of the folder. Warnings: a clip
    of one frame, frames of different sizes in a clip (each is padded and scaled on its own),
    very large frames, two clips with the same content (frames by their pixels, videos by their
    bytes), and things that are left out: links, files of other types. `for_training` adds what
    a training needs besides.

    Args:
        root: the folder over the classes.
        labels: a table of labels, as `labels.read_labels` takes it; its clips are checked in place
            of those in class folders. Each mistake in it is a failure.
        frame_numbers: as in `labels.read_labels`.
        progress: called after each clip.
        workers: threads, by default one for each core, eight at most. Each has one frame in
            memory at a time.

    Returns:
        The report; its clips are those of `find_clips`, in that order.

    Raises:
        FileNotFoundError: if there is no such folder.
        OSError: if it cannot be read.
        ValueError: if an argument is out of range.
    """
    root = as_path("check_clips: `root`", root)
    if workers is not None:
        check_integer("check_clips: `workers`", workers, 1, 256)
    if labels is None:
        clips, problems = scan_clips(root)
    else:
        table = read_labels(labels, root, frame_numbers=frame_numbers)
        clips, problems = labelled_clips(table, root)
    found = survey(root, clips, progress=progress, workers=workers)
    return report_of(root, clips, problems, found)


def survey(
    root: Path,
    clips: Sequence[Clip],
    *,
    cache: ClipCache | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
) -> list[Found]:
    """Decodes each frame of clips once, several clips at a time, and says what is found in them.

    Args:
        root: the folder over the classes.
        clips: the clips, as `scan_clips` finds them.
        cache: keeps the frames, and what is found; a clip known to it is not decoded.
        progress: called before the first clip, and after each.
        workers: as in `check_clips`.
    """
    if progress:
        progress(0, len(clips))
    found = []
    with ThreadPoolExecutor(workers or min(8, num_cores())) as pool:
        for done, each in enumerate(pool.map(partial(_check, root, cache), clips), start=1):
            found.append(each)
            if progress:
                progress(done, len(clips))
    return found


def report_of(
    root: Path, clips: list[Clip], problems: list[Problem], found: list[Found]
) -> ClipReport:
    """The report on a folder from `scan_clips` and `survey`."""
    infos: dict[str, ClipInfo] = {}
    first: dict[bytes, Clip] = {}  # the first clip with some content
    problems = problems + [problem for each in found for problem in each.problems]
    for clip, (info, digest, _, _) in zip(clips, found, strict=True):
        if info:
            infos[clip.name] = info
        if digest and first.setdefault(digest, clip) is not clip:
            problems.append(_duplicate(clip, first[digest]))
    return ClipReport(root, clips, infos, problems)


def for_training(
    report: ClipReport,
    *,
    groups: str | None = None,
    skip_broken: bool = False,
    task: str = "clip",
) -> ClipReport:
    """The report, with what else would stop a training: too few classes, clips or groups.

    Args:
        report: as `check_clips` returns it.
        groups: as `TrainConfig.groups`.
        skip_broken: as `TrainConfig.skip_broken`: what cannot be used is left out, and no failure.
        task: what is asked of the clips, a name in `TASKS`.
    """
    clips, problems = report.clips, list(report.problems)
    if skip_broken:
        clips, problems = report.usable, [replace(p, fatal=False) for p in problems]
    try:
        known = groups_of(report.clips, groups)
        split, *_ = training_splits(clips, groups=known)
        asked: Any = task_class(task, clips=True)
        # Captions differ in their words, not in folders.
        if asked.needs_labels or not (report.root / TABLE).exists():
            asked.for_clips(clips, split.train, length=16)
    except (ValueError, OSError) as error:
        problems.append(Problem(".", None, "split", str(error), True))
    return replace(report, clips=clips, problems=problems)


class _Look:
    """What is seen of the frames of a clip while they are decoded."""

    def __init__(self):
        self.sizes, self.signatures = Counter[tuple[int, int]](), []
        self.digest = hashlib.sha256()  # of image files

    def __call__(self, size, signature, pixels):
        self.sizes[size] += 1
        self.signatures.append(signature)
        if pixels is not None:
            self.digest.update(_pixel_digest(pixels))

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` of the first frame."""
        return next(iter(self.sizes))


def _check(root, cache, clip) -> Found:
    known = cache.found(clip) if cache else None
    if known:
        return known
    info, digest, look = None, None, _Look()
    problems: list[Problem] = []
    check = _check_video if clip.is_video else _check_folder
    try:
        info, digest, look = check(clip, root, problems, cache)
    except Exception as error:  # a damaged file can fail anywhere in the reading of it
        problems.append(_unreadable(clip.path, root, clip, error))
    if info and info.frames == 1:
        problems.append(Problem(clip.name, clip.name, "one frame", "it has a single frame", False))
    found = Found(info, digest, problems, np.array(look.signatures, np.uint8))
    if cache:
        cache.remember(clip, found)
    return found


def _check_video(clip, root, problems, cache):
    rate = info_of(clip).rate
    look = _decoded(clip, cache)
    check_whole(clip.path, look.sizes.total())
    with clip.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    problems += _odd_sizes(clip, look.sizes)
    return ClipInfo(look.sizes.total(), *look.size, rate), digest, look


def _decoded(clip, cache=None) -> _Look:
    """Decodes each frame of a clip, into a cache if there is one."""
    look = _Look()
    if cache:
        cache.decode(clip, look)
    else:  # of a video, no frame is converted but the first
        for _ in clip_frames(clip, step=_NONE if clip.is_video else 1, observe=look):
            pass
    return look


def _check_folder(clip, root, problems, cache):
    entries = sorted(clip.path.iterdir(), key=natural_order)
    files = [path for path in entries if is_image(path)]
    others = [path for path in entries if path not in set(files) and not is_hidden(path)]
    for path in others:  # a frame that is gone would make the others follow each other wrongly
        if path.is_symlink() and path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir():
            reason = f"a symbolic link to {link_target(path)} in place of a frame"
            problems.append(Problem(_place(path, root), clip.name, "link", reason, True))
    if not files:
        problems.append(_empty_clip(clip, others))
        return None, None, _Look()
    problems += stray_files(clip.name, clip.name, [p for p in others if not p.is_symlink()])
    problems += _dark_depths(files[0], clip)
    try:
        look = _decoded(clip, cache)
    except Exception:  # a damaged file can fail anywhere in the reading of it
        look = _image_by_image(files, root, clip, problems)
    problems += _odd_sizes(clip, look.sizes)
    if any(problem.fatal for problem in problems):
        return None, None, look
    return ClipInfo(len(files), *look.size, None), look.digest.digest(), look


def _dark_depths(path, clip) -> Iterator[Problem]:
    """Whether images of 16 bits, such as of a depth camera, would be nearly black."""
    with contextlib.suppress(OSError, ValueError), opened_image(path) as image:
        most = np.asarray(image).max() if image.mode.startswith("I") else _DARK
        if most < _DARK:
            reason = f"images of 16 bits with values up to {most:,}, so nearly black; give a "
            reason += "--depth-range, such as 0 and that number"
            yield Problem(clip.name, clip.name, "depth", reason, False)


def _image_by_image(files, root, clip, problems):
    """Finds out which of the images of a clip cannot be read."""
    look = _Look()
    for path in files:
        try:
            observe_image(upright_image(path), look)
        except Exception as error:
            problems.append(_unreadable(path, root, clip, error))
    return look


def _empty_clip(clip, others):
    reason = "no image files in it"
    if others:
        reason += f", but {len(others)} other things, such as {others[0].name}"
    if any(path.is_dir() for path in others):
        reason += "; expected ROOT/CLASS/CLIP/FRAME.png"
    return Problem(clip.name, clip.name, "empty", reason, True)


def _odd_sizes(clip, sizes) -> Iterator[Problem]:
    names = [f"{width}x{height} ({n})" for (height, width), n in sizes.most_common(4)]
    if len(sizes) > 1:
        reason = f"frames of {len(sizes)} sizes, each scaled on its own: {', '.join(names)}"
        yield Problem(clip.name, clip.name, "sizes", reason, False)
    if any(max(size) > _LARGE for size in sizes):
        reason = f"frames of more than {_LARGE} pixels in width or height, slow to read"
        yield Problem(clip.name, clip.name, "large", reason, False)


def _duplicate(clip, other):
    reason = f"the same content as {other.name}"
    if clip.class_name != other.class_name:
        reason += ", of another class: one of the two classes is wrong"
    return Problem(clip.name, clip.name, "duplicate", reason, False)


def _unreadable(path, root, clip, error):
    reason = str(error).removeprefix(f"{path}: ") or type(error).__name__
    return Problem(_place(path, root), clip.name, "unreadable", reason, True)


def _place(path, root):
    return path.relative_to(root).as_posix()


class SharedFrame(NamedTuple):
    """A frame of one part of a split that an earlier part has too.

    `frame` and `other_frame` are its numbers in the two clips, from 0; `other` is the clip with the
    frame that is most like it.
    """

    part: str
    clip: Clip
    frame: int
    other_part: str
    other: Clip
    other_frame: int


def shared_frames(
    split: Mapping[str, Iterable[Clip]], *, progress: Progress | None = None
) -> list[SharedFrame]:
    """Finds frames that an earlier part of the split shows too.

    Frames are compared by a grey copy of 16x16 pixels. They count as the same if none of these
    differs by more than 4 of 255, as after a new encoding or in another size; frames of different
    films differ by more. So do frames of a camera that stands still before a scene in which nothing
    moves; such clips belong into one group. Frames that are nearly of one colour are left out,
    since any recording may begin with black. The copies take 256 bytes a frame.

    Args:
        split: clips by the name of their part, as `split_clips` returns it.
        progress: called before the first clip, and after each.

    Returns:
        Each such frame once, with the frame most like it, in the order of `split`.

    Raises:
        FileNotFoundError: if a clip is not there.
        ValueError: if a frame cannot be read.
    """
    expected = "clips by the name of their part, as split_clips returns it"
    check_instance("shared_frames: `split`", split, Mapping, expected)
    parts = {part: checked_clips("shared_frames", clips) for part, clips in split.items()}
    clips = [clip for part in parts.values() for clip in part]
    signatures: dict[Clip, np.ndarray] = {}
    if progress:
        progress(0, len(clips))
    with ThreadPoolExecutor(min(8, num_cores())) as pool:
        for clip, look in zip(clips, pool.map(_decoded, clips), strict=True):
            signatures[clip] = np.array(look.signatures, np.uint8)
            if progress:
                progress(len(signatures), len(clips))
    return shared_signatures(parts, signatures)


def shared_signatures(
    split: Mapping[str, Sequence[Clip]], signatures: Mapping[Clip, np.ndarray]
) -> list[SharedFrame]:
    """As `shared_frames`, from the signatures of each clip's frames, `(n, 16, 16)` uint8."""
    seen: list[tuple[str, Clip, int]] = []
    known, shared = np.zeros((0, *SIGNATURE), np.uint8), []
    for part, clips in split.items():
        frames = [(part, clip, n) for clip in clips for n in range(len(signatures[clip]))]
        if not frames:
            continue
        grey = np.concatenate([signatures[clip] for clip in clips])
        telling = np.ptp(grey, axis=(1, 2)) >= _PLAIN
        for index, other in _most_alike(grey, known):
            if telling[index]:
                shared.append(SharedFrame(*frames[index], *seen[other]))
        seen += itertools.compress(frames, telling)
        known = np.concatenate([known, grey[telling]])
    return shared


def _most_alike(signatures, known) -> Iterator[tuple[int, int]]:
    """For those that are among the known ones: the place of each, and of the one most like it."""
    from scipy.spatial import KDTree

    if not len(known):
        return
    near: dict[str, Any] = {"k": _CANDIDATES, "p": np.inf, "distance_upper_bound": _ALIKE + 1e-3}
    _, places = KDTree(_coarse(known)).query(_coarse(signatures), **near)
    for index, some in enumerate(places):
        found = some[some < len(known)]
        differences = np.abs(known[found].astype(int) - signatures[index]).max((1, 2), initial=0)
        if len(found) and differences.min() <= _ALIKE:
            yield index, int(found[differences.argmin()])


def _coarse(signatures):
    """Means of 4x4 pixels, `(N, 16)`: no two differ more than the pixels do."""
    return signatures.reshape(-1, 4, 4, 4, 4).mean((2, 4)).reshape(len(signatures), -1)


def _pixel_digest(pixels):
    """16 bytes that are equal if, and practically only if, shape and pixels are equal."""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()
