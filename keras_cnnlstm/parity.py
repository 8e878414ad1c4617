"""The proof that an exported model computes what the model computes.

The export is run in a fresh process that can import neither Keras nor this package, on several
sequences, numbers of sequences and numbers of frames, and each of its answers is compared with
the model's own.
"""

import contextlib
import io
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
from PIL import Image

from keras_cnnlstm import artefacts, endpoints
from keras_cnnlstm.answers import read_text
from keras_cnnlstm.vocabulary import join

BOUNDS = {"float32": 1e-5, "half": 2e-2}
"""Largest absolute difference that passes, by the precision that both sides compute in."""

Arrays = dict[str, np.ndarray]
Answers = dict[tuple[str, str], np.ndarray]
"""What functions answer to one batch, by function and output."""


class ParityError(ValueError):
    """An export does not answer, or not as its model does."""


class Reference(NamedTuple):
    """A model that has the right answers.

    Attributes:
        model: the model.
        step: its step, if that function is asked for.
        bound: the absolute difference that passes.
        rounds: the model rounds to half precision where the export does not, so single answers
            may be further away; then the bound is for the median sequence.
    """

    model: keras.Model
    step: keras.Model | None
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
        path: what to open, as `artefacts.load_artefact` takes it.
        references: what to compare with: under "model" the model that was exported, and any
            others under names of their own.
        signatures: the functions to try, of `serving_default`, `serve_images` and `step`.
        class_names: what the labels should be.

    Returns:
        The largest difference from the model and the bound, the largest of each function, the
        batches tried; and the same figures for each other reference under its name.

    Raises:
        ParityError: if the export does not answer, or differs by more than a bound.
    """
    batches = sample_inputs(references["model"].model)
    answers = fresh_answers(path, batches, signatures)
    figures = {name: _figures(r, batches, answers, signatures) for name, r in references.items()}
    for name, reference in references.items():
        _check(name, reference, figures[name])
    _check_labels(answers, class_names)
    return {**figures.pop("model"), "batches": [_sizes(batch) for batch in batches], **figures}


def sample_inputs(model: keras.Model) -> list[Arrays]:
    """Batches of sequences to try a model on.

    One sequence alone, fewer and more sequences than frames; several numbers of frames if the
    model takes any. Noise and stripes, sparse and full, dark and bright, so that a trained model
    does not answer all of them with the same certainty.

    Returns:
        For each batch the model's inputs by name.
    """
    specs = endpoints.input_specs(model)
    time = specs["frames"].shape[1]
    sizes = [(1, 6), (3, 4), (6, 4), (4, 9)]  # (B, T)
    if time is not None:
        sizes = [(batch + (batch == time), time) for batch in (1, 3, 6)]
    return [_sample(np.random.default_rng(i), specs, *size) for i, size in enumerate(sizes)]


def fresh_answers(
    path: Path, batches: Sequence[Arrays], signatures: Sequence[str]
) -> list[Answers]:
    """Has a fresh process open the export and answer each batch.

    The process runs on the CPU, and can import neither Keras nor this package.

    Raises:
        ParityError: if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "questions.npz"), Path(folder, "answers.npz")
        np.savez(asked, **_questions(batches, signatures))
        done = _run(artefacts.__file__, path, asked, answered)
        if done.returncode:
            raise ParityError(
                "export: expected the exported model to answer in a fresh process; it failed "
                f"with exit code {done.returncode}: {_complaint(done.stderr)} Nothing was exported."
            )
        answers: list[Answers] = [{} for _ in batches]
        with np.load(answered, allow_pickle=False) as file:
            for key in file.files:
                i, signature, name = key.split("/")
                answers[int(i)][signature, name] = file[key]
        return answers


def expected_answers(reference: Reference, batch: Arrays, signatures: Sequence[str]) -> Answers:
    """The model's own answers to a batch, as its `predict` computes them."""
    with _full_float32():
        whole = _compiled(reference.model, batch)(**batch)
        expected = {(s, name): value for s in signatures for name, value in whole.items()}
        if "step" in signatures:
            if "lengths" in batch:  # of a stream every frame counts
                everything = _all_frames(batch)
                whole = _compiled(reference.model, everything)(**everything)
            streamed = _streamed(reference.step, batch["frames"], whole)
            expected |= {("step", name): value for name, value in streamed.items()}
    return expected


