"""Exports in each format: right, proven to be right, and refused where they cannot be."""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from oracles import assert_all_equal

from keras_cnnlstm import __version__
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.run_files import save_task
from keras_cnnlstm.export import exporter, formats, parity, portable, signatures
from keras_cnnlstm.export.artifact import load_artifact
from keras_cnnlstm.export.exporter import export
from keras_cnnlstm.export.formats import FORMATS
from keras_cnnlstm.export.parity import ParityError, Reference, prove
from keras_cnnlstm.export.portable import portable_copy, precision
from keras_cnnlstm.layers.time_distributed import TimeDistributed
from keras_cnnlstm.models.baselines import flat_mlp
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.encoders import conv_pool
from keras_cnnlstm.models.scanning import crnn, renet, scan_lstm
from keras_cnnlstm.runtime.runtime import Runtime
from keras_cnnlstm.tasks import Trend
from keras_cnnlstm.tasks.answers import best_path
from keras_cnnlstm.training import run_directory

SHAPE = (4, 12, 12, 1)  # (T, H, W, C)
NAMES = ("up", "down", "naïve 平")  # a server answers with text, so not ASCII alone
close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6)


def outspoken(model, seed=0):
    """Gives a model random weights that make its answers differ from sequence to sequence."""
    rng = np.random.default_rng(seed)
    weights = [
        rng.normal(0, 4 / np.prod(w.shape[:-1]) ** 0.5 if w.ndim > 1 else 0.1, w.shape)
        for w in model.get_weights()
    ]
    model.set_weights(weights)
    return model


def tiny(time=4, *, lstm_units=(6, 5), **options):
    shape = (time, *SHAPE[1:])
    encoder = conv_pool((4,))
    model = outspoken(cnn_lstm(shape, 3, encoder=encoder, lstm_units=lstm_units, **options))
    # Centred, so that each class is the most probable one for some frames.
    head = model.get_layer("probabilities")
    frames = batch((time or 4, *SHAPE[1:]), 50, seed=1)
    head.bias.assign(head.bias - np.log(answers(model, frames)).mean(axis=0))
    return model


def with_lengths(time, bidirectional, *, per_step, layer):
    """A model that reads only the first `lengths` frames of each sequence."""
    frames = keras.Input((time, 8, 8, 1), dtype="uint8", name="frames")
    lengths = keras.Input((), dtype="int32", name="lengths")
    x = layers.Rescaling(1 / 255, dtype="float32")(frames)
    x = TimeDistributed(layers.Conv2D(3, 3, strides=2, activation="relu"))(x)
    x = TimeDistributed(layers.Flatten())(x)
    step = ops.cumsum(ops.ones_like(x[..., 0], dtype="int32"), axis=1)  # (B, T): 1, 2, ..., T
    lstm = layer(5, return_sequences=per_step)
    x = (layers.Bidirectional(lstm) if bidirectional else lstm)(
        x, mask=step <= ops.expand_dims(lengths, 1)
    )
    y = layers.Dense(3, "softmax", dtype="float32", name="probabilities")(x)
    return outspoken(keras.Model({"frames": frames, "lengths": lengths}, y))


def many_heads():
    frames = keras.Input(SHAPE, dtype="uint8", name="frames")
    x = TimeDistributed(layers.Flatten())(layers.Rescaling(1 / 255)(frames))
    x = layers.LSTM(5, return_sequences=True)(x)
    heads = {
        "probabilities": layers.Dense(3, "softmax", dtype="float32")(x),
        "sum": layers.Dense(1, dtype="float32")(layers.GRU(4)(x)),
    }
    return outspoken(keras.Model(frames, heads))


def batch(shape=SHAPE, size=5, seed=0):
    """Noise, each frame (or what the first axis of `shape` is) of a brightness of its own."""
    rng = np.random.default_rng(seed)
    brightness = rng.integers(0, 2, (size, shape[0], *[1] * (len(shape) - 1)))
    return (rng.integers(0, 256, (size, *shape)) * (brightness + 0.1) / 1.1).astype(np.uint8)


def answers(model, frames):
    return np.asarray(model(frames, training=False))


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def exports(model, tmp_path_factory):
    """The same model in each format, by format."""
    folder = tmp_path_factory.mktemp("exports")
    return {f: export(model, folder / f, f, class_names=NAMES) for f in FORMATS}


@pytest.fixture(scope="module")
def artifact_of(exports):
    return {f: load_artifact(exports[f].path) for f in FORMATS}


@pytest.fixture(params=FORMATS)
def exported(request, exports):
    return exports[request.param]


@pytest.fixture(params=FORMATS)
def artifact(request, artifact_of):
    return artifact_of[request.param]


@pytest.fixture(scope="module")
def saved_model(exports):
    return tf.saved_model.load(str(exports["saved_model"].path))


@pytest.fixture
def unwritten(monkeypatch):
    """Exports that write one small file in place of a model, for tests of where they write."""

    def write(source, format, directory):
        (directory / "saved_model.pb").write_text(source.model.name)
        return {"max_difference": 0.0}

    monkeypatch.setattr(exporter, "write_model", write)


