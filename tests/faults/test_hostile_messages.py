"""Errors of wrong arguments, on one line: function, argument, the rule, and what was received."""

import json

import keras
import numpy as np
import pytest
from hostile import CLIPS, IMAGES, SMALL, refused

from keras_cnnlstm import data, models, plots, runtime, tasks
from keras_cnnlstm.data.frames import checked_size
from keras_cnnlstm.export import load_artifact
from keras_cnnlstm.models.blocks import check_weights, checked_units
from keras_cnnlstm.tasks import Classes, Digits, Trend
from keras_cnnlstm.tasks.answers import answer_dict, best_path
from keras_cnnlstm.torch_weights.state_dict import natural
from keras_cnnlstm.training import FeatureCache
from keras_cnnlstm.utils.validation import short_repr

RNG = np.random.default_rng(0)
NAN, INF = float("nan"), float("inf")
RAGGED = [[1], [2, 3]]
TWO = ["a", "b"]


def sequences(**options):
    return data.digit_sequences(
        **{"images": IMAGES, "task": Trend(3), "batch_size": 2, "seed": 0} | options
    )


def clip_sequences(**options):
    form = {"image_size": (8, 8), "length": 4, "batch_size": 2}
    return data.clip_sequences(**{"clips": CLIPS} | form | options)


def targets(*shape):
    return np.zeros(shape, int)


def zeros(*shape):
    return np.zeros(shape, np.uint8)


