"""Hostile arguments of what judges, explains, describes, draws and shows: see `hostile`."""

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hostile import ANYTHING, Either, call, examples, like, of, of_task, tried
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from keras_cnnlstm import (
    arguments,
    baselines,
    calibration,
    captions,
    clips,
    decoding,
    demo,
    demo_answers,
    describer,
    digit_reader,
    digits,
    drawings,
    evaluation,
    explanations,
    learning_curves,
    mistakes,
    models,
    objectives,
    plots,
    predictors,
    progress,
    report_figures,
    runs,
    scores,
    sentences,
    sources,
    tasks,
    tensorboard_images,
    timings,
    vocabulary,
)
from keras_cnnlstm.config import TrainConfig

SMALL = {"encoder": "small_cnn", "lstm_units": (2,)}
FRAME = (8, 8, 1)
IMAGES = digits.LabeledImages(np.zeros((20, *FRAME), np.uint8), np.arange(20) % 10)
CLIPS = [clips.Clip(Path(f"{c}/{i}"), c, f"{c}/{i}") for c in "ab" for i in range(3)]
CAPTIONS = {clip.name: f"it is {clip.class_name}" for clip in CLIPS}
TELLING = ("it rises", "it falls")
PATHS = of("no/such", "/dev/null/x", Path("no"))
TARGETS = {
    "targets": like((3,), "int64", "zeros"),
    "probabilities": like((3, 2), "float32", "ones"),
}
TASK = of(tasks.Trend(3), tasks.Digits(2), tasks.RunningSum(2), tasks.Text(2), tasks.Label())
UNFIT = ANYTHING.filter(lambda value: not arguments.is_whole(value, 1))
"""What nobody takes for a number of steps: with it no training begins."""


@functools.cache
def classifier():
    return models.cnn_lstm((4, *FRAME), 7, **SMALL)


@functools.cache
def reader():
    """Reads single images, as badly as one that was never trained."""
    return models.bag_of_frames((1, *FRAME), 10, encoder="small_cnn")


@functools.cache
def telling():
    return describer.describer((4, *FRAME), 6, 3, lengths=True, embedding=2, **SMALL)


@functools.cache
def speaker():
    return decoding.greedy_model(telling())


def a_run():
    return runs.Run(Path("run"), TrainConfig(**SMALL), classifier(), {})


def a_describer():
    config = TrainConfig(task="sentence", model="describer", **SMALL)
    return runs.Run(Path("run"), config, telling(), {})


@functools.cache
def answers():
    return demo_answers.DemoAnswers(a_run())


@functools.cache
def predictor():
    return predictors.run_predictor(a_run())


def batches():
    clips = tf.zeros((2, 4, *FRAME), tf.uint8)
    return tf.data.Dataset.from_tensors((clips, tf.zeros(2, tf.int64)))


def made(make, hostile=ANYTHING):
    """What is made when a case asks for it, or anything."""
    return Either(st.builds(make), hostile)


def ticking():
    """A clock that is a second on whenever it is looked at."""
    return itertools.count().__next__


@pytest.fixture(scope="module", autouse=True)
def toys():
    classifier(), speaker(), answers(), predictor()  # Keras draws seeds, which a strategy must not


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


POINT = st.tuples(*[st.sampled_from([0, 0.5, 1, 300, -1e7, "x", None]) | st.floats()] * 2)
STROKES = st.lists(st.lists(POINT | ANYTHING, max_size=4) | ANYTHING, max_size=3)
LINE = [[(0, 0), (0.5, 1)]]
SENTENCES = st.lists(st.text(max_size=9) | ANYTHING, max_size=3) | ANYTHING
RECALL = st.lists(st.none() | st.floats() | ANYTHING, max_size=3) | ANYTHING
RECALLS = st.dictionaries(st.text(max_size=3), RECALL, max_size=3) | ANYTHING

