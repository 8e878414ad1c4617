"""The proof that an exported model computes what the model computes.

A fresh process that can import neither Keras nor this package answers several batches with the
export. Each answer is compared with the model's own.
"""

import contextlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_cnnlstm.export import formats
from keras_cnnlstm.export.signatures import call, input_specs, step_of
from keras_cnnlstm.tasks.answers import best_path
from keras_cnnlstm.tasks.vocabulary import join
from keras_cnnlstm.utils.files import png_bytes

BOUNDS = {"float32": 1e-5, "half": 2e-2}
"""Largest absolute difference that passes, by the precision that both sides compute in."""

Arrays = dict[str, np.ndarray]

Answers = dict[tuple[str, str], np.ndarray]
"""The answers of functions to one batch, by function and output."""


class ParityError(ValueError):
    """An export does not answer, or not as its model does."""


class Reference(NamedTuple):
    """A model that has the right answers.

    Attributes:
        model: the model.
        bound: the absolute difference that passes.
        rounds: the model rounds to half precision where the export does not, so single answers
            may differ more; then the bound is for the median sequence.
    """

    model: keras.Model
    bound: float
    rounds: bool = False


def prove(
    path: Path,
    references: Mapping[str, Reference],
    signatures: Sequence[str],
    class_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Compares an export with the model that it was made from.

    Args:
        path: the export, as `load_artifact` takes it.
        references: the exported model as "model", and others to compare with by name.
        signatures: the functions to prove, of `serving_default`, `serve_images` and `step`.
        class_names: what the labels should be.

    Returns:
        The content of `parity.json`: the largest difference from the model, the bound, the largest
        of each function and the batches; and such figures for each other reference by its name.
    """
    batches = sample_inputs(references["model"].model)
    answers = fresh_answers(path, batches, signatures)
    figures = {name: _figures(r, batches, answers, signatures) for name, r in references.items()}
    for name, reference in references.items():
        _check_differences(name, reference, figures[name])
    _check_texts(answers, class_names)
    return {**figures.pop("model"), "batches": [_sizes(batch) for batch in batches], **figures}


def sample_inputs(model: keras.Model) -> list[Arrays]:
    """Batches to compare answers on, each the model's inputs by name.

    One sequence, fewer sequences than frames, and more; several numbers of frames if the model
    takes any. Noise and stripes, sparse and full, dark and bright, so that a trained model does
    not answer all of them with the same certainty.
    """
    specs = input_specs(model)
    time = specs["frames"].shape[1]
    sizes = [(1, 6), (3, 4), (6, 4), (4, 9)]  # (B, T)
    if time is not None:
        sizes = [(batch + (batch == time), time) for batch in (1, 3, 6)]
    return [_sample(np.random.default_rng(i), specs, *size) for i, size in enumerate(sizes)]


def _sample(rng, specs, batch, time):
    frames = rng.integers(0, 256, (batch, time, *specs["frames"].shape[2:]))
    each = (batch, *[1] * (frames.ndim - 1))
    frames = frames * (rng.random(frames.shape) < rng.random(each))  # from sparse to full
    frames = (frames * rng.uniform(0.2, 1, each)).astype(np.uint8)  # from dark to bright
    height = frames.shape[2]
    frames[1::2] = np.repeat(frames[1::2, :, ::4], 4, axis=2)[:, :, :height]  # stripes
    inputs = {"frames": frames}
    if "lengths" in specs:
        inputs["lengths"] = rng.integers(1, time + 1, batch).astype(np.int32)
    return inputs


def fresh_answers(
    path: Path, batches: Sequence[Arrays], signatures: Sequence[str]
) -> list[Answers]:
    """The export's answers to each batch, from a fresh process on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        questions, answered = Path(folder, "questions.npz"), Path(folder, "answers.npz")
        np.savez(questions, **_questions(batches, signatures))
        # -P leaves the folder of the file out of the import path.
        done = subprocess.run(
            [sys.executable, "-P", formats.__file__, path, questions, answered],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise ParityError(
                "export: expected the exported model to answer in a fresh process; it failed "
                f"with exit code {done.returncode}: {_error_message(done.stderr)} Nothing was "
                "exported."
            )
        answers: list[Answers] = [{} for _ in batches]
        with np.load(answered, allow_pickle=False) as file:
            for key in file.files:
                i, signature, name = key.split("/")
                answers[int(i)][signature, name] = file[key]
        return answers


def _questions(batches, signatures):
    questions: dict[str, np.ndarray] = {}
    for i, batch in enumerate(batches):
        for signature in signatures:
            inputs = dict(batch)
            if signature == "serve_images":
                inputs["images"] = encoded(inputs.pop("frames"))
            if signature == "step":
                inputs = {"frames": inputs["frames"]}
            questions |= {f"{i}/{signature}/{name}": value for name, value in inputs.items()}
    return questions


def encoded(frames: np.ndarray) -> np.ndarray:
    """Frames `(..., H, W, C)` uint8 as the bytes of PNG files, `(...)`."""
    images = [png_bytes(frame) for frame in frames.reshape(-1, *frames.shape[-3:])]
    # A PNG does not end with a zero byte, so an array of byte strings holds it whole.
    return np.array(images).reshape(frames.shape[:-3])


def _error_message(text):
    """The message of the error that ended a process, on one line."""
    found = list(re.finditer(r"^[\w.]+(Error|Exception|Fail|Exit)\b", text, re.MULTILINE))
    message = text[found[-1].start() :] if found else text
    return " ".join(message.split())[-600:] or "it left no message."


def expected_answers(
    model: keras.Model, step: keras.Model | None, batch: Arrays, signatures: Sequence[str]
) -> Answers:
    """The model's own answers to a batch, as its `predict` computes them; of its step, if given."""
    with _full_float32():
        whole = _compiled(model, batch)(**batch)
        expected = {(s, name): value for s in signatures for name, value in whole.items()}
        if step is not None:
            if "lengths" in batch:  # in a stream every frame counts
                batch = _full_lengths(batch)
                whole = _compiled(model, batch)(**batch)
            streamed = _streamed(step, batch["frames"], whole)
            expected |= {("step", name): value for name, value in streamed.items()}
    return expected


def _compiled(model, inputs):
    """The model as a graph for inputs of these sizes: elsewhere half precision rounds otherwise."""
    specs = {name: tf.TensorSpec(value.shape, value.dtype) for name, value in inputs.items()}
    function = tf.function(lambda **inputs: call(model, inputs), autograph=False)
    graph = function.get_concrete_function(**specs)
    return lambda **inputs: {
        name: value.numpy()
        for name, value in graph(**{k: tf.constant(v) for k, v in inputs.items()}).items()
    }


def _streamed(step, frames, whole):
    """The right answers of a stream, `(B, T, ...)`.

    The last one is the whole-sequence model's own (all, if it answers each step), the others are
    the step model's.
    """
    states = {
        tensor.name: np.zeros((len(frames), *tensor.shape[1:]), "float32")
        for tensor in step.inputs
        if tensor.name != "frame"
    }
    functions = {
        "init_states": lambda batch: states,
        "step": _compiled(step, {"frame": frames[:, 0], **states}),
    }
    streamed = formats.stream(functions, frames)
    for name, value in streamed.items():
        if whole[name].ndim == value.ndim:
            streamed[name] = whole[name]
        else:
            value[:, -1] = whole[name]
    return streamed


def _full_lengths(batch):
    """The batch with every frame counting."""
    if "lengths" not in batch:
        return batch
    return {**batch, "lengths": np.full_like(batch["lengths"], batch["frames"].shape[1])}


def _figures(reference, batches, answers, signatures):
    found: dict[str, list[float]] = {signature: [] for signature in signatures}
    step = step_of(reference.model) if "step" in signatures else None
    for batch, received in zip(batches, answers, strict=True):
        expected = expected_answers(reference.model, step, batch, signatures)
        for (signature, name), value in expected.items():
            asked = _full_lengths(batch) if signature == "step" else batch
            pair = (_without_padding(x, asked) for x in (received[signature, name], value))
            found[signature].extend(differences(*pair))
    everything = [difference for values in found.values() for difference in values]
    # NumPy's max and median of anything with a NaN are NaN, which passes no bound.
    figures = {"max_difference": float(np.max(everything)), "bound": reference.bound}
    if reference.rounds:
        figures["median_difference"] = float(np.median(everything))
    worst = {signature: float(np.max(values)) for signature, values in found.items()}
    return {**figures, "by_signature": worst}


def differences(received: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The largest difference of each sequence, `(B,)`; infinite if the shapes differ.

    Absolute, as probabilities need it; relative where the expected number is beyond 1, as sums
    and other unbounded answers need it.
    """
    if received.shape != expected.shape:
        return np.full(len(expected), math.inf)
    distance = np.abs(received.astype(np.float64) - expected.astype(np.float64))
    distance /= np.maximum(1, np.abs(expected))
    return distance.reshape(len(expected), -1).max(axis=1)


def _without_padding(value, batch):
    """Answers at each step, 0 after a sequence's end, where a GPU may differ."""
    time = batch["frames"].shape[1]
    if "lengths" not in batch or value.ndim < 3 or value.shape[1] != time:
        return value
    after = np.arange(time) >= batch["lengths"][:, None]  # (B, T)
    return np.where(after.reshape(*after.shape, *[1] * (value.ndim - 2)), 0, value)


def _check_differences(name, reference, figures):
    measured = "max_difference"
    if reference.rounds and math.isfinite(figures[measured]):
        measured = "median_difference"
    if not figures[measured] <= reference.bound:
        raise ParityError(
            f"export: expected the exported model to answer as the {name} does, within "
            f"{reference.bound:g}; its {measured.replace('_', ' ')} is {figures[measured]:g} "
            f"({json.dumps(figures['by_signature'])}). Nothing was exported."
        )


def _check_texts(answers: Iterable[Answers], class_names):
    """Classes, labels, texts and captions must follow from the numbers beside them."""
    names = np.array([name.encode() for name in class_names])
    follow = {
        "class_id": ("probabilities", lambda x: x.argmax(axis=-1)),
        "label": ("probabilities", lambda x: names[x.argmax(axis=-1)]),
        "text": ("logits", lambda x: [b"".join(names[best_path(row)]) for row in x]),
        "caption": ("tokens", lambda x: [join(row, class_names).encode() for row in x]),
    }
    for batch in answers:
        for signature, output in batch:
            if output not in follow:
                continue
            source, right = follow[output]
            if not np.array_equal(batch[signature, output], right(batch[signature, source])):
                raise ParityError(
                    f"export: expected `{output}` of {signature} to follow from its `{source}`; "
                    "it does not. Nothing was exported."
                )


def _sizes(batch):
    sizes = {"batch": batch["frames"].shape[0]}
    if batch["frames"].ndim != 4:  # single images have no time
        sizes["time"] = batch["frames"].shape[1]
    return sizes | {"lengths": batch["lengths"].tolist()} if "lengths" in batch else sizes


@contextlib.contextmanager
def _full_float32() -> Iterator[None]:
    """GPUs multiply float32 in TF32 by default, which the comparison would take for an error."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
