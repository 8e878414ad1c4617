"""Clips of one's own from the folder to the answer: through the commands, and in small."""

import dataclasses
import json
import os
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from keras_cnnlstm.cli import main
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data import clip_cache, clip_source, clips
from keras_cnnlstm.data.clip_source import ClipSource
from keras_cnnlstm.data.clips import Clip, find_clips, read_clip, sample_indices
from keras_cnnlstm.data.datasets import LabeledImages
from keras_cnnlstm.data.sources import open_source
from keras_cnnlstm.data.synthetic_clips import MOTIONS, moving_digits, write_clips
from keras_cnnlstm.export.predictor import run_predictor
from keras_cnnlstm.models.streaming import FrameStream
from keras_cnnlstm.training.fit import trained_part
from keras_cnnlstm.training.run_directory import load_run
from keras_cnnlstm.training.scoring import answers_of, batches_to_score
from keras_cnnlstm.training.trainer import train

OPTIONS = {
    "image_size": (10, 10), "color_mode": "grayscale", "length": 6, "encoder": "small_cnn",
    "lstm_units": (4,), "augmentation": "none",
    "epochs": 1, "batch_size": 8, "groups": "^(.+?)_", "precision": "float32",
}  # fmt: skip


def motions(num_images=6):
    """Clips of 4 to 8 frames of 10x10 pixels, a bright square of 5x5 each."""
    rng = np.random.default_rng(0)
    images = rng.integers(100, 256, (num_images, 5, 5, 1), np.uint8)
    return moving_digits(
        LabeledImages(images, np.arange(num_images)), num_images,
        canvas=10, min_frames=4, max_frames=8,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("own") / "clips"
    assert write_clips(root, motions()) == 6 * 8
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return train(config(folder, tmp_path_factory.mktemp("runs") / "run"))


def config(folder, path, **changes):
    return TrainConfig(**(OPTIONS | {"data": str(folder), "run_dir": str(path)} | changes))


class TestMovingDigits:
    def test_each_motion_visits_the_same_places_equally_often(self):
        clips = list(moving_digits(
            LabeledImages(np.full((1, 3, 3, 1), 255, np.uint8), [0]), 1,
            canvas=9, min_frames=7, max_frames=7,
        ))  # fmt: skip
        assert [clip.motion for clip in clips] == list(MOTIONS)
        places = {}
        for clip in clips:
            tops, lefts = zip(*((f.any((1, 2)).argmax(), f.any((0, 2)).argmax())
                                for f in clip.frames), strict=True)  # fmt: skip
            along, across = (tops, lefts) if clip.motion[0] in "ud" else (lefts, tops)
            assert len(set(across)) == 1
            places[clip.motion] = [int(x) for x in along]
        assert places["right"] == [0, 1, 2, 3, 4, 5, 6]
        assert places["left"] == places["up"] == places["right"][::-1]
        assert places["down-up"] == places["right-left"] == [0, 2, 4, 6, 4, 2, 0]
        assert places["left-right"] == places["up-down"] == [6, 4, 2, 0, 2, 4, 6]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"num_images": 4}, "`num_images` must be .*1 to 3; received 4"),
            ({"canvas": 5}, "`canvas` must be .*6 .*received 5"),
            ({"min_frames": 2}, "`min_frames` must be .*3 to 14; received 2"),
        ],
    )
    def test_bad_arguments(self, changes, message):
        images = LabeledImages(np.zeros((3, 5, 5, 1), np.uint8), [0, 1, 2])
        with pytest.raises(ValueError, match=message):
            list(moving_digits(images, **({"num_images": 1} | changes)))


