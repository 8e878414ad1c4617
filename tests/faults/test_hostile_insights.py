"""Hostile arguments of what judges, explains, describes, draws and shows: see `hostile`."""

import functools
import itertools
from pathlib import Path

import pytest
import tensorflow as tf
from hostile import (
    ANYTHING,
    CLIPS,
    IMAGES,
    PATHS,
    SMALL,
    Either,
    call,
    draw_cases,
    few_and_many,
    like,
    made,
    method,
    of,
    run_of,
    table,
    tried,
)
from hypothesis import strategies as st
from matplotlib.figure import Figure

from keras_cnnlstm import data, demo, evaluation, export, models, plots, tasks, training
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.tasks.vocabulary import SPECIAL
from keras_cnnlstm.utils.validation import is_integer

FRAME = (8, 8, 1)
CAPTIONS = {clip.name: f"it is {clip.class_name}" for clip in CLIPS}
TWO_CAPTIONS = ("it rises", "it falls")
PATHS = of(*PATHS)
TARGETS = {
    "targets": like((3,), "int64", "zeros"),
    "probabilities": like((3, 2), "float32", "ones"),
}
TASK = of(tasks.Trend(3), tasks.Digits(2), tasks.RunningSum(2), tasks.Text(2), tasks.Label())
UNFIT = ANYTHING.filter(lambda value: not is_integer(value, 1))
"""What nobody takes for a number of steps: with it no training begins."""


@functools.cache
def classifier():
    return models.cnn_lstm((4, *FRAME), 7, **SMALL)


@functools.cache
def tiny_reader():
    """Reads single images, as badly as one that was never trained."""
    return models.bag_of_frames((1, *FRAME), 10, encoder="small_cnn")


@functools.cache
def telling():
    return models.captioner((4, *FRAME), 6, 3, lengths=True, embedding=2, **SMALL)


@functools.cache
def speaker():
    return models.greedy_model(telling())


@functools.cache
def a_run():
    return run_of(classifier(), tasks.Trend(4), TrainConfig(**SMALL))


@functools.cache
def a_captioner():
    config = TrainConfig(task="caption", model="captioner", data="./clips", **SMALL)
    return run_of(telling(), tasks.ClipCaption(("a", "b")), config)


@functools.cache
def answers():
    return demo.DemoAnswers(a_run())


@functools.cache
def a_predictor():
    return export.run_predictor(a_run())


def batches():
    clips = tf.zeros((2, 4, *FRAME), tf.uint8)
    return tf.data.Dataset.from_tensors((clips, tf.zeros(2, tf.int64)))


def ticking():
    """A clock that is a second on whenever it is looked at."""
    return itertools.count().__next__


@pytest.fixture(scope="module", autouse=True)
def toys():
    return classifier(), speaker(), answers(), a_predictor()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


POINT = st.tuples(*[st.sampled_from([0, 0.5, 1, 300, -1e7, "x", None]) | st.floats()] * 2)
STROKES = st.lists(st.lists(POINT | ANYTHING, max_size=4) | ANYTHING, max_size=3)
LINE = [[(0, 0), (0.5, 1)]]
SENTENCES = st.lists(st.text(max_size=9) | ANYTHING, max_size=3) | ANYTHING
RECALL = st.lists(st.none() | st.floats() | ANYTHING, max_size=3) | ANYTHING
RECALLS = st.dictionaries(st.text(max_size=3), RECALL, max_size=3) | ANYTHING

