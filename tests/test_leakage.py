"""Frames shared by parts of a split, however they are stored."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_cnnlstm.clips import Clip, find_clips
from keras_cnnlstm.leakage import (
    SharedFrame,
    image_pixels,
    is_blank,
    native_frames,
    pixel_digest,
    progress_line,
    shared_frames,
)
from keras_cnnlstm.videos import write_video


def noise(seed, frames=4, shape=(6, 8)):
    return np.random.default_rng(seed).integers(0, 256, (frames, *shape), np.uint8)


@pytest.fixture
def save(tmp_path):
    """Writes frames as a clip: a folder of images of that ending, or a video."""

    def save(name, frames, ending=".png", **options):
        path = tmp_path / name
        if path.suffix:
            path.parent.mkdir(exist_ok=True)
            write_video(path, frames[..., None], rate=5)
        else:
            path.mkdir(parents=True)
            for t, frame in enumerate(frames):
                Image.fromarray(frame).save(path / f"{t}{ending}", **options)
        return Clip(path, path.parent.name, name)

    return save


def places(shared):
    return [
        (s.part, s.clip.name, s.frame, s.other_part, s.other.name, s.other_frame) for s in shared
    ]


class TestSharedFrames:
    def test_a_sound_split_shares_nothing(self, save):
        clips = [save(f"a/{i}", noise(i)) for i in range(4)]
        assert (
            shared_frames({"train": clips[:2], "validation": clips[2:3], "test": clips[3:]}) == []
        )

    def test_each_shared_frame_with_the_first_place_it_was_seen(self, save):
        base = noise(0, frames=6)
        one, two = save("a/1", base[:4]), save("a/2", base[[3, 4]])
        validation, test = save("b/1", noise(1)), save("b/2", np.stack([noise(1)[2], base[4]]))
        split = {"train": [one, two], "validation": [validation], "test": [test]}
        assert shared_frames(split) == [
            SharedFrame("test", test, 0, "validation", validation, 2),
            SharedFrame("test", test, 1, "train", two, 1),
        ]

    def test_frames_that_one_part_has_twice_are_no_leak(self, save):
        one, two = save("a/1", noise(0)), save("a/2", noise(0))
        assert shared_frames({"train": [one, two], "test": [save("a/3", noise(1))]}) == []

    @pytest.mark.parametrize("ending", [".png", ".bmp", ".gif", "in colour", "with a palette"])
    def test_the_same_pixels_in_another_format(self, save, ending):
        frames = noise(0)
        if ending == "in colour":
            copy = save("a/2", np.stack([frames] * 3, axis=-1), compress_level=0)
        elif ending == "with a palette":
            copy = save("a/2", frames[:0])
            for t, frame in enumerate(frames):
                Image.fromarray(frame).convert("P").save(copy.path / f"{t}.png")
        else:
            copy = save("a/2", frames, ending)
        shared = shared_frames({"train": [save("a/1", frames)], "test": [copy]})
        assert [(s.frame, s.other_frame) for s in shared] == [(0, 0), (1, 1), (2, 2), (3, 3)]

    def test_videos_against_folders(self, save):
        pytest.importorskip("av")
        folder, video = save("a/1", noise(0)), save("a/2.avi", noise(0)[2:])
        assert places(shared_frames({"train": [folder], "test": [video]})) == [
            ("test", "a/2.avi", 0, "train", "a/1", 2),
            ("test", "a/2.avi", 1, "train", "a/1", 3),
        ]

    def test_frames_of_one_colour_are_left_out(self, save):
        black, grey = np.zeros((1, 6, 8), np.uint8), np.full((1, 6, 8), 90, np.uint8)
        one = save("a/1", np.concatenate([black, noise(0), grey]))
        two = save("a/2", np.concatenate([black, grey, noise(0)[:1]]))
        assert places(shared_frames({"train": [one], "test": [two]})) == [
            ("test", "a/2", 2, "train", "a/1", 1)
        ]

    def test_the_same_numbers_in_another_shape_are_another_frame(self, save):
        one, two = save("a/1", noise(0)), save("a/2", noise(0).reshape(4, 8, 6))
        assert shared_frames({"train": [one], "test": [two]}) == []

    def test_progress_is_told_after_each_clip(self, save):
        told = []
        split = {"train": [save("a/1", noise(0)), save("a/2", noise(1))], "test": []}
        shared_frames(split, progress=lambda *numbers: told.append(numbers))
        assert told == [(1, 2), (2, 2)]

    def test_a_frame_that_cannot_be_read(self, save):
        clip = save("a/1", noise(0))
        (clip.path / "2.png").write_bytes(b"no image")
        with pytest.raises(ValueError, match=r"2\.png: expected an image that can be read"):
            shared_frames({"train": [clip]})


def test_native_frames_come_one_by_one(save, monkeypatch):
    from keras_cnnlstm import leakage

    read = []
    monkeypatch.setattr(leakage, "image_pixels", lambda path: read.append(path.name) or path)
    frames = native_frames(save("a/1", noise(0)))
    next(frames)
    next(frames)
    assert read == ["0.png", "1.png"]


def test_pixels_are_upright_and_in_their_own_size(tmp_path):
    upright = np.stack([noise(0)[0]] * 3, axis=-1)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(np.rot90(upright)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(image_pixels(tmp_path / "a.png"), upright)


def test_digests_differ_where_pixels_or_shapes_do():
    frame = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    other = frame.copy()
    other[5, 7, 2] ^= 1
    digests = [pixel_digest(f) for f in (frame, other, frame.reshape(8, 6, 3), frame[::-1])]
    assert len({*digests, pixel_digest(frame.copy())}) == 4
    assert {len(digest) for digest in digests} == {16}


def test_blank_frames():
    frame = np.full((6, 8, 3), [10, 20, 30], np.uint8)
    assert is_blank(frame)
    frame[5, 7, 2] = 31
    assert not is_blank(frame)


def test_a_line_of_progress_on_terminals_only():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert progress_line(terminal=io.StringIO()) is None
    terminal = Terminal()
    show = progress_line(terminal=terminal)
    show(1, 1000)
    show(1000, 1000)
    assert terminal.getvalue() == "\r1 of 1,000 clips\r1,000 of 1,000 clips\n"


def test_takes_the_clips_that_are_found(save, tmp_path):
    save("a/1", noise(0))
    save("b/1", noise(0))
    one, two = find_clips(tmp_path)
    assert len(shared_frames({"train": [one], "test": [two]})) == 4
    assert (one.path, two.path) == (Path(tmp_path, "a/1"), Path(tmp_path, "b/1"))
