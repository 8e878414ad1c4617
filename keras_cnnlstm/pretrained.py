"""Networks pretrained on ImageNet as encoders: a frame -> a vector, frozen or fine-tuned.

They take floats in [0, 1] as all encoders here do, and do to the pixels inside what their authors
did, so that no caller has to know it. Knows nothing of time or of models: `models.cnn_lstm`
takes what `pretrained` returns as its `encoder`, and `unfreeze` finds it in there.
"""

import hashlib
import os
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
from keras import layers, ops

from keras_cnnlstm.arguments import as_path, check_model, is_whole, told
from keras_cnnlstm.files import replacing

_NETWORK_TIMEOUT = 6.0  # seconds, once for the connection and once for each block that it sends
_BLOCK = 1 << 20  # bytes of a download at a time
_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"


class Network(NamedTuple):
    """What there is to know about a pretrained network."""

    builder: str
    """Its name in `keras.applications`."""

    features: int
    """Numbers in the vector of a frame."""

    pixels: str
    """What its authors did to the pixels, a name in `PIXELS`."""

    address: str
    """Where Keras publishes its weights without the classifier."""

    md5: str
    """The MD5 sum of that file, as Keras gives it."""

    paper: str
    """Who made it."""

    @property
    def file(self) -> str:
        """Name of the file of weights."""
        return self.address.rsplit("/", 1)[-1]