def differences(received: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The largest difference of each sequence, `(B,)`; infinite if the shapes differ.

    Absolute, as probabilities need it; in proportion where the expected number is beyond 1, as
    sums and other unbounded answers need it.
    """
    if received.shape != expected.shape:
        return np.full(len(expected), math.inf)
    distance = np.abs(received.astype(np.float64) - expected.astype(np.float64))
    distance /= np.maximum(1, np.abs(expected))
    return distance.reshape(len(expected), -1).max(axis=1)


def encoded(frames: np.ndarray) -> np.ndarray:
    """Frames `(..., H, W, C)` uint8 as the bytes of PNG files, `(...)`."""
    images = [_png(frame) for frame in frames.reshape(-1, *frames.shape[-3:])]
    # A PNG does not end with a zero byte, so an array of byte strings holds it whole.
    return np.array(images).reshape(frames.shape[:-3])


def _png(frame):
    buffer = io.BytesIO()
    Image.fromarray(frame.squeeze(-1) if frame.shape[-1] == 1 else frame).save(buffer, "PNG")
    return buffer.getvalue()


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


def _questions(batches, signatures):
    asked = {}
    for i, batch in enumerate(batches):
        for signature in signatures:
            inputs = dict(batch)
            if signature == "serve_images":
                inputs["images"] = encoded(inputs.pop("frames"))
            if signature == "step":
                inputs = {"frames": inputs["frames"]}
            asked |= {f"{i}/{signature}/{name}": value for name, value in inputs.items()}
    return asked


def _run(file, *words):
    """Runs a file with this Python, on the CPU, its folder left out of the import path (-P)."""
    hidden = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, "-P", file, *map(str, words)],
        env=os.environ | hidden,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def _complaint(text):
    """The message of the error that ended a process, on one line."""
    found = list(re.finditer(r"^[\w.]+(Error|Exception|Fail|Exit)\b", text, re.MULTILINE))
    message = text[found[-1].start() :] if found else text
    return " ".join(message.split())[-600:] or "it left no message."


def _compiled(model, inputs):
    """The model as a graph for inputs of these sizes, as `predict` runs it.

    Outside of a graph half precision rounds in other places.
    """
    specs = {name: tf.TensorSpec(value.shape, value.dtype) for name, value in inputs.items()}
    function = tf.function(lambda **inputs: endpoints.call(model, inputs), autograph=False)
    graph = function.get_concrete_function(**specs)
    return lambda **inputs: {
        name: value.numpy()
        for name, value in graph(**{k: tf.constant(v) for k, v in inputs.items()}).items()
    }


def _streamed(step, frames, whole):
    """What a stream should answer after each frame, `(B, T, ...)`.

    The last answer is the whole-sequence model's own (all of them, if it answers each step);
    those before are the step model's.
    """
    sizes = {t.name: t.shape[1] for t in step.inputs if t.name != "frame"}
    states = {name: np.zeros((len(frames), size), "float32") for name, size in sizes.items()}
    answer = _compiled(step, {"frame": frames[:, 0], **states})
    steps: list[Arrays] = []
    for t in range(frames.shape[1]):
        outputs = answer(frame=frames[:, t], **states)
        states = {name: outputs.pop(name) for name in states}
        steps.append(outputs)
    streamed = {name: np.stack([s[name] for s in steps], axis=1) for name in steps[0]}
    for name, value in streamed.items():
        if whole[name].ndim == value.ndim:
            streamed[name] = whole[name]
        else:
            value[:, -1] = whole[name]
    return streamed


def _figures(reference, batches, answers, signatures):
    by_signature: dict[str, list[float]] = {signature: [] for signature in signatures}
    for batch, answer in zip(batches, answers, strict=True):
        for (signature, name), value in expected_answers(reference, batch, signatures).items():
            asked = _all_frames(batch) if signature == "step" else batch
            received = _real(answer[signature, name], asked)
            by_signature[signature].extend(differences(received, _real(value, asked)))
    everything = [d for difference in by_signature.values() for d in difference]
    # NumPy's max and median of anything with a NaN are NaN, which passes no bound.
    figures = {"max_difference": float(np.max(everything)), "bound": reference.bound}
    if reference.rounds:
        figures["median_difference"] = float(np.median(everything))
    worst = {signature: float(np.max(found)) for signature, found in by_signature.items()}
    return {**figures, "by_signature": worst}


def _all_frames(batch):
    """The batch with every frame counting."""
    if "lengths" not in batch:
        return batch
    return {**batch, "lengths": np.full_like(batch["lengths"], batch["frames"].shape[1])}


def _real(value, batch):
    """Answers of each step without those after a sequence's end, where a GPU may differ."""
    time = batch["frames"].shape[1]
    if "lengths" not in batch or value.ndim < 3 or value.shape[1] != time:
        return value
    after = np.arange(time) >= batch["lengths"][:, None]  # (B, T)
    return np.where(after.reshape(*after.shape, *[1] * (value.ndim - 2)), 0, value)


def _check(name, reference, figures):
    measured = "max_difference"
    if reference.rounds and math.isfinite(figures[measured]):
        measured = "median_difference"
    if not figures[measured] <= reference.bound:
        raise ParityError(
            f"export: expected the exported model to answer as the {name} does, within "
            f"{reference.bound:g}; its {measured.replace('_', ' ')} is {figures[measured]:g} "
            f"({json.dumps(figures['by_signature'])}). Nothing was exported."
        )


def _check_labels(answers: Iterable[Answers], class_names):
    """Class and label must be those of the most probable class, texts what is read or said."""
    names = np.array([name.encode() for name in class_names])
    for batch in answers:
        for signature in [signature for signature, output in batch if output == "text"]:
            read = [b"".join(names[read_text(x)]) for x in batch[signature, "logits"]]
            if batch[signature, "text"].tolist() != read:
                raise ParityError(
                    "export: expected the exported model to name the text that its logits tell; "
                    f"{signature} names another. Nothing was exported."
                )
        for signature in [signature for signature, output in batch if output == "sentence"]:
            said = [join(words, class_names).encode() for words in batch[signature, "words"]]
            if batch[signature, "sentence"].tolist() != said:
                raise ParityError(
                    "export: expected the exported model to say the sentence of its words; "
                    f"{signature} says another. Nothing was exported."
                )
        for signature in [signature for signature, output in batch if output == "class_id"]:
            best = batch[signature, "probabilities"].argmax(axis=-1)
            label = batch.get((signature, "label"), names[best])
            if (batch[signature, "class_id"] != best).any() or (label != names[best]).any():
                raise ParityError(
                    "export: expected the exported model to name the most probable class; "
                    f"{signature} names another. Nothing was exported."
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
