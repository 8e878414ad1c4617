"""Clips in folders: which there are, how many frames they have, and which of these are chosen."""

import numpy as np
import pytest
from PIL import Image

from keras_cnnlstm.data import clips
from keras_cnnlstm.data.clips import (
    SAMPLINGS,
    Clip,
    ClipInfo,
    check_sampling,
    clip_frames,
    find_clips,
    iterate_frames,
    probe,
    read_clip,
    sample_indices,
    scan_clips,
)


def film(frames=5, height=6, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


def write_folder(folder, frames):
    """Files 0.png, 1.png, ..., 10.png: in another order by name than by number."""
    folder.mkdir(parents=True)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{t}.png")


def write_gif(path, frames):
    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=40)


@pytest.fixture
def root(tmp_path):
    """Two classes: "a b" with two folders, "ü 2" with a folder and a GIF of the same frames."""
    root = tmp_path / "root"
    write_folder(root / "ü 2" / "clip 1", film())
    write_folder(root / "a b" / "10", film(12))
    write_folder(root / "a b" / "9", film(2))
    grey = film()[..., :1].repeat(3, -1)  # a GIF has 256 colours only
    write_folder(root / "ü 2" / "grey", grey)
    write_gif(root / "ü 2" / "grey.gif", grey)
    return root


def names(root):
    return [clip.name for clip in find_clips(root)]


class TestFindClips:
    def test_folders_and_videos_in_natural_order(self, root):
        found = find_clips(root)
        assert [c.name for c in found] == [
            "a b/9",
            "a b/10",
            "ü 2/clip 1",
            "ü 2/grey",
            "ü 2/grey.gif",
        ]
        assert [c.class_name for c in found] == ["a b", "a b", "ü 2", "ü 2", "ü 2"]
        assert [c.is_video for c in found] == [False, False, False, False, True]
        for clip in found:
            assert clip.path == root / clip.name
        assert find_clips(str(root)) == found

    def test_classes_in_natural_order(self, tmp_path):
        for name in ("10", "9", "B", "a", "clip 2", "clip 10"):
            (tmp_path / name / "x").mkdir(parents=True)
        order = ["9", "10", "a", "B", "clip 2", "clip 10"]
        assert [c.class_name for c in find_clips(tmp_path)] == order

    @pytest.mark.parametrize("name", ["A.MP4", "b.avi", "c.webm", "d.mkv", "e.mov", "f.m4v"])
    def test_every_kind_of_video(self, tmp_path, name):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / name).touch()
        assert [(c.name, c.is_video) for c in find_clips(tmp_path)] == [(f"a/{name}", True)]

    def test_a_folder_may_be_called_like_a_video(self, tmp_path):
        write_folder(tmp_path / "a" / "take.mp4", film())
        (clip,) = find_clips(tmp_path)
        assert not clip.is_video
        assert probe(clip).frames == 5

    def test_hidden_and_other_things_are_left_out(self, root):
        before = names(root)
        for name in (".hidden", "a b/.hidden"):
            write_folder(root / name, film())
        for name in ("notes.txt", "clip.mp4", "a b/notes.txt", "a b/._9.mp4", "a b/cover.png"):
            (root / name).touch()
        assert names(root) == before

    @pytest.mark.parametrize("link", ["outside", "a b/outside", "a b/outside.mp4"])
    def test_links_that_lead_out_are_refused(self, root, link):
        # It begins with the root's name, without lying in it.
        target = root.with_name("root 2")
        target.mkdir()
        (root / link).symlink_to(target)
        with pytest.raises(ValueError, match=rf"{link}: a symbolic link .* leads out"):
            find_clips(root)

    def test_the_root_itself_may_be_a_link(self, root, tmp_path):
        (tmp_path / "link").symlink_to(root)
        assert names(tmp_path / "link") == names(root)

    def test_relative_and_with_a_slash(self, root, monkeypatch):
        monkeypatch.chdir(root)
        assert names(".") == names(f"{root}/") == names(root)

    def test_no_classes(self, tmp_path):
        (tmp_path / "clip.mp4").touch()
        with pytest.raises(FileNotFoundError, match=r"a folder for each class.*found none"):
            find_clips(tmp_path)
        for path in (tmp_path / "none", tmp_path / "clip.mp4"):
            with pytest.raises(FileNotFoundError, match="expected a folder with a"):
                find_clips(path)

    def test_a_class_without_clips(self, root):
        (root / "empty").mkdir()
        with pytest.raises(ValueError, match="empty: expected folders of frames or videos"):
            find_clips(root)

    def test_a_class_of_bare_images(self, tmp_path):
        write_folder(tmp_path / "a", film())
        with pytest.raises(ValueError, match=r"a: expected .*bare images\. Put the frames"):
            find_clips(tmp_path)


