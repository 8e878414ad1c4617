"""Trained classifiers of single frames as the encoder of sequences: the LSTM reads what they say.

A task that needs each frame read rightly, such as a sum, gains more from several classifiers that
err at different frames than from one, and ten probabilities say all that it needs of a digit.
"""

from collections.abc import Sequence

import keras
from keras import layers

from keras_cnnlstm.arguments import check_kind, check_model, check_whole, told
from keras_cnnlstm.layers import GeometricMean
from keras_cnnlstm.pretrained import leaf_layers
from keras_cnnlstm.views import MOST_VIEWS, Views


def mean_reader(
    models: Sequence[keras.Model], *, views: int = 1, name: str = "readers"
) -> keras.Model:
    """The encoder that gives what classifiers of single frames say, the mean over all of them.

    The mean is the geometric one, normalised: the logarithmic opinion pool of Heskes, "Selecting
    Weighting Factors in Logarithmic Opinion Pools", NIPS 1997, section 2, which one classifier that
    is sure of another class sways less than the arithmetic one does.

    Args:
        models: one or more that say what is on an image, from `frames (B, H, W, C) uint8` to
            probabilities `(B, classes)`, such as `models.image_cnn`, or from sequences of one
            frame `(B, 1, H, W, C)` to `(B, 1, classes)`. Their layers become those of the encoder,
            are frozen, and drop nothing any more.
        views: in how many slightly moved copies each of them sees each frame, 1 to 7, in the order
            of `views.average_views`; the mean is over these, too.
        name: the encoder's name.

    Returns:
        A model from frames `(N, H, W, C)` in [0, 1] to probabilities `(N, classes)` float32, to be
        given to `cnn_lstm` as its `encoder`.

    Raises:
        ValueError: if there is no model, they answer to something else, or `views` is out of range.

    Example:

    >>> from keras_cnnlstm.models import cnn_lstm, image_cnn
    >>> cnn_lstm((4, 28, 28, 1), 7, encoder=mean_reader([image_cnn(), image_cnn()])).output_shape
    (None, 7)
    """
    check_kind("mean_reader: `models`", models, list | tuple, "a list of models")
    if not models:
        raise ValueError("mean_reader: `models` must be one or more; received none.")
    check_whole("mean_reader: `views`", views, 1, MOST_VIEWS)
    shapes = [_shapes(model) for model in models]
    for other in shapes:
        if other != shapes[0]:
            raise ValueError(
                "mean_reader: `models` must read equal frames and know equal classes; received "
                f"{_in_words(shapes[0])} and {_in_words(other)}."
            )
    frames = keras.Input(shapes[0][0], dtype="float32", name="frame")
    copies = Views(int(views), dtype="float32", name="views")(frames) if views > 1 else frames
    answers = [
        _reading(model, shapes[0][0], f"reader{number}")(copies)
        for number, model in enumerate(models, start=1)
    ]
    mean = GeometricMean(int(views), name="mean")(answers)
    encoder = keras.Model(frames, mean, name=name)
    encoder.trainable = False
    return encoder


def _shapes(model):
    """Of the frames that a model reads, `(H, W, C)`, and of what it says, `(classes,)`."""
    check_model("mean_reader: `models`", model)
    if len(model.inputs) == len(model.outputs) == 1:
        (_, *frames), (_, *answer) = model.input_shape, model.output_shape
        if len(frames) == 4 and len(answer) == 2 and frames[0] == 1:
            frames, answer = frames[1:], answer[1:]
        if (len(frames), len(answer)) == (3, 1) and any(x.name == _SCALED for x in model.layers):
            return tuple(frames), tuple(answer)
    raise ValueError(
        "mean_reader: `models` must answer to one frame, (B, H, W, C) or (B, 1, H, W, C), which "
        "they rescale, with probabilities (B, classes) or (B, 1, classes); received one from "
        f"{told([tuple(x.shape) for x in model.inputs])} to "
        f"{told([tuple(x.shape) for x in model.outputs])}. Train them with --model image_cnn."
    )


def _in_words(shapes):
    return " -> ".join(map(str, shapes))


_SCALED = "rescale"  # the layer of every model here by which pixels become numbers


def _reading(model, frame_shape, name):
    """A model as one of frames in [0, 1], of the same layers."""
    for layer, _ in leaf_layers(model):
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0  # frozen, it would go on dropping in the training of what comes after
    rescaling = model.get_layer(_SCALED)
    frames = keras.Input(frame_shape, dtype="float32", name="frame")
    x = frames
    if (factor := 255 * rescaling.scale, rescaling.offset) != (1, 0):  # such as one to [-1, 1]
        x = layers.Rescaling(factor, rescaling.offset, dtype="float32", name="scaled")(x)
    x = layers.Reshape(rescaling.output.shape[1:], dtype="float32", name="frames")(x)
    x = keras.Model(rescaling.output, model.outputs[0], name="classifier")(x)
    return keras.Model(frames, layers.Flatten(dtype="float32", name="answer")(x), name=name)