CASES = table(
    call(
        evaluation.digit_reader,
        run=Either(st.builds(lambda: training.Run(Path("x"), TrainConfig(data="./d", task="clip"), None, {}))),
        steps=Either(st.just(0), UNFIT)
    ),
    call(
        models.Calibration, temperature=of(1.0, 0.5), confidence_threshold=of(0.5, 1),
        validation=of({}, {"a": 1.0}, {"a": "x"})
    ),
    call(
        models.Calibration.from_json, named_by=["calibration"],
        text=of('{"temperature": 2}', "[]", "3", "9" * 5000, "[" * 10**5, hostile=ANYTHING | st.text(max_size=20))
    ),
    call(models.fit_temperature, **TARGETS),
    call(
        models.scaled, probabilities=like((3, 2), "float32", "ones"),
        temperature=of(1, 0.5, 1e-300)
    ),
    call(models.negative_log_likelihood, **TARGETS),
    call(models.reliability, **TARGETS, bins=of(1, 15)),
    call(models.expected_calibration_error, **TARGETS, bins=of(1, 15)),
    call(
        models.calibration_facts, named_by=["targets"], **TARGETS, temperature=of(1, 0.5),
        confidence_threshold=of(0.5)
    ),
    call(models.softmax_head, model=made(classifier)),
    call(models.scale_temperature, model=made(telling), temperature=of(1.0)),
    call(data.clip_captions, root=PATHS),
    call(data.captioned, clips=of(CLIPS, []), captions=of(CAPTIONS, {}, {"a/0": "x"})),
    call(
        data.caption_task, named_by=["captions"], clips=of(CLIPS, CLIPS[:1]), length=of(1, 4),
        vocabulary=of(None, tasks.Vocabulary(("it",)))
    ),
    call(models.greedy_model, model=made(classifier)),
    call(
        models.beam_search, model=made(telling), frames=like((2, 4, *FRAME), "uint8"),
        width=of(1, 2), lengths=like((2,), "int32", "ones")
    ),
    call(
        demo.serve, named_by=["gradio", "no/such", "no", "/dev/null/x"], run=PATHS,
        host=of("127.0.0.1", "localhost"), port=of(None, 1)
    ),
    call(demo.DemoAnswers, run=Either(ANYTHING), reader=of(None)),
    method(
        "session.DemoAnswers.from_boxes", answers, named_by=["strokes", "image"],
        boxes=of([], [[]], [LINE] * 2, [LINE] * 9, hostile=st.lists(STROKES, max_size=3) | ANYTHING)
    ),
    method(
        "session.DemoAnswers.from_files", answers,
        named_by=["files", "no.png", "no.gif", "a", "b"],
        paths=of([Path("no.png")], [Path("no.gif")], [Path("a"), Path("b")])
    ),
    method("session.DemoAnswers.steps", answers, frames=like((2, *FRAME), "uint8")),
    call(evaluation.train_reader, images=of(IMAGES), seed=of(0, 3), steps=Either(st.just(0), UNFIT)),
    call(evaluation.confusion_of, reader=made(classifier), images=of(IMAGES)),
    *[
        method(
            f"digit_task.{task.__name__}.ceiling", functools.partial(task, 3, 2),
            confusion=like((2, 2), "int64", "ones")
        )
        for task in (tasks.Trend, tasks.Digits, tasks.RunningSum)
    ],
    call(demo.look_of, dataset=of("digits", "mnist")),
    call(
        demo.draw_strokes, strokes=of(LINE, [[(3, 4)]], hostile=STROKES | ANYTHING),
        pen=of(0.1, 1)
    ),
    call(
        demo.as_digit, image=like((8, 8), "uint8"), image_size=of((8, 8), [5, 9]),
        look=of("mnist", "scan")
    ),
    call(demo.as_strip, image=like((8, 8), "uint8"), image_size=of((8, 32), (32, 8), [5, 9])),
    call(training.answers_of, model=Either(ANYTHING), sequences=made(batches)),
    call(
        evaluation.evaluate, run=Either(ANYTHING), num_sequences=of(None, 5), num_mistakes=of(0, 3)
    ),
    call(
        training.score, model=made(classifier),
        tests=Either(st.sampled_from([{}, {"a": 3}, {1: None}, {"a": [1]}])),
        task=of(tasks.Trend(4))
    ),
    call(
        "explanations.occlusion of a model", evaluation.occlusion,
        model=made(telling), frames=like((1, 4, *FRAME), "uint8")
    ),
    call(
        "explanations.grad_cam of a model", evaluation.grad_cam,
        model=made(telling), frames=like((1, 4, *FRAME), "uint8")
    ),
    call(evaluation.read_history, path=PATHS),
    call(evaluation.read_recalls, path=PATHS),
    call(
        evaluation.slowest_learned,
        recalls=of({}, {"a": [0.5, None], "b": []}, hostile=RECALLS)
    ),
    call(
        evaluation.wrong_sequences, targets=like((3,), "int64", "zeros"),
        probabilities=like((3, 2), "float32"), mask=of(None)
    ),
    call(
        "mistakes.wrong_sequences at steps", evaluation.wrong_sequences,
        targets=like((2, 3), "int64", "zeros"), probabilities=like((2, 3, 2), "float32"),
        mask=like((2, 3), "bool", optional=True)
    ),
    call(training.objective_for, task=TASK),
    call(plots.as_pixels, figure=made(lambda: Figure(figsize=(1, 1)))),
    call(
        "predictor.open_predictor with beams", export.open_predictor, path=PATHS,
        beam=of(None, 2)
    ),
    call(
        export.run_predictor, run=made(a_captioner, ANYTHING | st.builds(a_run)), beam=of(1, 3)
    ),
    method(
        "predictor.Predictor.answer_images", a_predictor, named_by=["frames", "no.png", "no"],
        paths=of([], ["no.png"] * 4, [Path("no")] * 4)
    ),
    method(
        "predictor.Predictor.answer_clip", a_predictor, named_by=["frames"],
        path=of(Path("no"), "no.gif")
    ),
    method(
        "predictor.Predictor.answer_clips", a_predictor,
        paths=of([], [Path("no"), "no.gif", 3, "\0"])
    ),
    method("predictor.Predictor.answer_frames", a_predictor, frames=like((4, *FRAME), "uint8")),
    call(
        training.Progress, epochs=of(1, 3), steps_per_epoch=of(2), batch_size=of(8), step=of(0, 5)
    ),
    call(
        plots.recall_figure, recalls=of({"a": [0.5, None], "b": []}, hostile=RECALLS),
        names=of(["a"], ["b", "a"], ["c"], [])
    ),
    call(
        tasks.caption_scores, targets=like((2, 5), "int32"), tokens=like((2, 5), "int32"),
        names=of((*SPECIAL, "a"), [*SPECIAL, *"abcdefg"])
    ),
    call(tasks.number_word, number=of(0, 19, 20, 99)),
    call(tasks.DigitCaption, length=of(1), num_digits=of(2, 100)),
    call(tasks.TrendCaption, length=of(2, 32), num_digits=of(2, 100)),
    call(
        tasks.ClipCaption,
        class_names=of(TWO_CAPTIONS, list(TWO_CAPTIONS), ["", "a"], [" ", ""], ["a", "b " * 2000]),
        length=of(1, 16), min_length=of(1), vocabulary=of(None, tasks.Vocabulary(("it",)))
    ),
    method("tokens", tasks.DigitCaption, labels=like((2,), "int64")),
    method(
        "captions.ClipCaption.tokens", lambda: tasks.ClipCaption(TWO_CAPTIONS),
        labels=like((2,), "int64")
    ),
    method("tokens", tasks.TrendCaption, digits=like((2, 4), "int64")),
    method("targets", tasks.TrendCaption, digits=like((2, 4), "int64")),
    call(data.digit_tests, images=of(IMAGES), task=TASK, num_sequences=of(1, 5)),
    call(
        data.open_source, named_by=["data", "no/such"],
        config=of(TrainConfig(data="./no/such", task="clip"))
    ),
    call(
        training.ValidationImages, named_by=["/dev/null/x"],
        directory=of("events", hostile=st.just("/dev/null/x") | ANYTHING), data=made(batches),
        task=TASK, examples=of(0, 2)
    ),
    call(
        evaluation.seconds_per_sequence, model=made(classifier),
        inputs=like((1, 4, *FRAME), "uint8"),
        batch_sizes=of((1,), [1, 2], hostile=ANYTHING.filter(lambda value: not isinstance(value, list | tuple)) | st.sampled_from([[0], ["x"], [1, 10**9], (-1, 5)])),
        repeats=of(1, 2), clock=Either(st.builds(ticking), st.builds(ticking))
    ),
    call(tasks.Vocabulary, tokens=of(("a", "b"), ["a"], ["a", "a"], [""])),
    call(
        tasks.Vocabulary.of, named_by=["tokens"],
        captions=of(["a b"], ("a", "b"), [], hostile=SENTENCES)
    ),
    call(
        tasks.Vocabulary(("a", "b")).encode,
        caption=of("a b", "a, c", hostile=ANYTHING | st.text()), max_tokens=of(5, 2)
    ),
    call(
        tasks.Vocabulary.from_json, named_by=["tokens"],
        text=of('["a"]', "[]", "{}", "[1]", "9" * 5000, "[" * 10**5, hostile=ANYTHING | st.text(max_size=20))
    ),
    call(tasks.split, caption=of("a b", "", hostile=ANYTHING | st.text())),
    call(tasks.pieces, names=of(["a"], ("a", ","))),
    call(tasks.join, numbers=like((3,), "int64"), names=of([*SPECIAL, "a"])),
)  # fmt: skip
BUILT = table(
    call(
        models.captioner, input_shape=of((2, *FRAME), (None, *FRAME), FRAME, [2, *FRAME]),
        vocabulary_size=of(5, 6), max_tokens=of(2, 4), encoder=of("small_cnn"),
        lstm_units=of((2,), [2, 2]), bidirectional=of(False, hostile=st.just(True)),
        embedding=of(2), attention=of(True, False), dropout=of(0.0, 0.5),
        lengths=of(False, hostile=st.just(True)), name=of("m", hostile=st.just("x"))
    ),
)  # fmt: skip


@few_and_many(10, 100)
@pytest.mark.parametrize("name", CASES)
def test_arguments(name, number, ends_well):
    draw_cases(number, lambda draws: tried(CASES[name], draws, ends_well))


@few_and_many(6, 60)
@pytest.mark.parametrize("name", BUILT)
def test_arguments_of_models(name, number, ends_well):
    draw_cases(number, lambda draws: tried(BUILT[name], draws, ends_well))