# Function, argument, a key word of the rule, and a call that breaks it.
REFUSED = [
    ("Trend", "length", "2 to 32", lambda: Trend("4")),
    ("Digits", "num_digits", "2 to 100", lambda: Digits(num_digits=True)),
    ("Digits", "min_length", "1 to 4", lambda: Digits(min_length=1.0)),
    ("Classes", "class_names", "different names", lambda: Classes("ab")),
    ("Classes", "class_names", "different names", lambda: Classes((1, 2))),
    ("Classes", "min_length", "1 to 16", lambda: Classes(TWO, min_length=17)),
    ("Trend.targets", "digits", "an array", lambda: Trend(3).targets(RAGGED)),
    ("Trend.draw", "balance", "0 to 1", lambda: Trend(3).draw(np.zeros((1, 5)), balance=NAN)),
    ("Digits.draw", "balance", "0", lambda: Digits(3).draw(np.zeros((1, 5)), balance="x")),
    ("Digits.draw", "uniforms", "(B, 5)", lambda: Digits(3).draw(np.zeros((1, 4)))),
    ("Trend.draw", "uniforms", "[0, 1)", lambda: Trend(3).draw(np.ones((1, 5)))),
    ("Trend.digits_for", "labels", "shape (1,)", lambda: Trend(3).digits_for(targets(2), np.zeros((1, 3)))),
    ("Trend.digits_for", "labels", "0 to 5", lambda: Trend(3).digits_for(np.array([6]), np.zeros((1, 3)))),
    ("Trend.sample", "labels", "integers", lambda: Trend(3).sample(1, RNG, labels=np.zeros(1))),
    ("Trend.sample", "num_sequences", "0 to 100", lambda: Trend(3).sample(-1, RNG)),
    ("Trend.sample", "rng", "numpy.random.Generator", lambda: Trend(3).sample(1, 0)),
    ("LabeledImages", "images", "an array", lambda: data.LabeledImages(RAGGED, [0])),
    ("load_digits", "name", "data set", lambda: data.load_digits(3)),
    ("digit_sequences", "images", "LabeledImages", lambda: sequences(images=np.zeros(3))),
    ("digit_sequences", "task", "Trend", lambda: sequences(task="trend")),
    ("digit_sequences", "batch_size", "integer", lambda: sequences(batch_size="2")),
    ("digit_sequences", "start", "integer", lambda: sequences(start=0.5)),
    ("digit_sequences", "seed", "64 bits", lambda: sequences(seed=1.5)),
    ("digit_sequences", "seed", "64 bits", lambda: sequences(seed=2**63)),
    ("Augmentation", "affine", "0 to 3", lambda: data.Augmentation(affine=NAN)),
    ("digit_sequences", "num_sequences", "1", lambda: sequences(num_sequences="x")),
    ("digit_sequences", "balance", "0 to 1", lambda: sequences(balance="x")),
    ("labeled_images", "images", "LabeledImages", lambda: data.labeled_images("x", batch_size=1)),
    ("clip_sequences", "class_names", "names", lambda: clip_sequences(class_names="ab")),
    ("clip_sequences", "image_size", "height and width", lambda: clip_sequences(image_size=(8,))),
    ("clip_sequences", "clips", "clips", lambda: clip_sequences(clips=[3])),
    ("clip_sequences", "clips", "clips", lambda: clip_sequences(clips=None)),
    ("clip_sequences", "cache", "a path", lambda: clip_sequences(cache="")),
    ("f", "image_size", "64,000,000 pixels", lambda: checked_size("f", (10000, 10000))),
    ("f", "image_size", "1 or more", lambda: checked_size("f", (0, 5))),
    ("load_frames", "paths", "one file", lambda: data.load_frames("a.png", image_size=(8, 8))),
    ("load_frames", "paths", "a path", lambda: data.load_frames([3], image_size=(8, 8))),
    ("find_clips", "root", "a path", lambda: data.find_clips(None)),
    ("find_clips", "root", "a path", lambda: data.find_clips("a\0b")),
    ("check_clips", "workers", "integer", lambda: data.check_clips(".", workers=0)),
    ("iterate_frames", "every", "integer", lambda: next(data.iterate_frames("x", image_size=(8, 8), every=0.5))),
    ("sample_indices", "num_frames", "10,000,000", lambda: data.sample_indices(10**18, None, "first")),
    ("sample_indices", "sampling", "uniform", lambda: data.sample_indices(9, 4, ["first"])),
    ("sample_indices", "rng", "numpy.random.Generator", lambda: data.sample_indices(9, 4, "window", rng=0)),
    ("split_clips", "clips", "find_clips", lambda: data.split_clips(["a"])),
    ("split_clips", "groups", "regular expression", lambda: data.split_clips(CLIPS, groups=b"x")),
    ("split_clips", "shares", "three numbers", lambda: data.split_clips(CLIPS, shares="abc")),
    ("read_split", "path", "a path", lambda: data.read_split(None, CLIPS)),
    ("moving_digits", "images", "LabeledImages", lambda: next(data.moving_digits(None, 1))),
    ("moving_digits", "num_images", "1 to 20", lambda: next(data.moving_digits(IMAGES, 1.5))),
    ("moving_digits", "canvas", "4,096", lambda: next(data.moving_digits(IMAGES, 1, canvas=10**5))),
    ("moving_digits", "max_frames", "must be", lambda: next(data.moving_digits(IMAGES, 1, max_frames=10**9))),
    ("moving_digits", "seed", "integer", lambda: next(data.moving_digits(IMAGES, 1, seed=-1))),
    ("write_video", "rate", "larger than 0", lambda: data.write_video("a.avi", zeros(2, 8, 8, 1), rate="x")),
    ("check_memory", "limit", "integer", lambda: runtime.check_memory(None, 1, limit=INF)),
    ("check_memory", "model", "graph of layers", lambda: runtime.check_memory("x", 1)),
    ("step_model", "model", "frames in order", lambda: models.Stream(None)),
    ("scores", "class_names", "names", lambda: tasks.scores(targets(1), np.ones((1, 2)), "ab")),
    ("scores", "targets", "integers", lambda: tasks.scores(np.zeros(1), np.ones((1, 2)), TWO)),
    ("scores", "targets", "0 to 1", lambda: tasks.scores(np.array([2]), np.ones((1, 2)), TWO)),
    ("scores", "targets", "(N,)", lambda: tasks.scores(targets(1, 1), np.ones((1, 2)), TWO)),
    ("scores", "probabilities", "finite", lambda: tasks.scores(targets(1), np.full((1, 2), NAN), TWO)),
    ("step_scores", "probabilities", "(N, T, num_classes)", lambda: tasks.step_scores(targets(1, 2), np.ones((1, 3, 2)), None, TWO)),
    ("step_scores", "class_names", "2", lambda: tasks.step_scores(targets(1, 2), np.ones((1, 2, 2)), None, ["a"])),
    ("step_scores", "targets", "(N, T)", lambda: tasks.step_scores(targets(1, 0), np.ones((1, 0, 2)), None, ["a"])),
    ("number_scores", "values", "(1, 2)", lambda: tasks.number_scores(np.ones((1, 2)), np.ones((1, 3)))),
    ("number_scores", "mask", "boolean", lambda: tasks.number_scores(*np.ones((3, 1, 2)))),
    ("number_scores", "mask", "first steps", lambda: tasks.number_scores(*np.ones((2, 1, 2)), np.array([[False, True]]))),
    ("text_scores", "targets", "(N, T)", lambda: tasks.text_scores(np.array([[-1]]), np.array([[1]]))),
    ("text_scores", "characters", "(1, any length)", lambda: tasks.text_scores(np.array([[1]]), np.array([[1], [2]]))),
    ("answer_dict", "answer", "(num_classes,)", lambda: answer_dict("values", 3.0)),
    ("answer_dict", "answer", "(T, num_classes)", lambda: answer_dict("logits", [1.0, 2.0], ["a"])),
    ("answer_dict", "answer", "finite", lambda: answer_dict("values", [NAN])),
    ("answer_dict", "class_names", "2 names", lambda: answer_dict("probabilities", [0.5, 0.5], ["a", "b", "c"])),
    ("answer_dict", "output", "probabilities", lambda: answer_dict(["values"], [0.5])),
    ("best_path", "logits", "(T, num_classes + 1)", lambda: best_path(np.ones(3))),
    ("plot_history", "history", "each epoch", lambda: plots.plot_history([])),
    ("plot_history", "history", "loss", lambda: plots.plot_history([{"loss": 1.0}, {}])),
    ("plot_history", "metric", "line of text", lambda: plots.plot_history([{}], 3)),
    ("plot_confusion", "confusion", "(2, 2)", lambda: plots.plot_confusion([[1]], TWO)),
    ("plot_by_length", "values", "number", lambda: plots.plot_by_length({"1": "x"}, "y")),
    ("plot_sequence", "frames", "1 to 100", lambda: plots.plot_sequence(zeros(0, 8, 8, 1))),
    ("plot_sequence", "probabilities", "(1,)", lambda: plots.plot_sequence(zeros(1, 8, 8, 1), [0.5, 0.5], ["a"])),
    ("conv_pool", "filters", "65,536", lambda: models.conv_pool(())),
    ("conv_pool", "kernel_size", "positive", lambda: models.conv_pool(kernel_size=0)),
    ("f", "u", "1,000,000", lambda: checked_units("f", 3, "u")),
    ("f", "u", "2,147,483,648 weights", lambda: check_weights("f", "u", 10**5, 10**5)),
    ("lstm_stack", "units", "weights", lambda: models.lstm_stack(keras.Input((3, 4)), (10**5,))),
    ("lstm_stack", "initial_state", "dict", lambda: models.lstm_stack(keras.Input((3, 4)), (2,), initial_state=3)),
    ("cnn_lstm", "input_shape", "65,536 channels", lambda: models.cnn_lstm((4, 8, 8, 10**6))),
    ("cnn_lstm", "batch_size", "integer", lambda: models.cnn_lstm(batch_size="x")),
    ("cnn_lstm", "scale", "finite", lambda: models.cnn_lstm(scale=NAN)),
    ("cnn_lstm", "dropout", "[0, 1)", lambda: models.cnn_lstm(dropout=None)),
    ("cnn_lstm", "head", "one of", lambda: models.cnn_lstm(head=["values"])),
    ("cnn_lstm", "num_classes", "1,000,000", lambda: models.cnn_lstm(num_classes=10**18)),
    ("", "encoder", "a Keras layer", lambda: models.cnn_lstm(encoder=None)),
    ("renet", "dense_units", "1,000,000", lambda: models.renet(dense_units=3)),
    ("ImageToSequence", "size", "divide", lambda: models.scan_lstm((8, 8, 1), size=3, by="rows")),
    ("load_artifact", "path", "a path", lambda: load_artifact(None)),
]  # fmt: skip


