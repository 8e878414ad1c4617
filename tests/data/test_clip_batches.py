"""Batches of clips, read back from frames that tell their own clip and number."""

import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_cnnlstm.data import clip_batches, clip_cache, clips
from keras_cnnlstm.data.clip_batches import clip_sequences
from keras_cnnlstm.data.clip_cache import ClipCache, Found
from keras_cnnlstm.data.clips import (
    Clip,
    ClipInfo,
    Problem,
    find_clips,
    frames_at,
    read_clip,
    sample_indices,
)
from keras_cnnlstm.data.videos import write_video

SIZE = (6, 8)
COUNTS = [3, 5, 8, 1, 12, 4, 2, 9, 6, 7, 5]  # frames of the clips


def coded_frames(clip, count):
    """Noise, but the first pixel of each frame is the clip's number, the second the frame's."""
    frames = np.random.default_rng(clip).integers(1, 256, (count, *SIZE), np.uint8)
    frames[:, 0, 0] = clip
    frames[:, 0, 1] = np.arange(count)
    return frames


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """11 clips in three classes; in their order, clip 0 is in class 0, clip 1 in class 1, ..."""
    root = tmp_path_factory.mktemp("clips") / "röot 1"
    for number, count in enumerate(COUNTS):
        folder = root / f"class {number * 3 // len(COUNTS)}" / f"clip {number}"
        folder.mkdir(parents=True)
        for t, frame in enumerate(coded_frames(number, count)):
            Image.fromarray(frame).save(folder / f"{t}.png")
    return root


