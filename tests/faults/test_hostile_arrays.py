"""Whatever is given to a public function, it returns, or raises one line that names the argument.

Each entry of `CASES` is a function with a strategy for each of its arguments.
"""

import functools
import math

import keras
import numpy as np
import pytest
from hostile import (
    ANYTHING,
    CLIPS,
    IMAGES,
    Either,
    call,
    draw_cases,
    few_and_many,
    like,
    method,
    of,
    table,
    toy,
    tried,
)
from hypothesis import strategies as st

from keras_cnnlstm import data, evaluation, models, plots, runtime, tasks
from keras_cnnlstm.data.clips import SAMPLINGS
from keras_cnnlstm.tasks.answers import best_path
from keras_cnnlstm.training import FeatureCache

AUGMENTATION = of(data.Augmentation(), data.Augmentation(affine=0.5, elastic=0.5, erasing=0.5))
ENCODED = data.EncodedImages(np.zeros((20, 3), np.float32), np.arange(20) % 10)
RNG = Either(st.builds(np.random.default_rng, st.just(0)))
NAMES = of(("a", "b"), ["a", "b"], ("a", "b", "c"))
MODEL = {
    "num_classes": of(2, 3),
    "dropout": of(0.0, 0.25),
    "name": of("m", "model", hostile=st.sampled_from([None, 3, "", "a/b"])),
}
SEQUENCE = {**MODEL, "input_shape": of((2, 8, 8, 1), (None, 8, 8, 3), (2, 16, 1), [2, 8, 8, 1])}
LSTMS = {"lstm_units": of((3,), (2, 2), [3])}
SWITCH = of(False, True, hostile=st.just(True))
STATES = {
    "initial_state": SWITCH, "return_state": SWITCH, "stateful": SWITCH,
    "batch_size": of(None, 2),
}  # fmt: skip
IMAGE = {**MODEL, "input_shape": of((8, 8, 1), (8, 16, 3), [8, 8, 1])}
STATE = Either(
    *[
        st.fixed_dictionaries(
            {name: getattr(like((2, 2), "float32"), how) for name in ("lstm1_h", "lstm1_c")}
        )
        for how in Either._fields
    ]
)
DIGIT_TASKS = [tasks.Trend, tasks.Digits, tasks.RunningSum, tasks.Text]


@functools.cache
def stream():
    return models.Stream(toy())


@functools.cache
def encoder():
    encoder = models.split_model(models.cnn_lstm((None, 8, 8, 1), 2, lstm_units=(2,))).frame_encoder
    encoder.trainable = False
    return encoder


@pytest.fixture(scope="module", autouse=True)
def toys():
    return toy(), stream(), encoder()


