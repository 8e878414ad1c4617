"""Several models trained for one question, whose mean answer is better than that of each of them.

Networks that differ in their first weights, in the order of their data or in their architecture
err on different sequences, and a mean of probabilities outvotes what one of them alone gets wrong
(Hansen and Salamon, "Neural Network Ensembles", PAMI 1990; Lakshminarayanan et al., "Simple and
Scalable Predictive Uncertainty Estimation using Deep Ensembles", NeurIPS 2017).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers

from keras_cnnlstm.layers.averaging import (
    MOST_COPIES,
    GeometricMean,
    LogOfMean,
    TTACopies,
    TTAMean,
)
from keras_cnnlstm.layers.frames_model import FramesModel
from keras_cnnlstm.models.calibration import softmax_head
from keras_cnnlstm.models.graph import as_functional, leaf_layers, split_model
from keras_cnnlstm.utils.validation import (
    check_instance,
    check_integer,
    is_integer,
    short_repr,
)


def average_models(models: Sequence[keras.Model]) -> keras.Model:
    """The model that gives the mean of several models' answers.

    It takes and returns what each of them does and shares their weights, so it is saved, predicted,
    scored, streamed and exported in their place. Of classifiers the last layer is the softmax of a
    Dense layer, as theirs is: its inputs are the logarithms of the mean probabilities, its weights
    the identity, which leaves the mean as it is until `calibration.scale_temperature` divides it.

    Args:
        models: two or more, such as runs of one recipe with several seeds: functional, with equal
            inputs and one output, of probabilities or values, of equal shape.

    Returns:
        A model from the same inputs to the mean answer, under the same names.

    Raises:
        ValueError: if there are fewer than two, or they do not fit together.

    Example:

    >>> from keras_cnnlstm.models import cnn_lstm
    >>> average_models([cnn_lstm(), cnn_lstm()]).output_shape
    (None, 7)
    """
    check_instance("average_models: `models`", models, list | tuple, "a list of models")
    models = [as_functional("average_models: `models`", model) for model in models]
    if len(models) < 2:
        raise ValueError(f"average_models: `models` must be two or more; received {len(models)}.")
    first, *others = [_face(model) for model in models]
    for other in others:
        if other != first:
            raise ValueError(
                "average_models: `models` must have equal inputs and outputs; received "
                f"{_in_words(first)} and {_in_words(other)}."
            )
    if len(models[0].outputs) != 1:
        raise ValueError(
            "average_models: `models` must have one output each; received ones with "
            f"{len(models[0].outputs)}."
        )
    inputs = as_given(
        {x.name: keras.Input(x.shape[1:], dtype=x.dtype, name=x.name) for x in models[0].inputs}
    )
    answers = [  # of models with names of their own
        keras.Model(
            as_given({x.name: x for x in model.inputs}), model.outputs[0], name=f"member{number}"
        )(inputs)
        for number, model in enumerate(models, start=1)
    ]
    name = models[0].output_names[0]
    if all(softmax_head(model) for model in models):
        logits = LogOfMean(dtype="float32", name="logits")(answers)
        mean = layers.Dense(
            logits.shape[-1],
            activation="softmax",
            use_bias=False,
            kernel_initializer="identity",
            dtype="float32",
            name=name,
        )(logits)
    else:
        mean = layers.Average(dtype="float32", name=name)(answers)
    return FramesModel(inputs, mean, name=f"{models[0].name}_{len(models)}_models")


def as_given(inputs: Mapping[str, Any]) -> Any:
    """Inputs as they are given to a model: one as it is, several by their names."""
    return dict(inputs) if len(inputs) > 1 else next(iter(inputs.values()))


def _face(model):
    """What a model shows to the outside: names, shapes and dtypes of inputs, shapes of outputs."""
    inputs = {x.name: (tuple(x.shape), x.dtype) for x in model.inputs}
    return inputs, [tuple(x.shape) for x in model.outputs]


def _in_words(face):
    inputs, outputs = face
    given = ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in inputs.items())
    return f"{given} -> {', '.join(map(str, outputs))}"


def encoder_from(models: Sequence[keras.Model], *, tta: int = 1) -> keras.Model:
    """A frozen encoder of frames, made of trained models.

    Of models that answer to one frame with the probabilities of classes, such as `image_cnn`, it
    gives the probabilities; of several their geometric mean, normalised. That is the logarithmic
    opinion pool of Heskes, "Selecting Weighting Factors in Logarithmic Opinion Pools", NIPS 1997,
    section 2, which one classifier that is sure of another class sways less than the arithmetic
    mean. Of other models, such as `cnn_lstm`, it gives the vectors of their encoders; of several
    these side by side.

    Args:
        models: one or more, such as `load_run(path).model`: from `frames (B, H, W, C) uint8` to
            probabilities `(B, classes)`, or from sequences of one frame `(B, 1, H, W, C)` to
            `(B, 1, classes)`; or all of them models that `split_model` takes. Their layers become
            those of the encoder, are frozen, and drop nothing any more.
        tta: test-time augmentation: copies of each frame that each model reads, 1 to 7, in the
            order of `with_test_time_augmentation`; the mean is over these, too.

    Returns:
        A model from frames `(N, H, W, C)` in [0, 1] to probabilities `(N, classes)` or vectors
        `(N, F)`, float32, to be given to `cnn_lstm` as its `encoder`.

    Raises:
        ValueError: if there is no model, they do not fit together, one has no encoder of frames, or
            `tta` is out of range.

    Example:

    >>> from keras_cnnlstm.models import cnn_lstm, image_cnn
    >>> cnn_lstm((4, 28, 28, 1), 7, encoder=encoder_from([image_cnn(), image_cnn()])).output_shape
    (None, 7)
    """
    check_instance("encoder_from: `models`", models, list | tuple, "a list of models")
    models = [as_functional("encoder_from: `models`", model) for model in models]
    if not models:
        raise ValueError("encoder_from: `models` must be one or more; received none.")
    check_integer("encoder_from: `tta`", tta, 1, MOST_COPIES)
    classifiers = [model for model in models if _classifies_frames(model)]
    if len(classifiers) not in (0, len(models)):
        raise ValueError(
            "encoder_from: `models` must all classify single frames, or none of them; received "
            f"{len(classifiers)} of {len(models)} that do."
        )
    make = _frozen_classifier if classifiers else _frozen_encoder
    encoders = [make(model, f"encoder{number}") for number, model in enumerate(models, start=1)]
    # Vectors of any length go side by side; probabilities must be of equal classes.
    faces = {(x.input_shape[1:], x.output_shape[1:] if classifiers else ()) for x in encoders}
    if len(faces) > 1:
        received = ", ".join(f"{x.input_shape[1:]} -> {x.output_shape[1:]}" for x in encoders)
        raise ValueError(
            "encoder_from: `models` must read equal frames, classifiers with equal classes; "
            f"received {received}."
        )
    frames = keras.Input(encoders[0].input_shape[1:], dtype="float32", name="frame")
    copies = TTACopies(int(tta), dtype="float32", name="copies")(frames) if tta > 1 else frames
    answers = [encoder(copies) for encoder in encoders]
    if classifiers:
        x = GeometricMean(int(tta), name="mean")(answers)
    else:
        x = answers[0] if len(answers) == 1 else layers.Concatenate(dtype="float32")(answers)
        x = TTAMean(int(tta), name="mean")(x) if tta > 1 else x
    encoder = keras.Model(frames, x, name="frozen_encoder")
    encoder.trainable = False
    return encoder


_SCALED = "rescale"  # the layer of every model here by which pixels become numbers


def _classifies_frames(model):
    """Whether a model answers to one frame with probabilities of classes."""
    if len(model.inputs) > 1 or not softmax_head(model):
        return False
    (_, *frames), (_, *answer) = model.input_shape, model.output_shape
    return (len(frames), len(answer)) == (3, 1) or (frames[0] == len(answer) - 1 == 1)


def _frozen_classifier(model, name):
    """A classifier of raw frames as one of frames in [0, 1], of the same layers."""
    frames, x, rescaling = _scaled(model)
    x = layers.Reshape(rescaling.output.shape[1:], dtype="float32", name="frames")(x)
    x = keras.Model(rescaling.output, model.outputs[0], name="classifier")(x)
    return keras.Model(frames, layers.Flatten(dtype="float32", name="answer")(x), name=name)


def _frozen_encoder(model, name):
    """The encoder of a model of sequences, as one of frames in [0, 1], of the same layers."""
    try:
        chain = split_model(model).frame_encoder
    except ValueError as error:
        raise ValueError(
            "encoder_from: `models` must classify single frames or encode frame by frame; received "
            f"{model.name!r} ({error})"
        ) from error
    frames, x, rescaling = _scaled(chain)
    for layer in chain.layers[1 + chain.layers.index(rescaling) :]:
        x = layer(x)
    return keras.Model(frames, x, name=name)


def _scaled(model):
    """An input of frames in [0, 1], these as a model's layers take them, and its own rescaling."""
    for layer, _ in leaf_layers(model):
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0  # frozen, it would go on dropping in the training of what comes after
    rescaling = next((layer for layer in model.layers if layer.name == _SCALED), None)
    if rescaling is None:
        raise ValueError(
            "encoder_from: `models` must rescale their frames themselves, as all models here do; "
            f"received {model.name!r}."
        )
    frames = x = keras.Input(model.input_shape[-3:], dtype="float32", name="frame")
    if (factor := 255 * rescaling.scale, rescaling.offset) != (1, 0):  # such as one to [-1, 1]
        x = layers.Rescaling(factor, rescaling.offset, dtype="float32", name="scaled")(x)
    return frames, x, rescaling


