"""An ensemble is trained in one run: its members as runs of their own, its model their mean."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from oracles import assert_all_equal
from PIL import Image
from power_cut import break_off

from keras_cnnlstm.cli import main
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.clips import Clip, find_clips
from keras_cnnlstm.data.splits import read_split
from keras_cnnlstm.export.predictor import open_predictor
from keras_cnnlstm.models.calibration import scaled
from keras_cnnlstm.runtime.runtime import Runtime
from keras_cnnlstm.training import trainer
from keras_cnnlstm.training.run_directory import Run, load_config, load_run
from keras_cnnlstm.training.trainer import member_configs, train

OPTIONS = {
    "length": 2, "encoder_filters": (4,), "lstm_units": (4,),
    "dropout": 0.1, "ema": 0.9, "epochs": 2, "steps_per_epoch": 4, "batch_size": 8,
    "validation_sequences": 16, "test_sequences": 40, "precision": "float32",
    "ensemble": ("small_cnn", "residual_cnn"), "seed": 5,
}  # fmt: skip


def config(path, **changes):
    return TrainConfig(**(OPTIONS | {"run_dir": str(path)} | changes))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An ensemble that was never stopped."""
    return train(config(tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    return tmp_path / "run"


def assert_same(run: Run, other: Run):
    assert_all_equal(run.model.get_weights(), other.model.get_weights())
    assert run.metrics["test"] == other.metrics["test"]
    assert run.calibration == other.calibration


def without_times(metrics):
    """What may differ from training to training, left out."""
    told = metrics["training"]
    rows = [
        {name: value for name, value in row.items() if "second" not in name}
        for row in told["members"]
    ]
    return {"sequences": told["sequences"], "members": rows, "test": metrics["test"]}


def test_each_member_is_the_run_that_it_would_be_by_itself(whole, tmp_path):
    second = member_configs(whole.config, tmp_path)[1]
    alone = train(dataclasses.replace(second, run_dir=str(tmp_path / "alone")))
    assert_same(load_run(whole.path / "members" / "2"), alone)
    found = [load_config(whole.path / "members" / n) for n in "12"]
    assert [one.encoder for one in found] == ["small_cnn", "residual_cnn"]
    assert [one.seed for one in found] == [5, 6]
    assert not (whole.path / "members" / "3").exists()


def test_the_model_is_the_calibrated_mean_of_the_members(whole):
    frames = np.random.default_rng(0).integers(0, 256, (5, 2, 28, 28, 1), np.uint8)
    members = [load_run(whole.path / "members" / n).model for n in "12"]
    mean = np.mean([one.predict(frames, verbose=0) for one in members], axis=0)
    expected = scaled(mean, whole.calibration.temperature)
    assert abs(whole.calibration.temperature - 1) > 0.01
    for run in (whole, load_run(whole.path)):
        found = run.model.predict(frames, verbose=0)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_ensemble_is_a_run_directory_and_so_is_each_member(whole):
    assert {p.name for p in whole.path.iterdir()} == {
        "calibration.json", "checkpoints", "config.json", "confusion.png", "example", "lock",
        "members", "metrics.json", "model.keras", "task.json",
    }  # fmt: skip
    told = json.loads((whole.path / "metrics.json").read_text())
    assert told == whole.metrics
    rows = told["training"]["members"]
    assert [row["run"] for row in rows] == ["members/1", "members/2"]
    for row in rows:
        metrics = json.loads((whole.path / row["run"] / "metrics.json").read_text())
        assert row["accuracy"] == metrics["test"]["natural"]["accuracy"]
        assert row["sequences"] == metrics["training"]["sequences"] == 64
    assert told["training"]["sequences"] == 2 * 64
    seconds = sum(row["seconds"] for row in rows)
    assert told["training"]["seconds"] == pytest.approx(seconds, abs=0.1)


def test_one_that_is_stopped_says_how_it_goes_on_and_what_each_member_is(whole, copy, capsys):
    (copy / "model.keras").unlink()
    shutil.rmtree(copy / "members" / "2")  # as if stopped at its very start
    (copy / "members" / "2" / "checkpoints").mkdir(parents=True)
    message = break_off(config(copy), 3, member=2, stop=True, resume=True)
    assert message == (
        f"stopped after batch 3 of 8; go on with: keras-cnnlstm train --resume {copy}"
    )
    capsys.readouterr()
    assert main.main(["train", "--resume", str(copy)]) == 0
    out = capsys.readouterr().out
    assert "member    1 of 2, seed 5, small_cnn\ntrained   already\n" in out
    assert "member    2 of 2, seed 6, residual_cnn\nmemory " in out
    assert out.count("trained   already") == 1
    assert out.count("\ndata ") + out.startswith("data ") == 1
    scores = json.loads((copy / "members/2/metrics.json").read_text())["test"]["natural"]
    assert f"  members/2  accuracy {scores['accuracy']:.2%}, residual_cnn, " in out
    assert_same(load_run(copy), whole)


def test_it_is_predicted_streamed_and_exported_like_any_run(whole, capsys, tmp_path):
    files = sorted(map(str, (whole.path / "example").glob("*.png")))
    assert main.main(["predict", str(whole.path), *files, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["probabilities"]
    assert main.main(["stream", str(whole.path), str(whole.path / "example"), "--json"]) == 0
    *_, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert last["step"] == 2
    np.testing.assert_allclose(list(last["probabilities"].values()), list(told.values()), atol=1e-5)
    assert main.main(["export", str(whole.path), str(tmp_path / "out")]) == 0
    with_step = open_predictor(tmp_path / "out")
    images = np.stack([np.asarray(Image.open(file).convert("L")) for file in files])[..., None]
    found = with_step.answer_frames(images)["probabilities"]
    np.testing.assert_allclose(list(found.values()), list(told.values()), atol=1e-5)


@pytest.mark.slow
def test_the_answer_of_numbers_is_their_mean(tmp_path):
    numbers = {"task": "running_sum", "ensemble": ("small_cnn", "small_cnn"), "length": 3}
    run = train(config(tmp_path / "run", **numbers))
    assert run.calibration is None
    frames = np.random.default_rng(0).integers(0, 256, (5, 3, 28, 28, 1), np.uint8)
    given = {"frames": frames, "lengths": np.array([1, 2, 3, 3, 1], "int32")}
    members = [load_run(run.path / "members" / n).model for n in "12"]
    expected = np.mean([one.predict(given, verbose=0) for one in members], axis=0)
    np.testing.assert_allclose(run.model.predict(given, verbose=0), expected, atol=1e-5)
    assert [row["rmse"] for row in run.metrics["training"]["members"]] == [
        load_run(run.path / "members" / n).metrics["test"]["natural"]["rmse"] for n in "12"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("member", "batches"), [(1, 2), (1, 8), (2, 6)])
def test_a_run_that_broke_off_ends_as_if_it_had_not(member, batches, whole, tmp_path):
    given = config(tmp_path / "run")
    break_off(given, batches, member=member)
    assert not (tmp_path / "run" / "model.keras").exists()
    again = train(given, resume=True)
    assert_same(again, whole)
    assert without_times(again.metrics) == without_times(whole.metrics)


def test_a_finished_one_is_scored_again_and_trains_nothing(whole, copy, monkeypatch):
    monkeypatch.setattr(trainer, "train_one", None)
    monkeypatch.setattr(trainer, "build_learner", None)
    assert_same(train(config(copy), resume=True), whole)


@pytest.mark.slow
def test_all_members_of_a_run_grow(copy):
    assert main.main(["train", "--resume", str(copy), "--epochs", "3"]) == 0
    for number in "12":
        history = (copy / "members" / number / "history.csv").read_text().splitlines()
        assert len(history) == 1 + 3
    assert load_run(copy).metrics["training"]["sequences"] == 2 * 3 * 32


def test_other_options_than_the_run_s_are_refused(copy, capsys):
    assert main.main(["train", "--resume", str(copy), "--ensemble", "small_cnn"]) == 2
    assert "ensemble must have two encoders" in capsys.readouterr().err
    words = ["--ensemble", "small_cnn", "small_cnn", "--epochs", "9"]
    assert main.main(["train", "--resume", str(copy), *words]) == 2
    assert "ensemble is ('small_cnn', 'residual_cnn'), not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ensemble": ("small_cnn", "vgg16")}, "vgg16"),
        ({"batch_size": 10**6}, "check_memory"),
    ],
)
def test_what_does_not_fit_a_later_member_leaves_no_directory(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(config(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_workers_that_train_together_train_one_model(tmp_path, monkeypatch):
    monkeypatch.setattr(Runtime, "num_workers", 2)
    monkeypatch.setattr(Runtime, "check_same", lambda *given: None)
    with pytest.raises(ValueError, match=r"ensemble must be left out where several workers"):
        train(config(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two classes, dark and light, and a clip that cannot be read."""
    root = tmp_path_factory.mktemp("clips")
    for name, low in (("dark", 0), ("light", 200)):
        for i in range(12):
            folder = root / name / f"clip{i}"
            folder.mkdir(parents=True)
            for t in range(3):
                pixels = np.random.default_rng([low, i, t]).integers(low, low + 50, (20, 20))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{t}.png")
    (root / "dark" / "clip3" / "1.png").write_bytes(b"no image")
    return root


@pytest.mark.slow
def test_members_share_the_split_of_clips_and_what_was_left_out(clips, tmp_path):
    options = {"data": str(clips), "image_size": (16, 16), "color_mode": "grayscale", "length": 3}
    changes = {"batch_size": 4, "skip_broken": True, "steps_per_epoch": None}
    run = train(config(tmp_path / "run", **options, **changes))
    usable = [clip for clip in find_clips(clips) if clip.name != "dark/clip3"]
    parts = [
        read_split(path / "split.csv", usable)
        for path in (run.path, run.path / "members/1", run.path / "members/2")
    ]
    assert parts[0] == parts[1] == parts[2]
    assert isinstance(parts[0].test[0], Clip)
    for path in (run.path, run.path / "members/2"):
        assert (path / "left_out.txt").read_text().startswith("dark/clip3: ")
    # Each can be scored by itself, on the clips that no member was trained on.
    for path in (run.path, run.path / "members/2"):
        assert main.main(["evaluate", str(path)]) == 0
