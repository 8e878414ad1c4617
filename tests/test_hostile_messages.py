"""What is said of arguments of the wrong kind: which, what it must be, what came."""

import json

import keras
import numpy as np
import pytest

from keras_cnnlstm import arguments, clip_batches, clips, memory, pipeline, plots, scores
from keras_cnnlstm.answers import as_json, read_text
from keras_cnnlstm.artefacts import load_artefact
from keras_cnnlstm.blocks import check_weights, checked_units, lstm_stack
from keras_cnnlstm.clip_checks import check_clips
from keras_cnnlstm.digits import LabeledImages, load_digits
from keras_cnnlstm.encoders import conv_pool
from keras_cnnlstm.features import FeatureCache, split_model
from keras_cnnlstm.frames import checked_size, load_frames
from keras_cnnlstm.models import cnn_lstm
from keras_cnnlstm.moving_digits import moving_digits
from keras_cnnlstm.scanners import renet, scan_lstm
from keras_cnnlstm.splits import read_split, split_clips
from keras_cnnlstm.state_dicts import natural
from keras_cnnlstm.streaming import FrameStream, Stream
from keras_cnnlstm.tasks import Classes, Digits, Trend
from keras_cnnlstm.videos import write_video

IMAGES = LabeledImages(np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 10)
CLIPS = [clips.Clip(clips.Path(f"{c}/{i}"), c, f"{c}/{i}") for c in "ab" for i in range(5)]
RNG = np.random.default_rng(0)
NAN = float("nan")


def sequences(**options):
    return pipeline.digit_sequences(
        **{"images": IMAGES, "task": Trend(3), "batch_size": 2, "seed": 0} | options
    )


def clip_sequences(**options):
    form = {"image_size": (8, 8), "length": 4, "batch_size": 2}
    return clip_batches.clip_sequences(**{"clips": CLIPS} | form | options)