class TestSource:
    def test_parts_keep_groups_together_and_hold_every_class(self, run, folder):
        source = ClipSource(run.config, run.path)
        seen = [{clip.name.split("/")[1].split("_")[0] for clip in part}
                for part in source.split.values()]  # fmt: skip
        assert sum(map(len, seen)) == len(set().union(*seen)) == 6
        assert source.task.class_names == run.class_names == tuple(sorted(MOTIONS))
        assert source.leaks == []

    def test_batches_are_the_clips_frames(self, run):
        source = ClipSource(run.config, run.path)
        (inputs, labels), *_ = source.tests()["clips"]
        clip = source.split.test[0]
        frames = read_clip(clip, image_size=(10, 10))
        chosen = sample_indices(len(frames), 6, "segments")
        np.testing.assert_array_equal(inputs["frames"][0, : len(chosen)], frames[chosen])
        assert run.class_names[labels[0]] == clip.class_name

    def test_training_is_a_function_of_the_step(self, run):
        source = ClipSource(run.config, run.path)
        later = next(iter(source.training(start=2)))
        third = [*source.training().take(3)][2]
        np.testing.assert_array_equal(later[0]["frames"], third[0]["frames"])

    def test_a_broken_clip_stops_the_run_before_it_starts(self, folder, tmp_path):
        root = tmp_path / "clips"
        shutil.copytree(folder, root)
        victim = find_clips(root)[3]
        for frame in victim.path.iterdir():  # of which each is broken: still one clip
            frame.write_bytes(b"no image")
        with pytest.raises(ValueError, match=f"1 of the clips .* cannot be read .{victim.name}: "):
            train(config(root, tmp_path / "run"))
        assert not (tmp_path / "run").exists()
        skipping = config(root, tmp_path / "run", skip_broken=True)
        source = open_source(skipping)
        assert victim.name not in {clip.name for part in source.split.values() for clip in part}
        assert f"left out  {victim.name}: " in source.describe()
        (tmp_path / "run").mkdir()
        source.save(tmp_path / "run")
        assert (tmp_path / "run" / "left_out.txt").read_text().startswith(f"{victim.name}: ")
        again = ClipSource(skipping, tmp_path / "run")  # without a warning of an unknown clip
        assert {k: [c.name for c in v] for k, v in again.split.items()} == {
            k: [c.name for c in v] for k, v in source.split.items()
        }

    def test_what_is_left_out_is_left_out_of_the_run_s_whole_life(self, folder, tmp_path):
        """An empty class, a link that leads out, a pipe, a broken clip that the groups name."""
        root = tmp_path / "clips"
        shutil.copytree(folder, root)
        (root / "nothing").mkdir()
        (root / "up" / "out").symlink_to(tmp_path)
        os.mkfifo(root / "up" / "pipe.mp4")  # whose reading would wait for ever
        (root / "up" / "a: b").mkdir()
        (root / "up" / "a: b" / "1.png").write_bytes(b"no image")
        (root / "notes.txt").touch()
        table = tmp_path / "groups.csv"
        names = [f"{path.parent.name}/{path.name}" for path in root.glob("*/*") if path.is_dir()]
        groups = {name: name.split("/")[1].split("_")[0] for name in names if "/out" not in name}
        table.write_text("".join(f"{a},{b}\n" for a, b in {"clip": "group", **groups}.items()))
        options = config(root, tmp_path / "run", skip_broken=True, groups=str(table), epochs=1)
        run = train(options)
        left_out = (run.path / "left_out.txt").read_text().splitlines()
        places = [line.split(": ")[0] for line in left_out]
        assert places == ["nothing", "up/out", "up/pipe.mp4", "up/a"]
        assert run.metrics["test"]["clips"]["num_sequences"] == 8
        assert main.main(["evaluate", str(run.path)]) == 0
        assert main.main(["train", "--resume", str(run.path), "--epochs", "2"]) == 0
        counted, *_ = ClipSource(options).describe().splitlines()
        assert counted.endswith("8 test; left out: 1 other files (notes.txt)")

    @pytest.mark.parametrize(("clips", "groups"), [(2, False), (6, True)])
    def test_no_clips_to_validate_are_refused_before_there_is_a_run(
        self, folder, tmp_path, clips, groups, capsys
    ):
        root = tmp_path / "clips"
        for name in ("up", "down"):
            for number in range(clips):
                shutil.copytree(find_clips(folder)[number].path, root / name / f"{number}")
        if groups:
            table = tmp_path / "groups.csv"
            rows = [f"{clip.name},{int(clip.path.name) % 2}\n" for clip in find_clips(root)]
            table.write_text("clip,group\n" + "".join(rows))
        options = {"groups": str(table) if groups else None}
        with pytest.raises(ValueError, match="for validation") as refused:
            train(config(root, tmp_path / "run", **options))
        assert not (tmp_path / "run").exists()
        words = ["--groups", str(table)] if groups else []
        assert main.main(["validate", str(root), *words]) == 1
        assert " ".join(str(refused.value).split()) in " ".join(capsys.readouterr().out.split())

    @pytest.mark.parametrize("form", ["folders", "videos"])
    def test_a_clip_is_decoded_once(self, form, tmp_path, monkeypatch):
        """For the check, the leaks, and every epoch; and in the next run not even for the check."""
        root = tmp_path / "clips"
        write_clips(root, motions(), form=form)
        decoded = []

        def counted(clip, **options):
            decoded.append(clip.name)
            return clips.clip_frames(clip, **options)

        monkeypatch.setattr(clip_cache, "clip_frames", counted)
        monkeypatch.setattr(clip_cache, "read_clip", None)  # nothing is read past the cache
        source = ClipSource(config(root, tmp_path / "run"))
        for data in (source.training().take(10), source.validation(), *source.tests().values()):
            for _ in data:
                pass
        assert sorted(decoded) == sorted(clip.name for clip in find_clips(root))
        decoded.clear()
        again = ClipSource(config(root, tmp_path / "run"))
        assert decoded == []
        assert again.split == source.split or dict(again.split) == dict(source.split)

    def test_a_folder_for_the_cache_serves_the_next_run(self, folder, tmp_path, monkeypatch):
        options = config(folder, tmp_path / "run", cache=str(tmp_path / "cache"))
        expected = [x["frames"].numpy() for x, _ in ClipSource(options).validation()]
        monkeypatch.setattr(clip_cache, "clip_frames", None)
        again = [x["frames"].numpy() for x, _ in ClipSource(options).validation()]
        for one, other in zip(expected, again, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_without_a_cache_nothing_is_kept(self, folder, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
        source = ClipSource(config(folder, tmp_path / "run", cache="none"))
        (inputs, _), *_ = source.validation()
        assert inputs["frames"].shape[1:] == (6, 10, 10, 1)
        assert not (tmp_path / "home").exists()

    def test_the_user_s_cache_is_used_unless_it_cannot_be_made(self, folder, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
        ClipSource(config(folder, tmp_path / "run"))
        records = list((tmp_path / "home" / "keras-cnnlstm").iterdir())
        assert {file.suffix for file in records} == {".npz"}  # the frames fit into memory
        assert len(records) == 48
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        assert ClipSource(config(folder, tmp_path / "run")).leaks == []

    def test_what_needs_no_decoding_is_said_before(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr(clip_source, "survey", None)
        one, path = tmp_path / "one", tmp_path / "run"
        shutil.copytree(folder / "up", one / "up")
        with pytest.raises(ValueError, match="two different names or more"):
            train(config(one, path))
        shutil.copytree(find_clips(folder)[0].path, one / "down" / "only")
        with pytest.raises(ValueError, match="down"):
            train(config(one, path, groups=None))
        with pytest.raises(FileNotFoundError, match="no/such/run"):
            train(config(folder, path, encoder=str(tmp_path / "no/such/run")))
        with pytest.raises(ValueError, match=r"needs .* on each side"):
            train(config(folder, path, image_size=(2, 2)))

    def test_classes_of_unequal_size_are_noted(self, folder, tmp_path):
        source = ClipSource(config(folder, tmp_path / "run"))
        assert "note" not in source.describe()
        source.split.train[:] = [c for c in source.split.train if c.class_name != "up"]
        assert "\nnote      6 clips of " in source.describe()

    def test_frames_on_two_sides_are_told(self, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "clips")
        one, *others = (clip.path for clip in find_clips(tmp_path / "clips"))
        for other in others:
            shutil.copy(next(one.iterdir()), next(other.iterdir()))
        source = open_source(config(tmp_path / "clips", tmp_path / "run"))
        assert len(source.leaks) == 16  # one frame of each clip in validation and test
        assert "\nleak      " in source.describe()
        (tmp_path / "run").mkdir()
        source.save(tmp_path / "run")
        assert (tmp_path / "run" / "leaks.txt").read_text().splitlines() == source.leaks


def test_a_run_leaves_its_split_and_its_classes(run):
    names = {path.name for path in run.path.iterdir()}
    assert {"split.csv", "task.json", "example", "confusion.png", "model.keras"} <= names
    assert json.loads((run.path / "task.json").read_text()) == {
        "task": "clip",
        "config": {"class_names": sorted(MOTIONS), "length": run.config.length, "min_length": 1},
    }
    assert run.config.steps_per_epoch == 4  # 32 training clips in batches of 8
    assert run.metrics["test"]["clips"]["num_sequences"] == 8


def test_a_broken_off_run_goes_on_with_the_same_clips(run, folder, tmp_path):
    path = tmp_path / "run"
    train(config(folder, path, epochs=1))
    longer = train(config(folder, path, epochs=2), resume=True)
    assert (path / "split.csv").read_text() == (run.path / "split.csv").read_text()
    assert longer.metrics["training"]["epochs"] == 2


def test_a_frozen_encoder_sees_each_frame_once(run, folder, tmp_path, monkeypatch):
    options = {"encoder": str(run.path), "lstm_units": (5,), "epochs": 2}
    slow = train(config(folder, tmp_path / "slow", cache="none", **options))
    fast = train(config(folder, tmp_path / "fast", cache=str(tmp_path / "cache"), **options))
    files = list((tmp_path / "cache").glob("*/*.npy"))  # in the folder of this encoder
    assert len(files) == 48  # of training, validation and test
    for a, b in zip(fast.model.get_weights(), slow.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert fast.metrics["test"] == slow.metrics["test"]


@pytest.mark.parametrize(("motion", "lag"), [("difference", 1), ("difference", 3), ("both", 2)])
def test_cached_motion_answers_as_frames_do(motion, lag, folder, tmp_path):
    """Clips of 4 to 8 frames in windows of 4: most begin after the clip's first frame."""
    keras.utils.set_random_seed(3)
    encoder = keras.Sequential([keras.Input((10, 10, 1)), keras.layers.Conv2D(3, 3)])
    encoder.add(keras.layers.Flatten())
    encoder.trainable = False
    encoder.save(tmp_path / "encoder.keras")
    options = {"encoder": str(tmp_path / "encoder.keras"), "motion": motion, "length": 4}
    options |= {"sampling": "window", "frames_per_second": 1.0, "motion_seconds": float(lag)}
    run = train(config(folder, tmp_path / "run", **options))
    source = ClipSource(run.config, run.path)
    (frames,) = source.tests().values()
    trained_part(run.model, run.config, source)
    (features,) = source.tests().values()
    assert frames.element_spec[0]["frames"].shape[1:] == (4, 10, 10, 1)
    assert features.element_spec[0]["features"].shape[1] == 4 - lag
    of_frames, of_features = (answers_of(run.model, data) for data in (frames, features))
    np.testing.assert_allclose(of_features.answers, of_frames.answers, atol=1e-5)
    assert of_frames.answers.std(axis=0).max() > 1e-4
    assert run.metrics["test"]["clips"]["accuracy"] == pytest.approx(
        (of_frames.answers.argmax(axis=1) == of_frames.targets).mean()
    )


def test_augmented_clips_are_encoded_in_copies(run, folder, tmp_path):
    options = {"encoder": str(run.path), "augmentation": "light", "flip": True}
    train(config(folder, tmp_path / "run", cache=str(tmp_path / "cache"), **options))
    assert len(list((tmp_path / "cache").glob("*/*.npy"))) == 4 * 32 + 8 + 8


@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
def test_predict_and_stream_read_as_the_training_did(run, fit, tmp_path, capsys):
    """A wide film of 25 frames a second, of which the model was trained on 10."""
    film = tmp_path / "film.gif"
    rng = np.random.default_rng(0)
    first, *rest = (Image.fromarray(x) for x in rng.integers(0, 256, (30, 8, 20), np.uint8))
    first.save(film, save_all=True, append_images=rest, duration=40)
    changes = {"fit": fit, "frames_per_second": 10.0, "sampling": "window"}
    config = dataclasses.replace(run.config, **changes)
    frames, indices, count = run_predictor(dataclasses.replace(run, config=config)).clip_frames(
        film
    )
    assert count == 30
    assert indices.tolist() == [8, 10, 13, 15, 18, 20]  # of 0, 3, 5, 8, ..., 28 the middle six
    clip = Clip(film, "", "film")
    np.testing.assert_array_equal(frames, read_clip(clip, indices, image_size=(10, 10), fit=fit))
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    (copy / "config.json").write_text(config.to_json())
    assert main.main(["stream", str(copy), str(film), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == [f"{film}:{i}" for i in range(30) if i % 5 in (0, 3)]
    live = FrameStream(run.model, run.class_names)
    for number, line in zip(range(3), lines, strict=False):
        (frame,) = read_clip(clip, [[0, 3, 5][number]], image_size=(10, 10), fit=fit)
        probabilities = live.push(frame).probabilities
        assert list(line["probabilities"].values()) == pytest.approx(probabilities, abs=1e-5)


class TestCommands:
    def run(self, capsys, *words):
        assert main.main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    def test_evaluate(self, run, folder, capsys):
        scores = json.loads(self.run(capsys, "evaluate", run.path, "--json"))
        assert scores == run.metrics["test"]
        everything = json.loads(self.run(capsys, "evaluate", run.path, "--data", folder, "--json"))
        assert everything["folder"]["num_sequences"] == 48
        assert "all clips of the folder" in self.run(
            capsys, "evaluate", run.path, "--data", folder, "--num-sequences", 8
        )

    def test_predict_a_folder_a_video_and_files(self, run, folder, capsys, tmp_path):
        clip = find_clips(folder)[0]
        told = json.loads(self.run(capsys, "predict", run.path, clip.path, "--json"))
        frames = read_clip(clip, image_size=(10, 10))
        chosen = sample_indices(len(frames), 6, "segments")
        assert (told["frames"], told["read"]) == (len(frames), chosen.tolist())
        padded = np.zeros((1, 6, 10, 10, 1), np.uint8)
        padded[0, : len(chosen)] = frames[chosen]
        inputs = {"frames": padded, "lengths": np.array([len(chosen)], "int32")}
        expected = run.model.predict(inputs, verbose=0)[0]
        np.testing.assert_allclose(list(told["probabilities"].values()), expected, atol=1e-6)
        write_clips(tmp_path / "videos", list(motions(1))[:1], form="videos")
        video = find_clips(tmp_path / "videos")[0].path
        lines = self.run(capsys, "predict", run.path, clip.path, video).splitlines()
        assert [line.split(": ")[0] for line in lines] == [str(clip.path), str(video)]
        files = sorted((run.path / "example").iterdir())[:6]
        assert self.run(capsys, "predict", run.path, *files).splitlines()[0].endswith("%)")

    def test_an_export_reads_clips_as_the_run_does(self, run, folder, capsys, tmp_path):
        clips = [clip.path for clip in find_clips(folder)[:12:5]]
        self.run(capsys, "export", run.path, tmp_path / "onnx", "--format", "onnx")
        answers = [
            [json.loads(line) for line in
             self.run(capsys, "predict", model, *clips, "--json").splitlines()]
            for model in (run.path, tmp_path / "onnx")
        ]  # fmt: skip
        for ours, theirs in zip(*answers, strict=True):
            assert (ours["read"], ours["frames"]) == (theirs["read"], theirs["frames"])
            for name, probability in ours["probabilities"].items():
                assert theirs["probabilities"][name] == pytest.approx(probability, abs=1e-5)

    def test_stream(self, run, folder, capsys):
        clip = find_clips(folder)[0].path
        every = [json.loads(line) for line in
                 self.run(capsys, "stream", run.path, clip, "--json").splitlines()]  # fmt: skip
        assert len(every) == len(list(clip.iterdir()))
        second = self.run(capsys, "stream", run.path, clip, "--json", "--every", 2).splitlines()
        assert len(second) == (len(every) + 1) // 2
        assert json.loads(second[0])["probabilities"] == every[0]["probabilities"]

    def test_validate(self, folder, capsys, tmp_path):
        assert "48 clips of 8 classes" in self.run(capsys, "validate", folder)
        shutil.copytree(folder, tmp_path / "bad")
        clip = find_clips(tmp_path / "bad")[0]
        next(clip.path.iterdir()).write_bytes(b"")
        assert main.main(["validate", str(tmp_path / "bad")]) == 1
        assert "1 failure" in capsys.readouterr().out
        assert main.main(["validate", str(tmp_path / "bad"), "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["problems"][0]["fatal"]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["predict", "RUN", "CLIP", "FILE"], "frames: expected either image files, the frames"),
            (["evaluate", "RUN", "--data", "mnist"], "data must be a folder of clips, .* 'mnist'"),
            (
                ["evaluate", "RUN", "--data", "OTHER"],
                "data: expected clips of the classes .*sideways",
            ),
            (["validate", "NONE"], "expected a folder with a folder for each class"),
            (["train", "--data", "NONE"], "expected a folder with a folder for each class"),
            (["predict", "RUN", *["FILE"] * 7], "frames: expected 1 to 6 image files.*received 7"),
        ],
    )
    def test_bad_input(self, run, folder, capsys, tmp_path, monkeypatch, words, message):
        monkeypatch.chdir(tmp_path)
        clip = find_clips(folder)[0].path
        image = tmp_path / "frame.png"
        Image.fromarray(np.zeros((10, 10), np.uint8)).save(image)
        (tmp_path / "other" / "sideways" / "clip").mkdir(parents=True)
        shutil.copy(image, tmp_path / "other" / "sideways" / "clip")
        names = {"RUN": run.path, "CLIP": clip, "FILE": image, "OTHER": tmp_path / "other",
                 "NONE": tmp_path / "none"}  # fmt: skip
        assert main.main([str(names.get(word, word)) for word in words]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        import re

        assert re.search(message, err)
        assert not (tmp_path / "runs").exists()


def test_a_run_of_digits_wants_no_clips(folder, tmp_path):
    path = tmp_path / "run"
    train(TrainConfig(
        run_dir=str(path), epochs=1, steps_per_epoch=1, batch_size=4, validation_sequences=4,
        test_sequences=4, length=2, lstm_units=(2,), encoder="small_cnn",
    ))  # fmt: skip
    with pytest.raises(ValueError, match=r"data must be the name of a data set"):
        batches_to_score(load_run(path), data=str(folder))
    clip = find_clips(folder)[0].path  # of more frames than two, none of which is dropped
    assert main.main(["predict", str(path), str(clip)]) == 2
