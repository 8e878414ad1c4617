"""Images for TensorBoard: what they show, and that they do not change the training."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import assert_all_equal
from power_cut import break_off

from keras_cnnlstm import plots
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.tasks import Digits, Label, RunningSum, Text
from keras_cnnlstm.training.tensorboard import ValidationImages
from keras_cnnlstm.training.trainer import train

pytest.importorskip("tensorboard")

OPTIONS = {
    "length": 2, "encoder": "small_cnn", "lstm_units": (8,), "dropout": 0.3, "ema": 0.9,
    "epochs": 2, "steps_per_epoch": 4, "batch_size": 8, "checkpoint_steps": 3,
    "validation_sequences": 16, "test_sequences": 20, "precision": "float32",
}  # fmt: skip
DIGITS, SUM, TEXT = (kind(3, min_length=1, num_digits=3) for kind in (Digits, RunningSum, Text))


def config(path, **changes):
    return TrainConfig(**(OPTIONS | {"run_dir": str(path)} | changes))


def images(folder):
    """Step and name of each image in a folder's files of events, with its pixels' size."""
    from tensorboard.compat.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.out.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "images":
                    width, height, png = value.tensor.string_val
                    pixels = tf.io.decode_png(png)
                    assert pixels.shape[:2] == (int(height), int(width))
                    yield event.step, value.tag, pixels.numpy()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without pictures that was never stopped."""
    return train(config(tmp_path_factory.mktemp("whole") / "run"))


@pytest.mark.slow
def test_a_run_with_pictures_that_broke_off_ends_as_one_without(whole, tmp_path):
    logged = config(tmp_path / "run", tensorboard=True)
    break_off(logged, 7)
    run = train(logged, resume=True)
    assert (run.path / "history.csv").read_bytes() == (whole.path / "history.csv").read_bytes()
    assert run.metrics["test"] == whole.metrics["test"]
    assert_all_equal(run.model.get_weights(), whole.model.get_weights())
    names = ["confusion", *(f"examples/{n}" for n in (1, 2, 3, 4))]
    found = list(images(run.path / "tensorboard" / "validation"))
    assert sorted((step, name) for step, name, _ in found) == [
        (e, n) for e in (0, 1) for n in names
    ]
    assert all(pixels.std() > 10 for _, _, pixels in found)  # not blank


@pytest.mark.slow
def test_the_averaged_weights_answer(tmp_path, monkeypatch):
    seen = []

    def remember(self, answers):
        seen.append([np.array(weight) for weight in self.model.get_weights()])
        return plots.plot_by_length({"1": 1.0}, "nothing")

    monkeypatch.setattr(ValidationImages, "_confusion", remember)
    run = train(config(tmp_path / "run", tensorboard=True))
    saved = keras.saving.load_model(run.path / "model.keras").get_weights()
    best = seen[run.metrics["training"]["best_epoch"] - 1]
    assert_all_equal(best, saved)


class TestConfusion:
    """The matrix, against counting by hand."""

    @pytest.mark.parametrize("per_step", [False, True])
    def test_counts_what_counts(self, per_step, tmp_path, monkeypatch):
        rng = np.random.default_rng(0)
        shape = (300, 2) if per_step else (300,)
        answers, targets = rng.random((*shape, 3)).astype("float32"), rng.integers(0, 3, shape)
        weights = np.ones(shape, "float32")
        if per_step:
            weights[::2, 1] = 0
        expected = np.zeros((3, 3), int)
        kept = 280  # whole batches of 40, until there are 256
        for place in np.ndindex(kept, *shape[1:]):
            if weights[place]:
                expected[targets[place], answers[place].argmax()] += 1
        drawn = []
        monkeypatch.setattr(plots, "plot_confusion", lambda *given: drawn.append(given))
        monkeypatch.setattr(plots, "as_pixels", lambda figure: np.zeros((1, 1, 4), np.uint8))
        task = Digits(2, num_digits=3) if per_step else Label(num_digits=3)
        frames = keras.Input(answers.shape[1:], name="frames")
        model = keras.Model(frames, keras.layers.Identity(name="probabilities")(frames))
        data = tf.data.Dataset.from_tensor_slices((answers, targets, weights)).batch(40)
        images = ValidationImages(tmp_path, data, task, examples=0)
        images.set_model(model)
        images.on_test_end()
        np.testing.assert_array_equal(drawn[0][0], expected)
        assert drawn[0][1] == ("0", "1", "2")


class TestExamples:
    """The line above an example's frames."""

    @pytest.mark.parametrize(
        ("task", "answer", "target", "title"),
        [
            (Label(num_digits=3), [0.2, 0.5, 0.3], 2, "1   (truth: 2)"),
            (DIGITS, np.eye(3)[[0, 2, 0]], [0, 1, 0], "0 2   (truth: 0 1)"),
            (SUM, [[1.0], [2.25], [9.0]], [[1.0], [3.0], [0.0]], "2.25   (truth: 3.00)"),
            (TEXT, np.eye(4)[[0, 2, 2, 0, 2, 3]], [1, 1, 3], "112   (truth: 002)"),
            (TEXT, np.eye(4)[[0, 0]], [1, 0, 0], "(no text)   (truth: 0)"),
        ],
        ids=["label", "steps", "values", "text", "no text"],
    )
    def test_shows_answer_and_truth(self, task, answer, target, title, tmp_path, monkeypatch):
        drawn = []
        monkeypatch.setattr(plots, "plot_sequence", lambda *a, **more: drawn.append((a, more)))
        frames = np.zeros((1, 3, 8, 8, 1), np.uint8)
        inputs = {"frames": frames, "lengths": np.array([2], np.int32)}
        data = tf.data.Dataset.from_tensors((inputs, np.array([target])))
        images = ValidationImages(tmp_path, data, task)
        images._example(0, np.asarray(answer))
        (shown, *bars), more = drawn[0]
        assert more["title"] == title
        assert shown.shape == (2, 8, 8, 1)
        assert bool(bars) == isinstance(task, Label)

    def test_an_encoder_s_answers_are_no_frames(self, tmp_path):
        inputs = {"features": np.zeros((1, 3, 5), np.float32)}
        data = tf.data.Dataset.from_tensors((inputs, np.array([1])))
        images = ValidationImages(tmp_path, data, DIGITS)
        assert images._example(0, np.array([0.1, 0.9])) is None


def test_no_batch_is_refused(tmp_path):
    empty = tf.data.Dataset.from_tensors((np.zeros(1), np.zeros(1))).take(0)
    with pytest.raises(ValueError, match="`data` must hold one batch"):
        ValidationImages(tmp_path, empty, DIGITS)
