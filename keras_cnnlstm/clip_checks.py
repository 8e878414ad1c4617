"""Looks through a folder of clips before a training does, and says what is wrong with it.

Decodes every frame of every clip once. Nothing that lies in the folder stops it: what cannot be
read is reported with the reason.
"""

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from keras_cnnlstm.arguments import as_path, check_whole
from keras_cnnlstm.clip_report import ClipReport, Problem
from keras_cnnlstm.clips import Clip, ClipInfo
from keras_cnnlstm.frames import IMAGE_SUFFIXES, is_image, natural_order
from keras_cnnlstm.leakage import Progress, image_pixels, pixel_digest
from keras_cnnlstm.processor import num_cores
from keras_cnnlstm.videos import VIDEO_SUFFIXES, probe_video

_LARGE = 4096  # pixels of a side from which an image is probably not meant as a frame


def check_clips(
    root: str | Path, *, progress: Progress | None = None, workers: int | None = None
) -> ClipReport:
    """Decodes every frame under a folder of clips, and reports what there is and what is wrong.

    Fatal problems, of which `find_clips` or the reading of a clip would fail: an image or video
    that is damaged, empty, too large or of another kind than its name says, a clip or class with
    nothing in it, a frame that is a broken link, a link that leads out of the folder. Warnings: a
    clip of one frame, frames of different sizes in a clip (each is padded and scaled by itself),
    very large frames, two clips with the same content (frames by their pixels, videos by their
    bytes), a class of a single clip, and whatever is left out: links, files of other kinds.

    Args:
        root: the folder over the classes.
        progress: called after each clip.
        workers: threads, by default one for each core, eight at most. Each has one frame in
            memory at a time.

    Returns:
        The report; its clips are those that `find_clips` finds, in that order.

    Raises:
        FileNotFoundError: if there is no such folder.
        OSError: if it may not be read.
        ValueError: if an argument is out of range.
    """
    root = as_path("check_clips: `root`", root)
    if workers is not None:
        check_whole("check_clips: `workers`", workers, 1, 256)
    if not root.is_dir():
        found = "something else" if root.exists() else "nothing"
        raise FileNotFoundError(
            f"{root}: expected a folder with a folder for each class, and clips in these; found "
            f"{found}."
        )
    problems: list[Problem] = []
    clips = _scan(root, problems)
    checked = []
    with ThreadPoolExecutor(workers or min(8, num_cores())) as pool:
        for result in pool.map(partial(_check, root), clips):
            checked.append(result)
            if progress:
                progress(len(checked), len(clips))
    for result in checked:
        problems += result.problems
    problems += _duplicates(checked)
    problems += _few(clips)
    infos = {result.clip.name: result.info for result in checked if result.info}
    return ClipReport(root, clips, infos, problems)


@dataclass
class _Checked:
    """What the look at one clip gave; without `info` and `digest` if it cannot be used."""

    clip: Clip
    info: ClipInfo | None = None
    digest: bytes | None = None
    problems: list[Problem] = field(default_factory=list)


def _scan(root, problems) -> list[Clip]:
    """The clips under a folder, whatever else lies there."""
    clips = []
    classes, others = _entries(root, root, problems)
    for folder in classes:
        try:
            folders, files = _entries(folder, root, problems)
        except OSError as error:
            problems.append(_unreadable(folder, root, None, error))
            continue
        videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
        paths = sorted(folders + videos, key=natural_order)
        clips += [Clip(path, folder.name, f"{folder.name}/{path.name}") for path in paths]
        strays = [path for path in files if path not in set(videos)]
        if not paths:
            problems.append(_empty_class(folder, strays))
        problems += _strays(folder.name, None, strays)
    problems += _strays(".", None, others)
    if not classes:
        problems.append(Problem(".", None, "empty", "there is no folder for a class in it", True))
    return clips


def _entries(folder, root, problems) -> tuple[list[Path], list[Path]]:
    """Folders, and other things, in their natural order, without hidden ones and links."""
    paths = sorted(folder.iterdir(), key=natural_order)
    visible = [path for path in paths if not path.name.startswith(".")]
    problems += [_link(path, root) for path in visible if path.is_symlink()]
    real = [path for path in visible if not path.is_symlink()]
    return [path for path in real if path.is_dir()], [path for path in real if not path.is_dir()]


def _empty_class(folder, strays):
    reason = "no folders of frames and no videos in it"
    if any(map(is_image, strays)):
        reason += "; put the frames of each clip into a folder of their own"
    return Problem(folder.name, None, "empty", reason, True)