def tree(path):
    """Every file under a path with its content."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


class TestEveryFormat:
    @pytest.mark.parametrize("size", [1, 3, 4, 7])
    def test_answers_as_the_model(self, artifact, model, size):
        frames = batch(size=size, seed=size)
        received = artifact.predict(frames)
        assert received.dtype == np.float32
        close(received, answers(model, frames))
        assert np.ptp(received) > 0.1  # else the comparison would prove little

    def test_records_how_far_its_answers_are(self, exported):
        written = json.loads((exported.path / "parity.json").read_text())
        assert written == exported.parity
        assert 0 <= written["max_difference"] <= 1e-6
        assert written["max_difference"] == max(written["by_signature"].values())
        assert (written["bound"], written["precision"]) == (1e-5, "float32")
        assert written["batches"] == [{"batch": b, "time": 4} for b in (1, 3, 6)]

    def test_carries_what_a_user_needs_to_know(self, artifact):
        assert artifact.class_names == NAMES
        assert artifact.input_shape == SHAPE
        assert artifact.metadata["inputs"] == {
            "frames": {"shape": [None, *SHAPE], "dtype": "uint8", "range": [0, 255]}
        }
        assert artifact.metadata["keras_cnnlstm"] == __version__
        assert artifact.metadata["precision"] == "float32"
        assert artifact.metadata["outputs"] == ["probabilities"]
        assert set(artifact.metadata["signatures"]) == set(artifact.signatures)

    def test_leaves_the_model_as_it_was(self, model, exports, tmp_path):
        config, weights = model.get_config(), model.get_weights()
        flags = [layer.use_cudnn for layer in model.layers if isinstance(layer, layers.LSTM)]
        export(model, tmp_path / "onnx", "onnx")
        assert model.get_config() == config
        assert flags == ["auto", "auto"]
        assert_all_equal(weights, model.get_weights())

    def test_streams_frame_by_frame_where_the_format_has_several_functions(self, artifact, model):
        signatures = artifact.signatures
        if artifact.metadata["format"] == "onnx":
            assert set(signatures) == {"serving_default"}
            return
        frames = batch(size=3)
        states = signatures["init_states"](batch=np.int32(3))
        assert sorted(states) == ["lstm1_c", "lstm1_h", "lstm2_c", "lstm2_h"]
        assert all(not state.any() for state in states.values())
        for t in range(4):
            outputs = signatures["step"](frame=frames[:, t], **states)
            states = {name: outputs[name] for name in states}
        close(outputs["probabilities"], answers(model, frames))

    @pytest.mark.parametrize(
        ("frames", "message"),
        [
            (batch()[0], r"uint8 of shape \(4, 12, 12, 1\)"),
            (batch()[:, :3], r"uint8 of shape \(5, 3, 12, 12, 1\)"),
            (batch().reshape(5, 4, 6, 24, 1), r"uint8 of shape \(5, 4, 6, 24, 1\)"),
            (batch() / 255, r"float64 of .* raw pixels from 0 to 255"),
            (batch()[:0], r"uint8 of shape \(0, 4"),
        ],
        ids=["rank", "T", "size", "dtype", "empty"],
    )
    def test_refuses_frames_that_do_not_fit(self, artifact, frames, message):
        expected = r"`frames` must be uint8 of shape \(B, 4, 12, 12, 1\).*received "
        with pytest.raises(ValueError, match=expected + message):
            artifact.predict(frames)

    def test_refuses_lengths_it_was_not_built_for(self, artifact):
        with pytest.raises(ValueError, match="`lengths` must be None"):
            artifact.predict(batch(), np.full(5, 4))


class TestRuns:
    @pytest.fixture
    def run(self, tmp_path):
        """A run directory as training leaves it."""
        path = tmp_path / "run"
        path.mkdir()
        model = outspoken(cnn_lstm((3, 12, 12, 1), 5, encoder=conv_pool((4,)), lstm_units=(5,)))
        model.save(path / "model.keras")
        config = TrainConfig(length=3).resolved
        (path / "config.json").write_text(config.to_json())
        save_task(path, config, Trend(3))
        return run_directory.Run(path, config, model, {})

    @pytest.mark.parametrize("given", [str, Path, None], ids=["str", "Path", "Run"])
    def test_are_exported_with_their_names_and_task(self, run, given, tmp_path):
        exported = export(given(run.path) if given else run, tmp_path / "out", "onnx")
        artifact = load_artifact(exported.path)
        assert artifact.class_names == (
            "constant", "rising", "falling", "rising-falling", "falling-rising",
        )  # fmt: skip
        assert artifact.metadata["task"] == {
            "name": "trend", "length": 3, "min_length": 3, "dataset": "digits",
            "config": Trend(3).get_config(),
        }  # fmt: skip
        frames = batch((3, 12, 12, 1))
        close(artifact.predict(frames), answers(run.model, frames))

    def test_must_be_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="expected a run directory"):
            export(tmp_path / "nowhere", tmp_path / "out")


class TestSavedModel:
    def test_names_its_outputs(self, saved_model, model):
        frames = batch()
        outputs = saved_model.signatures["serving_default"](frames=tf.constant(frames))
        assert sorted(outputs) == ["class_id", "label", "probabilities"]
        best = answers(model, frames).argmax(axis=1)
        assert len(set(best)) > 1
        np.testing.assert_array_equal(outputs["class_id"], best)
        assert [text.decode() for text in outputs["label"].numpy()] == [NAMES[i] for i in best]

    def test_answers_images_as_frames(self, saved_model):
        frames = batch()
        images = tf.constant(parity.encoded(frames))
        from_images = saved_model.signatures["serve_images"](images=images)
        from_frames = saved_model.signatures["serving_default"](frames=tf.constant(frames))
        assert sorted(from_images) == sorted(from_frames)
        for name, value in from_frames.items():
            np.testing.assert_array_equal(from_images[name], value)

    @pytest.mark.parametrize(
        ("frames", "message"),
        [
            # Without a check, these three would be answered, wrongly: as other sequences.
            (batch((3, 12, 12, 1), 4), r"\[4,3,12,12,1\] is not compatible .*\[\?,4,12,12,1\]"),
            (batch((4, 6, 24, 1)), r"\[5,4,6,24,1\] is not compatible"),
            (batch((12, 12, 1), 4), r"\[4,12,12,1\] is not compatible"),
            (batch(size=0), "`frames`: expected one sequence of one frame at least"),
        ],
        ids=["T", "size", "rank", "empty"],
    )
    def test_checks_shapes_itself(self, saved_model, frames, message):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            saved_model.signatures["serving_default"](frames=tf.constant(frames))

    def test_checks_the_frames_of_a_stream(self, saved_model):
        states = saved_model.signatures["init_states"](batch=tf.constant(2))
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[2,6,24,1\] is not compatible"):
            saved_model.signatures["step"](frame=tf.constant(batch((6, 24, 1), 2)), **states)

    def test_runs_on_machines_without_cudnn(self, model, monkeypatch):
        # As on a machine with a GPU: "auto" then puts cuDNN's operations into a graph.
        rnn = sys.modules["keras.src.backend.tensorflow.rnn"]
        monkeypatch.setattr(rnn, "_is_gpu_available", lambda: True)
        monkeypatch.setattr(keras.distribution, "list_devices", lambda kind: [f"{kind}:0"])
        for bidirectional in (False, True):
            model = cnn_lstm((12, 8, 8, 1), 3, lstm_units=(4,), bidirectional=bidirectional)
            assert "CudnnRNNV3" in operations(signatures.serving(model))
            assert "CudnnRNNV3" not in operations(signatures.serving(portable_copy(model)))

    def test_with_cudnn_inside_is_refused(self, tmp_path):
        @tf.function(input_signature=[tf.TensorSpec((None, 4, 3))])
        def serving_default(x):
            zeros = tf.zeros((1, tf.shape(x)[0], 2))
            return tf.raw_ops.CudnnRNNV3(
                input=x, input_h=zeros, input_c=zeros, params=tf.zeros(99), rnn_mode="lstm",
                sequence_lengths=tf.fill([4], 4), is_training=False,
            ).output  # fmt: skip

        module = tf.Module()
        module.f = serving_default
        tf.saved_model.save(module, str(tmp_path))
        with pytest.raises(ValueError, match="must run on any machine; it has CudnnRNNV3"):
            formats._check_no_cudnn(tmp_path / "saved_model.pb")


def operations(function):
    """Names of all operations of a concrete function and of those it calls."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return {node.op for node in nodes}


