"""Whatever is given to a public function, it returns, or raises one line that names the argument.

Each entry of `CASES` is a function with a strategy for each of its arguments, which draws mostly
what fits, so that each check is reached, and now and then anything at all.
"""

import math

import keras
import numpy as np
import pytest
from hostile import ANYTHING, Either, call, examples, first_of, like, of, of_task, tried
from hypothesis import given
from hypothesis import strategies as st

from keras_cnnlstm import (
    answers,
    blocks,
    clip_batches,
    clips,
    digits,
    encoders,
    explanations,
    frames,
    memory,
    models,
    moving_digits,
    pipeline,
    plots,
    scanners,
    scores,
    splits,
    streaming,
    tasks,
    videos,
)
from keras_cnnlstm.features import FeatureCache, split_model

IMAGES = digits.LabeledImages(
    np.arange(20 * 64, dtype=np.int64).astype("uint8").reshape(20, 8, 8, 1), np.arange(20) % 10
)
ENCODED = digits.EncodedImages(np.zeros((20, 3), np.float32), np.arange(20) % 10)
CLIPS = [
    clips.Clip(frames.Path(f"{name}/{i}"), name, f"{name}/{i}") for name in "ab" for i in range(5)
]
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
TOY = {}


@pytest.fixture(scope="module", autouse=True)
def toys():
    toy()  # Keras draws random seeds for it, which a strategy must not


def toy(which="model"):
    """Small models, built when the first case asks for them."""
    if not TOY:
        TOY["model"] = models.cnn_lstm((None, 8, 8, 1), 2, encoder="small_cnn", lstm_units=(2,))
        TOY["stream"] = streaming.Stream(TOY["model"])
        encoder = split_model(models.cnn_lstm((None, 8, 8, 1), 2, lstm_units=(2,))).frame_encoder
        encoder.trainable = False
        TOY["encoder"] = encoder
    return TOY[which]