PIXELS: dict[str, tuple[float | list[float], float | list[float]]] = {
    # Blue, green, red, as the library Caffe had them, less their means over ImageNet.
    "caffe": (255.0, [-103.939, -116.779, -123.68]),
    "tf": (2.0, -1.0),
    # Red, green, blue standardised: means 0.485, 0.456, 0.406, deviations 0.229, 0.224, 0.225.
    "torch": (
        [1 / 0.229, 1 / 0.224, 1 / 0.225],
        [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
    ),
}
"""Scale and offset, of each channel or of all, for pixels in [0, 1]; named as Keras names them."""

PRETRAINED: dict[str, Network] = {
    "vgg16": Network(
        "VGG16",
        512,
        "caffe",
        "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "6d6bbae143d832006294945121d1f1fc",
        "Simonyan and Zisserman, ICLR 2015",
    ),
    "resnet50": Network(
        "ResNet50",
        2048,
        "caffe",
        f"{_KERAS}/resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "4d473c1dd8becc155b73f8504c6f6626",
        "He et al., CVPR 2016",
    ),
    "mobilenet_v3_small": Network(
        "MobileNetV3Small",
        576,
        "tf",
        f"{_KERAS}/mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
        "d3e8ec802a04aa4fc771ee12a9a9b836",
        "Howard et al., ICCV 2019",
    ),
    "mobilenet_v3_large": Network(
        "MobileNetV3Large",
        960,
        "tf",
        f"{_KERAS}/mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        "07fb09a5933dd0c8eaafa16978110389",
        "Howard et al., ICCV 2019",
    ),
    "efficientnet_v2_b0": Network(
        "EfficientNetV2B0",
        1280,
        "torch",
        f"{_KERAS}/efficientnet_v2/efficientnetv2-b0_notop.h5",
        "893217f2bb855e2983157299931e43ff",
        "Tan and Le, ICML 2021",
    ),
}
"""Networks by name, as `pretrained` takes them."""

MIN_SIZE = 32
"""Height and width in pixels below which nothing would be left for the last layers of any."""


def pretrained(
    name: str,
    *,
    weights: str | Path | None = "imagenet",
    trainable: bool = False,
    input_shape: tuple[int, int, int] = (224, 224, 3),
) -> keras.Model:
    """A network of `keras.applications`, without its classifier, as an encoder.

    Pixels -> what the network expects -> the network -> the mean over all positions. Grey frames
    are given to it as red, green and blue alike. The preparation of the pixels computes in
    float32 under every precision policy.

    A frozen network is a fixed function of the frame, in training too: batch normalisation goes
    by its averages, and the stochastic depth of EfficientNetV2 is off (and stays off when it is
    unfrozen later).

    Args:
        name: a name in `PRETRAINED`.
        weights: "imagenet", taken from Keras's own cache, `~/.keras/models` or
            `$KERAS_HOME/models`, and downloaded into it once; or the path of a file of weights:
            `.h5` without the classifier ("notop") as Keras publishes them, or `.weights.h5` or
            `.keras` of the same network, as Keras saves it or as it is returned here. Only arrays
            are read. `None` for random ones.
        trainable: whether it is trained from the first step on. By default it is frozen; see
            `unfreeze`.
        input_shape: `(H, W, C)` of a frame; H and W 32 or more, C 1 or 3.

    Returns:
        A model from `(B, H, W, C)` floats in [0, 1] to `(B, features)`. It is made of ordinary
        layers, and opens from a `.keras` file with `safe_mode=True`.

    Raises:
        ValueError: if an argument is out of range, or the file has other weights.
        FileNotFoundError: if there is no such file.
        ConnectionError: if the ImageNet weights are not on this machine and cannot be had within
            seconds.

    Example:

    >>> encoder = pretrained("mobilenet_v3_small", weights=None, input_shape=(32, 32, 1))
    >>> encoder.output_shape, len(encoder.trainable_weights)
    ((None, 576), 0)
    """
    network = _known(name)
    _check_shape(name, input_shape)
    model = _build(name, network, tuple(input_shape))
    if weights == "imagenet":
        _load(model, _imagenet(name, network))
    elif weights is not None:
        _load(model, as_path("pretrained: `weights`", weights))
    model.trainable = trainable
    if not trainable:
        _switch_off_dropout(model)
    return model


def unfreeze(
    model: keras.Model,
    layers: int | str | Sequence[str] | None = None,
    *,
    batch_norm: bool = False,
) -> list[str]:
    """Lets frozen layers of an encoder be trained: the second stage, fine-tuning.

    Train the rest of the model first, then unfreeze, **compile again** (which layers are trained
    is settled when a model is compiled) and go on with a learning rate a tenth or a hundredth as
    large. Batch normalisation stays as it is, going by its averages: to move them would undo what
    the network has learned (Keras's guide "Transfer learning & fine-tuning").

    Args:
        model: a model of sequences with its encoder in `TimeDistributed`, such as `cnn_lstm`; or
            the encoder itself. It is changed in place.
        layers: which layers of the encoder to unfreeze. A number: the last so many that have
            weights; a name: from this layer on; several names: those that begin with one of these
            ("block5" for block5_conv1, ...); `None`: all.
        batch_norm: unfreeze the batch normalisation among them too. Without, it is not counted.

    Returns:
        The names of the layers unfrozen, first to last. Layers that could be trained before still
        can.

    Raises:
        ValueError: if nothing is frozen, or no layer is meant by `layers`.

    Example:

    >>> encoder = pretrained("vgg16", weights=None, input_shape=(32, 32, 3))
    >>> unfreeze(encoder, 2)
    ['block5_conv2', 'block5_conv3']
    """
    check_model("unfreeze: `model`", model)
    encoders = [x for x in model.layers if isinstance(x, keras.layers.TimeDistributed)] or [model]
    found = [pair for encoder in encoders for pair in leaf_layers(encoder)]
    trained = [leaf for leaf, free in found if free]
    frozen = [leaf for leaf, free in found if not free and leaf.weights]
    if not batch_norm:
        frozen = [x for x in frozen if not isinstance(x, keras.layers.BatchNormalization)]
    if not frozen:
        raise ValueError(
            f"unfreeze: `model` must have frozen layers in its encoder; {model.name!r} has none. "
            "Freeze an encoder with encoder.trainable = False before building the model."
        )
    chosen = _chosen(frozen, [leaf for leaf, _ in found], layers)
    for encoder in encoders:
        encoder.trainable = True  # and all in it: a frozen container would keep its layers frozen
    for leaf, _ in found:
        leaf.trainable = any(leaf is x for x in (*trained, *chosen))
    return [leaf.name for leaf in chosen]


def leaf_layers(layer: keras.Layer) -> list[tuple[keras.Layer, bool]]:
    """The layers inside of one that hold no further ones, each once, first to last.

    Returns:
        Each with whether it may be trained: neither it nor what it lies in is frozen.
    """
    return list(dict(_leaves(layer, True)).items())


def _known(name: str) -> Network:
    if not isinstance(name, str) or name not in PRETRAINED:
        raise ValueError(
            f"pretrained: `name` must be one of {sorted(PRETRAINED)}; received {told(name)}. Any "
            "other Keras model can be given to cnn_lstm as its encoder."
        )
    return PRETRAINED[name]


def _check_shape(name: str, shape: Any) -> None:
    sizes = shape if isinstance(shape, list | tuple) else ()
    if len(sizes) != 3 or not all(is_whole(size, 0) for size in sizes) or sizes[2] not in (1, 3):
        raise ValueError(
            "pretrained: `input_shape` must be (H, W, C), C 1 for grey or 3 for colour; received "
            f"{told(shape)}."
        )
    if min(shape[:2]) < MIN_SIZE:
        raise ValueError(
            f"pretrained: `input_shape` must be {MIN_SIZE}x{MIN_SIZE} pixels or more for {name}; "
            f"received {shape[0]}x{shape[1]}. Resize the frames: --image-size {MIN_SIZE} "
            f"{MIN_SIZE}, or load_frames(..., image_size=({MIN_SIZE}, {MIN_SIZE}))."
        )


def _build(name: str, network: Network, shape: tuple[int, ...]) -> keras.Model:
    """The network with random weights, as one graph from the pixels to the vector."""
    frames = keras.Input(shape, name="frames")
    x = _prepared(frames, network.pixels)  # (B, H, W, 3)
    # Its own preparation would compute in half under a half policy.
    own = {} if network.pixels == "caffe" else {"include_preprocessing": False}
    application = getattr(keras.applications, network.builder)(
        include_top=False,
        weights=None,
        input_tensor=x,
        input_shape=(*shape[:2], 3),
        pooling="avg",
        **own,
    )
    return keras.Model(frames, application.output, name=name)


def _prepared(frames: keras.KerasTensor, pixels: str) -> keras.KerasTensor:
    """Frames in [0, 1] as a network expects them, `(B, H, W, 3)` float32."""
    if frames.shape[-1] == 1:
        x = layers.Concatenate(dtype="float32", name="grey_to_colour")([frames] * 3)
    else:
        x = ops.flip(frames, axis=-1) if pixels == "caffe" else frames
    scale, offset = PIXELS[pixels]
    return layers.Rescaling(scale, offset, dtype="float32", name="pixels")(x)


def _load(model: keras.Model, path: Path) -> None:
    """Reads the weights of a file: arrays only, whatever else is in it."""
    if not path.is_file():
        raise FileNotFoundError(
            f"pretrained: `weights` must be 'imagenet', None or an existing file; received {path}."
        )
    try:
        if path.suffix not in (".h5", ".keras"):
            raise ValueError("its name ends neither in .h5 nor in .keras.")
        model.load_weights(path)
    except Exception as error:  # a damaged file can fail anywhere in the reading of it
        raise ValueError(
            f"pretrained: `weights` must be those of {model.name} without its classifier (notop); "
            f"{path} cannot be read as such: {' '.join(str(error).split())}"
        ) from error


def _imagenet(name: str, network: Network) -> Path:
    """The published file in Keras's cache, downloaded if it is not there."""
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    path = home / "models" / network.file
    if not path.exists():
        try:
            _download(network, path)
        except (OSError, ValueError) as error:
            raise ConnectionError(
                f"pretrained: the ImageNet weights of {name} are not on this machine and cannot be "
                f"downloaded ({error}). Put {network.file} into {path.parent}, or give its path: "
                "weights=PATH; weights=None begins with random ones."
            ) from error
    elif _md5(path) != network.md5:
        raise ValueError(
            f"pretrained: {path} must be the file that Keras publishes; its MD5 sum is another. "
            "Remove it, or give it as weights=PATH if it is meant."
        )
    return path


def _download(network: Network, path: Path) -> None:
    """Fetches a file; each wait for the network has its time limit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        with _opened(network.address) as answer, temporary.open("wb") as file:
            bar = keras.utils.Progbar(int(answer.headers.get("Content-Length", 0)) or None)
            while block := answer.read(_BLOCK):
                file.write(block)
                bar.add(len(block))
        if _md5(temporary) != network.md5:
            raise OSError("it came damaged")


def _opened(address: str) -> Any:
    """The answer to a request, had within the time limit."""
    result: list[Any] = [TimeoutError(f"no answer in {2 * _NETWORK_TIMEOUT:.0f} seconds")]

    def ask():
        try:
            result[:] = [urllib.request.urlopen(address, timeout=_NETWORK_TIMEOUT)]
        except (OSError, ValueError) as error:
            result[:] = [error]

    # In a thread, since looking up a name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * _NETWORK_TIMEOUT)
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _switch_off_dropout(model: keras.Model) -> None:
    for layer, _ in leaf_layers(model):
        if isinstance(layer, layers.Dropout):
            layer.rate = 0


def _leaves(layer: keras.Layer, free: bool) -> Iterator[tuple[keras.Layer, bool]]:
    free = free and layer.trainable
    inner = layer.layers if isinstance(layer, keras.Model) else layer._layers
    if not inner:
        yield layer, free
    for sublayer in inner:
        yield from _leaves(sublayer, free)


def _chosen(frozen, everything, meant):
    """The frozen layers that are meant by a number, a name, beginnings of names, or `None`."""
    if meant is None:
        return frozen
    if isinstance(meant, int) and 1 <= meant <= len(frozen):
        return frozen[-meant:]
    names = [layer.name for layer in everything]
    if isinstance(meant, str) and meant in names:
        after = everything[names.index(meant) :]
        chosen = [layer for layer in frozen if any(layer is x for x in after)]
    elif isinstance(meant, Sequence) and not isinstance(meant, str):
        chosen = [layer for layer in frozen if layer.name.startswith(tuple(meant))]
    else:
        chosen = []
    if not chosen:
        raise ValueError(
            f"unfreeze: `layers` must be a number from 1 to {len(frozen)}, the name of a layer, "
            f"beginnings of names, or None; received {meant!r}. The frozen layers are "
            f"{', '.join(layer.name for layer in frozen)}."
        )
    return chosen
