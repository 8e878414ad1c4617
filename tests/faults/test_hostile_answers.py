"""Errors of what judges, describes, draws and shows, on one line: see `hostile.refused`."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hostile import IMAGES, SMALL, refused, run_of
from matplotlib.figure import Figure

from keras_cnnlstm import data, demo, evaluation, export, models, plots, tasks, training
from keras_cnnlstm.config import TrainConfig

CLIPS = [data.Clip(Path(f"{c}/1"), c, f"{c}/1") for c in "ab"]
TRUTH, SURE = np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]])
NONE = tf.data.Dataset.from_tensors(np.zeros((1, 2)))
SOME = tf.data.Dataset.from_tensors((TRUTH, TRUTH[:, None]))
TWO = ("a", "b")


def small():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


@pytest.fixture(scope="module")
def model():
    return models.cnn_lstm((4, 8, 8, 1), 7, **SMALL)


@pytest.fixture(scope="module")
def run(model):
    return run_of(model, tasks.Trend(4), TrainConfig(**SMALL))


# Function, argument, a key word of the rule, and a call that breaks it.
REFUSED = [
    ("digit_reader", "run", "load_run", lambda: evaluation.digit_reader(3)),
    ("calibration", "", "'temperature'", lambda: models.Calibration.from_json("[]")),
    ("calibration", "", "JSON object", lambda: models.Calibration.from_json('{"a": 1}')),
    ("calibration", "", "JSON object", lambda: models.Calibration.from_json("9" * 5000)),
    ("calibration", "temperature", "0.05 to 20", lambda: models.Calibration.from_json("{}")),
    ("scaled", "probabilities", "numbers", lambda: models.scaled(["x"], 1)),
    ("scaled", "probabilities", "one or more", lambda: models.scaled([], 1)),
    ("scale_temperature", "temperature", "over 0", lambda: models.scale_temperature(None, np.inf)),
    ("softmax_head", "model", "keras.Model", lambda: models.softmax_head(3)),
    ("reliability", "probabilities", "softmax", lambda: models.reliability(TRUTH, [[0.9, 0.1], [0.2, 3.0]])),
    ("calibration", "confidence_threshold", "0 to 1", lambda: models.calibration_facts(TRUTH, SURE, 1.0, 2)),
    ("captioned", "captions", "names of clips", lambda: data.captioned(CLIPS, "x")),
    ("captioned", "captions", "'b/1'", lambda: data.captioned(CLIPS, {"a/1": "x"})),
    ("captions", "", "two different", lambda: data.caption_task(CLIPS[:1], length=1)),
    ("ClipCaption", "class_names", "1 to 999 tokens", lambda: tasks.ClipCaption(("a", " "))),
    ("ClipCaption.tokens", "labels", "0 to 1", lambda: tasks.ClipCaption(TWO).tokens(np.array([2]))),
    ("number_word", "number", "0 to 99", lambda: tasks.number_word(100)),
    ("Vocabulary.of", "captions", "list or tuple", lambda: tasks.Vocabulary.of("one text")),
    ("Vocabulary.of", "captions", "list or tuple", lambda: tasks.Vocabulary.of(np.array(3))),
    ("Vocabulary.of", "captions", "list or tuple", lambda: tasks.Vocabulary.of([1])),
    ("pieces", "names", "list or tuple", lambda: tasks.pieces(3)),
    ("train_reader", "seed", "integer", lambda: evaluation.train_reader(IMAGES, seed=-1)),
    ("confusion_of", "reader", "keras.Model", lambda: evaluation.confusion_of(None, IMAGES)),
    ("look_of", "dataset", "data set", lambda: demo.look_of(None)),
    ("as_strip", "image_size", "4 to 65,536", lambda: demo.as_strip(IMAGES.images[0], 8)),
    ("host", "", "name or address", lambda: demo.serve("run", host="a b")),
    ("serve", "run", "a path", lambda: demo.serve(3)),
    ("DemoAnswers", "run", "load_run", lambda: demo.DemoAnswers("run")),
    ("answers_of", "sequences", "tf.data.Dataset", lambda: training.answers_of(small(), [])),
    ("evaluate", "run", "load_run", lambda: evaluation.evaluate("run")),
    ("score", "task", "Trend(4)", lambda: training.score(small(), {}, 3)),
    ("score", "tests", "tf.data.Dataset", lambda: training.score(small(), {"natural": 1}, tasks.Trend(4))),
    ("grad_cam", "model", "keras.Model", lambda: evaluation.grad_cam(None, IMAGES.images)),
    ("read_recalls", "path", "a path", lambda: evaluation.read_recalls(None)),
    ("slowest_learned", "recalls", "0 to 1", lambda: evaluation.slowest_learned({"a": [np.nan]})),
    ("slowest_learned", "recalls", "each class", lambda: evaluation.slowest_learned(())),
    ("ceiling", "confusion", "(10, 10)", lambda: tasks.Trend().ceiling(np.full((9, 99, 9), -(2.0**62)))),
    ("recall_figure", "names", "one or more", lambda: plots.recall_figure({"a": [0.5]}, ["b"])),
    ("wrong_sequences", "targets", "shape", lambda: evaluation.wrong_sequences(TRUTH, SURE[:1])),
    ("wrong_sequences", "mask", "bool", lambda: evaluation.wrong_sequences(TRUTH, SURE, TRUTH)),
    ("objective_for", "task", "Trend(4)", lambda: training.objective_for("trend")),
    ("as_pixels", "figure", "matplotlib", lambda: plots.as_pixels(3)),
    ("run_predictor", "run", "load_run", lambda: export.run_predictor(3)),
    ("Progress", "steps_per_epoch", "integer", lambda: training.Progress(1, 0, 8)),
    ("Progress", "step", "integer", lambda: training.Progress(1, 1, 8, step=-1)),
    ("open_source", "config", "TrainConfig", lambda: data.open_source(None)),
    ("ValidationImages", "data", "tf.data.Dataset", lambda: training.ValidationImages("events", [], tasks.Trend())),
    ("ValidationImages", "examples", "integer", lambda: training.ValidationImages("events", NONE, tasks.Trend(), examples=-1)),
    ("ValidationImages", "directory", "written", lambda: training.ValidationImages("/dev/null/x", SOME, tasks.Trend())),
    ("seconds_per_sequence", "model", "must be", lambda: evaluation.seconds_per_sequence(3, IMAGES.images)),
    ("seconds_per_sequence", "batch_sizes", "list", lambda: evaluation.seconds_per_sequence(small(), np.zeros((1, 2)), batch_sizes=3)),
]  # fmt: skip


@pytest.mark.parametrize(("function", "argument", "word", "call"), REFUSED)
def test_refused(function, argument, word, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(call, function, argument, word, (ValueError, OSError))
    assert not list(tmp_path.iterdir())


def predictor(run):
    return export.run_predictor(run)


def captioner():
    sizes = {"lengths": True, "embedding": 2, **SMALL}
    return models.captioner((4, 8, 8, 1), 6, 3, **sizes)


STRIP, FRAMES = np.zeros((4, 8, 9, 1), np.uint8), np.zeros((1, 4, 8, 8, 1), np.uint8)
OF_RUNS = [
    ("export", "version", "saved_model", lambda run: export.export(run.model, "out", "onnx", version="\n\0")),
    ("confusion_of", "reader", "(8, 8, 1)", lambda run: evaluation.confusion_of(run.model, IMAGES)),
    ("", "inputs", "(None, 4, 8, 8, 1)", lambda run: evaluation.seconds_per_sequence(run.model, IMAGES.images)),
    ("answer_frames", "frames", "uint8", lambda run: predictor(run).answer_frames(STRIP)),
    ("frames", "", "4 frames", lambda run: predictor(run).answer_frames(IMAGES.images)),
    ("frames", "", "image files", lambda run: predictor(run).answer_images("0.png")),
    ("clip", "path", "a path", lambda run: predictor(run).answer_clip(3)),
    ("files", "", "list of paths", lambda run: demo.DemoAnswers(run).from_files(["0.png"])),
    ("DemoAnswers.steps", "frames", "uint8", lambda run: demo.DemoAnswers(run).steps(IMAGES.images[0])),
    ("", "lengths", "1 to 4", lambda run: models.beam_search(captioner(), FRAMES, lengths=[5])),
    ("", "width", "1,000", lambda run: models.beam_search(captioner(), FRAMES, 10**6, lengths=[4])),
]  # fmt: skip


@pytest.mark.parametrize(("function", "argument", "word", "call"), OF_RUNS)
def test_runs_and_models_refuse(function, argument, word, call, run):
    refused(lambda: call(run), function, argument, word)


def test_a_figure_is_as_large_as_it_is():
    assert plots.as_pixels(Figure(figsize=(1, 2), dpi=10)).shape == (20, 10, 4)
