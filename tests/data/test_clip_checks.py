"""Folders of clips, sound and hostile, and frames that parts of a split share."""

import io
import json
import os
import threading

import numpy as np
import pytest
from PIL import Image

from keras_cnnlstm.data import clip_checks, clips, frames
from keras_cnnlstm.data.clip_checks import (
    SharedFrame,
    check_clips,
    for_training,
    shared_frames,
)
from keras_cnnlstm.data.clip_report import ClipReport
from keras_cnnlstm.data.clips import Clip, ClipInfo, Problem, find_clips
from keras_cnnlstm.data.videos import write_video
from keras_cnnlstm.utils.environment import progress_line


def noise(seed, length=3, shape=(6, 8)):
    return np.random.default_rng(seed).integers(0, 256, (length, *shape), np.uint8)


def save_frames(folder, pixels, ending=".png"):
    folder.mkdir(parents=True)
    for t, frame in enumerate(pixels):
        Image.fromarray(frame).save(folder / f"{t}{ending}")
    return folder


@pytest.fixture
def sound(tmp_path):
    """Two classes with two clips each, of 3 and 5 frames."""
    for i, name in enumerate(("fall/1", "fall/2", "rise/1", "rise/2")):
        save_frames(tmp_path / name, noise(i, 3 if i < 3 else 5))
    return tmp_path


def found(report, kind):
    return [(p.place, p.clip, p.fatal) for p in report.problems if p.type == kind]


def reason(report, place):
    (problem,) = [p for p in report.problems if p.place == place]
    return problem.reason


class TestSoundFolders:
    def test_exact_counts_and_no_problems(self, sound):
        report = check_clips(sound)
        assert report.problems == []
        assert report.classes == {"fall": 2, "rise": 2}
        assert report.clips == report.usable == find_clips(sound)
        assert report.infos == {
            "fall/1": ClipInfo(3, 6, 8, None), "fall/2": ClipInfo(3, 6, 8, None),
            "rise/1": ClipInfo(3, 6, 8, None), "rise/2": ClipInfo(5, 6, 8, None),
        }  # fmt: skip

    def test_videos(self, sound):
        pytest.importorskip("av")
        write_video(sound / "rise" / "1b.avi", noise(9, 4, (10, 12))[..., None], rate=12.5)
        report = check_clips(sound)
        assert report.problems == []
        assert report.clips == find_clips(sound)
        assert report.infos["rise/1b.avi"] == ClipInfo(4, 10, 12, 12.5)
        assert "width x height: 8x6 (4 clips), 12x10 (1 clip)" in report.text()
        assert "frames per second: unknown (4 clips), 12.5 (1 clip)" in report.text()

    def test_hidden_things_are_left_out_in_silence(self, sound):
        (sound / ".cache").mkdir()
        (sound / "fall" / ".DS_Store").touch()
        (sound / "fall" / "1" / ".directory").touch()
        assert check_clips(sound).problems == []

    def test_names_of_every_kind(self, tmp_path):
        strange = ["größe", "mit leer", "日本", "line\nb", "\udcff no text", "a,b;'\"", "10", "9"]
        for i, name in enumerate(strange):
            save_frames(tmp_path / "klasse ü" / name, noise(i))
        report = check_clips(tmp_path)
        assert report.problems == []
        assert report.clips == find_clips(tmp_path)
        expected = {f"klasse ü/{name}" for name in strange} - {"klasse ü/\udcff no text"}
        assert {clip.name for clip in report.usable} == expected | {"klasse ü/ÿ no text"}

    def test_progress_and_workers(self, sound, monkeypatch):
        told, threads = [], set()
        image = clips.upright_image

        def watched(path):
            threads.add(threading.get_ident())
            return image(path)

        monkeypatch.setattr(clips, "upright_image", watched)
        one = check_clips(sound, progress=lambda *numbers: told.append(numbers), workers=1)
        assert told == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
        assert len(threads) == 1
        assert one == check_clips(sound, workers=3)


def encoded(ending, size=(64, 64)):
    file = io.BytesIO()
    Image.fromarray(noise(0, 1, size)[0]).save(file, ending)
    return file.getvalue()