CASES = table(
    *[
        call(task, length=of(1, 4, 32), num_digits=of(2, 10, 100), **more)
        for task, more in [
            (tasks.Trend, {}),
            (tasks.Label, {}),
            *[(t, {"min_length": of(None, 1, 2)}) for t in DIGIT_TASKS[1:]],
        ]
    ],
    call(tasks.Classes, class_names=NAMES, length=of(1, 16), min_length=of(1)),
    *[
        method(name, task, **arguments)
        for task in DIGIT_TASKS
        for name, arguments in [
            ("targets", {"digits": like((2, 4), "int64")}),
            ("draw", {"uniforms": like((2, 6), "float64", "zeros"), "balance": of(0.0, 0.5)}),
        ]
    ],
    method(
        "sample", tasks.Trend, num_sequences=of(0, 2, 3), rng=RNG,
        labels=like((3,), "int64", "zeros")
    ),
    method(
        "digits_for", tasks.Trend, labels=like((2,), "int64"),
        uniforms=like((2, 4), "float64", "zeros")
    ),
    call(data.LabeledImages, images=like((3, 8, 8, 1), "uint8"), labels=like((3,), "int64")),
    call(data.EncodedImages, features=like((3, 5), "float32"), labels=like((3,), "int64")),
    call(
        data.load_digits, name=of("", "no_such", "a/b/c", "../x", "\0", "é", "x:1"),
        data_dir=of(None, "/no/such/folder", hostile=st.just("\0"))
    ),
    call(
        data.Augmentation, affine=of(0.0, True, 0.5), elastic=of(0.0, 0.5), erasing=of(0.0, 0.5),
        probability=of(0.0, 0.5)
    ),
    call(
        data.digit_sequences, images=of(IMAGES, ENCODED),
        task=of(tasks.Trend(3), tasks.Digits(2)), batch_size=of(1, 4), seed=of(0, -3),
        balance=of(None, 0.5), num_sequences=of(None, 5), augmentation=AUGMENTATION, start=of(0, 3)
    ),
    call(
        data.augmented_copy, images=of(IMAGES), number=of(0, 3), seed=of(0, -3),
        augmentation=AUGMENTATION
    ),
    call(
        data.digit_strips, images=of(IMAGES), task=of(tasks.Text(3)), batch_size=of(1, 4),
        seed=of(0, 5)
    ),
    call(
        data.labeled_images, images=of(IMAGES), batch_size=of(1, 4), seed=of(None, 0),
        augmentation=AUGMENTATION, start=of(0, 3)
    ),
    call(
        data.sample_indices, num_frames=of(1, 9), length=of(None, 1, 4),
        sampling=of(*SAMPLINGS), stride=of(1, 2), rng=Either(st.none() | RNG.fitting),
        rate=of(None, 30.0), frames_per_second=of(None, 8)
    ),
    call(
        data.clip_sequences, clips=of(CLIPS, CLIPS[:1]), image_size=of((8, 8), [8, 9]),
        length=of(None, 4), batch_size=of(1, 3), sampling=of(*SAMPLINGS), stride=of(1, 2),
        channels=of(1, 3), fit=of("crop", "stretch"), frames_per_second=of(None, 8.0),
        seed=of(None, 0, -5), class_names=of(None, ("a", "b")),
        affine=of(0.0, 0.5), flip=SWITCH, start=of(0, 2),
        split=of(None, hostile=st.sampled_from(["train", "x", 3]))
    ),
    call(
        data.split_clips, clips=of(CLIPS, CLIPS[:3], CLIPS * 2),
        shares=of((0.7, 0.15, 0.15), (0.5, 0, 0.5)),
        groups=of(None, r"^(.)", "(", "(a)|(b)", "[", "(?P<x>", "x" * 300), seed=of(0, 1)
    ),
    call(
        data.fold_splits, clips=of(CLIPS, CLIPS[:3], CLIPS * 2), folds=of(2, 3),
        groups=of(None, r"^(.)", "(", "x" * 300), seed=of(0, 1)
    ),
    call(
        data.moving_digits, images=of(IMAGES),
        num_images=of(1, 2), canvas=of(12, 20), min_frames=of(3, 4), max_frames=of(4, 9),
        seed=of(0, 1)
    ),
    call(
        runtime.check_memory, model=Either(st.builds(toy)), together=of(1, 3), batch_size=of(1, 8),
        time=of(4, 1), limit=of(None, 10**9, 1)
    ),
    call(
        runtime.activation_memory, model=Either(st.builds(toy)), batch_size=of(1, 8), time=of(4, 1)
    ),
    call(models.Stream, model=Either(ANYTHING)),
    method("streaming.Stream.initial_state", stream, batch=of(1, 3)),
    method("streaming.Stream.step", stream, frame=like((2, 8, 8, 1), "uint8"), state=STATE),
    method("streaming.Stream.reset", stream, where=like((2,), "bool"), state=STATE),
    call(models.FrameStream, model=Either(st.builds(stream)), class_names=NAMES),
    method(
        "streaming.FrameStream.push", lambda: models.FrameStream(stream()),
        frame=like((8, 8, 1), "uint8")
    ),
    call(
        tasks.scores, targets=like((3,), "int64", "zeros"),
        probabilities=like((3, 2), "float32", "ones"), class_names=NAMES
    ),
    call(
        tasks.step_scores, targets=like((2, 4), "int64", "zeros"),
        probabilities=like((2, 4, 2), "float32", "ones"),
        mask=like((2, 4), "bool", "ones", optional=True), class_names=NAMES
    ),
    call(
        tasks.number_scores, targets=like((2, 4), "float32"), values=like((2, 4), "float32"),
        mask=like((2, 4), "bool", "ones", optional=True)
    ),
    call(
        tasks.grouped_interval, values=like((3,), "float32"), groups=of(["a", "b", "b"]),
        resamples=of(1, 20), seed=of(0, 1)
    ),
    call(tasks.text_scores, targets=like((2, 4), "int64"), characters=like((2, 4), "int64")),
    call(
        tasks.answer_dict, output=of("probabilities", "values", "logits"),
        answer=like((2,), "float32"), class_names=NAMES
    ),
    call(best_path, logits=like((4, 3), "float32")),
    call(
        plots.plot_history,
        history=of([{"loss": 1.0, "val_loss": 2.0}], [{}], [{"loss": 1}, {}], [{"loss": "x"}]),
        metric=of("accuracy")
    ),
    call(plots.plot_confusion, confusion=like((2, 2), "int64"), class_names=NAMES),
    call(
        tasks.label_scores, targets=like((3, 2), "int64", "zeros"),
        probabilities=like((3, 2), "float32"), names=NAMES
    ),
    call(
        tasks.value_scores, targets=like((3, 2), "float32"), values=like((3, 2), "float32"),
        names=NAMES, unit=of((1.0,), (1.0, 2.0))
    ),
    call(
        tasks.segment_scores, targets=like((2, 4), "int64", "zeros"),
        probabilities=like((2, 4, 2), "float32"), mask=of(None), class_names=NAMES
    ),
    call(plots.plot_scatter, points=of({"x": [[1.0], [2.0]]}, {"x": [[1.0]]}, {"x": "y"}, {}, [])),
    call(
        plots.plot_by_length, values=of({"1": 2.0}, {"1": math.nan}, {"1": "x"}, {1: 1e300}),
        ylabel=of("y")
    ),
    call(
        plots.plot_sequence, frames=like((2, 8, 8, 1), "uint8"),
        probabilities=like((2,), "float32", "ones", optional=True), class_names=NAMES
    ),
    call(
        plots.plot_explanation, frames=like((2, 8, 8, 1), "uint8"),
        maps=like((2, 8, 8), "float32", "ones", optional=True),
        changes=like((2,), "float32", optional=True)
    ),
    call(
        "explanations.occlusion", lambda **arguments: evaluation.occlusion(toy(), **arguments),
        frames=like((2, 4, 8, 8, 1), "uint8"), class_ids=like((2,), "int64", "ones", optional=True),
        blank=of("zeros", "mean")
    ),
    call(
        "explanations.grad_cam", lambda **arguments: evaluation.grad_cam(toy(), **arguments),
        frames=like((2, 4, 8, 8, 1), "uint8"), class_ids=like((2,), "int64", "ones", optional=True),
        layer=of(None, "conv1")
    ),
    call(
        data.load_frames, paths=of([], ["no.png"], "no.png"), image_size=of((8, 8)),
        channels=of(1, 3), fit=of("crop", "stretch")
    ),
    call(data.frame_files, folder=of("no", "\0", "x" * 300)),
    call(
        data.read_video, path=of("no.mp4", "no.gif", "\0.mp4"),
        indices=like((3,), "int64", optional=True), image_size=of(None, (8, 8)), channels=of(1, 3),
        fit=of("crop", "stretch")
    ),
    call(data.probe_video, path=of("no.mp4", "no.gif", "\0.mp4")),
    call(
        data.write_video, path=of("no/such/a.avi", "a.xyz", "a"),
        frames=like((2, 8, 8, 1), "uint8"), rate=of(10, 0.5)
    ),
    call(data.find_clips, root=of("no", "\0")),
    call(
        data.iterate_frames, source=of("no", "no.mp4"),
        image_size=of((8, 8)), channels=of(1, 3), every=of(1, 2),
        fit=of("crop", "stretch"), frames_per_second=of(None, 8.0)
    ),
    call(models.conv_pool, filters=of((2,), (2, 3)), kernel_size=of(3)),
    call(models.small_cnn, filters=of((2,), (2, 3)), kernel_size=of(3)),
    call(models.residual_cnn, filters=of((2,), (2, 3))),
    call(models.paired_cnn, filters=of((2,), (2, 3))),
    call(models.strided_cnn, filters=of((2,), (2, 3)), dropout=of(0.0, 0.5)),
    call(
        models.conv1d, filters=of((2,), (2, 3)), kernel_size=of(3), pool_size=of(2),
        pooling=of("max", "flatten")
    ),
    call(
        "feature_cache.FeatureCache",
        lambda batch_size: FeatureCache("/no/such", encoder(), batch_size=batch_size),
        batch_size=of(1, 64)
    ),
)  # fmt: skip