@pytest.fixture(scope="module")
def any_length():
    return tiny(None)


class TestAnyLength:
    SIZES = ((1, 6), (3, 4), (6, 4), (4, 9))  # (B, T)

    @pytest.mark.parametrize("format", ["saved_model", "onnx"])
    def test_is_right_for_every_batch_and_length(self, any_length, format, tmp_path):
        exported = export(any_length, tmp_path, format)
        assert exported.parity["max_difference"] <= 1e-6
        assert exported.parity["batches"] == [{"batch": b, "time": t} for b, t in self.SIZES]
        artifact = load_artifact(exported.path)
        assert artifact.input_shape == (None, *SHAPE[1:])
        for size, time in self.SIZES:
            frames = batch((time, *SHAPE[1:]), size)
            close(artifact.predict(frames), answers(any_length, frames))

    def test_is_refused_by_litert(self, any_length, tmp_path):
        with pytest.raises(ValueError, match="`format` litert needs a fixed number of frames T"):
            export(any_length, tmp_path / "new", "litert")
        assert not (tmp_path / "new").exists()

    def test_is_refused_with_the_stock_wrapper_whose_export_is_wrong(self, tmp_path):
        frames = keras.Input((None, *SHAPE[1:]), dtype="uint8", name="frames")
        x = layers.Rescaling(1 / 255)(frames)
        x = layers.TimeDistributed(layers.Conv2D(3, 3, strides=2, activation="relu"))(x)
        x = layers.LSTM(5)(layers.TimeDistributed(layers.Flatten())(x))
        stock = outspoken(keras.Model(frames, layers.Dense(3, "softmax")(x)))

        module = tf.Module()
        module.weights = [v.value for v in stock.variables]
        served = tf.function(lambda frames: stock(frames, training=False)).get_concrete_function(
            tf.TensorSpec((None, None, *SHAPE[1:]), tf.uint8, name="frames")
        )
        tf.saved_model.save(module, str(tmp_path / "stock"), signatures=served)
        loaded = tf.saved_model.load(str(tmp_path / "stock")).signatures["serving_default"]
        outcomes = {}
        for size, time in self.SIZES:
            clips = batch((time, *SHAPE[1:]), size)
            try:
                (received,) = loaded(frames=tf.constant(clips)).values()
            except tf.errors.InvalidArgumentError:
                outcomes[size, time] = "fails"
                continue
            difference = np.abs(received - answers(stock, clips)).max()
            outcomes[size, time] = "wrong" if difference > 1e-3 else "right"
        # With fewer sequences than frames it drops frames; with more it fails.
        assert outcomes == {(1, 6): "wrong", (3, 4): "wrong", (6, 4): "fails", (4, 9): "wrong"}

        with pytest.raises(ParityError, match="Nothing was exported"):
            export(stock, tmp_path / "new")
        assert not (tmp_path / "new").exists()


