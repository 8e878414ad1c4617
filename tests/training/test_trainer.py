"""A whole run in small: files, scores, repeatability, and runs that cannot be."""

import csv
import json
import os
import subprocess
import sys
from typing import ClassVar

import keras
import numpy as np
import pytest
from oracles import assert_all_equal
from PIL import Image

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.datasets import LabeledImages
from keras_cnnlstm.data.digit_source import digit_task
from keras_cnnlstm.data.sources import open_source
from keras_cnnlstm.models.graph import split_model
from keras_cnnlstm.runtime.runtime import Runtime
from keras_cnnlstm.tasks.trends import Trend
from keras_cnnlstm.training import callbacks
from keras_cnnlstm.training.feature_cache import FeatureCache
from keras_cnnlstm.training.run_directory import load_model, load_run
from keras_cnnlstm.training.scoring import batches_to_score, score
from keras_cnnlstm.training.trainer import train
from keras_cnnlstm.utils.files import replacing

SHORT = {
    "length": 2, "epochs": 3, "steps_per_epoch": 60, "batch_size": 32, "validation_sequences": 50,
    "test_sequences": 200, "lstm_units": (16,), "dropout": 0.1, "precision": "float32",
    "learning_rate": 3e-3, "augmentation": "none",
}  # fmt: skip