class TestProbe:
    def test_what_there_is(self, root):
        infos = {clip.name: probe(clip) for clip in find_clips(root)}
        assert infos == {
            "a b/9": ClipInfo(2, 6, 8, None),
            "a b/10": ClipInfo(12, 6, 8, None),
            "ü 2/clip 1": ClipInfo(5, 6, 8, None),
            "ü 2/grey": ClipInfo(5, 6, 8, None),
            "ü 2/grey.gif": ClipInfo(5, 6, 8, 25.0),
        }

    def test_a_folder_without_frames(self, tmp_path):
        (tmp_path / "a" / "clip").mkdir(parents=True)
        (clip,) = find_clips(tmp_path)
        for ask in (probe, lambda clip: read_clip(clip, image_size=(6, 8))):
            with pytest.raises(FileNotFoundError, match=r"clip: expected a folder of image files"):
                ask(clip)

    def test_a_damaged_first_frame(self, root):
        (root / "a b" / "9" / "0.png").write_bytes(b"none")
        with pytest.raises(ValueError, match=r"0\.png: expected an image that can be read"):
            probe(find_clips(root)[0])


class TestReadClip:
    @pytest.mark.parametrize("indices", [None, [0], [1, 4], np.arange(5)])
    @pytest.mark.parametrize("name", ["clip 1", "grey", "grey.gif"])
    def test_the_frames_asked_for(self, root, name, indices):
        (clip,) = (c for c in find_clips(root) if c.path.name == name)
        frames = read_clip(clip, indices, image_size=(6, 8), channels=3)
        expected = film() if name == "clip 1" else film()[..., :1].repeat(3, -1)
        assert frames.dtype == np.uint8
        np.testing.assert_array_equal(frames, expected if indices is None else expected[indices])

    def test_in_natural_order(self, root):
        frames = read_clip(find_clips(root)[1], image_size=(6, 8), channels=3)
        np.testing.assert_array_equal(frames, film(12))

    def test_form(self, root):
        folder, gif = find_clips(root)[-2:]
        form = {"image_size": (4, 3), "channels": 1, "invert": True, "fit": "stretch"}
        frames = read_clip(folder, **form)
        assert frames.shape == (5, 4, 3, 1)
        np.testing.assert_array_equal(read_clip(gif, **form), frames)
        assert frames.mean() == pytest.approx(255 - film()[..., 0].mean(), abs=15)

    @pytest.mark.parametrize("name", ["clip 1", "grey.gif"])
    def test_frames_that_are_not_there(self, root, name):
        (clip,) = (c for c in find_clips(root) if c.path.name == name)
        with pytest.raises(ValueError, match=rf"{name}: expected .*6 frames or more; found"):
            read_clip(clip, [2, 5], image_size=(6, 8))

    @pytest.mark.parametrize("name", ["clip 1", "grey.gif"])
    def test_bad_arguments(self, root, name):
        (clip,) = (c for c in find_clips(root) if c.path.name == name)
        with pytest.raises(ValueError, match="`indices` must be integers from 0, each larger"):
            read_clip(clip, [2, 2], image_size=(6, 8))
        with pytest.raises(ValueError, match="`channels` must be 1 or 3; received 4"):
            read_clip(clip, image_size=(6, 8), channels=4)

    def test_a_frame_that_cannot_be_read(self, root):
        (root / "a b" / "9" / "1.png").write_bytes(b"none")
        clip = find_clips(root)[0]
        assert len(read_clip(clip, [0], image_size=(6, 8))) == 1
        with pytest.raises(ValueError, match=r"9/1\.png: expected an image that can be read"):
            read_clip(clip, image_size=(6, 8))