CASES = {
    **{
        f"tasks.{task.__name__}": call(
            task, length=of(1, 4, 32), num_digits=of(2, 10, 100), **more
        )
        for task, more in [
            (tasks.Trend, {}),
            (tasks.Label, {}),
            *[(t, {"min_length": of(None, 1, 2)}) for t in (tasks.Digits, tasks.RunningSum, tasks.Text)],
        ]
    },
    "tasks.Classes": call(
        tasks.Classes, class_names=NAMES, length=of(1, 16), min_length=of(1)
    ),
    **{
        f"tasks.{task.__name__}.{method}": of_task(task, method, **arguments)
        for task in (tasks.Trend, tasks.Digits, tasks.RunningSum, tasks.Text)
        for method, arguments in [
            ("targets", {"digits": like((2, 4), "int64")}),
            ("draw", {"uniforms": like((2, 6), "float64", "zeros"), "balance": of(0.0, 0.5)}),
        ]
    },
    "tasks.Trend.sample": of_task(
        tasks.Trend, "sample", num_sequences=of(0, 2, 3), rng=RNG,
        labels=like((3,), "int64", "zeros"),
    ),
    "tasks.Trend.digits_for": of_task(
        tasks.Trend, "digits_for", labels=like((2,), "int64"),
        uniforms=like((2, 4), "float64", "zeros"),
    ),
    "digits.LabeledImages": call(
        digits.LabeledImages, images=like((3, 8, 8, 1), "uint8"), labels=like((3,), "int64")
    ),
    "digits.EncodedImages": call(
        digits.EncodedImages, features=like((3, 5), "float32"), labels=like((3,), "int64")
    ),
    "digits.load_digits": call(
        digits.load_digits,
        name=of("", "no_such", "a/b/c", "../x", "\0", "é", "x:1"),
        data_dir=of(None, "/no/such/folder", hostile=st.just("\0")),
    ),
    "pipeline.digit_sequences": call(
        pipeline.digit_sequences, images=of(IMAGES, ENCODED), task=of(tasks.Trend(3), tasks.Digits(2)),
        batch_size=of(1, 4), seed=of(0, -3), balance=of(None, 0.5),
        num_sequences=of(None, 5), augment=of(False, True, 0.5),
        elastic=of(0.0, 0.5), erasing=of(0.0, 0.5), start=of(0, 3),
    ),
    "pipeline.distorted_copy": call(
        pipeline.distorted_copy, images=of(IMAGES), number=of(0, 3), seed=of(0, -3),
        augment=of(False, True, 0.5), elastic=of(0.0, 0.5), erasing=of(0.0, 0.5), untouched=of(0.0, 0.5),
    ),
    "pipeline.digit_strips": call(
        pipeline.digit_strips, images=of(IMAGES), task=of(tasks.Text(3)),
        batch_size=of(1, 4), seed=of(0, 5),
    ),
    "pipeline.labeled_images": call(
        pipeline.labeled_images, images=of(IMAGES), batch_size=of(1, 4),
        seed=of(None, 0), augment=of(False, True), start=of(0, 3),
    ),
    "clips.sample_indices": call(
        clips.sample_indices, num_frames=of(1, 9), length=of(None, 1, 4),
        sampling=of(*clips.SAMPLINGS), stride=of(1, 2), rng=Either(st.none() | RNG.fitting),
    ),
    "clip_batches.clip_sequences": call(
        clip_batches.clip_sequences, clips=of(CLIPS, CLIPS[:1]), image_size=of((8, 8), [8, 9]),
        length=of(None, 4), batch_size=of(1, 3), sampling=of(*clips.SAMPLINGS),
        stride=of(1, 2), channels=of(1, 3), seed=of(None, 0, -5),
        class_names=of(None, ("a", "b")), augment=of(False, 0.5), flip=SWITCH,
        start=of(0, 2), split=of(None, hostile=st.sampled_from(["train", "x", 3])),
    ),
    "splits.split_clips": call(
        splits.split_clips, clips=of(CLIPS, CLIPS[:3], CLIPS * 2), shares=of((0.7, 0.15, 0.15), (0.5, 0, 0.5)),
        groups=of(None, r"^(.)", "(", "(a)|(b)", "[", "(?P<x>", "x" * 300), seed=of(0, 1),
    ),
    "moving_digits.moving_digits": call(
        first_of(moving_digits.moving_digits), images=of(IMAGES), num_images=of(1, 2),
        canvas=of(12, 20), min_frames=of(3, 4), max_frames=of(4, 9), seed=of(0, 1),
    ),
    "memory.check_memory": call(
        memory.check_memory, model=Either(st.builds(toy)), together=of(1, 3),
        batch_size=of(1, 8), time=of(4, 1), limit=of(None, 10**9, 1),
    ),
    "memory.activation_memory": call(
        memory.activation_memory, model=Either(st.builds(toy)), batch_size=of(1, 8), time=of(4, 1)
    ),
    "streaming.Stream": call(streaming.Stream, model=Either(ANYTHING)),
    "streaming.Stream.initial_state": call(
        lambda batch: toy("stream").initial_state(batch), batch=of(1, 3)
    ),
    "streaming.Stream.step": call(
        lambda frame, state: toy("stream").step(frame, state), frame=like((2, 8, 8, 1), "uint8"),
        state=STATE,
    ),
    "streaming.Stream.reset": call(
        lambda state, where: toy("stream").reset(state, where), where=like((2,), "bool"),
        state=STATE,
    ),
    "streaming.FrameStream": call(
        streaming.FrameStream, model=Either(st.builds(toy, st.just("stream"))), class_names=NAMES
    ),
    "streaming.FrameStream.push": call(
        lambda frame: streaming.FrameStream(toy("stream")).push(frame), frame=like((8, 8, 1), "uint8")
    ),
    "scores.scores": call(
        scores.scores, targets=like((3,), "int64", "zeros"),
        probabilities=like((3, 2), "float32", "ones"), class_names=NAMES,
    ),
    "scores.step_scores": call(
        scores.step_scores, targets=like((2, 4), "int64", "zeros"),
        probabilities=like((2, 4, 2), "float32", "ones"),
        counts=like((2, 4), "bool", "ones", optional=True), class_names=NAMES,
    ),
    "scores.number_scores": call(
        scores.number_scores, targets=like((2, 4), "float32"), values=like((2, 4), "float32"),
        counts=like((2, 4), "bool", "ones", optional=True),
    ),
    "scores.text_scores": call(
        scores.text_scores, targets=like((2, 4), "int64"), characters=like((2, 4), "int64")
    ),
    "answers.as_json": call(
        answers.as_json, output=of("probabilities", "values", "logits"),
        answer=like((2,), "float32"), class_names=NAMES,
    ),
    "answers.read_text": call(answers.read_text, logits=like((4, 3), "float32")),
    "plots.plot_history": call(
        plots.plot_history,
        history=of([{"loss": 1.0, "val_loss": 2.0}], [{}], [{"loss": 1}, {}], [{"loss": "x"}]),
        metric=of("accuracy"),
    ),
    "plots.plot_confusion": call(
        plots.plot_confusion, confusion=like((2, 2), "int64"), class_names=NAMES
    ),
    "plots.plot_by_length": call(
        plots.plot_by_length, values=of({"1": 2.0}, {"1": math.nan}, {"1": "x"}, {1: 1e300}),
        ylabel=of("y"),
    ),
    "plots.plot_sequence": call(
        plots.plot_sequence, frames=like((2, 8, 8, 1), "uint8"),
        probabilities=like((2,), "float32", "ones", optional=True), class_names=NAMES,
    ),
    "plots.plot_explanation": call(
        plots.plot_explanation, frames=like((2, 8, 8, 1), "uint8"),
        maps=like((2, 8, 8), "float32", "ones", optional=True),
        changes=like((2,), "float32", optional=True),
    ),
    "explanations.occlusion": call(
        lambda **arguments: explanations.occlusion(toy(), **arguments),
        frames=like((2, 4, 8, 8, 1), "uint8"), class_ids=like((2,), "int64", "ones", optional=True),
        blank=of("zeros", "mean"),
    ),
    "explanations.grad_cam": call(
        lambda **arguments: explanations.grad_cam(toy(), **arguments),
        frames=like((2, 4, 8, 8, 1), "uint8"), class_ids=like((2,), "int64", "ones", optional=True),
        layer=of(None, "conv1"),
    ),
    "frames.load_frames": call(
        frames.load_frames, paths=of([], ["no.png"], "no.png"), image_size=of((8, 8)),
        channels=of(1, 3),
    ),
    "frames.frame_files": call(frames.frame_files, folder=of("no", "\0", "x" * 300)),
    "videos.read_video": call(
        videos.read_video, path=of("no.mp4", "no.gif", "\0.mp4"),
        indices=like((3,), "int64", optional=True), image_size=of(None, (8, 8)),
        channels=of(1, 3),
    ),
    "videos.probe_video": call(videos.probe_video, path=of("no.mp4", "no.gif", "\0.mp4")),
    "videos.write_video": call(
        videos.write_video, path=of("no/such/a.avi", "a.xyz", "a"),
        frames=like((2, 8, 8, 1), "uint8"), rate=of(10, 0.5),
    ),
    "clips.find_clips": call(clips.find_clips, root=of("no", "\0")),
    "clips.iterate_frames": call(
        first_of(clips.iterate_frames), source=of("no", "no.mp4"), image_size=of((8, 8)),
        channels=of(1, 3), every=of(1, 2),
    ),
    "encoders.conv_pool": call(encoders.conv_pool, filters=of((2,), (2, 3)), kernel_size=of(3)),
    "encoders.small_cnn": call(encoders.small_cnn, filters=of((2,), (2, 3)), kernel_size=of(3)),
    "encoders.residual_cnn": call(encoders.residual_cnn, filters=of((2,), (2, 3))),
    "encoders.paired_cnn": call(encoders.paired_cnn, filters=of((2,), (2, 3))),
    "encoders.strided_cnn": call(encoders.strided_cnn, filters=of((2,), (2, 3)), dropout=of(0.0, 0.5)),
    "encoders.conv1d": call(
        encoders.conv1d, filters=of((2,), (2, 3)), kernel_size=of(3), pool_size=of(2),
        pooling=of("max", "flatten"),
    ),
    "features.FeatureCache": call(
        lambda batch_size: FeatureCache("/no/such", toy("encoder"), batch_size=batch_size),
        batch_size=of(1, 64),
    ),
}  # fmt: skip