_INPUTS = {"frames", "lengths"}


def with_test_time_augmentation(model: keras.Model, copies: int = MOST_COPIES) -> keras.Model:
    """The model that answers to several copies of the frames, with the mean.

    It takes and returns what `model` does and shares its weights, so it is predicted, scored and
    exported in its place; it takes `copies` times as long. It cannot be streamed.

    Args:
        model: a model from `frames (B, T, H, W, C) uint8`, and perhaps `lengths (B,)`, to
            probabilities or values.
        copies: how many: the frames as they are, turned by 5 degrees each way, zoomed by 6 % each
            way, shifted by 1.8 % of the side each way, in this order; 2 to 7.

    Returns:
        A model from the same inputs to the mean answer, under the same names.

    Example:

    >>> from keras_cnnlstm.models import cnn_lstm
    >>> with_test_time_augmentation(cnn_lstm()).output_shape
    (None, 7)
    """
    model = as_functional("with_test_time_augmentation: `model`", model)
    if not is_integer(copies, 2, MOST_COPIES):
        raise ValueError(
            f"with_test_time_augmentation: `copies` must be 2 to {MOST_COPIES}; received "
            f"{short_repr(copies)}."
        )
    given = {tensor.name: tensor for tensor in model.inputs}
    fits = "frames" in given and len(given["frames"].shape) == 5 and given.keys() <= _INPUTS
    if not fits or len(model.outputs) != 1:
        raise ValueError(
            "with_test_time_augmentation: `model` must go from frames (B, T, H, W, C), and perhaps "
            f"lengths, to one answer; received one of the inputs {sorted(given)} and "
            f"{len(model.outputs)} outputs."
        )
    inputs = {name: keras.Input(x.shape[1:], dtype=x.dtype, name=name) for name, x in given.items()}
    several = {  # (copies * B, T, H, W, C)
        "frames": TTACopies(int(copies), name="copies")(inputs["frames"])
    }
    if "lengths" in given:
        same = TTACopies(int(copies), move=False, name="same_lengths")
        several["lengths"] = same(inputs["lengths"])
    (answer,) = keras.tree.flatten(model(as_given(several)))
    mean = TTAMean(int(copies), name=model.output_names[0])(answer)
    return FramesModel(as_given(inputs), mean, name=f"{model.name}_tta")