class TestIterateFrames:
    @pytest.mark.parametrize("name", ["a b/10", "ü 2/grey.gif"])
    @pytest.mark.parametrize("every", [1, 2, 5, 20])
    def test_one_after_the_other(self, root, name, every):
        form = {"image_size": (6, 8), "channels": 3, "invert": True}
        found_names, frames = zip(*iterate_frames(root / name, every=every, **form), strict=True)
        (clip,) = (c for c in find_clips(root) if c.name == name)
        np.testing.assert_array_equal(frames, read_clip(clip, **form)[::every])
        tell = "{}:{}" if clip.is_video else "{}/{}.png"
        numbers = range(0, probe(clip).frames, every)
        assert list(found_names) == [tell.format(root / name, t) for t in numbers]

    @pytest.mark.parametrize("name", ["10", "grey.gif"])
    def test_frames_of_a_clip_in_their_own_size(self, root, name):
        (clip,) = (c for c in find_clips(root) if c.path.name == name)
        frames = list(clip_frames(clip))
        np.testing.assert_array_equal(frames, read_clip(clip, image_size=(6, 8), channels=3))

    def test_no_frame_is_read_ahead(self, root, monkeypatch):
        read = []
        image = clips.upright_image

        def noted(path):
            read.append(path.name)
            return image(path)

        monkeypatch.setattr(clips, "upright_image", noted)
        frames = clip_frames(find_clips(root)[1])
        for _ in range(2):
            next(frames)
        assert read == ["0.png", "1.png"]

    def test_errors(self, root, tmp_path):
        with pytest.raises(FileNotFoundError, match="expected a folder of image files"):
            next(iterate_frames(tmp_path / "none", image_size=(6, 8)))
        with pytest.raises(ValueError, match=r"iterate_frames: `every` must be .*1 "):
            next(iterate_frames(root, image_size=(6, 8), every=0))
        with pytest.raises(ValueError, match="iterate_frames: `channels` must be 1 or 3; receive"):
            next(iterate_frames(root, image_size=(6, 8), channels=2))

    @pytest.mark.parametrize(("every", "expected"), [(1, [0, 3, 5, 8, 10]), (2, [0, 5, 10])])
    def test_by_time(self, tmp_path, every, expected):
        path = tmp_path / "a.gif"
        write_gif(path, [np.full((6, 8, 3), 20 * i, np.uint8) for i in range(12)])  # 25 a second
        form = {"image_size": (6, 8), "every": every, "frames_per_second": 10}
        found = list(iterate_frames(path, **form))
        assert [name for name, _ in found] == [f"{path}:{i}" for i in expected]
        assert [frame[0, 0, 0] for _, frame in found] == [20 * i for i in expected]

    def test_images_have_no_time(self, root):
        folder = root / "a b" / "10"
        found = list(iterate_frames(folder, image_size=(6, 8), every=5, frames_per_second=0.1))
        assert [name for name, _ in found] == [str(folder / f"{i}.png") for i in (0, 5, 10)]


SIZES = [(n, length) for n in range(1, 41) for length in range(1, 41)]