CASES = {
    "baselines.digit_reader": call(
        baselines.digit_reader,
        run=Either(st.builds(lambda: runs.Run(Path("x"), TrainConfig(data="d", task="clip"), None, {}))),
        steps=Either(st.just(0), UNFIT),
    ),
    "calibration.Calibration": call(
        calibration.Calibration, temperature=of(1.0, 0.5), unsure_below=of(0.5, 1),
        validation=of({}, {"a": 1.0}, {"a": "x"}),
    ),
    "calibration.Calibration.from_json": call(
        calibration.Calibration.from_json,
        text=of('{"temperature": 2}', "[]", "3", "9" * 5000, "[" * 10**5, hostile=ANYTHING | st.text(max_size=20)),
    ),
    "calibration.fit_temperature": call(calibration.fit_temperature, **TARGETS),
    "calibration.scaled": call(
        calibration.scaled, probabilities=like((3, 2), "float32", "ones"), temperature=of(1, 0.5, 1e-300),
    ),
    "calibration.negative_log_likelihood": call(calibration.negative_log_likelihood, **TARGETS),
    "calibration.reliability": call(calibration.reliability, **TARGETS, bins=of(1, 15)),
    "calibration.expected_calibration_error": call(
        calibration.expected_calibration_error, **TARGETS, bins=of(1, 15)
    ),
    "calibration.calibration_facts": call(
        calibration.calibration_facts, **TARGETS, temperature=of(1, 0.5), unsure_below=of(0.5)
    ),
    "calibration.softmax_head": call(calibration.softmax_head, model=made(classifier)),
    "calibration.scale_temperature": call(
        calibration.scale_temperature, model=made(telling), temperature=of(1.0)
    ),
    "captions.clip_sentences": call(captions.clip_sentences, root=PATHS),
    "captions.captioned": call(
        captions.captioned, clips=of(CLIPS, []), sentences=of(CAPTIONS, {}, {"a/0": "x"})
    ),
    "captions.caption_task": call(
        captions.caption_task, clips=of(CLIPS, CLIPS[:1]), length=of(1, 4),
        vocabulary=of(None, vocabulary.Vocabulary(("it",))),
    ),
    "decoding.greedy_model": call(decoding.greedy_model, model=Either(ANYTHING | st.builds(classifier))),
    "decoding.beam_search": call(
        decoding.beam_search, model=made(telling), frames=like((2, 4, *FRAME), "uint8"),
        width=of(1, 2), lengths=like((2,), "int32", "ones"),
    ),
    "demo.serve": call(demo.serve, run=PATHS, host=of("127.0.0.1", "localhost"), port=of(None, 1)),
    "demo_answers.DemoAnswers": call(demo_answers.DemoAnswers, run=Either(ANYTHING), reader=of(None)),
    "demo_answers.DemoAnswers.from_boxes": call(
        lambda boxes: list(answers().from_boxes(boxes)),
        boxes=of([], [[]], [LINE] * 2, [LINE] * 9, hostile=st.lists(STROKES, max_size=3) | ANYTHING),
    ),
    "demo_answers.DemoAnswers.from_files": call(
        lambda paths: list(answers().from_files(paths)),
        paths=of([Path("no.png")], [Path("no.gif")], [Path("a"), Path("b")]),
    ),
    "demo_answers.DemoAnswers.steps": call(
        lambda frames: list(answers().steps(frames)), frames=like((2, *FRAME), "uint8")
    ),
    "digit_reader.train_reader": call(
        digit_reader.train_reader, images=of(IMAGES), seed=of(0, 3), steps=Either(st.just(0), UNFIT)
    ),
    "digit_reader.digits_behind": call(digit_reader.digits_behind, task=TASK),
    "digit_reader.confusion_of": call(
        digit_reader.confusion_of, reader=Either(ANYTHING | st.builds(classifier)), images=of(IMAGES)
    ),
    "digit_reader.ceiling": call(
        digit_reader.ceiling, task=of(tasks.Trend(3, 2), tasks.Digits(2, 2), tasks.RunningSum(2, 2)),
        confusion=like((2, 2), "int64", "ones"),
    ),
    "drawings.look_of": call(drawings.look_of, dataset=of("digits", "mnist")),
    "drawings.draw_strokes": call(
        drawings.draw_strokes, strokes=of(LINE, [[(3, 4)]], hostile=STROKES | ANYTHING), pen=of(0.1, 1)
    ),
    "drawings.as_digit": call(
        drawings.as_digit, image=like((8, 8), "uint8"), image_size=of((8, 8), [5, 9]), look=of("mnist", "scan")
    ),
    "drawings.as_strip": call(
        drawings.as_strip, image=like((8, 8), "uint8"), image_size=of((8, 32), (32, 8), [5, 9])
    ),
    "evaluation.answers_of": call(
        evaluation.answers_of, model=Either(ANYTHING), sequences=made(batches)
    ),
    "evaluation.evaluate": call(
        evaluation.evaluate, run=Either(ANYTHING), num_sequences=of(None, 5), num_mistakes=of(0, 3)
    ),
    "evaluation.score": call(
        evaluation.score, model=made(classifier),
        tests=Either(st.sampled_from([{}, {"a": 3}, {1: None}, {"a": [1]}])), task=of(tasks.Trend(4)),
    ),
    "explanations.occlusion of a model": call(
        explanations.occlusion, model=Either(ANYTHING | st.builds(telling)), frames=like((1, 4, *FRAME), "uint8")
    ),
    "explanations.grad_cam of a model": call(
        explanations.grad_cam, model=Either(ANYTHING | st.builds(telling)), frames=like((1, 4, *FRAME), "uint8")
    ),
    "learning_curves.read_history": call(learning_curves.read_history, path=PATHS),
    "learning_curves.read_recalls": call(learning_curves.read_recalls, path=PATHS),
    "learning_curves.slowest_learned": call(
        learning_curves.slowest_learned, recalls=of({}, {"a": [0.5, None], "b": []}, hostile=RECALLS)
    ),
    "mistakes.wrong_sequences": call(
        mistakes.wrong_sequences, targets=like((3,), "int64", "zeros"), probabilities=like((3, 2), "float32"),
        counts=of(None),
    ),
    "mistakes.wrong_sequences at steps": call(
        mistakes.wrong_sequences, targets=like((2, 3), "int64", "zeros"),
        probabilities=like((2, 3, 2), "float32"), counts=like((2, 3), "bool", optional=True),
    ),
    "objectives.objective_for": call(objectives.objective_for, task=TASK),
    "plots.as_pixels": call(plots.as_pixels, figure=made(lambda: Figure(figsize=(1, 1)))),
    "predictors.open_predictor with beams": call(predictors.open_predictor, path=PATHS, beam=of(None, 2)),
    "predictors.run_predictor": call(
        predictors.run_predictor, run=made(a_describer, ANYTHING | st.builds(a_run)), beam=of(1, 3)
    ),
    "predictors.Predictor.answer_images": call(
        lambda **arguments: predictor().answer_images(**arguments), paths=of([], ["no.png"] * 4, [Path("no")] * 4)
    ),
    "predictors.Predictor.answer_clip": call(
        lambda **arguments: predictor().answer_clip(**arguments), path=of(Path("no"), "no.gif")
    ),
    "predictors.Predictor.answer_frames": call(
        lambda **arguments: predictor().answer_frames(**arguments), frames=like((4, *FRAME), "uint8")
    ),
    "progress.Progress": call(
        progress.Progress, epochs=of(1, 3), steps_per_epoch=of(2), batch_size=of(8), step=of(0, 5)
    ),
    "report_figures.recall_figure": call(
        report_figures.recall_figure, recalls=of({"a": [0.5, None], "b": []}, hostile=RECALLS),
        names=of(["a"], ["b", "a"], ["c"], []),
    ),
    "scores.sentence_scores": call(
        scores.sentence_scores, targets=like((2, 5), "int32"), words=like((2, 5), "int32"),
        names=of((*vocabulary.SPECIAL, "a"), [*vocabulary.SPECIAL, *"abcdefg"]),
    ),
    "sentences.number_word": call(sentences.number_word, number=of(0, 19, 20, 99)),
    "sentences.Caption": call(sentences.Caption, length=of(1), num_digits=of(2, 100)),
    "sentences.Sentence": call(sentences.Sentence, length=of(2, 32), num_digits=of(2, 100)),
    "sentences.Captions": call(
        sentences.Captions, class_names=of(TELLING, list(TELLING), ["", "a"], [" ", ""], ["a", "b " * 2000]),
        length=of(1, 16), min_length=of(1), vocabulary=of(None, vocabulary.Vocabulary(("it",))),
    ),
    "sentences.Caption.words": of_task(sentences.Caption, "words", labels=like((2,), "int64")),
    "sentences.Captions.words": of_task(
        lambda: sentences.Captions(TELLING), "words", labels=like((2,), "int64")
    ),
    "sentences.Sentence.words": of_task(sentences.Sentence, "words", digits=like((2, 4), "int64")),
    "sentences.Sentence.targets": of_task(sentences.Sentence, "targets", digits=like((2, 4), "int64")),
    "sources.digit_tests": call(
        sources.digit_tests, images=of(IMAGES), task=TASK, num_sequences=of(1, 5)
    ),
    "sources.open_source": call(
        sources.open_source, config=of(TrainConfig(data="no/such", task="clip"))
    ),
    "tensorboard_images.ValidationImages": call(
        tensorboard_images.ValidationImages, directory=of("events", hostile=st.just("/dev/null/x") | ANYTHING),
        data=made(batches), class_names=of(("a", "b"), ["a"]), examples=of(0, 2),
    ),
    "timings.seconds_per_sequence": call(
        timings.seconds_per_sequence, model=made(classifier), inputs=like((1, 4, *FRAME), "uint8"),
        batch_sizes=of((1,), [1, 2], hostile=ANYTHING.filter(lambda value: not isinstance(value, list | tuple)) | st.sampled_from([[0], ["x"], [1, 10**9], (-1, 5)])),
        repeats=of(1, 2), clock=Either(st.builds(ticking), st.builds(ticking)),
    ),
    "vocabulary.Vocabulary": call(vocabulary.Vocabulary, words=of(("a", "b"), ["a"], ["a", "a"], [""])),
    "vocabulary.Vocabulary.of": call(
        vocabulary.Vocabulary.of, sentences=of(["a b"], ("a", "b"), [], hostile=SENTENCES)
    ),
    "vocabulary.Vocabulary.encode": call(
        vocabulary.Vocabulary(("a", "b")).encode, sentence=of("a b", "a, c", hostile=ANYTHING | st.text()),
        max_words=of(5, 2),
    ),
    "vocabulary.Vocabulary.from_json": call(
        vocabulary.Vocabulary.from_json,
        text=of('["a"]', "[]", "{}", "[1]", "9" * 5000, "[" * 10**5, hostile=ANYTHING | st.text(max_size=20)),
    ),
    "vocabulary.split": call(vocabulary.split, sentence=of("a b", "", hostile=ANYTHING | st.text())),
    "vocabulary.pieces": call(vocabulary.pieces, names=of(["a"], ("a", ",")),),
    "vocabulary.join": call(
        vocabulary.join, numbers=like((3,), "int64"), names=of([*vocabulary.SPECIAL, "a"])
    ),
}  # fmt: skip
BUILT = {
    "describer.describer": call(
        describer.describer, input_shape=of((2, *FRAME), (None, *FRAME), FRAME, [2, *FRAME]),
        vocabulary_size=of(5, 6), max_words=of(2, 4), encoder=of("small_cnn"), lstm_units=of((2,), [2, 2]),
        bidirectional=of(False, hostile=st.just(True)), embedding=of(2), attention=of(True, False),
        dropout=of(0.0, 0.5), lengths=of(False, hostile=st.just(True)), name=of("m", hostile=st.just("x")),
    ),
}  # fmt: skip
# What errors name in place of an argument.
NAMED_BY = {
    "calibration.Calibration.from_json": ["calibration"],
    "calibration.calibration_facts": ["targets"],
    "captions.caption_task": ["captions"],
    "demo.serve": ["gradio", "no/such", "no", "/dev/null/x"],
    "demo_answers.DemoAnswers.from_boxes": ["strokes", "image"],
    "demo_answers.DemoAnswers.from_files": ["files", "no.png", "no.gif", "a", "b"],
    "predictors.Predictor.answer_images": ["frames", "no.png", "no"],
    "sources.open_source": ["data", "no/such"],
    "tensorboard_images.ValidationImages": ["/dev/null/x"],
    "vocabulary.Vocabulary.of": ["words"],
    "vocabulary.Vocabulary.from_json": ["words"],
}


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
@examples(10)
def test_arguments(name, data, ends_well):
    tried(CASES[name], data, ends_well, NAMED_BY.get(name, ()))


@pytest.mark.parametrize("name", BUILT)
@given(data=st.data())
@examples(6)
def test_arguments_of_models(name, data, ends_well):
    tried(BUILT[name], data, ends_well)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
@examples(100)
def test_many_arguments(name, data, ends_well):
    tried(CASES[name], data, ends_well, NAMED_BY.get(name, ()))


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT)
@given(data=st.data())
@examples(60)
def test_many_arguments_of_models(name, data, ends_well):
    tried(BUILT[name], data, ends_well)