def _strays(place, clip, paths) -> Iterator[Problem]:
    if paths:
        names = ", ".join(path.name for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
        reason = f"no frame and no clip, so left out: {names} ({len(paths)})"
        yield Problem(place, clip, "stray", reason, False)


def _link(path, root):
    """A symbolic link in place of a class or clip; `find_clips` refuses those that lead out."""
    top, target = os.path.realpath(root), os.path.realpath(path)
    inside = target == top or target.startswith(os.path.join(top, ""))
    reason = f"a symbolic link {_leads(path)}; "
    reason += "not followed" if inside else f"it leaves the folder of clips, to {target}"
    return Problem(_place(path, root), None, "link", reason, not inside)


def _leads(path):
    try:
        path.stat()
    except OSError as error:
        return "in a circle" if error.errno == errno.ELOOP else "to nothing"
    return "to something"


def _check(root, clip) -> _Checked:
    checked = _Checked(clip)
    try:
        (_check_video if clip.is_video else _check_folder)(checked, root)
    except Exception as error:  # a damaged file can fail anywhere in the reading of it
        checked.problems.append(_unreadable(clip.path, root, clip, error))
    if checked.info and checked.info.frames == 1:
        checked.problems.append(
            Problem(clip.name, clip.name, "one frame", "it has a single frame", False)
        )
    return checked


def _check_video(checked, root):
    clip = checked.clip
    checked.info = ClipInfo(*probe_video(clip.path, decode=True))
    with clip.path.open("rb") as file:
        checked.digest = hashlib.file_digest(file, "sha256").digest()
    size = (checked.info.height, checked.info.width)
    checked.problems += _odd_sizes(clip, Counter([size]))


def _check_folder(checked, root):
    clip = checked.clip
    entries = sorted(clip.path.iterdir(), key=natural_order)
    files = [path for path in entries if is_image(path)]
    others = [path for path in entries if path not in set(files) and path.name[0] != "."]
    checked.problems += _broken_frames(clip, root, others)
    if not files:
        checked.problems.append(_empty_clip(clip, others))
        return
    checked.problems += _strays(clip.name, clip.name, [p for p in others if not p.is_symlink()])
    digest, sizes = hashlib.sha256(), Counter()
    for path in files:
        try:
            pixels = image_pixels(path)
        except Exception as error:  # a damaged file can fail anywhere in the reading of it
            checked.problems.append(_unreadable(path, root, clip, error))
        else:
            digest.update(pixel_digest(pixels))
            sizes[pixels.shape[:2]] += 1
    checked.problems += _odd_sizes(clip, sizes)
    if not any(problem.fatal for problem in checked.problems):
        checked.info = ClipInfo(len(files), *next(iter(sizes)), None)
        checked.digest = digest.digest()


def _broken_frames(clip, root, paths) -> Iterator[Problem]:
    """Links to frames that are gone: without them the others would follow each other wrongly."""
    for path in paths:
        if path.is_symlink() and path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir():
            reason = f"a symbolic link {_leads(path)} in place of a frame"
            yield Problem(_place(path, root), clip.name, "link", reason, True)


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
        reason = f"frames of {len(sizes)} sizes, each scaled by itself: {', '.join(names)}"
        yield Problem(clip.name, clip.name, "sizes", reason, False)
    if any(max(size) > _LARGE for size in sizes):
        reason = f"frames of more than {_LARGE} pixels in width or height, slow to read"
        yield Problem(clip.name, clip.name, "large", reason, False)


def _duplicates(checked: Iterable[_Checked]) -> Iterator[Problem]:
    first: dict[bytes, Clip] = {}
    for result in checked:
        if result.digest is None:
            continue
        clip, other = result.clip, first.setdefault(result.digest, result.clip)
        if clip is not other:
            reason = f"the same content as {other.name}"
            if clip.class_name != other.class_name:
                reason += ", of another class: one of the two classes is wrong"
            yield Problem(clip.name, clip.name, "duplicate", reason, False)


def _few(clips) -> Iterator[Problem]:
    for name, n in Counter(clip.class_name for clip in clips).items():
        if n == 1:
            reason = "a single clip, which cannot be both in training and in test"
            yield Problem(name, None, "few", reason, False)


def _unreadable(path, root, clip, error):
    reason = str(error).removeprefix(f"{path}: ") or type(error).__name__
    return Problem(_place(path, root), clip and clip.name, "unreadable", reason, True)


def _place(path, root):
    return path.relative_to(root).as_posix()
