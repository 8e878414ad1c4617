"""Which frames an answer depends on, and where in them: occlusion and Grad-CAM.

Both take a trained model as it is and change nothing. `plots.plot_explanation` draws the results.
"""

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_cnnlstm.evaluation.gradcam import enlarged, heat_maps, shown_layer
from keras_cnnlstm.layers.motion import Motion
from keras_cnnlstm.models.graph import all_layers, as_functional
from keras_cnnlstm.utils.validation import as_integers, as_numbers, check_choice

_BATCH = 64  # sequences that the model reads at a time
_BLANKED = 512  # sequences with a blank frame that are in memory at a time


def occlusion(
    model: keras.Model,
    frames: np.ndarray,
    lengths: np.ndarray | None = None,
    *,
    class_ids: Sequence[int] | np.ndarray | None = None,
    blank: Literal["zeros", "mean"] = "zeros",
) -> np.ndarray:
    """By how much the answer falls when a frame is blanked.

    Occlusion sensitivity (Zeiler and Fergus, "Visualizing and Understanding Convolutional
    Networks", ECCV 2014, section 4.2) over time: one frame is blanked, the others stay. Two frames
    that show the same can both have 0. The model may never have seen a blank frame, so compare
    with the other `blank`.

    Args:
        model: from `frames (B, T, H, W, C)`, or lines `(B, T, L, C)`, and perhaps `lengths`, to
            probabilities or values. Of answers at each step, the last valid one counts.
        frames: the sequences, as the model takes them.
        lengths: `(B,)`, valid frames of each sequence; by default all.
        class_ids: `(B,)`, the class (or value) in question; by default the answered class, or the
            first value.
        blank: what replaces a frame: "zeros", black; or "mean", the mean of the valid frames.

    Returns:
        `(B, T)` float32: the probability (or value) for the whole sequence, less that with frame t
        blanked; negative if the blank raises it. 0 at steps after the length.

    Raises:
        ValueError: if the arguments do not fit the model, or it reads no sequences of frames.

    Example:

    >>> frames = keras.Input((3, 2, 2, 1))
    >>> model = keras.Model(frames, keras.ops.sum(frames, axis=(1, 2, 3)))  # (B, 1)
    >>> occlusion(model, np.arange(12).reshape(1, 3, 2, 2, 1)).tolist()
    [[6.0, 22.0, 38.0]]
    """
    model = as_functional("occlusion: `model`", model)
    frames, lengths = _checked("occlusion", model, frames, lengths)
    check_choice("occlusion: `blank`", blank, ("zeros", "mean"))
    if not _reads_sequences(model):
        raise ValueError(
            f"occlusion: `model` must read sequences of frames (B, T, H, W, C); {model.name!r} "
            f"reads single images {frames.shape[1:]}. Use grad_cam."
        )
    answers = _answers(model, frames, lengths)
    weights = _weights("occlusion", model, answers, lengths, class_ids)
    mask = np.arange(frames.shape[1]) < lengths[:, None]  # (B, T)
    replacements = _replacements(frames, mask, blank)
    changes = np.zeros(mask.shape, np.float32)
    pairs = np.argwhere(mask)
    for start in range(0, len(pairs), _BLANKED):
        rows, steps = pairs[start : start + _BLANKED].T
        blanked = frames[rows]  # a copy
        blanked[np.arange(len(rows)), steps] = replacements[rows]
        falls = (answers[rows] - _answers(model, blanked, lengths[rows])) * weights[rows]
        changes[rows, steps] = falls.reshape(len(rows), -1).sum(axis=1)
    return changes


def grad_cam(
    model: keras.Model,
    frames: np.ndarray,
    lengths: np.ndarray | None = None,
    *,
    class_ids: Sequence[int] | np.ndarray | None = None,
    layer: str | None = None,
) -> np.ndarray:
    """The places in each frame where the convolutions found what supports the answer.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", ICCV 2017, section 3: the maps of a convolutional layer, each weighted by the
    mean over its positions of the gradient of the class's score before the softmax (equation 1),
    summed, without what is negative (equation 2). The gradient goes through the LSTMs, so the maps
    of each frame have their own weights. The sums are enlarged to the frame's size, bilinearly, and
    divided by the largest number of the sequence, so that frames can be compared.

    It shows *where* in a frame; `occlusion` shows *which* frame, since the gradient of an early
    frame can be small or reversed where the LSTM's gates are saturated. A network that averages its
    maps over all places (`residual_cnn`) is shown exactly; one that flattens them
    (`encoders.conv_pool`) has a weight for each place, whose mean is taken here.

    Args:
        model: any model of `models.MODELS` with convolutions, or one like them.
        frames: the sequences, as the model takes them: `(B, T, H, W, C)`; for a model of single
            images `(B, H, W, C)`; of lines `(B, T, L, C)`.
        lengths: `(B,)`, valid frames of each sequence; by default all.
        class_ids: `(B,)`, the class (or value) in question; by default the answered class, or the
            first value. Of answers at each step, the last valid one counts; of a `crnn` all the
            characters that it reads, or the one of `class_ids` at all positions.
        layer: name of the layer whose maps are shown, in the model or in a model or
            `TimeDistributed` in it; by default the last that is convolutional, or keeps the places
            of one before it, such as a normalisation, a residual block, or a ReLU. A later layer
            knows more about the meaning, an earlier one more about the place.

    Returns:
        `(B, T, H, W)` float32 in [0, 1]; 0 in frames after the length, and everywhere if nothing
        supports the class. A model that sees all frames as one image (`early_fusion_cnn`) has the
        same map for all of them; one of single images `(B, 1, H, W)`; one of lines `(B, T, L)`.

    Raises:
        ValueError: if the arguments do not fit the model, or it has no convolutions.
    """
    model = as_functional("grad_cam: `model`", model)
    frames, lengths = _checked("grad_cam", model, frames, lengths)
    shown = shown_layer(model, _inputs(model, frames[:1], lengths[:1]), layer)
    answers = _answers(model, frames, lengths)
    weights = _weights("grad_cam", model, answers, lengths, class_ids)
    maps = []
    for start in range(0, len(frames), _BATCH):
        b = slice(start, start + _BATCH)
        inputs = _inputs(model, frames[b], lengths[b])
        maps.append(heat_maps(model, shown, inputs, weights[b], output=_output_name(model)))
    count, *sides = frames.shape[1:-1] if _reads_sequences(model) else (1, *frames.shape[1:-1])
    large = enlarged(_in_time(model, np.concatenate(maps), lengths, count), sides)  # (B, T, H, W)
    most = large.max(axis=tuple(range(1, large.ndim)), keepdims=True)
    return np.divide(large, most, out=np.zeros_like(large), where=most > 0)