@pytest.mark.slow
class TestEveryKindOfModel:
    @pytest.mark.parametrize("format", ["litert", "onnx"])  # a SavedModel of one has lengths, below
    def test_bidirectional(self, format, tmp_path):
        model = tiny(bidirectional=True)
        exported = export(model, tmp_path, format)
        assert exported.parity["max_difference"] <= 1e-6
        artifact = load_artifact(exported.path)
        close(artifact.predict(batch()), answers(model, batch()))
        assert not {"init_states", "step"} & set(artifact.signatures)

    @pytest.mark.parametrize(
        ("format", "time"), [("saved_model", None), ("litert", 5), ("onnx", 5)]
    )
    def test_with_lengths(self, format, time, tmp_path):
        layer = layers.SimpleRNN if format == "litert" else layers.LSTM
        model = with_lengths(time, format != "litert", per_step=format == "litert", layer=layer)
        exported = export(model, tmp_path, format)
        artifact = load_artifact(exported.path)
        frames, lengths = batch((5, 8, 8, 1), 4), np.array([1, 5, 3, 4])
        expected = np.asarray(model({"frames": frames, "lengths": lengths}, training=False))
        received = artifact.predict(frames, lengths)
        real = np.arange(5) < lengths[:, None] if format == "litert" else slice(None)
        close(received[real], expected[real], atol=1e-5)
        frames[np.arange(5) >= lengths[:, None]] = 7  # padding is no data
        np.testing.assert_array_equal(artifact.predict(frames, lengths)[real], received[real])

        for wrong in (None, lengths[:2], lengths / 2, lengths - 1, lengths + 1):
            with pytest.raises(ValueError, match=r"`lengths` must be 4 integers.* from 1 to 5"):
                artifact.predict(frames, wrong)
        if format == "saved_model":  # checks them itself, too
            served = tf.saved_model.load(str(exported.path)).signatures["serving_default"]
            with pytest.raises(
                tf.errors.InvalidArgumentError, match=r"`lengths`: expected 1 to.*frames; received"
            ):
                served(frames=tf.constant(frames), lengths=tf.constant(lengths + 1, tf.int32))

    @pytest.mark.parametrize("format", FORMATS)
    def test_with_several_heads_and_an_answer_for_each_step(self, format, tmp_path):
        model = many_heads()
        exported = export(model, tmp_path, format, class_names=NAMES)
        artifact = load_artifact(exported.path)
        assert artifact.metadata["outputs"] == ["probabilities", "sum"]
        outputs = artifact.signatures["serving_default"](frames=batch())
        expected = model(batch(), training=False)
        for name in expected:
            np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(
            outputs["class_id"], np.argmax(expected["probabilities"], axis=-1)
        )
        assert outputs["class_id"].shape == (5, 4)
        if format == "saved_model":
            assert outputs["label"][1, 2].decode() == NAMES[outputs["class_id"][1, 2]]
        np.testing.assert_array_equal(artifact.predict(batch()), outputs["probabilities"])

    @pytest.mark.parametrize("format", ["saved_model", "litert"])
    def test_of_unequal_lengths_streams_with_every_frame_counting(self, format, tmp_path):
        options = {"per_step": True, "lengths": True, "head": "regression", "lstm_units": (6,)}
        model = outspoken(cnn_lstm(SHAPE, 1, encoder=conv_pool((4,)), **options))
        exported = export(model, tmp_path / "out", format)
        assert exported.parity["by_signature"]["step"] <= 1e-5
        whole = model({"frames": batch(), "lengths": np.full(5, 4, "int32")}, training=False)
        streamed = formats.stream(load_artifact(exported.path).signatures, batch())
        close(streamed["values"], whole, atol=1e-5)

    def test_that_answers_each_step_streams_those_answers(self, tmp_path):
        frames = keras.Input(SHAPE, dtype="uint8", name="frames")
        x = TimeDistributed(layers.Flatten())(layers.Rescaling(1 / 255)(frames))
        x = layers.LSTM(5, return_sequences=True, name="lstm1")(x)
        # A softmax's name is its own affair; its outputs are probabilities.
        model = outspoken(keras.Model(frames, layers.Dense(3, "softmax", name="head")(x)))
        exported = export(model, tmp_path, "litert")
        assert exported.parity["by_signature"]["step"] <= 1e-6
        streamed = formats.stream(load_artifact(exported.path).signatures, batch())
        expected = answers(model, batch())
        close(streamed["probabilities"], expected)

    def test_without_classes(self, tmp_path):
        frames = keras.Input(SHAPE, dtype="uint8", name="frames")
        x = layers.Flatten()(layers.Rescaling(1 / 255)(frames))
        model = outspoken(keras.Model(frames, layers.Dense(1, name="sum")(x)))
        artifact = load_artifact(export(model, tmp_path, "onnx").path)
        assert artifact.class_names == ()
        assert list(artifact.signatures["serving_default"](frames=batch())) == ["sum"]
        np.testing.assert_allclose(artifact.predict(batch()), answers(model, batch()), rtol=1e-5)
        with pytest.raises(ValueError, match="`class_names` must be 0 "):
            export(model, tmp_path / "new", class_names=NAMES)

    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize(
        "build",
        [
            lambda: scan_lstm((8, 8, 1), 3, lstm_units=(5, 4), bidirectional=True),
            pytest.param(
                lambda: renet((8, 8, 1), 3, lstm_units=(3, 3), dense_units=(6,)),
                marks=pytest.mark.slow,
            ),
        ],
        ids=["scan_lstm", "renet"],
    )
    def test_that_reads_one_image(self, build, format, tmp_path):
        model, images = outspoken(build()), batch((8, 8, 1))
        artifact = load_artifact(export(model, tmp_path, format, class_names=NAMES).path)
        assert artifact.input_shape == (8, 8, 1)
        close(artifact.predict(images), answers(model, images), atol=1e-5)
        if format == "saved_model":
            outputs = artifact.signatures["serve_images"](images=parity.encoded(images))
            best = answers(model, images).argmax(axis=1)
            assert [text.decode() for text in outputs["label"]] == [NAMES[i] for i in best]

    @pytest.mark.parametrize("format", FORMATS)
    def test_that_reads_text(self, format, tmp_path):
        model = outspoken(crnn((8, 24, 1), 3, filters=(3, 4), lstm_units=(5,)))
        images, head = batch((8, 24, 1)), model.get_layer("logits")
        # Centred, so that each class is the likeliest one at some step.
        head.bias.assign(head.bias - answers(model, images).mean(axis=(0, 1)))
        artifact = load_artifact(export(model, tmp_path, format, class_names=NAMES).path)
        logits = answers(model, images)
        np.testing.assert_allclose(artifact.predict(images), logits, rtol=1e-5, atol=1e-5)
        if format == "saved_model":
            texts = ["".join(NAMES[k] for k in best_path(x)) for x in logits]
            assert len(set(texts)) > 1
            outputs = artifact.signatures["serving_default"](frames=images)
            assert [text.decode() for text in outputs["text"]] == texts

    def test_of_another_text_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(signatures, "read_text", lambda x: tf.zeros(tf.shape(x)[:2], tf.int32))
        with pytest.raises(ParityError, match="`text` of serving_default"):
            export(outspoken(crnn((8, 24, 1), 3)), tmp_path / "out", class_names=NAMES)

    @pytest.mark.slow
    @pytest.mark.parametrize("format", FORMATS)
    def test_in_half_precision(self, format, tmp_path):
        with Runtime("mixed_bfloat16", "one-device").scope():
            model = tiny(9)
        assert precision(model) == "mixed_bfloat16"
        exported = export(model, tmp_path, format)
        assert keras.config.dtype_policy().name == "float32"
        assert precision(model) == "mixed_bfloat16"
        assert exported.parity["precision"] == "mixed_bfloat16"
        assert exported.parity["bound"] == 2e-2
        artifact = load_artifact(exported.path)
        frames = batch((9, *SHAPE[1:]))
        received = artifact.predict(frames)
        assert received.dtype == np.float32
        if format == "saved_model":
            assert artifact.metadata["precision"] == "mixed_bfloat16"
            np.testing.assert_allclose(received, model.predict(frames, verbose=0), atol=5e-3)
            return
        assert artifact.metadata["precision"] == "float32"
        assert artifact.metadata["trained_precision"] == "mixed_bfloat16"
        assert exported.parity["float32"]["max_difference"] <= 1e-6
        assert exported.parity["median_difference"] <= 2e-2
        full = tiny(9)
        full.set_weights(model.get_weights())
        close(received, answers(full, frames))
        assert np.abs(received - answers(model, frames)).max() > 1e-4  # so half was another