class TestDamage:
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("1.png", b"", "expected an image that can be read"),
            ("1.png", b"It is I, a picture.", "really an image?"),
            *((f"1.{e}", encoded(e)[: len(encoded(e)) * 3 // 4], "Is the file whole")
              for e in ("jpeg", "png", "gif", "bmp")),
            ("1.png", encoded("png", (10, 10_000)), "expected at most 4,096 pixels"),
        ],
    )  # fmt: skip
    def test_a_frame(self, sound, monkeypatch, name, content, message):
        monkeypatch.setattr(frames, "_MAX_PIXELS", 64 * 64)
        (sound / "fall" / "1" / "1.png").rename(sound / "fall" / "1" / name)
        (sound / "fall" / "1" / name).write_bytes(content)
        report = check_clips(sound)
        assert found(report, "unreadable") == [(f"fall/1/{name}", "fall/1", True)]
        assert report.failures == report.problems
        assert "fall/1" not in report.infos
        assert [clip.name for clip in report.usable] == ["fall/2", "rise/1", "rise/2"]
        assert message in reason(report, f"fall/1/{name}")

    def test_an_error_that_no_one_foresaw(self, sound, monkeypatch):
        def fail(path):
            raise RuntimeError

        for module in (clips, clip_checks):
            monkeypatch.setattr(module, "upright_image", fail)
        report = check_clips(sound)
        assert report.usable == []
        assert len(report.failures) == 14
        assert reason(report, "fall/1/0.png") == "RuntimeError"
        monkeypatch.setattr(clip_checks, "is_image", fail)
        assert len(check_clips(sound).failures) == 4

    def test_each_broken_frame_is_named(self, sound):
        for name in ("0.png", "2.png"):
            (sound / "rise" / "2" / name).write_bytes(b"")
        assert [p.place for p in check_clips(sound).problems] == ["rise/2/0.png", "rise/2/2.png"]

    def test_videos(self, sound):
        av = pytest.importorskip("av")
        for film in (sound / "fall" / "film.mkv", sound / "fall" / "half.mp4"):
            write_video(film, noise(5, 30, (64, 64))[..., None])
            film.write_bytes(film.read_bytes()[: film.stat().st_size * 5 // 8])
        (sound / "fall" / "empty.mp4").touch()
        (sound / "fall" / "text.avi").write_text("It is I, a film.")
        with av.open(sound / "fall" / "none.avi", "w") as container:
            stream = container.add_stream("ffv1", rate=10)
            stream.height, stream.width, stream.pix_fmt = 24, 32, "bgr0"
            container.start_encoding()
        broken = [f"fall/{name}" for name in ("empty.mp4", "film.mkv", "half.mp4", "none.avi",
                                              "text.avi")]  # fmt: skip
        report = check_clips(sound)
        assert found(report, "unreadable") == [(name, name, True) for name in broken]
        assert report.problems == report.failures
        assert len(report.usable) == 4
        assert "truncated" in reason(report, "fall/film.mkv")
        assert "expected a video" in reason(report, "fall/none.avi")

    def test_a_pipe_is_not_waited_for(self, sound):
        os.mkfifo(sound / "fall" / "pipe.mp4")
        os.mkfifo(sound / "fall" / "1" / "pipe.png")
        report = check_clips(sound)
        assert found(report, "unreadable") == [("fall/pipe.mp4", None, True)]
        assert found(report, "stray") == [("fall/1", "fall/1", False)]
        assert [clip.name for clip in report.clips] == ["fall/1", "fall/2", "rise/1", "rise/2"]


class TestOddities:
    def test_a_clip_of_one_frame(self, sound):
        save_frames(sound / "fall" / "3", noise(9, 1))
        report = check_clips(sound)
        assert found(report, "one frame") == [("fall/3", "fall/3", False)]
        assert len(report.usable) == 5

    def test_frames_of_mixed_sizes(self, sound):
        Image.new("L", (10, 20)).save(sound / "fall" / "1" / "3.png")
        report = check_clips(sound)
        assert found(report, "sizes") == [("fall/1", "fall/1", False)]
        assert "frames of 2 sizes, each scaled on its own: 8x6 (3), 10x20 (1)" in reason(
            report, "fall/1"
        )
        assert report.infos["fall/1"] == ClipInfo(4, 6, 8, None)

    def test_a_frame_ten_thousand_pixels_wide(self, sound):
        save_frames(sound / "fall" / "3", noise(9, 2, (2, 10_000)))
        save_frames(sound / "fall" / "4", noise(8, 2, (2, 4096)))
        report = check_clips(sound)
        assert found(report, "large") == [("fall/3", "fall/3", False)]
        assert report.problems == report.warnings
        assert "8x6 (4 clips), 10000x2 (1 clip), 4096x2 (1 clip)" in report.text()

    def test_duplicates_of_pixels(self, sound):
        save_frames(sound / "rise" / "3", noise(2), ".bmp")
        save_frames(sound / "rise" / "4", noise(2)[::-1])  # the same frames, but not in this order
        save_frames(sound / "swing" / "1", noise(0))
        save_frames(sound / "swing" / "2", noise(0)[:2])
        report = check_clips(sound)
        assert found(report, "duplicate") == [
            ("rise/3", "rise/3", False), ("swing/1", "swing/1", False)
        ]  # fmt: skip
        assert reason(report, "rise/3") == "the same content as rise/1"
        assert reason(report, "swing/1") == (
            "the same content as fall/1, of another class: one of the two classes is wrong"
        )

    def test_duplicates_of_videos(self, sound):
        pytest.importorskip("av")
        for name, seed in (("fall/3.avi", 7), ("rise/3.avi", 7), ("rise/4.avi", 8)):
            write_video(sound / name, noise(seed)[..., None])
        assert found(check_clips(sound), "duplicate") == [("rise/3.avi", "rise/3.avi", False)]

    def test_broken_clips_are_duplicates_of_nothing(self, sound):
        for clip in ("3", "4"):
            save_frames(sound / "fall" / clip, noise(9))
            (sound / "fall" / clip / "0.png").write_bytes(b"")
        assert found(check_clips(sound), "duplicate") == []


class TestFolders:
    def test_no_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"a folder for each class.*no such folder"):
            check_clips(tmp_path / "none")
        (tmp_path / "file").touch()
        with pytest.raises(FileNotFoundError, match=r"a folder for each class.*something else"):
            check_clips(tmp_path / "file")

    def test_an_empty_folder(self, tmp_path):
        report = check_clips(tmp_path)
        assert found(report, "empty") == [(".", None, True)]
        assert len(report.problems) == 1
        assert report.text()

    def test_empty_clips(self, sound):
        (sound / "fall" / "3").mkdir()
        save_frames(sound / "fall" / "4" / "deeper", noise(9))
        (sound / "fall" / "5").mkdir()
        (sound / "fall" / "5" / "1.tiff").touch()
        report = check_clips(sound)
        assert found(report, "empty") == [(f"fall/{i}", f"fall/{i}", True) for i in (3, 4, 5)]
        assert reason(report, "fall/3") == "no image files in it"
        assert reason(report, "fall/4").endswith(
            "1 other things, such as deeper; expected ROOT/CLASS/CLIP/FRAME.png"
        )
        assert reason(report, "fall/5").endswith("such as 1.tiff")

    def test_classes_of_none_and_one(self, sound):
        (sound / "none").mkdir()
        save_frames(sound / "bare", noise(9))
        save_frames(sound / "one" / "1", noise(8))
        report = check_clips(sound)
        assert found(report, "empty") == [("bare", None, True), ("none", None, True)]
        (few,) = for_training(report, skip_broken=True).failures
        assert (few.type, "'one'" in few.reason) == ("split", True)
        bare, stray = (p.reason for p in report.problems if p.place == "bare")
        assert bare.endswith("Put the frames of each clip into a folder of their own")
        assert stray.endswith("left out: 0.png, 1.png, 2.png (3)")
        assert report.classes == {"fall": 2, "one": 1, "rise": 2}

    def test_stray_files(self, sound):
        for name in ("readme.txt", "fall/labels.csv", "fall/0.png", "fall/1/Thumbs.dat"):
            (sound / name).touch()
        (sound / "fall" / "1" / "folder").mkdir()
        report = check_clips(sound)
        assert found(report, "stray") == [
            ("fall", None, False), (".", None, False), ("fall/1", "fall/1", False)
        ]  # fmt: skip
        assert reason(report, "fall") == "no frame and no clip, so left out: 0.png, labels.csv (2)"
        assert reason(report, "fall/1").endswith("folder, Thumbs.dat (2)")
        assert report.failures == []

    def test_what_systems_leave_is_no_clip_and_not_worth_a_word(self, sound):
        for name in ("__MACOSX/fall", "fall/@eaDir", "fall/1/@eaDir", ".git"):
            save_frames(sound / name / "deep", noise(9))
        for name in (
            ".DS_Store",
            "Thumbs.db",
            "fall/desktop.ini",
            "fall/1/Thumbs.db",
            "fall/._a.mp4",
        ):
            (sound / name).touch()
        report = check_clips(sound)
        assert report.problems == []
        assert report.clips == find_clips(sound)
        assert len(report.clips) == 4

    def test_links_within_the_folder_are_not_followed(self, sound):
        links = {
            "again": ("fall", "something"), "loop": ("loop", "itself"),
            "fall/again": ("1", "something"), "fall/gone": ("nothing", "nothing"),
            "fall/here": (".", "something"), "fall/other": (sound / "rise" / "1", "something"),
            "fall/up": ("..", "something"),
        }  # fmt: skip
        for name, (target, _) in links.items():
            (sound / name).symlink_to(target)
        report = check_clips(sound)
        assert [(p.type, p.place, p.reason, p.fatal) for p in report.problems] == [
            ("link", name, f"a symbolic link to {leads}; not followed", False)
            for name, (_, leads) in links.items()
        ]
        assert report.clips == report.usable == find_clips(sound)
        assert len(report.clips) == 4

    @pytest.mark.parametrize("target", ["outside", "nothing", "fall and more"])
    def test_links_that_lead_out_are_fatal_as_they_are_to_find_clips(self, sound, target):
        root = sound / "fall"
        (root / "link").symlink_to(sound / target)
        assert ("link", None, True) in found(check_clips(root), "link")
        message = rf"link: .* leads out of the folder of clips, to {sound / target}\."
        with pytest.raises(ValueError, match=message):
            find_clips(root)

    def test_frames_that_are_broken_links(self, sound):
        (sound / "fall" / "1" / "1.png").unlink()
        (sound / "fall" / "1" / "1.png").symlink_to("1.png")
        (sound / "fall" / "2" / "1.png").unlink()
        (sound / "fall" / "2" / "1.png").symlink_to("moved.png")
        (sound / "fall" / "2" / "notes").symlink_to("moved.txt")
        (sound / "fall" / "2" / "folder.png").symlink_to("..")
        report = check_clips(sound)
        assert found(report, "link") == [
            ("fall/1/1.png", "fall/1", True), ("fall/2/1.png", "fall/2", True)
        ]  # fmt: skip
        assert reason(report, "fall/1/1.png") == "a symbolic link to itself in place of a frame"
        assert reason(report, "fall/2/1.png") == "a symbolic link to nothing in place of a frame"

    def test_a_folder_that_may_not_be_read(self, sound, monkeypatch):
        listing = type(sound).iterdir

        def iterdir(path):
            if path.name in ("rise", "2"):
                raise PermissionError(13, "Permission denied", str(path))
            return listing(path)

        monkeypatch.setattr(type(sound), "iterdir", iterdir)
        report = check_clips(sound)
        assert found(report, "unreadable") == [("rise", None, True), ("fall/2", "fall/2", True)]
        assert "Permission denied" in reason(report, "rise")

    def test_everything_at_once(self, sound):
        """All that is wrong is found however much there is."""
        clip = save_frames(sound / "rise" / "bad clip ü", noise(9, 4))
        (clip / "0.png").write_bytes(b"")
        Image.fromarray(noise(1, 1, (64, 64))[0]).save(clip / "1.jpg")
        (clip / "1.jpg").write_bytes((clip / "1.jpg").read_bytes()[:400])
        (clip / "2.png").write_text("text")
        (clip / "4.png").symlink_to("4.png")
        (clip / "5.txt").touch()
        Image.new("L", (10_000, 3)).save(clip / "6.png")
        save_frames(sound / "fall" / "copy", noise(2))
        (sound / "rise" / "loop").symlink_to("..")
        (sound / "rise" / "0.mp4").touch()
        report = check_clips(sound)
        assert sorted((p.type, p.place) for p in report.problems) == [
            ("duplicate", "rise/1"), ("large", "rise/bad clip ü"),
            ("link", "rise/bad clip ü/4.png"),
            ("link", "rise/loop"), ("sizes", "rise/bad clip ü"), ("stray", "rise/bad clip ü"),
            ("unreadable", "rise/0.mp4"), ("unreadable", "rise/bad clip ü/0.png"),
            ("unreadable", "rise/bad clip ü/1.jpg"), ("unreadable", "rise/bad clip ü/2.png"),
        ]  # fmt: skip
        assert len(report.usable) == 5


class TestReport:
    def test_text_of_a_sound_folder(self, sound):
        lines = check_clips(sound).text().splitlines()
        words = " ".join(" ".join(lines).split())  # wrapped where the path is long
        assert words.startswith(f"{sound}: 4 clips of 2 classes, 14 frames")
        table = [line.split() for line in lines]
        assert ["class", "clips", "frames,", "least", "median", "most"] in table
        assert ["fall", "2", "3", "3", "3"] in table
        assert ["rise", "2", "3", "4", "5"] in table
        assert ["all", "4", "3", "3", "5"] in table
        assert "width x height: 8x6 (4 clips)" in lines
        assert "frames per second: unknown (4 clips)" in lines
        assert lines[-2:] == ["0 failures", "0 warnings"]

    def test_text_lists_what_is_wrong(self, sound):
        (sound / "fall" / "1" / "0.png").write_bytes(b"")
        (sound / "fall" / "x.txt").touch()
        text = check_clips(sound).text()
        assert "\n1 failure:\n  fall/1/0.png: unreadable: expected an image that can" in text
        assert "\n1 warning:\n  fall: stray: no frame and no clip" in text

    def test_text_is_narrow_short_and_safe_to_print(self, tmp_path):
        for i in range(5):
            save_frames(tmp_path / ("long " * 30).strip() / f"\x1b[2J\n\udcff ü{i}", noise(i, 1))
        report = check_clips(tmp_path)
        text = report.text(limit=3)
        assert max(map(len, text.splitlines())) <= 100
        assert text.replace("\n", "").isprintable()
        assert r"\x1b[2J\nÿ ü0: one frame" in text.replace("\n    ", " ")
        assert text.endswith("\n  ... and 2 more")
        assert text.count("one frame") == 3
        assert report.text().count("one frame") == 5

    def test_many_sizes_are_cut_short(self):
        infos = {str(i): ClipInfo(2, 10 + i, 20, 10 + i) for i in range(20)}
        text = ClipReport("root", [], infos, []).text()
        assert "20x10 (1 clip), 20x11 (1 clip)" in text
        assert "20x18" not in text
        assert "(1 clip), ...\n" in text

    def test_json(self, sound):
        (sound / "fall" / "1" / "0.png").write_bytes(b"")
        report = check_clips(sound)
        content = json.loads(report.to_json())
        assert content["classes"] == {"fall": 2, "rise": 2}
        assert content["clips"][0] == {"name": "fall/1", "class": "fall", "usable": False}
        assert content["clips"][3] == {
            "name": "rise/2", "class": "rise", "usable": True,
            "frames": 5, "height": 6, "width": 8, "rate": None,
        }  # fmt: skip
        assert [Problem(**p) for p in content["problems"]] == report.problems


def scene(seed):
    """Six frames `(88, 120)` of a smooth scene in which a square moves."""
    small = Image.fromarray(noise(seed, 1, (6, 8))[0])
    frames = np.stack([np.asarray(small.resize((120, 88), Image.Resampling.BICUBIC))] * 6)
    for t, frame in enumerate(frames):
        frame[20 + 8 * t : 40 + 8 * t, 30:50] = 255
    return frames


@pytest.fixture
def save(tmp_path):
    """Writes frames as a clip: a folder of images of that ending, or a video."""

    def save(name, frames, ending=".png"):
        path = tmp_path / name
        if path.suffix:
            path.parent.mkdir(exist_ok=True)
            write_video(path, frames[..., None], rate=5)
        else:
            save_frames(path, frames, ending)
        return Clip(path, path.parent.name, name)

    return save


class TestSharedFrames:
    def test_a_sound_split_shares_nothing(self, save):
        one, two, three, four = (save(f"a/{i}", noise(i)) for i in range(4))
        assert shared_frames({"train": [one, two], "validation": [three], "test": [four]}) == []

    def test_each_shared_frame_with_the_first_place_it_was_seen(self, save):
        base = noise(0, 6)
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

    @pytest.mark.parametrize("form", [".png", ".bmp", ".gif", "colour", "palette", "video"])
    def test_the_same_pixels_in_another_form(self, save, form):
        pixels = noise(0)
        if form == "colour":
            copy = save("a/2", np.stack([pixels] * 3, axis=-1))
        elif form == "palette":
            copy = save("a/2", pixels[:0])
            for t, frame in enumerate(pixels):
                Image.fromarray(frame).convert("P").save(copy.path / f"{t}.png")
        elif form == "video":
            pytest.importorskip("av")
            copy = save("a/2.avi", pixels)
        else:
            copy = save("a/2", pixels, form)
        one = save("a/1", pixels)
        shared = [SharedFrame("test", copy, t, "train", one, t) for t in range(3)]
        assert shared_frames({"train": [one], "test": [copy]}) == shared

    def test_frames_of_one_colour_are_left_out(self, save):
        black, grey = np.zeros((1, 6, 8), np.uint8), np.full((1, 6, 8), 90, np.uint8)
        nearly, plain = grey.copy(), grey.copy()
        nearly[0, 5, 7], plain[0, 5, 7] = 106, 105
        one = save("a/1", np.concatenate([black, noise(0), grey, plain, nearly]))
        two = save("a/2", np.concatenate([black, grey, noise(0)[:1], plain, nearly]))
        shared = shared_frames({"train": [one], "test": [two]})
        assert [(s.frame, s.other_frame) for s in shared] == [(2, 1), (4, 6)]

    def test_another_shape_order_or_pixel_is_another_frame(self, save):
        other = noise(0)
        other[:, 5, 7] ^= 8  # 4 levels are what a new encoding may change
        one = save("a/1", noise(0))
        for i, pixels in enumerate((noise(0).reshape(3, 8, 6), noise(0)[:, ::-1], other)):
            assert shared_frames({"train": [one], "test": [save(f"b/{i}", pixels)]}) == []

    def test_the_one_that_is_most_alike(self, save):
        frame = noise(0, 1, (16, 16))
        frames = frame.clip(8, 240) + np.array([4, 1, 2, 3], np.uint8)[:, None, None]
        one, two = save("a/1", frames), save("b/2", frame.clip(8, 240))
        (shared,) = shared_frames({"train": [one], "test": [two]})
        assert shared.other_frame == 1
        three = save("b/3", frame.clip(8, 240) - np.uint8(4))
        assert shared_frames({"train": [one], "test": [three]}) == []

    def test_a_new_encoding_in_another_size_is_found(self, save):
        pytest.importorskip("av")
        films = {name: scene(name) for name in range(3)}
        one, two = (save(f"a/{i}.mp4", films[i]) for i in range(2))
        small = [np.asarray(Image.fromarray(x).reduce(2)) for x in films[1]]
        copy, other = save("b/1.webm", np.stack(small)), save("b/2.mp4", films[2])
        shared = shared_frames({"train": [one, two], "test": [other, copy]})
        assert {(s.clip, s.other) for s in shared} == {(copy, two)}
        assert len(shared) >= 5  # of six

    def test_what_brute_force_finds(self):
        rng = np.random.default_rng(0)
        known = rng.integers(0, 250, (60, 16, 16), np.uint8)
        grey = known[rng.integers(0, 60, 80)] + rng.integers(0, 6, (80, 1, 1), np.uint8)
        differences = np.abs(grey[:, None].astype(int) - known).max((2, 3))
        expected = [(i, row.argmin()) for i, row in enumerate(differences) if row.min() <= 4]
        assert 0 < len(expected) < 80
        assert list(clip_checks._most_alike(grey, known)) == expected

    def test_progress_is_told_after_each_clip(self, save):
        told = []
        split = {"train": [save("a/1", noise(0)), save("a/2", noise(1))], "test": []}
        shared_frames(split, progress=lambda *numbers: told.append(numbers))
        assert told == [(0, 2), (1, 2), (2, 2)]

    def test_a_frame_that_cannot_be_read(self, save):
        clip = save("a/1", noise(0))
        (clip.path / "2.png").write_bytes(b"no image")
        with pytest.raises(ValueError, match=r"2\.png: expected an image that can be read"):
            shared_frames({"train": [clip]})


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_one_line_of_a_terminal():
    terminal, seconds = Terminal(), iter([0, 0, 2, 3725])
    show = progress_line(terminal=terminal, clock=seconds.__next__)
    for done in (0, 1, 1000):
        show(done, 1000)
    lines = [line.rstrip(" ") for line in terminal.getvalue().split("\r")]
    assert lines == [
        "", "0 of 1,000 clips", "1 of 1,000 clips, 33:18 left",
        "1,000 of 1,000 clips in 1:02:05" + 19 * " " + "\n",
    ]  # fmt: skip


def test_progress_in_a_file_is_a_line_for_each_tenth_or_half_minute():
    file, now = io.StringIO(), [0.0]
    show = progress_line("frames", file, doing="clips", clock=lambda: now[0])
    for done in range(1001):
        show(done, 1000)
        now[0] += 0.5 if done < 500 else 0.001 if done < 998 else 100
    lines = file.getvalue().splitlines()
    shown = [int(line.split()[1].replace(",", "")) for line in lines]
    assert shown == [0, 60, 100, 160, 200, 260, 300, 360, 400, 460, 500, 999, 1000]
    assert lines[0] == "clips     0 of 1,000 frames"
    assert lines[1] == "clips     60 of 1,000 frames, 7:50 left"
    assert lines[-1] == "clips     1,000 of 1,000 frames in 7:30"


class TestForTraining:
    def refused(self, root, **options):
        return [p.reason for p in for_training(check_clips(root), **options).failures]

    def test_no_clips_are_left_to_validate(self, sound):
        (reason,) = self.refused(sound)
        assert "validation" in reason
        for i, name in enumerate(("fall", "rise"), start=9):
            save_frames(sound / name / "3", noise(i))
        assert self.refused(sound) == []
        (reason,) = self.refused(sound, groups="^([12])|3")
        assert "groups" in reason

    def test_groups_may_name_what_is_left_out(self, sound):
        for i, name in enumerate(("fall/3", "rise/3", "rise/broken")):
            save_frames(sound / name, noise(20 + i))
        (sound / "rise" / "broken" / "1.png").write_bytes(b"no image")
        names = [clip.name for clip in find_clips(sound)]
        table = sound / "groups.csv"
        table.write_text("clip,group\n" + "".join(f"{name},{name}\n" for name in names))
        assert len(self.refused(sound, groups=str(table))) == 1
        assert self.refused(sound, groups=str(table), skip_broken=True) == []

    def test_one_class(self, sound):
        for i in range(3, 9):
            save_frames(sound / "only" / "it" / f"{i}", noise(i))
        (reason,) = self.refused(sound / "only")
        assert "two different names or more" in reason

    def test_depths_that_would_be_nearly_black_are_noted(self, sound):
        for name, most in (("fall/3", 4500), ("rise/3", 60_000)):
            save_frames(sound / name, np.linspace(0, most, 144).reshape(3, 6, 8).astype(np.uint16))
        report = check_clips(sound)
        assert found(report, "depth") == [("fall/3", "fall/3", False)]
        assert "up to 1,479" in reason(report, "fall/3")
        assert "--depth-range" in reason(report, "fall/3")