MODEL_CASES = {
    "models.cnn_lstm": call(
        models.cnn_lstm, **SEQUENCE, **LSTMS, **STATES, encoder=of("conv_pool", "conv1d"),
        bidirectional=SWITCH, wrap=of("layer", "encoder"), per_step=SWITCH,
        head=of("probabilities", "values"), scale=of(1.0, 10), lengths=SWITCH,
    ),
    "models.bag_of_frames": call(
        models.bag_of_frames, **SEQUENCE, encoder=of("small_cnn", "conv1d"), lengths=SWITCH
    ),
    "models.flat_mlp": call(models.flat_mlp, **SEQUENCE, units=of((3,), [2, 2])),
    "models.channel_cnn": call(
        models.channel_cnn, **SEQUENCE, units=of((3,), [2, 2]), encoder=of("conv_pool")
    ),
    "models.image_cnn": call(models.image_cnn, **IMAGE, encoder=of("conv_pool")),
    "scanners.scan_lstm": call(
        scanners.scan_lstm, **IMAGE, **LSTMS, **STATES, by=of("rows", "columns", "patches"),
        size=of(1, 2, (2, 4)), bidirectional=SWITCH, read=of("last", "all"), per_step=SWITCH,
    ),
    "scanners.renet": call(
        scanners.renet, **IMAGE, **LSTMS, size=of(1, 2), dense_units=of((3,), [2, 2])
    ),
    "scanners.crnn": call(scanners.crnn, **IMAGE, **LSTMS, filters=of((2,), (2, 3))),
    "blocks.lstm_stack": call(
        lambda **arguments: blocks.lstm_stack(keras.Input((3, 4)), **arguments),
        units=of((3,), [2, 2]), bidirectional=SWITCH, dropout=of(0.0, 0.25),
        return_sequences=SWITCH, return_state=SWITCH, stateful=SWITCH, initial_state=of(None),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
@examples(10)
def test_arguments(name, data, ends_well):
    tried(CASES[name], data, ends_well)


@pytest.mark.parametrize("name", MODEL_CASES)
@given(data=st.data())
@examples(10)
def test_arguments_of_models(name, data, ends_well):
    tried(MODEL_CASES[name], data, ends_well)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
@examples(150)
def test_many_arguments(name, data, ends_well):
    tried(CASES[name], data, ends_well)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("name", MODEL_CASES)
@given(data=st.data())
@examples(150)
def test_many_arguments_of_models(name, data, ends_well):
    tried(MODEL_CASES[name], data, ends_well)