class TestProof:
    """Each way of being wrong makes the export fail, with nothing left behind."""

    @pytest.mark.parametrize("format", ["litert", "onnx"])
    def test_refuses_other_weights(self, model, format, tmp_path, monkeypatch):
        def skewed(model, **options):
            twin = portable_copy(model, **options)
            twin.set_weights([w * 1.001 for w in model.get_weights()])
            return twin

        monkeypatch.setattr(portable, "portable_copy", skewed)
        with pytest.raises(ParityError, match="as the model does, within 1e-05; its max diff"):
            export(model, tmp_path / "deep" / "new", format)
        assert not list(tmp_path.iterdir())

    def test_refuses_what_does_not_open(self, model, tmp_path, monkeypatch):
        other = dataclasses.replace(FORMATS["onnx"], file="model.other")
        monkeypatch.setitem(FORMATS, "onnx", other)
        with pytest.raises(
            ParityError, match=r"failed with exit code 1: FileNotFoundError: .*model"
        ):
            export(model, tmp_path / "new", "onnx")
        assert not list(tmp_path.iterdir())

    @pytest.fixture
    def tampered(self, model, monkeypatch):
        """Proves answers that are the model's own but for one change."""

        def prove_with(change, **options):
            def fresh(path, batches, signatures):
                answers = [parity.expected_answers(model, None, b, signatures) for b in batches]
                for answer in answers:
                    best = answer["serving_default", "probabilities"].argmax(axis=1)
                    answer["serving_default", "class_id"] = best
                    answer["serving_default", "label"] = np.array([n.encode() for n in NAMES])[best]
                change({name: value for (_, name), value in answers[1].items()})
                return answers

            monkeypatch.setattr(parity, "fresh_answers", fresh)
            reference = Reference(model, 1e-5, **options)
            return prove(Path("x"), {"model": reference}, ["serving_default"], NAMES)

        return prove_with

    def test_passes_the_same_answers(self, tampered):
        assert tampered(lambda answer: None)["max_difference"] == 0

    @pytest.mark.parametrize("rounds", [False, True])
    @pytest.mark.parametrize(
        ("changed", "value", "message"),
        [
            (0, np.nan, r"difference is nan"),
            (0, np.inf, r"difference is inf"),
            ((2, 1), 1.1e-5, r"its max difference is 1\.\d+e-05"),
        ],
    )
    def test_refuses_a_single_wrong_answer(self, tampered, changed, value, message, rounds):
        def change(answer):
            answer["probabilities"][changed] += value

        if rounds and value < 1:  # then the median alone is held to the bound
            assert tampered(change, rounds=True)["median_difference"] == 0
            return
        with pytest.raises(ParityError, match=message):
            tampered(change, rounds=rounds)

    @pytest.mark.parametrize("name", ["class_id", "label"])
    def test_refuses_another_class(self, tampered, name):
        def change(answer):
            answer[name][:] = np.roll(answer[name], 1)

        with pytest.raises(ParityError, match=f"`{name}` of serving_default"):
            tampered(change)

    def test_leaves_out_what_is_after_the_end(self):
        batch = {"frames": np.zeros((2, 3, 1, 1, 1)), "lengths": np.array([1, 3])}
        steps = np.arange(1, 13).reshape(2, 3, 2)
        np.testing.assert_array_equal(
            parity._without_padding(steps, batch),
            [[[1, 2], [0, 0], [0, 0]], [[7, 8], [9, 10], [11, 12]]],
        )
        last = np.arange(6).reshape(2, 3)  # an answer for each sequence, of three classes
        assert parity._without_padding(last, batch) is last

    def test_refuses_another_shape(self):
        assert np.isinf(parity.differences(np.zeros((3, 2)), np.zeros((3, 1)))).all()

    def test_measures_each_sequence_relative_to_large_numbers(self):
        expected = np.array([[0.5, 1.0], [-0.5, 1.0], [0.0, -8.0]])
        received = np.array([[0.5, 1.0], [-0.25, 1.0], [0.125, -4.0]])
        np.testing.assert_array_equal(parity.differences(received, expected), [0, 0.25, 0.5])

    def test_runs_without_keras_and_this_package(self, exports, model, tmp_path):
        """The file that the fresh process runs, run here, then looked at."""
        batches = parity.sample_inputs(model)
        np.savez(tmp_path / "q.npz", **parity._questions(batches, ["serving_default"]))
        file = formats.__file__
        words = [file, exports["saved_model"].path, tmp_path / "q.npz", tmp_path / "a"]
        script = f"""if True:
            import runpy, sys
            sys.argv = {[str(word) for word in words]}
            runpy.run_path({file!r}, run_name="__main__")
            loaded = {{name.partition(".")[0] for name, module in sys.modules.items() if module}}
            assert "tensorflow" in loaded
            assert not loaded & {{"keras", "keras_cnnlstm", "tf_keras"}}, loaded
            try:
                import keras
            except ImportError:
                print("no keras")
        """
        done = subprocess.run(
            [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, "no keras\n"), done.stderr

    def test_restores_what_it_sets(self, model, exports):
        assert tf.config.experimental.tensor_float_32_execution_enabled()
        assert keras.config.dtype_policy().name == "float32"

    def test_shows_the_error_of_the_process(self):
        text = 'Traceback\n  File "x"\nsome.pkg.BadError: one\n two\n'
        assert parity._error_message(text) == "some.pkg.BadError: one two"
        assert parity._error_message("") == "it left no message."


class TestPlace:
    def test_is_the_next_free_version(self, model, unwritten, tmp_path):
        (tmp_path / "9").mkdir()
        (tmp_path / "100.old").mkdir()
        (tmp_path / ("1" * 30)).mkdir()  # more than a server counts
        assert export(model, tmp_path).path == tmp_path / "10"
        assert export(model, tmp_path).path == tmp_path / "11"
        assert export(model, tmp_path, version=3).path == tmp_path / "3"
        assert export(model, tmp_path).path == tmp_path / "12"
        assert json.loads((tmp_path / "3" / "parity.json").read_text()) == {"max_difference": 0}
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]

    def test_is_readable_for_a_server_of_another_user(self, model, unwritten, tmp_path):
        before = os.umask(0o022)
        try:
            path = export(model, tmp_path / "new").path
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o777 == 0o755

    def test_of_an_existing_version_is_refused(self, model, unwritten, tmp_path):
        export(model, tmp_path, version=2)
        before = tree(tmp_path)
        with pytest.raises(FileExistsError, match="`version` must be one that does not exist"):
            export(flat_mlp(SHAPE, 3, units=(4,)), tmp_path, version=2)
        assert tree(tmp_path) == before

    @pytest.mark.parametrize("version", [0, -1, 1.0, True, "1", 10**18, 10**30])
    def test_must_be_a_version(self, model, version, tmp_path):
        with pytest.raises(ValueError, match=r"`version` must be .*received"):
            export(model, tmp_path, version=version)

    @pytest.mark.parametrize("format", ["litert", "onnx"])
    def test_of_other_formats_must_be_new_or_empty(self, model, format, unwritten, tmp_path):
        export(model, tmp_path / "empty", format)  # made
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "mine.txt").write_text("mine")
        for name in ("full", "full/mine.txt"):
            with pytest.raises(FileExistsError, match="must be a new or empty directory"):
                export(model, tmp_path / name, format)
        with pytest.raises(ValueError, match="`version` is for the format saved_model; received 1"):
            export(model, tmp_path / "new", format, version=1)
        assert (tmp_path / "full" / "mine.txt").read_text() == "mine"

    def test_that_cannot_be_written_is_refused(self, model, unwritten, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        for format in FORMATS:
            with pytest.raises(OSError, match="`path` must be a directory that can be made"):
                export(model, tmp_path / "file" / "new", format)

        def denied(self, *args, **kwargs):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "mkdir", denied)
        with pytest.raises(OSError, match=r"can be made and written; .*Permission denied"):
            export(model, tmp_path / "new")

    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, MemoryError])
    def test_is_left_as_it_was_by_an_interrupted_export(
        self, model, unwritten, error, tmp_path, monkeypatch
    ):
        export(model, tmp_path / "models")
        before = tree(tmp_path)

        def write(source, format, directory):
            (directory / "saved_model.pb").write_text("half")
            raise error

        monkeypatch.setattr(exporter, "write_model", write)
        for path in (tmp_path / "models", tmp_path / "more" / "models"):
            with pytest.raises(error):
                export(model, path)
        assert tree(tmp_path) == before
        assert [p.name for p in tmp_path.iterdir()] == ["models"]
        assert [p.name for p in (tmp_path / "models").iterdir()] == ["1"]

    def test_taken_meanwhile_is_left_to_the_faster(self, model, tmp_path, monkeypatch):
        def write(source, format, directory):
            (tmp_path / "1").mkdir()
            (tmp_path / "1" / "saved_model.pb").write_text("the other's")
            return {}

        monkeypatch.setattr(exporter, "write_model", write)
        with pytest.raises(OSError, match="not empty"):
            export(model, tmp_path)
        assert tree(tmp_path) == {"1/saved_model.pb": b"the other's"}
        assert [p.name for p in tmp_path.iterdir()] == ["1"]