MODEL_CASES = table(
    call(
        models.cnn_lstm, **SEQUENCE, **LSTMS, **STATES, encoder=of("conv_pool", "conv1d"),
        bidirectional=SWITCH, wrap=of("layer", "encoder"), per_step=SWITCH,
        head=of("probabilities", "regression"), scale=of(1.0, 10), lengths=SWITCH
    ),
    call(models.bag_of_frames, **SEQUENCE, encoder=of("small_cnn", "conv1d"), lengths=SWITCH),
    call(models.flat_mlp, **SEQUENCE, units=of((3,), [2, 2])),
    call(models.early_fusion_cnn, **SEQUENCE, units=of((3,), [2, 2]), encoder=of("conv_pool")),
    call(models.image_cnn, **IMAGE, encoder=of("conv_pool")),
    call(
        models.scan_lstm, **IMAGE, **LSTMS, **STATES, by=of("rows", "columns", "patches"),
        size=of(1, 2, (2, 4)), bidirectional=SWITCH, read=of("last", "all"), per_step=SWITCH
    ),
    call(models.renet, **IMAGE, **LSTMS, size=of(1, 2), dense_units=of((3,), [2, 2])),
    call(models.crnn, **IMAGE, **LSTMS, filters=of((2,), (2, 3))),
    call(
        "blocks.lstm_stack",
        lambda **arguments: models.lstm_stack(keras.Input((3, 4)), **arguments),
        units=of((3,), [2, 2]), bidirectional=SWITCH, dropout=of(0.0, 0.25),
        return_sequences=SWITCH, return_state=SWITCH, stateful=SWITCH, initial_state=of(None)
    ),
)  # fmt: skip


@few_and_many(10, 150)
@pytest.mark.parametrize("name", CASES)
def test_arguments(name, number, ends_well):
    draw_cases(number, lambda draws: tried(CASES[name], draws, ends_well))


@few_and_many(10, 150)
@pytest.mark.parametrize("name", MODEL_CASES)
def test_arguments_of_models(name, number, ends_well):
    draw_cases(number, lambda draws: tried(MODEL_CASES[name], draws, ends_well))