CLASSES = [number * 3 // len(COUNTS) for number in range(len(COUNTS))]


def sequences(clips, length=4, batch_size=4, **options):
    return clip_sequences(
        clips, **{"image_size": SIZE, "length": length, "batch_size": batch_size} | options
    )


def elements(data, batches=None):
    """The clips one by one: frames without padding `(n, H, W, C)`, label. Checks the padding."""
    found = []
    for inputs, labels in (data if batches is None else data.take(batches)).as_numpy_iterator():
        frames, lengths = inputs["frames"], inputs["lengths"]
        assert (frames.dtype, lengths.dtype, labels.dtype) == (np.uint8, np.int32, np.int64)
        assert len(frames) == len(lengths) == len(labels)
        for sequence, length, label in zip(frames, lengths, labels, strict=True):
            assert not sequence[length:].any()
            found.append((sequence[:length], label))
    return found


def numbers(found):
    return [int(frames[0, 0, 0, 0]) for frames, _ in found]


def places(found):
    return [frames[:, 0, 1, 0].tolist() for frames, _ in found]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for (frames, label), (expected_frames, expected_label) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(frames, expected_frames)
        assert label == expected_label


class TestInOrder:
    def test_each_clip_once_as_it_is(self, root):
        data = sequences(root, length=None)
        assert_equal(
            elements(data),
            [(coded_frames(i, count)[..., None], CLASSES[i]) for i, count in enumerate(COUNTS)],
        )
        assert data.cardinality() == 3
        shapes = [inputs["frames"].shape for inputs, _ in data]
        assert shapes == [(4, 8, *SIZE, 1), (4, 12, *SIZE, 1), (3, 7, *SIZE, 1)]

    def test_by_time(self, tmp_path):
        """Films of two rates; a clip of images has none, so each of its frames counts."""
        pytest.importorskip("av")
        (tmp_path / "a").mkdir()
        film = coded_frames(0, 12)[..., None]
        for rate in (10, 20):
            write_video(tmp_path / "a" / f"{rate}.avi", film, rate=rate)
        TestCache().copy(tmp_path / "a" / "images", count=5)
        for options in ({}, {"cache": tmp_path / "cache"}):
            options |= {"length": None, "frames_per_second": 8}
            found = elements(sequences(tmp_path, sampling="first", **options))
            by_10, by_20 = [0, 1, 3, 4, 5, 6, 8, 9, 10, 11], [0, 3, 5, 8, 10]
            assert places(found) == [by_10, by_20, [0, 1, 2, 3, 4]]

    def test_features_by_time(self, tmp_path):
        pytest.importorskip("av")
        (tmp_path / "a").mkdir()
        write_video(tmp_path / "a" / "film.avi", coded_frames(0, 12)[..., None], rate=20)
        rows = np.array([[0], [3], [5], [8], [10]], np.float32)  # of the frames at that rate
        options = {"frames_per_second": 8, "sampling": "first", "length": 3}
        ((inputs, _),) = sequences(tmp_path, features=lambda clip: rows, **options)
        assert inputs["features"].numpy().ravel().tolist() == [0, 3, 5]

    def test_of_one_length(self, root):
        data = sequences(root, length=5)
        assert data.element_spec[0]["frames"].shape == (None, 5, *SIZE, 1)
        for inputs, _ in data:
            assert inputs["frames"].shape[1:] == (5, *SIZE, 1)
        lengths = [len(frames) for frames, _ in elements(data)]
        assert lengths == [min(count, 5) for count in COUNTS]

    def test_longer_than_every_clip(self, root):
        for inputs, _ in sequences(root, length=20):
            assert inputs["frames"].shape[1] == 20
        assert [len(f) for f, _ in elements(sequences(root, length=20))] == COUNTS

    @pytest.mark.parametrize(
        ("sampling", "stride", "expected"),
        [("uniform", 1, [0, 4, 7, 11]), ("segments", 1, [1, 4, 7, 10]), ("first", 1, [0, 1, 2, 3]),
         ("window", 1, [4, 5, 6, 7]), ("window", 3, [1, 4, 7, 10])],
    )  # fmt: skip
    def test_without_a_seed_nothing_is_random(self, root, sampling, stride, expected):
        found = elements(sequences(root, sampling=sampling, stride=stride))
        assert places(found)[4] == expected  # the clip of 12 frames
        assert numbers(found) == list(range(11))

    @pytest.mark.parametrize("start", [0, 1, 2, 3, 9])
    def test_from_any_batch_on(self, root, start):
        assert_equal(elements(sequences(root, start=start)), elements(sequences(root))[4 * start :])

    def test_form(self, root):
        found = elements(sequences(root, image_size=(5, 3), channels=3, invert=True, length=None))
        expected = [
            (read_clip(clip, image_size=(5, 3), channels=3, invert=True), CLASSES[i])
            for i, clip in enumerate(find_clips(root))
        ]
        assert_equal(found, expected)


class TestShuffled:
    @pytest.mark.parametrize("batch_size", [4, 11, 25])
    def test_each_clip_once_before_any_comes_again(self, root, batch_size):
        data = sequences(root, seed=3, batch_size=batch_size)
        assert data.cardinality() == -1  # tf.data's sign for infinite
        assert data.element_spec[0]["frames"].shape[0] == batch_size
        found = elements(data, -(-55 // batch_size))[:55]
        order = numbers(found)
        passes = [order[11 * i : 11 * (i + 1)] for i in range(5)]
        assert [sorted(p) for p in passes] == [list(range(11))] * 5
        assert len({tuple(p) for p in [*passes, range(11)]}) == 6
        assert [label for _, label in found] == [CLASSES[i] for i in order]

    def test_every_order_is_as_likely(self):
        orders = [
            tuple(clip_batches._order(seed, n, 3)) for seed in range(-50, 50) for n in range(24)
        ]
        counts = np.unique(orders, axis=0, return_counts=True)[1]
        assert len(counts) == 6
        assert np.abs(counts - 400).max() < 95  # 5 standard deviations

    @pytest.mark.parametrize("options", [
        {"sampling": "segments"},
        {"sampling": "window", "stride": 2, "length": 3},
        {"sampling": "window", "affine": 1.0, "flip": True},
        {"sampling": "uniform", "length": None},
    ])  # fmt: skip
    def test_an_element_is_a_function_of_seed_and_place(self, root, options):
        options = {"seed": -5, **options}
        found = elements(sequences(root, **options), 6)
        assert_equal(elements(sequences(root, start=4, **options), 2), found[16:])
        assert_equal(elements(sequences(root, batch_size=12, **options), 2), found)
        other = elements(sequences(root, **options | {"seed": 4}), 6)
        assert [f.tobytes() for f, _ in other] != [f.tobytes() for f, _ in found]

    @pytest.mark.parametrize(("sampling", "stride"), [("segments", 1), ("window", 2)])
    def test_frames_are_chosen_anew_each_time(self, root, sampling, stride):
        data = sequences(root, length=3, seed=0, sampling=sampling, stride=stride)
        found = elements(data, 44)  # 16 passes
        chosen = [tuple(p) for n, p in zip(numbers(found), places(found), strict=True) if n == 4]
        assert len(chosen) == 16
        assert len(set(chosen)) > 5
        if sampling == "window":
            assert set(chosen) <= {(s, s + 2, s + 4) for s in range(8)}
        else:
            assert all(p // 4 == part for choice in chosen for part, p in enumerate(choice))
        for frames, _ in found:  # the frames that were chosen are the frames of the clip
            number, place = frames[0, 0, 0, 0], frames[:, 0, 1, 0]
            expected = coded_frames(number, COUNTS[number])[place]
            np.testing.assert_array_equal(frames[..., 0], expected)


def smooth_clip(folder, count=5):
    """Two blurred blobs, off the centre, of which one grows from frame to frame."""
    y, x = np.mgrid[:28, :24]
    folder.mkdir(parents=True)
    for t in range(count):
        blob = 180 * np.exp(-((y - 9) ** 2 + (x - 14) ** 2) / 20)
        blob += (70 + 10 * t) * np.exp(-((y - 19) ** 2 + (x - 8) ** 2) / 12)
        Image.fromarray(blob.astype(np.uint8)).save(folder / f"{t}.png")
    return Clip(folder, "a", "a/smooth")


class TestAugment:
    def sequences(self, clip, **options):
        return sequences([clip], **{"image_size": (28, 24), "length": 7, "seed": 0} | options)

    def test_all_frames_of_a_clip_alike(self, tmp_path):
        """The map that is found on the first frame is the one of all frames."""
        clip = smooth_clip(tmp_path / "smooth")
        plain = read_clip(clip, image_size=(28, 24))
        found = elements(self.sequences(clip, affine=1.0), 3)
        assert len({frames.tobytes() for frames, _ in found}) == 12
        for place, (frames, _) in enumerate(found):
            assert len(frames) == 5  # the padding is not moved, nor anything else into it
            draws = clip_batches._draws(0, place)[None, :6]
            for frame, before in zip(frames, plain, strict=True):
                alone = clip_batches.affine_transform(tf.constant(before[None]), draws)[0]
                np.testing.assert_array_equal(frame, alone)
        likeness = [np.corrcoef(f[0].ravel(), plain[0].ravel())[0, 1] for f, _ in found]
        assert 0.4 < min(likeness) < 0.99

    def test_flip_mirrors_half_of_the_clips(self, tmp_path):
        clip = smooth_clip(tmp_path / "smooth")
        plain = read_clip(clip, image_size=(28, 24))
        found = elements(self.sequences(clip, flip=True), 25)
        straight = [np.array_equal(frames, plain) for frames, _ in found]
        mirrored = [np.array_equal(frames, plain[:, :, ::-1]) for frames, _ in found]
        assert np.logical_xor(straight, mirrored).all()
        assert 25 < sum(mirrored) < 75  # 5 standard deviations

    def test_draws_are_even_and_independent_of_each_other_and_of_the_order(self):
        draws = np.array([clip_batches._draws(seed, 7) for seed in range(4000)])
        assert draws.dtype == np.float32
        assert np.abs(draws.mean(axis=0)).max() < 0.05
        assert np.abs(draws.var(axis=0) - 1 / 3).max() < 0.03
        others = [np.array([clip_batches.random_at(s, 1, 7).random() for s in range(4000)]),
                  np.array([clip_batches._draws(s, 8)[0] for s in range(4000)])]  # fmt: skip
        correlation = np.corrcoef(np.column_stack([draws, *others]).T)
        assert np.abs(correlation - np.eye(9)).max() < 0.08

    def test_needs_a_seed(self, root):
        for option in ("affine", "flip"):
            with pytest.raises(ValueError, match="`affine` and `flip` need a `seed`; received Non"):
                sequences(root, **{option: True})


def test_folders_and_videos_give_the_same(tmp_path):
    pytest.importorskip("av")
    frames = coded_frames(3, 7)[..., None]
    (tmp_path / "a" / "clip").mkdir(parents=True)
    for t, frame in enumerate(frames):
        Image.fromarray(frame[..., 0]).save(tmp_path / "a" / "clip" / f"{t}.png")
    write_video(tmp_path / "a" / "clip.avi", frames)
    for options in ({}, {"length": None}, {"sampling": "first", "cache": tmp_path / "cache"}):
        folder, video = elements(sequences(tmp_path, **options))
        np.testing.assert_array_equal(folder[0], video[0])
        assert len(folder[0]) > 3


def test_a_video_that_changes_is_counted_again(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "a").mkdir()
    for count in (3, 7, 5):
        write_video(tmp_path / "a" / "clip.avi", coded_frames(3, count)[..., None])
        for _ in range(2):
            ((frames, _),) = elements(sequences(tmp_path, length=6))
            assert len(frames) == min(count, 6)


class TestClasses:
    def test_of_a_sequence_of_clips(self, root):
        some = find_clips(root)[::-1][:4]
        found = elements(sequences(some))
        assert numbers(found) == [10, 9, 8, 7]
        assert [label for _, label in found] == [1, 1, 1, 0]  # of the two that are there

    def test_in_the_order_that_is_given(self, root):
        names = ("class 2", "none", "class 0", "class 1")
        found = elements(sequences(root, class_names=names))
        assert [label for _, label in found] == [{0: 2, 1: 3, 2: 0}[c] for c in CLASSES]

    def test_of_a_split_are_those_of_all_clips(self, root, monkeypatch):
        def split_clips(clips):
            return {"train": clips[:3], "validation": [], "test": clips[8:]}

        monkeypatch.setattr(clip_batches, "split_clips", split_clips)
        found = elements(sequences(root, split="test"))
        assert numbers(found) == [8, 9, 10]
        assert [label for _, label in found] == [2, 2, 2]
        with pytest.raises(ValueError, match="`clips` must hold one clip at least; received none"):
            sequences(root, split="validation")

    def test_the_parts_of_a_split_are_all_clips(self, tmp_path):
        for number in range(20):
            folder = tmp_path / "ab"[number % 2] / str(number)
            folder.mkdir(parents=True)
            Image.fromarray(coded_frames(number, 1)[0]).save(folder / "0.png")
        parts = [
            numbers(elements(sequences(tmp_path, split=part)))
            for part in ("train", "validation", "test")
        ]
        assert sorted(np.concatenate(parts)) == list(range(20))
        assert all(parts)


class TestCache:
    def test_gives_the_same_and_decodes_once(self, root, tmp_path, monkeypatch):
        decoded = []

        def counted(clip, *args, **options):
            decoded.append(clip.name)
            return clips.clip_frames(clip, *args, **options)

        options = {"seed": 1, "sampling": "segments", "affine": 1.0}
        expected = elements(sequences(root, **options), 9)
        monkeypatch.setattr(clip_cache, "clip_frames", counted)
        cache = tmp_path / "new" / "cache"
        assert_equal(elements(sequences(root, cache=cache, **options), 9), expected)
        assert set(decoded) == {clip.name for clip in find_clips(root)}
        decoded.clear()
        assert_equal(elements(sequences(root, cache=str(cache), **options), 9), expected)
        assert decoded == []
        files = list(cache.iterdir())
        assert sorted(len(np.load(file)) for file in files) == sorted(COUNTS)
        assert {file.suffix for file in files} == {".npy"}  # and no temporary ones

    def copy(self, folder, count=3):
        folder.mkdir()
        for t, frame in enumerate(coded_frames(1, count)):
            Image.fromarray(frame).save(folder / f"{t}.png")
        return Clip(folder, "a", "a/copy")

    def frames(self, clip, cache, **options):
        ((frames, _),) = elements(sequences([clip], cache=cache, length=None, **options))
        return frames

    def test_changed_files_are_decoded_again(self, tmp_path):
        clip, cache = self.copy(tmp_path / "clip"), tmp_path / "cache"
        before = self.frames(clip, cache)
        file = clip.path / "1.png"
        status, size = file.stat(), file.stat().st_size
        Image.fromarray(np.full(SIZE, 9, np.uint8)).save(file)
        assert file.stat().st_size != size
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # by its size alone
        after = self.frames(clip, cache)
        np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
        assert (after[1] == 9).all()
        Image.fromarray(np.full(SIZE, 8, np.uint8)).save(file)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # by its time alone
        assert (self.frames(clip, cache)[1] == 8).all()
        file.unlink()
        assert len(self.frames(clip, cache)) == 2

    def test_other_forms_and_clips_are_kept_apart(self, tmp_path):
        clip, cache = self.copy(tmp_path / "clip"), tmp_path / "cache"
        other = self.copy(tmp_path / "other")
        forms = [{}, {"image_size": (8, 6)}, {"channels": 3}, {"invert": True}]
        for form in forms:
            expected = read_clip(clip, **{"image_size": SIZE} | form)
            for _ in range(2):
                np.testing.assert_array_equal(self.frames(clip, cache, **form), expected)
        self.frames(other, cache)
        assert len(list(cache.iterdir())) == 5

    @pytest.mark.parametrize(
        "damage",
        [
            lambda whole: b"", lambda whole: b"no array", lambda whole: b"PK\3\4" + whole,
            lambda whole: whole[:-1], lambda whole: whole[:50],
            lambda whole: whole.replace(b"|u1", b"|i1"),
            lambda whole: whole.replace(b"(3, 6, 8, 1)", b"(3, 8, 6, 1)"),
            lambda whole: whole.replace(b"(3, 6, 8, 1)", b"(0, 6, 8, 1)"),
            lambda whole: whole.replace(b"{", b"(("),
        ],
    )  # fmt: skip
    def test_a_damaged_file_is_decoded_again(self, tmp_path, damage):
        clip, cache = self.copy(tmp_path / "clip"), tmp_path / "cache"
        expected = self.frames(clip, cache)
        (file,) = cache.iterdir()
        whole = file.read_bytes()
        assert damage(whole) != whole
        file.write_bytes(damage(whole))
        np.testing.assert_array_equal(self.frames(clip, cache), expected)
        assert file.read_bytes() == whole


class Films:
    """Clips of noise in memory, in place of files: what is decoded, and what is found."""

    def __init__(self, monkeypatch, counts):
        self.clips = [Clip(Path(f"{i}.avi"), "a", f"a/{i}") for i in range(len(counts))]
        self.films = {c: coded_frames(i, counts[i])[..., None] for i, c in enumerate(self.clips)}
        self.decoded: list[str] = []
        monkeypatch.setattr(clip_cache, "info_of", self.info)
        monkeypatch.setattr(clip_cache, "clip_frames", self.frames)
        monkeypatch.setattr(clip_cache, "fingerprint", lambda clip, form: clip.path.stem)

    def info(self, clip):
        return ClipInfo(len(self.films[clip]), *SIZE, 10.0)

    def frames(self, clip, *, step=1.0, observe=None, **form):
        self.decoded.append(clip.path.stem)
        for number in frames_at(len(self.films[clip]), step):
            yield self.films[clip][number]


FORM = {"image_size": SIZE, "channels": 1, "invert": False, "fit": "stretch"}
FRAME = SIZE[0] * SIZE[1]


class TestClipCache:
    """A cache of few bytes, whose frames are those of the films."""

    def ask(self, cache, films, numbers):
        """Each clip's frames in turn; which of them are kept."""
        kept = []
        for number in numbers:
            clip = films.clips[number]
            frames = cache.frames(clip)
            if frames is not None:
                np.testing.assert_array_equal(frames, films.films[clip])
                kept.append(number)
        return kept

    def test_in_memory_while_there_is_room(self, monkeypatch, tmp_path):
        films = Films(monkeypatch, [3, 4, 2, 1])
        cache = ClipCache(FORM, memory=6 * FRAME)
        assert self.ask(cache, films, [0, 1, 2, 3, 0, 2]) == [0, 2, 3, 0, 2]
        assert films.decoded == ["0", "2", "3"]  # the second is not kept, so not decoded as a whole

    def test_then_on_disk(self, monkeypatch, tmp_path):
        films = Films(monkeypatch, [3, 4, 2])
        cache = ClipCache(FORM, memory=5 * FRAME, folder=tmp_path, disk=10**6)
        assert self.ask(cache, films, [0, 1, 2] * 2) == [0, 1, 2] * 2
        assert films.decoded == ["0", "1", "2"]
        assert [file.name for file in tmp_path.iterdir()] == ["1.npy"]

    def test_the_oldest_files_make_room_but_not_those_in_use(self, monkeypatch, tmp_path):
        films = Films(monkeypatch, [4, 4, 4, 4])
        assert self.ask(ClipCache(FORM, folder=tmp_path), films, [0, 1, 2]) == [0, 1, 2]
        size = (tmp_path / "0.npy").stat().st_size
        for age, name in ((300, "1"), (200, "0"), (100, "2")):
            old = clip_cache._STARTED - age
            os.utime(tmp_path / f"{name}.npy", (old, old))
        cache = ClipCache(FORM, folder=tmp_path, disk=3 * size)
        assert self.ask(cache, films, [1, 3]) == [1, 3]  # 1 is the oldest, but now in use
        assert {file.stem for file in tmp_path.iterdir()} == {"1", "2", "3"}
        cache = ClipCache(FORM, folder=tmp_path, disk=2 * size)
        assert self.ask(cache, films, [0]) == []  # three files, one of them old: still no room
        assert {file.stem for file in tmp_path.iterdir()} == {"1", "3"}

    def test_by_time_only_those_frames_are_kept(self, monkeypatch):
        films = Films(monkeypatch, [9])
        cache = ClipCache(FORM, memory=10**6, frames_per_second=4)
        frames = cache.frames(films.clips[0])
        np.testing.assert_array_equal(frames, films.films[films.clips[0]][[0, 3, 5, 8]])
        options = {"sampling": "first", "rate": 10, "frames_per_second": 4}
        found = clip_cache.read_chosen(
            films.clips[0], lambda info: sample_indices(info.frames, 3, **options),
            cache=cache, form=FORM,
        )  # fmt: skip
        assert found[:, 0, 1, 0].tolist() == [0, 3, 5]

    def test_without_room_the_chosen_frames_are_read(self, tmp_path):
        clip = TestCache().copy(tmp_path / "clip", count=5)
        found = clip_cache.read_chosen(
            clip, lambda info: np.array([1, 3]), cache=ClipCache(FORM, memory=4 * FRAME), form=FORM
        )
        np.testing.assert_array_equal(found, read_clip(clip, [1, 3], image_size=SIZE))

    def test_what_was_found_is_found_again_until_the_file_changes(self, tmp_path):
        folder, path = tmp_path / "cache", tmp_path / "a.gif"
        folder.mkdir()
        path.write_bytes(b"GIF89a")
        clip = Clip(path, "a", "a/a.gif")
        problem = Problem("a/ü", "a/ü", "sizes", "odd", False)
        found = Found(ClipInfo(3, 6, 8, None), b"12", [problem], np.ones((3, 16, 16), np.uint8))
        cache = ClipCache(FORM, folder=folder)
        assert cache.found(clip) is None
        cache.remember(clip, found)
        again = ClipCache({**FORM, "image_size": (9, 9)}, folder=folder).found(clip)
        assert again[:3] == found[:3]
        np.testing.assert_array_equal(again.signatures, found.signatures)
        assert cache.found(Clip(path, "b", "b/a.gif")) is None
        (file,) = folder.iterdir()
        whole = file.read_bytes()
        for damaged in (b"", whole[:-30], b"PK" + whole):
            file.write_bytes(damaged)
            assert cache.found(clip) is None
        file.write_bytes(whole)
        status = path.stat()
        path.write_bytes(b"GIF89b")  # of the same size and time
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert cache.found(clip) is None

    def test_what_cannot_be_used_is_not_remembered(self, tmp_path):
        (tmp_path / "a.gif").touch()
        clip = Clip(tmp_path / "a.gif", "a", "a/a.gif")
        cache = ClipCache(FORM, folder=tmp_path)
        cache.remember(clip, Found(None, None, [], np.zeros((0, 16, 16), np.uint8)))
        assert cache.found(clip) is None


class TestErrors:
    @pytest.mark.parametrize("cache", [False, True])
    def test_a_clip_that_cannot_be_read_is_named(self, tmp_path, cache):
        clip = TestCache().copy(tmp_path / "bäd clip")
        (clip.path / "1.png").write_bytes(b"none")
        data = sequences([clip], cache=tmp_path / "cache" if cache else None)
        message = r"bäd clip/1\.png: expected an image that can be read; .*really an image\?"
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            list(data)
        for file in clip.path.iterdir():
            file.unlink()
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"bäd clip: expected a folder"):
            list(data)

    def test_the_batches_before_it_come(self, root, tmp_path):
        bad = Clip(tmp_path, "class 0", "class 0/bad")
        batches = iter(sequences([*find_clips(root)[:4], bad], batch_size=2))
        next(batches), next(batches)
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"{tmp_path}: expected a folder"):
            next(batches)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"batch_size": 0}, "clip_sequences: `batch_size` must be .*1 .*received 0"),
            ({"start": -1}, "clip_sequences: `start` must be .*0 .*received -1"),
            ({"length": 0}, "clip_sequences: `length` must be .*1 .*received 0"),
            ({"sampling": "all"}, "clip_sequences: `sampling` must be one of uniform, .*'all'"),
            ({"stride": 2}, 'clip_sequences: `stride` must be 1 unless `sampling` is "window"'),
            ({"channels": 2}, "clip_sequences: `channels` must be 1 or 3; received 2"),
            ({"split": "dev"}, "`split` must be one of train, validation, test .*'dev'"),
            ({"class_names": ["class 1"]}, r"`class_names` must hold .*none of \['class 0'"),
        ],
    )
    def test_bad_arguments(self, root, changes, message):
        with pytest.raises(ValueError, match=message):
            sequences(root, **changes)

    def test_clips(self, root, tmp_path):
        with pytest.raises(ValueError, match=r"`split` must be .* None with a sequence"):
            sequences(find_clips(root), split="test")
        with pytest.raises(ValueError, match="`clips` must hold one clip at least; received none"):
            sequences([])
        with pytest.raises(FileNotFoundError, match="a folder for each class"):
            sequences(tmp_path / "none")


