"""Why this answer? Which frames it hangs on, and where in them: occlusion and Grad-CAM.

Both ask a trained model alone, as it is; nothing is trained or changed. Knows nothing of tasks or
runs; `plots.plot_explanation` draws what comes out.
"""

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_cnnlstm.arguments import as_array, as_numbers, check_model, told
from keras_cnnlstm.class_maps import class_maps, enlarged, shown_layer

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
    """By how much the answer falls when a frame is blanked: how far it hangs on each of them.

    Occlusion sensitivity (Zeiler and Fergus, "Visualizing and Understanding Convolutional
    Networks", ECCV 2014, section 4.2) over time: each frame is blanked by itself, the others stay.
    It tells what the answer would be without the frame, not that the frame alone makes it; two
    frames that say the same can both have 0. A blank frame may also be one that the model has
    never seen, so look at the same with the other `blank`.

    Args:
        model: from `frames (B, T, H, W, C)`, or lines `(B, T, L, C)`, and perhaps `lengths`, to
            probabilities or values, once or at each step, of which the last that counts is meant.
        frames: the sequences, as the model takes them.
        lengths: `(B,)`, frames of each sequence that count; by default all.
        class_ids: `(B,)`, the class (or value) in question; by default the one answered. Of values
            the first.
        blank: what a frame is replaced by: "zeros", black; or "mean", the mean of the sequence's
            frames that count.

    Returns:
        `(B, T)` float32: probability (or value) of the whole sequence, less that with frame t
        blanked; negative if the answer gains by the blank. 0 at steps after the length.

    Raises:
        ValueError: if the arguments do not fit the model, or it does not read sequences of frames.

    Example:

    >>> frames = keras.Input((3, 2, 2, 1))
    >>> model = keras.Model(frames, keras.ops.sum(frames, axis=(1, 2, 3)))  # (B, 1)
    >>> occlusion(model, np.arange(12).reshape(1, 3, 2, 2, 1)).tolist()
    [[6.0, 22.0, 38.0]]
    """
    frames, lengths = _checked("occlusion", model, frames, lengths)
    if not isinstance(blank, str) or blank not in ("zeros", "mean"):
        raise ValueError(f"occlusion: `blank` must be 'zeros' or 'mean'; received {told(blank)}.")
    if not _reads_sequences(model):
        raise ValueError(
            f"occlusion: `model` must read sequences of frames (B, T, H, W, C); {model.name!r} "
            f"reads single images {frames.shape[1:]}. Use grad_cam."
        )
    answers = _answers(model, frames, lengths)
    weights = _weights("occlusion", model, answers, lengths, class_ids)
    counts = np.arange(frames.shape[1]) < lengths[:, None]  # (B, T)
    replacements = _replacements(frames, counts, blank)
    changes = np.zeros(counts.shape, np.float32)
    pairs = np.argwhere(counts)
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
    """Where in each frame the convolutions found what speaks for the answer.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", ICCV 2017, section 3: the maps of a convolutional layer, each weighted by the
    mean over its positions of the gradient of the class's score before the softmax (equation 1),
    summed, and what is negative left out (equation 2). The gradient goes through the LSTMs, so each
    frame's maps have weights of their own. Then enlarged to the frame's size, bilinearly, and
    divided by the largest number of the sequence, so that frames can be compared.

    Look at it for *where* in a frame, and at `occlusion` for *which* frame: the gradient of an
    early frame can be small or turned because the LSTM's gates are saturated. And a network that
    flattens its maps, as `encoders.conv_pool` does, weighs each place by itself, of which the mean
    is taken here; one that ends in an average over places (`residual_cnn`) is shown exactly.

    While it works, the model's own layers are listened to and its softmax is left out: do not
    call the model in another thread meanwhile.

    Args:
        model: any model of `models.MODELS` with convolutions, or one like them.
        frames: the sequences, as the model takes them: `(B, T, H, W, C)`; for a model of single
            images `(B, H, W, C)`; of lines `(B, T, L, C)`.
        lengths: `(B,)`, frames of each sequence that count; by default all.
        class_ids: `(B,)`, the class (or value) in question; by default the one answered, of values
            the first. A model that answers at each step is asked for its last answer that counts; a
            `crnn` for all characters it reads, or for one of them wherever it could be.
        layer: name of the layer whose maps are shown; by default the last that is convolutional, or
            keeps the places of one before it, such as a normalisation, a residual block, or a ReLU
            (of `conv_pool` that behind its last pooling). A later one knows more of the meaning, an
            earlier one more of the place.

    Returns:
        `(B, T, H, W)` float32 in [0, 1]; 0 in frames after the length, and everywhere if nothing
        speaks for the class. A model that sees all frames as one image (`channel_cnn`) has one
        map for all of them; one of single images `(B, 1, H, W)`; one of lines `(B, T, L)`.

    Raises:
        ValueError: if the arguments do not fit the model, or it has no convolutions.
    """
    frames, lengths = _checked("grad_cam", model, frames, lengths)
    shown = shown_layer(model, _inputs(model, frames[:1], lengths[:1]), layer)
    answers = _answers(model, frames, lengths)
    weights = _weights("grad_cam", model, answers, lengths, class_ids)
    name = _output_name(model)
    batches = (slice(start, start + _BATCH) for start in range(0, len(frames), _BATCH))
    maps = [
        class_maps(model, shown, _inputs(model, frames[b], lengths[b]), weights[b], output=name)
        for b in batches
    ]
    count, *sides = frames.shape[1:-1] if _reads_sequences(model) else (1, *frames.shape[1:-1])
    large = enlarged(_in_time(np.concatenate(maps), lengths, count), sides)  # (B, T, H, W)
    most = large.max(axis=tuple(range(1, large.ndim)), keepdims=True)
    return np.divide(large, most, out=np.zeros_like(large), where=most > 0)