def uninstall(package, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


def one_input(name="frames", dtype="uint8", shape=(None, *SHAPE)):
    frames = keras.Input(batch_shape=shape, dtype=dtype, name=name)
    return keras.Model(frames, ops.cast(frames, "float32"))


def two_inputs():
    frames, other = (
        keras.Input(SHAPE, dtype="uint8", name="frames"),
        keras.Input((2,), name="other"),
    )
    return keras.Model([frames, other], layers.Dense(2)(other))


class TestArguments:
    def test_format(self, model, tmp_path):
        with pytest.raises(ValueError, match=r"`format` must be one of .*; received 'tflite'"):
            export(model, tmp_path, "tflite")

    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (lambda: 3, "must be a keras.Model, a Run or the path.*received 3"),
            (lambda: one_input("images", "uint8"), "the input `frames`.*received images uint8"),
            (lambda: one_input("frames", "float32"), "the input `frames`.*received frames float32"),
            (two_inputs, "received frames uint8, other float32"),
            (type("Own", (keras.Model,), {}), "must be functional.*received Own"),
            (lambda: one_input(shape=(4, 4, 12, 12, 1)), r"frames \(B, T, H, W, C\) of any B"),
            (lambda: one_input(shape=(None, 4, None, 12, 1)), "with known sizes after T"),
        ],
        ids=["int", "name", "dtype", "more", "none", "B", "H"],
    )
    def test_model(self, build, message, tmp_path):
        with pytest.raises(ValueError, match=f"`model_or_run` .*{message}"):
            export(build(), tmp_path)

    @pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "b"), "abcd"])
    def test_class_names(self, model, names, tmp_path):
        with pytest.raises(ValueError, match=r"`class_names` must be .* names.* received"):
            export(model, tmp_path, class_names=names)

    def test_class_names_by_default_are_numbers(self, model, tmp_path):
        exported = export(model, tmp_path, "onnx")
        assert load_artifact(exported.path).class_names == ("0", "1", "2")

    def test_backend(self, model, tmp_path, monkeypatch):
        monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
        with pytest.raises(ValueError, match=r"on TensorFlow; it runs on jax\. Set KERAS_BACKEND"):
            export(model, tmp_path)

    @pytest.mark.parametrize(
        ("format", "package"),
        [("litert", "ai_edge_litert"), ("onnx", "tf2onnx"), ("onnx", "onnxruntime")],
    )
    def test_missing_extra(self, model, format, package, tmp_path, monkeypatch):
        uninstall(package, monkeypatch)
        with pytest.raises(
            ValueError, match=rf"{package}: expected this package.*keras-cnnlstm\[export\]"
        ):
            export(model, tmp_path / "new", format)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("format", ["litert", "onnx"])
    def test_operations_that_a_format_lacks(self, format, tmp_path):
        frames = keras.Input(SHAPE, dtype="uint8", name="frames")
        x = layers.Flatten()(layers.Rescaling(1 / 255)(frames))
        x = ops.erfinv(ops.clip(layers.Dense(3)(x), -0.9, 0.9))
        with pytest.raises(
            ValueError, match=r"(?s)Erfinv.*Nothing was exported|Erfinv.*saved_model"
        ):
            export(keras.Model(frames, x), tmp_path / "new", format)
        assert not list(tmp_path.iterdir())