REFUSED = {
    "Trend: `length` must be 2 to 32 digits; received '4'": lambda: Trend("4"),
    "Digits: `num_digits` must be 2 to 100; received True": lambda: Digits(num_digits=True),
    "Digits: `min_length` must be 1 to 4 steps; received 1.0": lambda: Digits(min_length=1.0),
    "Classes: `class_names` must be two different names or more; received 'ab'": lambda: Classes(
        "ab"
    ),
    r"Classes: `class_names` .* received \(1, 2\)": lambda: Classes((1, 2)),
    "Classes: `min_length` must be 1 to 16 frames; received 17": lambda: Classes(
        ["a", "b"], min_length=17
    ),
    r"Trend.targets: `digits` must be an array; received \[\[1\], \[2, 3\]\]": lambda: Trend(
        3
    ).targets([[1], [2, 3]]),
    "Trend.draw: `balance` must be 0 to 1; received nan": lambda: Trend(3).draw(
        np.zeros((1, 5)), balance=NAN
    ),
    "Digits.draw: `balance` must be 0, .*; received 'x'": lambda: Digits(3).draw(
        np.zeros((1, 5)), balance="x"
    ),
    r"Digits.draw: `uniforms` must be \(B, 5\) floats; received float64 of shape \(1, 4\)": lambda: (
        Digits(3).draw(np.zeros((1, 4)))
    ),
    r"Trend.draw: `uniforms` must be in \[0, 1\); received 1.0 to 1.0": lambda: Trend(3).draw(
        np.ones((1, 5))
    ),
    r"Trend.digits_for: `labels` must have shape \(1,\)": lambda: Trend(3).digits_for(
        np.zeros(2, int), np.zeros((1, 3))
    ),
    r"Trend.digits_for: `labels` must be 0 to 5; received \[6\]": lambda: Trend(3).digits_for(
        np.array([6]), np.zeros((1, 3))
    ),
    "Trend.sample: `labels` must be integers; received float64": lambda: Trend(3).sample(
        1, RNG, labels=np.zeros(1)
    ),
    "Trend.sample: `num_sequences` must be 0 to 100000000; received -1": lambda: Trend(3).sample(
        -1, RNG
    ),
    "Trend.sample: `rng` must be a numpy.random.Generator; received 0": lambda: Trend(3).sample(
        1, 0
    ),
    "LabeledImages: `images` must be an array; received": lambda: LabeledImages([[1], [2, 3]], [0]),
    "load_digits: `name` must be the name of a data set; received 3": lambda: load_digits(3),
    "digit_sequences: `images` must be LabeledImages; received ndarray": lambda: sequences(
        images=np.zeros(3)
    ),
    "digit_sequences: `task` must be a Trend, .*; received 'trend'": lambda: sequences(
        task="trend"
    ),
    "`batch_size` must be 1 or more; received '2'. It is a whole number, 1,000,000 at m": lambda: (
        sequences(batch_size="2")
    ),
    "digit_sequences: `start` must be 0 or more; received 0.5": lambda: sequences(start=0.5),
    "digit_sequences: `seed` must be a whole number of 64 bits; received 1.5": lambda: sequences(
        seed=1.5
    ),
    "digit_sequences: `seed` must be .* received 9223372036854775808": lambda: sequences(
        seed=2**63
    ),
    "digit_sequences: `augment` must be False, True, or a strength, 0 to 3; received nan": lambda: (
        sequences(augment=NAN)
    ),
    "digit_sequences: `num_sequences` must be 1 or more, or None; received 'x'": lambda: sequences(
        num_sequences="x"
    ),
    "digit_sequences: `balance` must be 0 to 1; received 'x'": lambda: sequences(balance="x"),
    "labeled_images: `images` must be LabeledImages; received str": lambda: pipeline.labeled_images(
        "x", batch_size=1
    ),
    "clip_sequences: `class_names` must be names in the .* received 'ab'": lambda: clip_sequences(
        class_names="ab"
    ),
    r"clip_sequences: `image_size` must be height and width .* received \(8,\)": lambda: (
        clip_sequences(image_size=(8,))
    ),
    "clip_sequences: `clips` must be clips, .*; received 3": lambda: clip_sequences(clips=[3]),
    "clip_sequences: `clips` must be clips, .*; received None": lambda: clip_sequences(clips=None),
    "clip_sequences: `cache` must be a path; received ''": lambda: clip_sequences(cache=""),
    "f: `image_size` must be at most 64,000,000 pixels; received 10000x10000": lambda: checked_size(
        "f", (10000, 10000)
    ),
    r"f: `image_size` must be .* 1 or more; received \(0, 5\)": lambda: checked_size("f", (0, 5)),
    "load_frames: `paths` must name one file for each frame; received 'a.png'": lambda: load_frames(
        "a.png", image_size=(8, 8)
    ),
    "load_frames: `paths` must be a path; received 3": lambda: load_frames([3], image_size=(8, 8)),
    "find_clips: `root` must be a path; received None": lambda: clips.find_clips(None),
    "find_clips: `root` must be a path; received 'a.x00b'": lambda: clips.find_clips("a\0b"),
    "check_clips: `workers` must be 1 or more; received 0": lambda: check_clips(".", workers=0),
    "iterate_frames: `every` must be 1 or more; received 0.5": lambda: next(
        clips.iterate_frames("x", image_size=(8, 8), every=0.5)
    ),
    "sample_indices: `num_frames` must be 1 or more; received 10{18}. It .* 10,000,000 at most": lambda: (
        clips.sample_indices(10**18, None, "first")
    ),
    r"sample_indices: `sampling` must be one of uniform, .*; received \['first'\]": lambda: (
        clips.sample_indices(9, 4, ["first"])
    ),
    "sample_indices: `rng` must be a numpy.random.Generator or None; received 0": lambda: (
        clips.sample_indices(9, 4, "window", rng=0)
    ),
    "split_clips: `clips` must be clips, as find_clips returns them; received 'a'": lambda: (
        split_clips(["a"])
    ),
    "split_clips: `groups` must be a regular expression, .* received b'x'": lambda: split_clips(
        CLIPS, groups=b"x"
    ),
    "split_clips: `shares` must be three numbers .* received 'abc'": lambda: split_clips(
        CLIPS, shares="abc"
    ),
    "read_split: `path` must be a path; received None": lambda: read_split(None, CLIPS),
    "moving_digits: `images` must be LabeledImages; received NoneType": lambda: next(
        moving_digits(None, 1)
    ),
    "moving_digits: `num_images` must be 1 to 20, .*; received 1.5": lambda: next(
        moving_digits(IMAGES, 1.5)
    ),
    "moving_digits: `canvas` must be larger .*, and at most 4096; received 10{5}": lambda: next(
        moving_digits(IMAGES, 1, canvas=10**5)
    ),
    "moving_digits: `min_frames` must be 3 to `max_frames`, .*; received 10 and 10{9}": lambda: (
        next(moving_digits(IMAGES, 1, max_frames=10**9))
    ),
    "moving_digits: `seed` must be a whole number, 0 or more; received -1": lambda: next(
        moving_digits(IMAGES, 1, seed=-1)
    ),
    "write_video: `rate` must be larger than 0; received 'x'. 1000 is the most": lambda: (
        write_video("a.avi", np.zeros((2, 8, 8, 1), np.uint8), rate="x")
    ),
    "check_memory: `limit` must be 0 or more; received inf": lambda: memory.check_memory(
        None, 1, limit=float("inf")
    ),
    "check_memory: `model` must have a graph of layers .* received str '' without": lambda: (
        memory.check_memory("x", 1)
    ),
    "step_model: `model` must read its frames in order .*; NoneType '' has no graph": lambda: (
        Stream(None)
    ),
    "scores: `class_names` must be a list or tuple of names; received 'ab'": lambda: scores.scores(
        np.zeros(1, int), np.ones((1, 2)), "ab"
    ),
    r"scores: `targets` must be whole numbers; received float64 of \(1,\)": lambda: scores.scores(
        np.zeros(1), np.ones((1, 2)), ["a", "b"]
    ),
    "scores: `targets` must be 0 to 1, the .*; received 2 to 2": lambda: scores.scores(
        np.array([2]), np.ones((1, 2)), ["a", "b"]
    ),
    r"scores: `targets` must have shape \(N,\); received \(1, 1\)": lambda: scores.scores(
        np.zeros((1, 1), int), np.ones((1, 2)), ["a", "b"]
    ),
    "scores: `probabilities` must be finite; received NaN or inf": lambda: scores.scores(
        np.zeros(1, int), np.full((1, 2), NAN), ["a", "b"]
    ),
    r"step_scores: `probabilities` must have shape \(N, T, num_classes\).*received \(1, 3, 2\)": lambda: (
        scores.step_scores(np.zeros((1, 2), int), np.ones((1, 3, 2)), None, ["a", "b"])
    ),
    "step_scores: `class_names` must be 2, .*; received 1": lambda: scores.step_scores(
        np.zeros((1, 2), int), np.ones((1, 2, 2)), None, ["a"]
    ),
    r"step_scores: `targets` must have shape \(N, T\), both 1": lambda: scores.step_scores(
        np.zeros((1, 0), int), np.ones((1, 0, 2)), None, ["a"]
    ),
    r"number_scores: `values` must have the shape of `targets`, \(1, 2\); received \(1, 3\)": lambda: (
        scores.number_scores(np.ones((1, 2)), np.ones((1, 3)))
    ),
    r"number_scores: `counts` must be boolean of shape \(1, 2\); received float64": lambda: (
        scores.number_scores(np.ones((1, 2)), np.ones((1, 2)), np.ones((1, 2)))
    ),
    "number_scores: `counts` must be True for the first steps": lambda: scores.number_scores(
        np.ones((1, 2)), np.ones((1, 2)), np.array([[False, True]])
    ),
    r"text_scores: `targets` must have shape \(N, T\) and one character": lambda: (
        scores.text_scores(np.array([[-1]]), np.array([[1]]))
    ),
    r"text_scores: `characters` must have shape \(1, any length\); received \(2, 1\)": lambda: (
        scores.text_scores(np.array([[1]]), np.array([[1], [2]]))
    ),
    r"as_json: `answer` must have shape \(num_classes,\) or .* received \(\)": lambda: as_json(
        "values", 3.0
    ),
    r"as_json: `answer` must have shape \(T, num_classes\) for logits; received \(2,\)": lambda: (
        as_json("logits", [1.0, 2.0], ["a"])
    ),
    "as_json: `answer` must be finite": lambda: as_json("values", [NAN]),
    "as_json: `class_names` must be 2 names, .*; received 3": lambda: as_json(
        "probabilities", [0.5, 0.5], ["a", "b", "c"]
    ),
    r"as_json: `output` must be .*; received \['values'\]": lambda: as_json(["values"], [0.5]),
    r"read_text: `logits` must have shape \(T, num_classes \+ 1\); received \(3,\)": lambda: (
        read_text(np.ones(3))
    ),
    r"plot_history: `history` must be a dict for each epoch, .*; received \[\]": lambda: (
        plots.plot_history([])
    ),
    r"plot_history: `history` must have a number for loss in each epoch; received \{\}": lambda: (
        plots.plot_history([{"loss": 1.0}, {}])
    ),
    "plot_history: `metric` must be a line of text; received 3": lambda: plots.plot_history(
        [{}], 3
    ),
    r"plot_confusion: `confusion` must be counts of shape \(2, 2\), .*; received array": lambda: (
        plots.plot_confusion([[1]], ["a", "b"])
    ),
    r"plot_by_length: `values` must be a number for each length; received \{'1': 'x'\}": lambda: (
        plots.plot_by_length({"1": "x"}, "y")
    ),
    r"plot_sequence: `frames` must be uint8 of shape \(T, H, W, C\), T 1 to 100.*\(0, 8, 8, 1\)": lambda: (
        plots.plot_sequence(np.zeros((0, 8, 8, 1), np.uint8))
    ),
    r"plot_sequence: `probabilities` must have shape \(1,\), as there are .*received \(2,\)": lambda: (
        plots.plot_sequence(np.zeros((1, 8, 8, 1), np.uint8), [0.5, 0.5], ["a"])
    ),
    r"conv_pool: `filters` must be positive, 65,536 at most, .*; received \(\)": lambda: conv_pool(
        ()
    ),
    "conv_pool: `kernel_size` must be positive, .*; received 0": lambda: conv_pool(kernel_size=0),
    "f: units must be one .* one for each layer of `u`, 1,000,000 at most; received 3": lambda: (
        checked_units("f", 3, "u")
    ),
    "f: `u` must give a layer 2,147,483,648 weights at most; received 100000 x 100000": lambda: (
        check_weights("f", "u", 10**5, 10**5)
    ),
    "lstm_stack: `units` must give a layer": lambda: lstm_stack(keras.Input((3, 4)), (10**5,)),
    "lstm_stack: `initial_state` must be a dict with .*; received 3": lambda: lstm_stack(
        keras.Input((3, 4)), (2,), initial_state=3
    ),
    "cnn_lstm: `input_shape` must be of 2,147,483,648 numbers and 65,536 channels": lambda: (
        cnn_lstm((4, 8, 8, 10**6))
    ),
    "cnn_lstm: `batch_size` must be 1 or more; received 'x'": lambda: cnn_lstm(batch_size="x"),
    "cnn_lstm: `scale` must be a finite number; received nan": lambda: cnn_lstm(scale=NAN),
    r"cnn_lstm: `dropout` must be in \[0, 1\); received None": lambda: cnn_lstm(dropout=None),
    r"cnn_lstm: `head` must be one of .*; received \['values'\]": lambda: cnn_lstm(head=["values"]),
    "cnn_lstm: `num_classes` must be 2 or more; received 10{18}. It .*1,000,000 at most": lambda: (
        cnn_lstm(num_classes=10**18)
    ),
    "`encoder` must be one of .* or a Keras layer; received None": lambda: cnn_lstm(encoder=None),
    "renet: units must be .* each layer of `dense_units`, .*; received 3": lambda: renet(
        dense_units=3
    ),
    "^ImageToSequence: `size` must divide the image": lambda: scan_lstm(
        (8, 8, 1), size=3, by="rows"
    ),
    "^load_artefact: `path` must be a path; received None": lambda: load_artefact(None),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    with pytest.raises(ValueError, match=message) as raised:
        REFUSED[message]()
    assert "\n" not in str(raised.value)


def test_no_folder_to_write_into(tmp_path):
    with pytest.raises(FileNotFoundError, match="write_video: `path` must lie in a folder that is"):
        write_video(tmp_path / "no" / "a.avi", np.zeros((2, 8, 8, 1), np.uint8))


def test_values_are_told_on_one_line_and_briefly():
    assert arguments.told(np.zeros((3, 3))).count("\n") == 0
    assert len(arguments.told("x" * 10_000)) == 200
    assert arguments.told(10**5000) == "a int too long to write"
    assert arguments.told(10**5) == "100000"


def test_sizes_of_numpy_will_do():
    model = cnn_lstm(
        (np.int64(4), 8, 8, 1), np.int64(3), lstm_units=(np.int32(2),), encoder=conv_pool((2,))
    )
    assert model.output_shape == (None, 3)
    assert json.loads(model.to_json())["config"]["name"] == "cnn_lstm"
    assert renet((8, 8, 1), np.int64(2), lstm_units=[2], size=np.int64(2)).output_shape == (None, 2)
    seeds = np.uint8(200), 200
    first, second = (next(iter(sequences(seed=seed)))[0] for seed in seeds)
    np.testing.assert_array_equal(first, second)


def test_the_last_of_a_batch_can_be_a_numpy_number():
    np.testing.assert_array_equal(
        clips.sample_indices(np.uint8(255), 4, "window", stride=100), [27, 127, 227]
    )


@pytest.fixture(scope="module")
def stream():
    return Stream(cnn_lstm((None, 8, 8, 1), 2, encoder="small_cnn", lstm_units=(2,)))


class TestStreams:
    @pytest.fixture
    def stream(self):
        return Stream(cnn_lstm((None, 8, 8, 1), 2, encoder="small_cnn", lstm_units=(2,)))

    def test_more_than_memory_holds(self, stream):
        with pytest.raises(ValueError, match=r"`batch` must be the number of streams.*10{18}"):
            stream.initial_state(10**18)

    def test_frames_and_states_that_are_no_arrays(self, stream):
        with pytest.raises(ValueError, match=r"Stream.step: `frame` must be an array; received"):
            stream.step([[1], [2, 3]], {})
        state = {"lstm1_h": [[1], [2, 3]], "lstm1_c": 0}
        with pytest.raises(ValueError, match=r"`state\['lstm1_h'\]` must be an array; received"):
            stream.step(np.zeros((2, 8, 8, 1), np.uint8), state)

    def test_names(self, stream):
        with pytest.raises(ValueError, match="FrameStream: `class_names` must be a list or tuple"):
            FrameStream(stream, 3)


@pytest.fixture(scope="module")
def encoder():
    encoder = split_model(cnn_lstm((4, 8, 8, 1), 2, lstm_units=(2,))).frame_encoder
    encoder.trainable = False
    return encoder


class TestFeatures:
    @pytest.fixture
    def encoder(self):
        encoder = split_model(cnn_lstm((4, 8, 8, 1), 2, lstm_units=(2,))).frame_encoder
        encoder.trainable = False
        return encoder

    def test_bad_arguments(self, encoder, tmp_path):
        with pytest.raises(
            ValueError, match="FeatureCache: `directory` must be a path; received 3"
        ):
            FeatureCache(3, encoder)
        with pytest.raises(
            ValueError, match=r"FeatureCache.features: `key` must be text; received 3"
        ):
            FeatureCache(tmp_path, encoder).features(3, np.zeros((1, 8, 8, 1), np.uint8))

    def test_a_key_that_is_no_unicode(self, encoder, tmp_path):
        """Such as the path of a file whose name is in an old encoding."""
        cache, frames = FeatureCache(tmp_path, encoder), np.zeros((1, 8, 8, 1), np.uint8)
        a, b = cache.features("\udce9", frames), cache.features("\udce8", frames + 1)
        assert not np.array_equal(a, b)


def test_entries_are_sorted_by_number_however_long():
    names = ["a.10", "a.2", f"a.{'1' * 5000}", "a"]
    assert sorted(names, key=natural) == ["a", "a.2", "a.10", f"a.{'1' * 5000}"]