def _checked(function, model, frames, lengths):
    """Frames as the model takes them, and a length for each sequence; refuses what does not fit."""
    check_model(f"{function}: `model`", model)
    given = {x.name: x for x in model.inputs}
    expected = given.get("frames", model.inputs[0])
    others = given.keys() - {expected.name, "lengths"}
    if others or any(getattr(part, "stateful", False) for part in model._flatten_layers()):
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
    lengths = as_array(f"{function}: `lengths`", lengths)
    fits = lengths.shape == frames.shape[:1] and lengths.dtype.kind in "iu"
    if "lengths" not in given or not fits or lengths.min() < 1 or lengths.max() > most:
        raise ValueError(
            f"{function}: `lengths` must be whole numbers of shape ({len(frames)},), 1 to {most}, "
            f"and None for a model without such an input; received {told(lengths)} for "
            f"{model.name!r}."
        )
    return frames, lengths.astype(np.int64)


def _reads_sequences(model) -> bool:
    """Whether the second axis of the frames is time; images are uint8, and lines are not."""
    frames = {x.name: x for x in model.inputs}.get("frames", model.inputs[0])
    return len(frames.shape) == 5 or frames.dtype != "uint8"


def _inputs(model, frames, lengths):
    """In the structure that the model was made with; Keras warns of any other."""
    lengths = lengths.astype(np.int32)
    return keras.tree.map_structure(
        lambda x: lengths if x.name == "lengths" else frames, model.input
    )


def _output_name(model) -> str:
    """The name of the answer, which may have states beside it."""
    names = list(model.output) if isinstance(model.output, dict) else model.output_names
    return next((n for n in ("probabilities", "values", "logits") if n in names), names[0])


def _answers(model, frames, lengths) -> np.ndarray:
    """What the model answers, `(B, classes)` or `(B, T, classes)`."""
    answers = model.predict(_inputs(model, frames, lengths), batch_size=_BATCH, verbose=0)
    return answers[_output_name(model)] if isinstance(answers, dict) else answers


def _weights(function, model, answers, lengths, class_ids) -> np.ndarray:
    """Of the shape of the answers: 1 at the numbers in question, 0 elsewhere."""
    name, weights = _output_name(model), np.zeros_like(answers)
    class_ids = _checked_classes(function, answers, class_ids, name)
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


def _checked_classes(function, answers, class_ids, name):
    if class_ids is None:
        return None
    class_ids = as_array(f"{function}: `class_ids`", class_ids)
    count = answers.shape[-1] - (name == "logits")  # the blank is none
    fits = class_ids.shape == (len(answers),) and class_ids.dtype.kind in "iu"
    if not fits or class_ids.min() < 0 or class_ids.max() >= count:
        raise ValueError(
            f"{function}: `class_ids` must be whole numbers of shape ({len(answers)},), 0 to "
            f"{count - 1}, one for each sequence; received {told(class_ids)}."
        )
    return class_ids.astype(np.int64)


def _replacements(frames, counts, blank):
    """The frame that replaces one of each sequence, `(B, H, W, C)`."""
    if blank == "zeros":
        return np.zeros_like(frames[:, 0])
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = np.einsum("bt,bt...->b...", weights, frames)
    return (np.rint(mean) if frames.dtype.kind in "iu" else mean).astype(frames.dtype)


def _in_time(maps, lengths, count):
    """A map for each step, `(B, T, h, w)`, 0 in steps after the length."""
    if maps.shape[1] not in (1, count):
        raise ValueError(
            f"grad_cam: `layer` must have a map for each of {count} frames, or one for all; "
            f"received {maps.shape[1]} of them."
        )
    maps = np.repeat(maps, count // maps.shape[1], axis=1)
    maps[np.arange(count) >= lengths[:, None]] = 0
    return maps