def _checked(function, model, frames, lengths):
    """Frames as the model takes them, and a length for each sequence."""
    expected, given = _frames_of(model), [x.name for x in model.inputs]
    others = {*given} - {expected.name, "lengths"}
    if others or any(getattr(part, "stateful", False) for part in all_layers(model)):
        raise ValueError(
            f"{function}: `model` must take frames, and perhaps lengths, alone, and keep no states "
            f"from batch to batch; {model.name!r} takes {', '.join(given)}. Build it without "
            "initial_state and stateful; set_weights moves the weights."
        )
    frames = as_numbers(f"{function}: `frames`", frames)
    fits = frames.ndim == len(expected.shape) and all(
        size is None or size == n for size, n in zip(expected.shape, frames.shape, strict=True)
    )
    if not fits or not frames.size or (expected.dtype == "uint8") != (frames.dtype == np.uint8):
        raise ValueError(
            f"{function}: `frames` must be {expected.dtype} of shape {tuple(expected.shape)}, as "
            f"{model.name!r} takes them; received {frames.dtype} of {frames.shape}."
        )
    most = frames.shape[1] if _reads_sequences(model) else 1
    if lengths is None:
        return frames, np.full(len(frames), most)
    if "lengths" not in given:
        raise ValueError(f"{function}: `lengths` must be None for a model without such an input.")
    return frames, as_integers(f"{function}: `lengths`", lengths, len(frames), 1, most)


def _frames_of(model) -> keras.KerasTensor:
    return next((x for x in model.inputs if x.name == "frames"), model.inputs[0])


def _reads_sequences(model) -> bool:
    """Whether the second axis of the frames is time; images are uint8, and lines are not."""
    return len(_frames_of(model).shape) == 5 or _frames_of(model).dtype != "uint8"


def _inputs(model, frames, lengths):
    """The inputs in the model's own structure, without which Keras warns."""
    lengths = lengths.astype(np.int32)
    return keras.tree.map_structure(
        lambda x: lengths if x.name == "lengths" else frames, model.input
    )


def _output_name(model) -> str:
    """The name of the answer; a model may also return states."""
    names = list(model.output) if isinstance(model.output, dict) else model.output_names
    return next((n for n in ("probabilities", "values", "logits") if n in names), names[0])


def _answers(model, frames, lengths) -> np.ndarray:
    """The answers of the model, `(B, classes)` or `(B, T, classes)`."""
    answers = model.predict(_inputs(model, frames, lengths), batch_size=_BATCH, verbose=0)
    return answers[_output_name(model)] if isinstance(answers, dict) else answers


def _weights(function, model, answers, lengths, class_ids) -> np.ndarray:
    """Weights of the shape of the answers: 1 at the numbers in question, else 0."""
    name, weights = _output_name(model), np.zeros_like(answers)
    if class_ids is not None:
        last = answers.shape[-1] - 1 - (name == "logits")  # the blank is no class
        class_ids = as_integers(f"{function}: `class_ids`", class_ids, len(answers), 0, last)
    if name == "logits":
        chosen = answers.argmax(axis=-1) if class_ids is None else class_ids[:, None] + 1
        np.put_along_axis(weights, np.broadcast_to(chosen, answers.shape[:2])[..., None], 1, -1)
        weights[..., 0] = 0  # the blank is no character
        return weights
    place: tuple[Any, ...] = (np.arange(len(answers)),)
    if answers.ndim == 3:
        place = (*place, lengths - 1 if _reads_sequences(model) else -1)
    if class_ids is None:
        class_ids = 0 if name == "values" else answers[place].argmax(axis=-1)
    weights[(*place, class_ids)] = 1
    return weights


def _replacements(frames, mask, blank):
    """The frame that replaces one of each sequence, `(B, H, W, C)`."""
    if blank == "zeros":
        return np.zeros_like(frames[:, 0])
    weights = mask / mask.sum(axis=1, keepdims=True)
    mean = np.einsum("bt,bt...->b...", weights, frames)
    return (np.rint(mean) if frames.dtype.kind in "iu" else mean).astype(frames.dtype)


def _in_time(model, maps, lengths, count):
    """A map for each frame, `(B, T, h, w)`, 0 after the length and where there is no step."""
    if skip := next((part.lag for part in all_layers(model) if isinstance(part, Motion)), 0):
        maps = np.pad(maps, [(0, 0), (skip, 0), (0, 0), (0, 0)])
    if maps.shape[1] not in (1, count):
        raise ValueError(
            f"grad_cam: `layer` must have a map for each of {count} frames, or one for all; "
            f"received {maps.shape[1]} of them."
        )
    maps = np.repeat(maps, count // maps.shape[1], axis=1)
    maps[np.arange(count) >= lengths[:, None]] = 0
    return maps