class TestLoading:
    @pytest.mark.parametrize(
        ("format", "name"),
        [
            ("saved_model", ".."),
            ("saved_model", "."),
            ("saved_model", "saved_model.pb"),
            ("litert", "."),
            ("litert", "model.tflite"),
            ("onnx", "model.onnx"),
        ],
    )
    def test_takes_directories_versions_and_files(self, exports, format, name):
        artifact = load_artifact(exports[format].path / name)
        assert artifact.metadata["format"] == format

    def test_takes_the_newest_version(self, exports, tmp_path):
        for version in ("9", "10"):
            shutil.copytree(exports["saved_model"].path, tmp_path / version)
        assert load_artifact(tmp_path).path == tmp_path / "10"

    @pytest.mark.parametrize("name", ["nothing", "empty", "file"])
    def test_says_what_it_did_not_find(self, name, tmp_path):
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").write_text("")
        with pytest.raises(FileNotFoundError, match=r"expected an exported model.*; found"):
            load_artifact(tmp_path / name)

    @pytest.mark.parametrize("format", FORMATS)
    def test_refuses_a_damaged_file(self, exports, format, tmp_path):
        shutil.copytree(exports[format].path, tmp_path / "x")
        file = tmp_path / "x" / FORMATS[format].file
        file.write_bytes(file.read_bytes()[:400])
        with pytest.raises(ValueError, match="expected a model that can be opened"):
            load_artifact(tmp_path / "x")

    @pytest.mark.parametrize(
        "text", [None, "", "[]", '{"inputs": {}}', "[" * 100_000, '{"inputs": {"frames": 3}}']
    )
    def test_refuses_a_model_of_unknown_origin(self, exports, text, tmp_path):
        shutil.copytree(exports["onnx"].path, tmp_path / "x")
        file = tmp_path / "x" / "metadata.json"
        file.unlink() if text is None else file.write_text(text)
        with pytest.raises(ValueError, match=r"metadata\.json: expected"):
            load_artifact(tmp_path / "x")

    @pytest.mark.parametrize(
        ("format", "package"), [("litert", "ai_edge_litert"), ("onnx", "onnxruntime")]
    )
    def test_says_which_extra_is_missing(self, exports, format, package, monkeypatch):
        uninstall(package, monkeypatch)
        with pytest.raises(ValueError, match=r"pip install \"keras-cnnlstm\[export\]\""):
            load_artifact(exports[format].path)