@pytest.mark.parametrize(("function", "argument", "word", "call"), REFUSED)
def test_refused(function, argument, word, call):
    refused(call, function, argument, word)


def test_no_folder_to_write_into(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`path` must lie in .*folder"):
        data.write_video(tmp_path / "no" / "a.avi", zeros(2, 8, 8, 1))


def test_values_are_shown_on_one_line_and_briefly():
    assert short_repr(np.zeros((3, 3))).count("\n") == 0
    assert len(short_repr("x" * 10_000)) == 200
    assert short_repr(10**5000) == "a int too long to write"
    assert short_repr(10**5) == "100000"


def test_sizes_of_numpy_will_do():
    model = models.cnn_lstm(
        (np.int64(4), 8, 8, 1), np.int64(3), lstm_units=(np.int32(2),), encoder=models.conv_pool((2,))
    )  # fmt: skip
    assert model.output_shape == (None, 3)
    assert json.loads(model.to_json())["config"]["name"] == "cnn_lstm"
    small = models.renet((8, 8, 1), np.int64(2), lstm_units=[2], size=np.int64(2))
    assert small.output_shape == (None, 2)
    first, second = (next(iter(sequences(seed=seed)))[0] for seed in (np.uint8(200), 200))
    np.testing.assert_array_equal(first, second)


def test_the_last_of_a_batch_can_be_a_numpy_number():
    chosen = data.sample_indices(np.uint8(255), 4, "window", stride=100)
    np.testing.assert_array_equal(chosen, [27, 127, 227])


@pytest.fixture(scope="module")
def stream():
    return models.Stream(models.cnn_lstm((None, 8, 8, 1), 2, **SMALL))


STATE = {"lstm1_h": RAGGED, "lstm1_c": 0}
FAULTY = [
    ("", "batch", "integer from 1", lambda stream: stream.initial_state(10**18)),
    ("Stream.step", "frame", "an array", lambda stream: stream.step(RAGGED, {})),
    ("", "state['lstm1_h']", "an array", lambda stream: stream.step(zeros(2, 8, 8, 1), STATE)),
    ("FrameStream", "class_names", "names", lambda stream: models.FrameStream(stream, 3)),
]


@pytest.mark.parametrize(("function", "argument", "word", "call"), FAULTY)
def test_a_stream_refuses(function, argument, word, call, stream):
    refused(lambda: call(stream), function, argument, word)


@pytest.fixture(scope="module")
def encoder():
    encoder = models.split_model(models.cnn_lstm((4, 8, 8, 1), 2, lstm_units=(2,))).frame_encoder
    encoder.trainable = False
    return encoder


def test_a_cache_refuses(encoder, tmp_path):
    refused(lambda: FeatureCache(3, encoder), "FeatureCache", "directory", "a path")
    cache = FeatureCache(tmp_path, encoder)
    refused(lambda: cache.features(3, zeros(1, 8, 8, 1)), "FeatureCache.features", "key", "text")


def test_a_key_that_is_no_unicode(encoder, tmp_path):
    """Such as the path of a file whose name is in an old encoding."""
    cache, frames = FeatureCache(tmp_path, encoder), zeros(1, 8, 8, 1)
    a, b = cache.features("\udce9", frames), cache.features("\udce8", frames + 1)
    assert not np.array_equal(a, b)


def test_entries_are_sorted_by_number_however_long():
    names = ["a.10", "a.2", f"a.{'1' * 5000}", "a"]
    assert sorted(names, key=natural) == ["a", "a.2", "a.10", f"a.{'1' * 5000}"]
