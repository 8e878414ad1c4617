"""What is said of hostile arguments of what judges, describes, draws and shows, word by word."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from matplotlib.figure import Figure

from keras_cnnlstm import calibration, captions, clips, drawings, sentences, vocabulary
from keras_cnnlstm.baselines import digit_reader
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.decoding import beam_search
from keras_cnnlstm.demo import serve
from keras_cnnlstm.demo_answers import DemoAnswers
from keras_cnnlstm.describer import describer
from keras_cnnlstm.digit_reader import ceiling, confusion_of, digits_behind, train_reader
from keras_cnnlstm.digits import LabeledImages
from keras_cnnlstm.evaluation import answers_of, evaluate, score
from keras_cnnlstm.explanations import grad_cam
from keras_cnnlstm.learning_curves import read_recalls, slowest_learned
from keras_cnnlstm.mistakes import wrong_sequences
from keras_cnnlstm.models import cnn_lstm
from keras_cnnlstm.objectives import objective_for
from keras_cnnlstm.plots import as_pixels
from keras_cnnlstm.predictors import run_predictor
from keras_cnnlstm.progress import Progress
from keras_cnnlstm.report_figures import recall_figure
from keras_cnnlstm.runs import Run
from keras_cnnlstm.sources import open_source
from keras_cnnlstm.tasks import Trend
from keras_cnnlstm.tensorboard_images import ValidationImages
from keras_cnnlstm.timings import seconds_per_sequence

IMAGES = LabeledImages(np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 10)
CLIPS = [clips.Clip(Path(f"{c}/1"), c, f"{c}/1") for c in "ab"]
TRUTH, SURE = np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]])
NONE = tf.data.Dataset.from_tensors(np.zeros((1, 2)))
NAMES = (*vocabulary.SPECIAL, "a")
SMALL = {"encoder": "small_cnn", "lstm_units": (2,)}


def small():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


@pytest.fixture(scope="module")
def model():
    return cnn_lstm((4, 8, 8, 1), 7, **SMALL)


@pytest.fixture(scope="module")
def run(model):
    return Run(Path("run"), TrainConfig(**SMALL), model, {})


REFUSED = {
    r"digit_reader: `run` must be a Run, as load_run reads it; received 3": lambda: digit_reader(3),
    r"calibration: expected a JSON object of \['temperature', .*; received '\[\]'\. Calib": lambda: (
        calibration.Calibration.from_json("[]")
    ),
    r"calibration: expected a JSON object .*; received '\{\"a\": 1\}'": lambda: (
        calibration.Calibration.from_json('{"a": 1}')
    ),
    r"calibration: expected a JSON object .*; received '9{100,}\.\.\.": lambda: (
        calibration.Calibration.from_json("9" * 5000)
    ),
    r"calibration: `temperature` must be 0.05 to 20; received nan": lambda: (
        calibration.Calibration.from_json("{}")
    ),
    r"scaled: `probabilities` must be numbers; received <U1": lambda: calibration.scaled(["x"], 1),
    r"scaled: `probabilities` must be one or more; received shape \(0,\)": lambda: (
        calibration.scaled([], 1)
    ),
    r"scale_temperature: `temperature` must be over 0; received inf": lambda: (
        calibration.scale_temperature(None, np.inf)
    ),
    r"softmax_head: `model` must be a keras.Model; received 3": lambda: calibration.softmax_head(3),
    r"reliability: `probabilities` must be 0 to 1; received 0.1 to 3\. Take the softmax": lambda: (
        calibration.reliability(TRUTH, [[0.9, 0.1], [0.2, 3.0]])
    ),
    r"calibration: `unsure_below` must be a probability, 0 to 1; received 2": lambda: (
        calibration.calibration_facts(TRUTH, SURE, 1.0, 2)
    ),
    r"captioned: `sentences` must be sentences by the names of clips; received 'x'": lambda: (
        captions.captioned(CLIPS, "x")
    ),
    r"captioned: `sentences` .*; it has none for 'b/1' and 0 others\. Take clip_sent": lambda: (
        captions.captioned(CLIPS, {"a/1": "x"})
    ),
    r"captions: expected two different sentences or more; received \('a',\)": lambda: (
        captions.caption_task(CLIPS[:1], length=1)
    ),
    r"Captions: `class_names` must be sentences of 1 to 999 words and .* \('a', ' '\)": lambda: (
        sentences.Captions(("a", " "))
    ),
    r"Captions.words: `labels` must be integers \(B,\), 0 to 1; received array\(\[2\]\)": lambda: (
        sentences.Captions(("a", "b")).words(np.array([2]))
    ),
    r"number_word: `number` must be 0 or more; received 100\. .* 99 at most": lambda: (
        sentences.number_word(100)
    ),
    r"Vocabulary.of: `sentences` must be a list or tuple of names; received 'a text by itself'": lambda: (
        vocabulary.Vocabulary.of("a text by itself")
    ),
    r"Vocabulary.of: `sentences` must be a list or tuple of names; received array\(3\)": lambda: (
        vocabulary.Vocabulary.of(np.array(3))
    ),
    r"Vocabulary.of: `sentences` must be a list or tuple of names; received \[1\]": lambda: (
        vocabulary.Vocabulary.of([1])
    ),
    r"pieces: `names` must be a list or tuple of names; received 3": lambda: vocabulary.pieces(3),
    r"train_reader: `seed` must be 0 or more; received -1": lambda: train_reader(IMAGES, seed=-1),
    r"digits_behind: `task` must be a task on digits, as Trend\(4\); received 3": lambda: (
        digits_behind(3)
    ),
    r"ceiling: `task` must be a task on digits": lambda: ceiling("x", np.eye(2)),
    r"confusion_of: `reader` must be a keras.Model; received None": lambda: (
        confusion_of(None, IMAGES)
    ),
    r"look_of: `dataset` must be the name of a data set; received None": lambda: (
        drawings.look_of(None)
    ),
    r"as_strip: `image_size` must be height and width in pixels, 4 to 65,536; received 8": lambda: (
        drawings.as_strip(IMAGES.images[0], 8)
    ),
    r"host: expected a name or address of this machine; received 'a b' \(.*\)\. Leave it": lambda: (
        serve("run", host="a b")
    ),
    r"serve: `run` must be a path; received 3": lambda: serve(3),
    r"DemoAnswers: `run` must be a Run, as load_run reads it; received 'run'": lambda: (
        DemoAnswers("run")
    ),
    r"answers_of: `sequences` must be a tf.data.Dataset; received \[\]": lambda: (
        answers_of(keras.Sequential(), [])
    ),
    r"evaluate: `run` must be a Run, as load_run reads it; received 'run'": lambda: evaluate("run"),
    r"score: `task` must be the task of the model, such as Trend\(4\); received 3": lambda: (
        score(keras.Sequential(), {}, 3)
    ),
    r"score: `tests` must be of data sets, each a tf.data.Dataset; received 1": lambda: (
        score(keras.Sequential(), {"natural": 1}, Trend(4))
    ),
    r"grad_cam: `model` must be a keras.Model; received None": lambda: grad_cam(None, IMAGES.images),
    r"read_recalls: `path` must be a path; received None": lambda: read_recalls(None),
    r"slowest_learned: `recalls` must be 0 to 1 or None, .* received \[nan\] for 'a'": lambda: (
        slowest_learned({"a": [np.nan]})
    ),
    r"recall_figure: `names` must be one or more of `recalls`, .* received \['b'\] for": lambda: (
        recall_figure({"a": [0.5]}, ["b"])
    ),
    r"wrong_sequences: `targets` must have shape .* received \(2,\) and \(1, 2\)": lambda: (
        wrong_sequences(TRUTH, SURE[:1])
    ),
    r"wrong_sequences: `counts` must be boolean of shape \(2,\), .* received int64 of \(2,\)": lambda: (
        wrong_sequences(TRUTH, SURE, TRUTH)
    ),
    r"objective_for: `task` must be a task, such as Trend\(4\); received 'trend'": lambda: (
        objective_for("trend")
    ),
    r"as_pixels: `figure` must be a figure of matplotlib; received 3": lambda: as_pixels(3),
    r"run_predictor: `run` must be a Run, as load_run reads it; received 3": lambda: (
        run_predictor(3)
    ),
    r"Progress: `steps_per_epoch` must be 1 or more; received 0": lambda: Progress(1, 0, 8),
    r"Progress: `step` must be 0 or more; received -1": lambda: Progress(1, 1, 8, step=-1),
    r"open_source: `config` must be a TrainConfig, .*; received None": lambda: open_source(None),
    r"ValidationImages: `data` must be a tf.data.Dataset; received \[\]": lambda: (
        ValidationImages("events", [], ("a", "b"))
    ),
    r"ValidationImages: `examples` must be 0 or more; received -1": lambda: (
        ValidationImages("events", NONE, ("a", "b"), examples=-1)
    ),
    r"ValidationImages: `directory` must be one that can be written; .*/dev/null/x": lambda: (
        ValidationImages("/dev/null/x", tf.data.Dataset.from_tensors((TRUTH, TRUTH[:, None])), ("a",))
    ),
    r"seconds_per_sequence: `model` must be one; received 3": lambda: (
        seconds_per_sequence(3, IMAGES.images)
    ),
    r"seconds_per_sequence: `batch_sizes` must be a list of sizes; received 3": lambda: (
        seconds_per_sequence(small(), np.zeros((1, 2)), batch_sizes=3)
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_said(message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=f"^{message}") as raised:
        REFUSED[message]()
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_reader_of_other_images(model):
    with pytest.raises(
        ValueError, match=r"^confusion_of: `reader` must read images \(8, 8, 1\) of 10"
    ):
        confusion_of(model, IMAGES)


def test_inputs_that_a_model_does_not_take(model):
    with pytest.raises(
        ValueError, match=r"`inputs` must be uint8 of shape \(None, 4, 8, 8, 1\) for "
    ):
        seconds_per_sequence(model, IMAGES.images)


def test_what_a_predictor_cannot_answer(run):
    predictor = run_predictor(run)
    with pytest.raises(
        ValueError, match=r"^answer_frames: `frames` must be uint8 of shape \(n, 8, 8"
    ):
        predictor.answer_frames(np.zeros((4, 8, 9, 1), np.uint8))
    with pytest.raises(ValueError, match=r"^frames: expected 4 frames; received 20"):
        predictor.answer_frames(IMAGES.images)
    with pytest.raises(
        ValueError, match=r"^frames: expected a list of image files; received '0\.png'"
    ):
        predictor.answer_images("0.png")
    with pytest.raises(ValueError, match=r"^clip: `path` must be a path; received 3"):
        predictor.answer_clip(3)


def test_what_the_page_cannot_answer(run):
    page = DemoAnswers(run)
    with pytest.raises(ValueError, match=r"^files: expected a list of paths; received \['0.png'\]"):
        page.from_files(["0.png"])
    with pytest.raises(ValueError, match=r"^DemoAnswers\.steps: `frames` must be uint8 of shape"):
        page.steps(IMAGES.images[0])


def test_what_a_describer_cannot_say(run):
    telling = describer((4, 8, 8, 1), 6, 3, lengths=True, embedding=2, **SMALL)
    frames = np.zeros((1, 4, 8, 8, 1), np.uint8)
    with pytest.raises(
        ValueError, match=r"`lengths` must be whole numbers of shape \(1,\), 1 to 4"
    ):
        beam_search(telling, frames, lengths=[5])
    with pytest.raises(ValueError, match=r"`width` must be 1 or more; .* 1,000 at most"):
        beam_search(telling, frames, 10**6, lengths=[4])


def test_a_figure_is_as_large_as_it_is():
    assert as_pixels(Figure(figsize=(1, 2), dpi=10)).shape == (20, 10, 4)