def test_threads_end_with_their_dataset(root):
    before = set(threading.enumerate())
    data = sequences(root, seed=0)
    for batches in (data, data.take(5).prefetch(1)):  # and with one that is made of it
        next(iter(batches))
    new = set(threading.enumerate()) - before
    threads = [thread for thread in new if thread.name.startswith("ThreadPoolExecutor")]
    assert threads
    del data, batches
    gc.collect()
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_a_clip_is_cached_frame_by_frame(tmp_path, monkeypatch):
    """However long it is, one decoded frame of it is in memory."""
    clip, alive = TestCache().copy(tmp_path / "clip", count=5), []

    def watched(clip, **form):
        for frame in clips.clip_frames(clip, **form):
            alive.append(weakref.ref(frame))
            yield frame
            del frame
            assert sum(reference() is not None for reference in alive) <= 1

    monkeypatch.setattr(clip_cache, "clip_frames", watched)
    assert len(TestCache().frames(clip, tmp_path / "cache")) == len(alive) == 5


DROPPED = """
import sys
from pathlib import Path

from keras_cnnlstm.data.clip_batches import clip_sequences

data = clip_sequences(sys.argv[1], image_size=(6, 8), length=8, batch_size=32, seed=0, affine=1.0)
for _ in range(20):
    next(iter(data))  # with threads at work on the batches after it
print("done")
"""