class TestSampleIndices:
    @pytest.mark.parametrize("sampling", SAMPLINGS)
    @pytest.mark.parametrize("random", [False, True])
    def test_distinct_frames_in_order_and_never_fewer_than_there_are(self, sampling, random):
        rng = np.random.default_rng(0) if random else None
        for n, length in SIZES:
            found = sample_indices(n, length, sampling, rng=rng)
            assert found.dtype == np.int64
            assert len(found) == min(n, length)
            assert (np.diff(found) > 0).all()
            assert found[0] >= 0
            assert found[-1] < n
            if length >= n:
                assert found.tolist() == list(range(n))
        assert sample_indices(7, None, sampling, rng=rng).tolist() == list(range(7))

    def test_uniform_is_what_is_nearest_to_even_spacing(self):
        for n, length in SIZES:
            found = sample_indices(n, length, "uniform")
            count = len(found)
            even = np.linspace(0, n - 1, count) if count > 1 else np.array([(n - 1) / 2])
            assert np.abs(found - even).max() <= 0.5 + 1e-9
            if count > 1:
                assert found[[0, -1]].tolist() == [0, n - 1]

    def test_uniform_by_hand(self):
        assert sample_indices(10, 4, "uniform").tolist() == [0, 3, 6, 9]
        assert sample_indices(10, 3, "uniform").tolist() == [0, 5, 9]
        assert sample_indices(9, 1, "uniform").tolist() == [4]

    def test_segments_has_one_frame_of_each_part(self):
        rng = np.random.default_rng(0)
        for n, length in SIZES:
            count = min(n, length)
            # Of the last part that has begun when frame f ends.
            part_of = [max(p for p in range(count) if p * n < (f + 1) * count) for f in range(n)]
            parts = [[f for f in range(n) if part_of[f] == p] for p in range(count)]
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
            for part, frame in zip(
                parts, sample_indices(n, length, "segments", rng=rng), strict=True
            ):
                assert frame in part
            middles = [part[(len(part) - 1) // 2] for part in parts]
            assert sample_indices(n, length, "segments").tolist() == middles

    def test_segments_draws_each_frame_of_a_part_alike(self):
        rng = np.random.default_rng(0)
        draws = np.array([sample_indices(12, 3, "segments", rng=rng) for _ in range(4000)])
        for part in range(3):
            counts = np.bincount(draws[:, part] - 4 * part, minlength=4)
            assert np.abs(counts - 1000).max() < 140  # 5 standard deviations
        assert abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.08

    @pytest.mark.parametrize("stride", [1, 2, 3, 7, 50])
    def test_a_window_is_any_that_fits(self, stride):
        rng = np.random.default_rng(0)
        for n, length in SIZES[:: 7 if stride > 1 else 13]:
            fits = []  # all windows of the most frames that fit into the clip
            for start in range(n):
                window = list(range(start, n, stride))[:length]
                fits.append(window)
            most = max(map(len, fits))
            fits = [window for window in fits if len(window) == most]
            draws = {
                tuple(sample_indices(n, length, "window", stride=stride, rng=rng))
                for _ in range(12 * len(fits) if len(fits) < 8 else 20)
            }
            assert draws <= {tuple(window) for window in fits}
            assert len(fits) > 4 or len(draws) == len(fits)
            middle = sample_indices(n, length, "window", stride=stride).tolist()
            assert middle == fits[(len(fits) - 1) // 2]

    def test_a_window_without_an_end(self):
        assert sample_indices(8, None, "window", stride=3).tolist() == [0, 3, 6]

    def test_first(self):
        assert sample_indices(8, 3, "first").tolist() == [0, 1, 2]

    def test_by_time_by_hand(self):
        at_8 = {"rate": 20, "frames_per_second": 8}  # every 2.5th frame: 0, 3, 5, 8, 10, 13, 15, 18
        assert sample_indices(20, None, "first", **at_8).tolist() == [0, 3, 5, 8, 10, 13, 15, 18]
        assert sample_indices(20, 3, "first", **at_8).tolist() == [0, 3, 5]
        assert sample_indices(20, 3, "uniform", **at_8).tolist() == [0, 10, 18]
        assert sample_indices(20, 4, "segments", **at_8).tolist() == [0, 5, 10, 15]
        assert sample_indices(20, 4, "window", **at_8).tolist() == [5, 8, 10, 13]
        assert sample_indices(20, 3, "window", stride=2, **at_8).tolist() == [3, 8, 13]
        assert sample_indices(4, 8, "window", **at_8).tolist() == [0, 3]

    @pytest.mark.parametrize("sampling", SAMPLINGS)
    def test_by_time_without_one_is_by_number(self, sampling):
        """Images have no rate; a film of a lower rate gives each frame once."""
        expected = sample_indices(9, 4, sampling).tolist()
        for rate in (None, 5, 8):
            found = sample_indices(9, 4, sampling, rate=rate, frames_per_second=8)
            assert found.tolist() == expected

    @pytest.mark.parametrize("rate", [8.01, 23.976, 25.0, 29.97, 60.0, 1000.0])
    def test_by_time_frames_are_evenly_spaced(self, rate):
        rng = np.random.default_rng(0)
        for n in (1, 2, 30, 59, 1000):
            for _ in range(5):
                options = {"rng": rng, "rate": rate, "frames_per_second": 8}
                found = sample_indices(n, 6, "window", **options)
                seconds = np.diff(found) / rate
                assert np.abs(seconds - 1 / 8).max(initial=0) <= 1 / rate + 1e-9
                assert len(found) == min(6, len(np.arange(0, n - 0.5, rate / 8)))
                assert found[-1] < n
                assert (np.diff(found) > 0).all()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((0, 3, "first"), "sample_indices: `num_frames` must be .*1 .*received 0"),
            ((3, 0, "first"), "sample_indices: `length` must be .*1 .*received 0"),
            ((3, 3, "last"), "`sampling` must be one of uniform, segments, .*; received 'last'"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            sample_indices(*arguments)

    @pytest.mark.parametrize("name", ["rate", "frames_per_second"])
    @pytest.mark.parametrize("value", [0, -1, float("nan"), "8"])
    def test_bad_rates(self, name, value):
        with pytest.raises(ValueError, match=f"sample_indices: `{name}` must be a number from 0.0"):
            sample_indices(9, 3, "first", **{name: value})

    def test_bad_strides(self):
        with pytest.raises(ValueError, match=r"f: `stride` must be .*1 .*received 0"):
            check_sampling("f", 3, "window", 0)
        with pytest.raises(ValueError, match='f: `stride` must be 1 unless `sampling` is "window"'):
            check_sampling("f", 3, "first", 2)


def test_a_clip_need_not_lie_in_a_root(tmp_path):
    write_folder(tmp_path / "alone", film())
    assert probe(Clip(tmp_path / "alone", "", "alone")).frames == 5


def test_names_are_text_in_one_form_and_none_is_taken_for_another(tmp_path):
    for name in ("zoe\u0308/1", "caf\udce9/2", "caf\udce9/3", "plain/zoe\u0308"):
        (tmp_path / name).mkdir(parents=True)
    found = find_clips(tmp_path)
    assert [clip.name for clip in found] == ["caf\xe9/2", "caf\xe9/3", "plain/zo\xeb", "zo\xeb/1"]
    assert all(clip.path.is_dir() for clip in found)
    (tmp_path / "zo\xeb" / "1").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"another encoding .*Rename it"):
        find_clips(tmp_path)


def write_frame(folder):
    folder.mkdir(parents=True)
    Image.new("L", (2, 2)).save(folder / "0.png")


class TestPrescribedSplit:
    def clips(self, root, *names):
        for name in names:
            write_frame(root / name)
        return find_clips(root)

    def test_folders_of_the_parts(self, tmp_path):
        names = ["Train/up/a", "Train/down/b", "val/up/c", "test/up/d", "test/down/e"]
        clips = self.clips(tmp_path, *names)
        found = {clip.name: (clip.class_name, clip.label.split) for clip in clips}
        assert found == {
            "Train/up/a": ("up", "train"),
            "Train/down/b": ("down", "train"),
            "val/up/c": ("up", "validation"),
            "test/up/d": ("up", "test"),
            "test/down/e": ("down", "test"),
        }

    @pytest.mark.parametrize(
        "names",
        [
            ["train/a", "test/b"],  # classes: the clips lie where those of a class do
            ["train/up/a", "validation/up/b"],  # no test
            ["train/up/a", "test/up/b", "other/up/c"],  # another folder beside them
        ],
    )
    def test_other_folders_are_classes(self, tmp_path, names):
        for name in names:
            write_frame(tmp_path / name)
        clips, _ = scan_clips(tmp_path)
        assert {clip.class_name for clip in clips} == {name.split("/")[0] for name in names}
        assert all(clip.label is None for clip in clips)