def short(path, **changes):
    return TrainConfig(**(SHORT | {"run_dir": str(path)} | changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(short(tmp_path_factory.mktemp("runs") / "run"))


def test_a_run_is_a_directory(run):
    files = sorted(str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file())
    assert files == [
        "calibration.json", "checkpoints/step-00000060.npz", "checkpoints/step-00000120.npz",
        "checkpoints/step-00000180.npz", "config.json", "confusion.png", "example/1.png",
        "example/2.png", "history.csv", "history.png", "lock", "metrics.json", "model.keras",
        "recall.csv", "task.json",
    ]  # fmt: skip
    for name in ("history.png", "confusion.png", "example/1.png"):
        with Image.open(run.path / name) as image:
            image.load()
    assert json.loads((run.path / "metrics.json").read_text()) == run.metrics


def test_history_has_a_line_an_epoch_and_the_best_one_is_kept(run):
    rows = list(csv.DictReader((run.path / "history.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    names = {"loss", "accuracy", "macro_recall"}
    assert rows[0].keys() == {"epoch", *names, *(f"val_{name}" for name in names)}
    best = np.argmax([float(row["val_accuracy"]) for row in rows]) + 1
    assert run.metrics["training"]["best_epoch"] == best
    assert run.metrics["training"]["kept_epoch"] == best
    assert run.metrics["training"]["sequences"] == 3 * 60 * 32


def test_the_last_epoch_is_kept_if_asked_for(tmp_path):
    """So slowly that no score changes: the first epoch is the best one of equals."""
    options = {"optimizer": "adadelta", "learning_rate": 1e-6, "steps_per_epoch": 5}
    options["test_sequences"] = 10
    kept = {}
    for name, epochs, keep in (("one", 1, "best"), ("best", 2, "best"), ("last", 2, "last")):
        run = train(short(tmp_path / name, epochs=epochs, keep=keep, **options))
        kept[name] = load_model(run.path / "model.keras").get_weights()
        assert run.metrics["training"]["best_epoch"] == 1
        assert run.metrics["training"]["kept_epoch"] == (2 if keep == "last" else 1)
    assert_all_equal(kept["best"], kept["one"])
    assert any((last != one).any() for last, one in zip(kept["last"], kept["one"], strict=True))


def test_recalls_of_each_epoch_are_those_of_the_validation(run):
    rows = list(csv.DictReader((run.path / "recall.csv").read_text().splitlines()))
    assert list(rows[0]) == ["epoch", "constant", "rising", "falling"]
    history = list(csv.DictReader((run.path / "history.csv").read_text().splitlines()))
    for row, epoch in zip(rows, history, strict=True):
        assert row["epoch"] == epoch["epoch"]
        mean = np.mean([float(row[name]) for name in run.class_names])
        assert float(epoch["val_macro_recall"]) == pytest.approx(mean, abs=1e-6)
    best = run.metrics["training"]["best_epoch"] - 1
    source = open_source(run.config)
    again = score(run.model, {"validation": source.validation()}, source.task)["validation"]
    for name, entry in again["classes"].items():
        assert float(rows[best][name]) == pytest.approx(entry["recall"], abs=1e-6)


def test_loading_brings_back_model_config_and_names(run):
    loaded = load_run(run.path)
    assert loaded.config == run.config
    assert loaded.metrics == run.metrics
    assert loaded.class_names == ("constant", "rising", "falling")
    frames = np.random.default_rng(0).integers(0, 256, (5, 2, 28, 28, 1), np.uint8)
    np.testing.assert_array_equal(
        loaded.model.predict(frames, verbose=0), run.model.predict(frames, verbose=0)
    )


def test_a_run_opens_in_a_process_that_has_loaded_nothing_else(run):
    code = "import sys; from keras_cnnlstm.training import load_run; load_run(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True)
    assert done.returncode == 0, done.stderr


def test_the_scores_are_those_of_the_saved_model_on_test_digits(run):
    loaded = load_run(run.path)
    again = score(loaded.model, *batches_to_score(loaded))
    assert again == run.metrics["test"]
    assert again["natural"]["accuracy"] > 0.5  # it learned something: constant guessing gives 0.45


def test_same_seed_same_numbers(run, tmp_path):
    again = train(short(tmp_path / "again"))
    assert again.metrics["test"] == run.metrics["test"]
    assert (tmp_path / "again" / "history.csv").read_text() == (
        run.path / "history.csv"
    ).read_text()
    assert_all_equal(again.model.get_weights(), run.model.get_weights())


@pytest.mark.slow
def test_another_seed_other_numbers(run, tmp_path):
    other = train(short(tmp_path / "other", seed=1, epochs=1))
    history = (tmp_path / "other" / "history.csv").read_text().splitlines()
    assert history[1] != (run.path / "history.csv").read_text().splitlines()[1]
    assert other.config.seed == 1


@pytest.mark.parametrize("model", ["flat_mlp", "early_fusion_cnn"])
def test_the_baselines_train_too(model, tmp_path):
    config = TrainConfig(model=model, epochs=1, steps_per_epoch=2, validation_sequences=10,
                         test_sequences=10, augmentation="none",
                         run_dir=str(tmp_path / "run"))  # fmt: skip
    assert load_run(train(config).path).model.name == model


@pytest.mark.parametrize(
    ("options", "plot", "entry"),
    [
        ({"task": "digits", "min_length": 1, "length": 3}, "confusion.png", "sequence_accuracy"),
        ({"task": "running_sum", "length": 3}, "by_length.png", "rmse"),
        ({"model": "scan_lstm", "length": None, "scan_size": 4}, "confusion.png", "accuracy"),
        ({"model": "crnn", "length": 2, "dropout": 0.0}, None, "character_accuracy"),
    ],
    ids=["digits", "running_sum", "label", "text"],
)
def test_every_task_trains(options, plot, entry, tmp_path):
    run = train(short(tmp_path / "run", epochs=1, steps_per_epoch=2, test_sequences=20, **options))
    loaded = load_run(run.path)
    assert loaded.metrics == run.metrics
    assert entry in run.metrics["test"]["natural"]
    assert list(run.metrics["test"]) == ["natural"]
    plots = {path.name for path in run.path.glob("*.png")}
    assert plots == {"history.png", plot} - {None}
    digits = tuple("0123456789")
    assert loaded.class_names == (() if run.config.task == "running_sum" else digits)
    again = score(loaded.model, *batches_to_score(loaded))
    assert again == run.metrics["test"]
    examples = sorted((run.path / "example").iterdir())
    with Image.open(examples[0]) as image:
        assert image.size == ((56, 28) if run.config.task == "text" else (28, 28))
    assert len(examples) <= (3 if run.config.model == "cnn_lstm" else 1)


@pytest.mark.parametrize(
    "supervision", [pytest.param("every_step", marks=pytest.mark.slow), "permuted"]
)
def test_a_model_that_learns_at_every_step_answers_the_trend(run, tmp_path, supervision):
    options = {"supervision": supervision, "encoder": "paired_cnn"}
    config = short(tmp_path / "run", **options, epochs=1, steps_per_epoch=9)
    found = train(config)
    assert found.model.output_shape == run.model.output_shape
    assert list(found.metrics["test"]) == list(run.metrics["test"])
    (row,) = csv.DictReader((found.path / "history.csv").read_text().splitlines())
    model = load_model(found.path / "model.keras")
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    validation = open_source(config).validation()
    expected = model.evaluate(validation, verbose=0, return_dict=True)["accuracy"]
    assert float(row["val_accuracy"]) == pytest.approx(expected)


class TestFrozenEncoder:
    """An encoder that is taken from a run stays as it is; its vectors may be kept."""

    OPTIONS: ClassVar = {
        "lstm_units": (5,), "epochs": 2, "steps_per_epoch": 5, "dropout": 0.0,
        "test_sequences": 20, "task": "running_sum",
    }  # fmt: skip

    def test_it_sees_each_image_once(self, run, tmp_path):
        options = self.OPTIONS | {"encoder": str(run.path)}
        cache = tmp_path / "cache"
        slow = train(short(tmp_path / "slow", **options))
        fast = train(short(tmp_path / "fast", cache=str(cache), **options))
        assert len(list(cache.glob("*/*.npy"))) == 2  # of training and validation
        assert_all_equal(fast.model.get_weights(), slow.model.get_weights(), atol=1e-5)
        assert fast.metrics["test"]["natural"]["rmse"] == pytest.approx(
            slow.metrics["test"]["natural"]["rmse"], abs=1e-4
        )
        frozen = split_model(load_run(fast.path).model).frame_encoder.get_weights()
        assert_all_equal(frozen, run.model.get_weights()[: len(frozen)])

    def test_or_eight_copies_of_it(self, run, tmp_path):
        model = load_model(run.path / "model.keras")
        model.trainable = False
        source = open_source(TrainConfig(augmentation={"affine": 1, "probability": 0.5}))
        source.encode(FeatureCache(tmp_path, split_model(model).frame_encoder).features)
        files = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/*.npy")}
        assert len(files) == 8 + 1  # and the validation, as it is
        rows = [np.load(file) for file in files]
        copies = np.concatenate([x for x in rows if len(x) == len(source.splits.train)])
        assert 4 < len(np.unique(copies, axis=0)) / len(source.splits.train) < 6
        source.encode(FeatureCache(tmp_path, split_model(model).frame_encoder).features)
        assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/*.npy")} == files

    def test_every_copy_keeps_its_label(self):
        def pixels(key, frames, **options):
            """The features of an encoder whose answer is the image."""
            frames = frames() if callable(frames) else frames
            return frames.reshape(len(frames), -1).astype(np.float32)

        untouched = {"affine": 1, "probability": 0}
        source = open_source(TrainConfig(task="digits", augmentation=untouched))
        source.encode(pixels)
        for part, data in (("train", source.training()), ("validation", source.validation())):
            images = getattr(source.splits, part)
            label_of = {x.tobytes(): y for x, y in zip(images.images, images.labels, strict=True)}
            assert len(label_of) == len(images)  # no image twice
            inputs, targets = next(data.as_numpy_iterator())
            frames = inputs["features"].astype(np.uint8)  # (B, T, H*W)
            told = [[label_of[frame.tobytes()] for frame in sequence] for sequence in frames]
            np.testing.assert_array_equal(told, targets)

    def test_an_encoder_that_learns_is_refused_before_there_is_a_run(self, run, tmp_path):
        options = {"init_from": str(run.path), "cache": str(tmp_path / "cache")}
        with pytest.raises(ValueError, match=r"cache must .* frozen encoder .* train .*conv1/"):
            train(short(tmp_path / "new", **options))
        assert not (tmp_path / "new").exists()

    @pytest.mark.slow
    def test_one_that_dropped_at_random_drops_nothing_any_more(self, tmp_path):
        dropping = {"encoder": "strided_cnn", "encoder_filters": (4, 8), "dropout": 0.5}
        source = train(short(tmp_path / "source", epochs=1, steps_per_epoch=2, **dropping))
        options = {"encoder": str(source.path), "cache": str(tmp_path / "cache")}
        train(short(tmp_path / "new", **self.OPTIONS | options))

    def test_classifiers_answer_with_probabilities(self, tmp_path):
        one = {"model": "image_cnn", "length": 1, "encoder": "small_cnn", "lstm_units": None,
               "dropout": 0.3, "epochs": 1}  # fmt: skip
        classifier = train(short(tmp_path / "classifier", **one))
        options = {"task": "running_sum", "length": 3, "encoder": (str(classifier.path),),
                   "epochs": 2, "learning_rate": 0.01,
                   "cache": str(tmp_path / "cache")}  # fmt: skip
        run = train(short(tmp_path / "run", **options))
        assert run.metrics["test"]["natural"]["rmse"] < 5  # that of the mean alone
        again = load_run(run.path)
        assert again.config.encoder == (str(classifier.path),)
        images = open_source(again.config, again.path).splits.test.images[:40]
        said = split_model(again.model).frame_encoder.predict_on_batch(images)  # (40, 10)
        expected = load_run(classifier.path).model.predict_on_batch(images)
        np.testing.assert_allclose(said, expected, atol=1e-5)

    def test_a_file_of_an_encoder_of_one_s_own_is_trained_on(self, tmp_path):
        layers = [
            keras.Input((28, 28, 1)),
            keras.layers.AveragePooling2D(4),
            keras.layers.Flatten(),
        ]
        encoder = keras.Sequential([*layers, keras.layers.Dense(6, name="mine")])
        encoder.save(tmp_path / "mine.keras")
        options = self.OPTIONS | {"encoder": str(tmp_path / "mine.keras")}
        run = train(short(tmp_path / "run", **options))
        found = run.model.get_layer("mine").get_weights()[0]
        assert (found != encoder.get_layer("mine").get_weights()[0]).any()

    def test_runs_without_an_encoder_are_refused_before_there_is_a_run(self, tmp_path):
        scan = {"model": "flat_mlp", "lstm_units": None, "epochs": 1, "steps_per_epoch": 2}
        path = train(short(tmp_path / "flat", test_sequences=10, **scan)).path
        with pytest.raises(ValueError, match=f"^encoder {path}: .*encode frame by frame"):
            train(short(tmp_path / "new", encoder=str(path)))
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (
                "(20, 20, 3)",
                r"encoder must read frames of \(28, 28, 1\) .*mine.keras.*\(20, 20, 3\)",
            ),
            ("(9,)", r"encoder must read frames of \(28, 28, 1\) .*, which reads \(9,\)"),
        ],
    )
    def test_frames_that_do_not_fit_are_refused_before_there_is_a_run(
        self, data, message, tmp_path
    ):
        shape = tuple(int(size) for size in data.strip("(,)").split(","))
        encoder = keras.Sequential([keras.Input(shape), keras.layers.Flatten()])
        encoder.save(tmp_path / "mine.keras")
        with pytest.raises(ValueError, match=message):
            train(short(tmp_path / "new", encoder=str(tmp_path / "mine.keras")))
        assert not (tmp_path / "new").exists()


def test_groups_that_do_not_fit_a_device_are_refused_before_there_is_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(Runtime, "num_replicas", 16)
    message = "batch_size must be a multiple of 4 on each device .*; received 2 on each"
    with pytest.raises(ValueError, match=message):
        train(short(tmp_path / "new", supervision="permuted"))
    assert not (tmp_path / "new").exists()


def test_tensorboard_logs_training_and_validation(tmp_path):
    pytest.importorskip("tensorboard")
    run = train(short(tmp_path / "run", tensorboard=True, supervision="every_step", epochs=1))
    logs = {p.parent.name for p in (run.path / "tensorboard").rglob("events.out.*")}
    assert logs == {"train", "validation"}


def test_as_many_digits_as_the_images_have_classes():
    images = LabeledImages(np.zeros((3, 8, 8, 1), np.uint8), [0, 1, 4])
    assert digit_task(TrainConfig(length=3), images) == Trend(3, num_digits=5)


class TestRefused:
    def test_a_run_directory_that_exists(self, run):
        with pytest.raises(
            FileExistsError, match=r"run_dir: expected a path that does not exist; .*does"
        ):
            train(short(run.path))
        assert load_run(run.path).metrics == run.metrics

    def test_an_option_that_the_model_does_not_have(self, tmp_path):
        with pytest.raises(ValueError, match=r"lstm_units must be left out with model flat_mlp"):
            train(short(tmp_path / "run", model="flat_mlp"))
        assert not (tmp_path / "run").exists()

    def test_tensorboard_without_the_package(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorboard", None)  # to import it is an error now
        with pytest.raises(ValueError, match=r'pip install "keras-cnnlstm\[tensorboard\]"'):
            train(short(tmp_path / "run", tensorboard=True))

    def test_a_loss_that_is_no_number(self, tmp_path):
        config = short(tmp_path / "run", steps_per_epoch=4, epochs=2)
        original = callbacks.RunWriter.on_train_batch_end

        def explode(self, batch, logs=None):
            original(self, batch, {"loss": np.nan if self.step == 5 else 1.0})

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(callbacks.RunWriter, "on_train_batch_end", explode)
            with pytest.raises(
                FloatingPointError,
                match=r"at batch 6, in epoch 2\. Lower learning_rate, now 0\.003, or use",
            ):
                train(config)
        assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == [
            "step-00000004.npz"
        ]  # from before it
        assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 2


class TestUnreadable:
    @pytest.fixture
    def copy(self, run, tmp_path):
        for name in ("config.json", "metrics.json", "model.keras"):
            (tmp_path / name).write_bytes((run.path / name).read_bytes())
        return tmp_path

    def test_no_directory(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"expected a run directory.*no such directory"):
            load_run(tmp_path / "none")

    def test_a_run_that_was_interrupted_still_has_its_best_model(self, copy, run):
        (copy / "metrics.json").unlink()
        loaded, best = load_run(copy), load_model(run.path / "model.keras")
        assert loaded.metrics == {}
        assert loaded.calibration is None
        assert_all_equal(loaded.model.get_weights(), best.get_weights())

    @pytest.mark.parametrize("name", ["config.json", "model.keras"])
    def test_a_file_is_missing(self, copy, name):
        (copy / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"expected a run directory.*it has no {name}"):
            load_run(copy)

    @pytest.mark.parametrize("content", [b"", b"PK\3\4 no", "half"])
    def test_a_damaged_model(self, copy, content):
        whole = (copy / "model.keras").read_bytes()
        (copy / "model.keras").write_bytes(
            whole[: len(whole) // 2] if content == "half" else content
        )
        with pytest.raises(ValueError, match=r"model\.keras: expected a model in Keras' format"):
            load_run(copy)

    @pytest.mark.parametrize("name", ["config.json", "metrics.json"])
    @pytest.mark.parametrize(
        ("content", "message"), [(b"{", "expected .*JSON"), (b"\xff\xfe", "expected UTF-8 text")]
    )
    def test_damaged_json(self, copy, name, content, message):
        (copy / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_run(copy)


class TestReplacing:
    def test_the_file_appears_whole(self, tmp_path):
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("new")
            assert not (tmp_path / "a.txt").exists()
        assert os.listdir(tmp_path) == ["a.txt"]

    def test_an_error_leaves_the_old_file(self, tmp_path):
        (tmp_path / "a.txt").write_text("old")

        with pytest.raises(IsADirectoryError), replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("half") and tmp_path.read_text()
        assert os.listdir(tmp_path) == ["a.txt"]
        assert (tmp_path / "a.txt").read_text() == "old"