@pytest.mark.slow
def test_an_iterator_can_be_dropped_while_batches_are_prepared(root):
    done = subprocess.run(
        [sys.executable, "-c", DROPPED, str(root)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "done\n", done.stderr


def test_features_take_the_place_of_frames(root):
    found = find_clips(root)
    rows = {c.name: np.arange(3 * n, dtype="float32").reshape(n, 3) + 100 * i
            for i, (c, n) in enumerate(zip(found, COUNTS, strict=True))}  # fmt: skip
    options = {"seed": 3, "sampling": "segments"}
    frames = sequences(root, **options).take(4).as_numpy_iterator()
    features = sequences(root, features=lambda clip: rows[clip.name], **options)
    assert features.element_spec[0]["features"].shape == (4, 4, 3)
    for (inputs, labels), (encoded, same) in zip(
        frames, features.take(4).as_numpy_iterator(), strict=True
    ):
        np.testing.assert_array_equal(encoded["lengths"], inputs["lengths"])
        np.testing.assert_array_equal(same, labels)
        clip, frame = inputs["frames"][:, :, 0, 0, 0], inputs["frames"][:, :, 0, 1, 0]
        expected = 100 * clip.astype(int) + 3 * frame
        counts = np.arange(4) < inputs["lengths"][:, None]
        np.testing.assert_array_equal(encoded["features"][..., 0], np.where(counts, expected, 0))


def test_features_are_not_augmented(root):
    with pytest.raises(ValueError, match="`affine` and `flip` must be off with `features`"):
        sequences(root, features=lambda clip: np.zeros((9, 2)), seed=0, flip=True)


def test_clips_are_decoded_when_they_are_due(root, monkeypatch):
    """However many clips there are, few more are decoded than the batches that were taken."""
    ahead = 2 * (clip_batches._READY + 1) + 2 * (os.cpu_count() or 1) + 16
    decoded, too_many = [], threading.Event()

    def counted(clip, *args, **options):
        decoded.append(clip)
        if len(decoded) > 10 + ahead:
            too_many.set()
        return clips.read_clip(clip, *args, **options)

    monkeypatch.setattr(clip_cache, "read_clip", counted)
    batches = iter(sequences(find_clips(root) * 100, batch_size=2))
    for _ in range(5):
        next(batches)
    assert not too_many.wait(timeout=1)  # time enough to decode them all
    assert len(decoded) >= 10


def test_a_clip_that_takes_long_keeps_its_place(root, monkeypatch):
    others = threading.Event()

    def slow_at_first(clip, *args, **options):
        if clip.path.name == "clip 0":
            others.wait(timeout=1)  # if clips are decoded side by side, until one is done
        frames = clips.read_clip(clip, *args, **options)
        if clip.path.name == "clip 5":
            others.set()
        return frames

    monkeypatch.setattr(clip_cache, "read_clip", slow_at_first)
    assert numbers(elements(sequences(root, batch_size=1))) == list(range(11))
