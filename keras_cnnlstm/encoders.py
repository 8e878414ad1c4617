"""Encoders: CNNs that turn one frame into one vector, `(B, H, W, C) -> (B, features)`.

They take floating-point frames in [0, 1]; the models rescale the raw `uint8` ones. They know
nothing of time: `models` applies them to each frame of a sequence.
"""

from collections.abc import Callable, Sequence

import keras
from keras import layers


def conv_pool(filters: Sequence[int] = (32, 64), kernel_size: int = 3) -> keras.Sequential:
    """The reference encoder: for each entry of `filters` Conv-ReLU-MaxPool, then Flatten.

    Args:
        filters: output channels of each convolution ("same" padding, ReLU), each followed by
            a max-pooling of 2.
        kernel_size: side of the convolutions in pixels.

    Returns:
        An unbuilt `keras.Sequential`; frames of (28, 28, 1) become vectors of 3,136 numbers.
    """
    maps = conv_pool_maps(filters, kernel_size)
    return keras.Sequential([*maps, layers.Flatten(name="flatten")], name="conv_pool")


def conv_pool_maps(
    filters: Sequence[int], kernel_size: int = 3, *, narrowing: int | None = None
) -> list[keras.Layer]:
    """Conv-ReLU-MaxPool layers, as `conv_pool` has them: image -> maps `(B, H', W', channels)`.

    Args:
        filters: output channels of each convolution.
        kernel_size: side of the convolutions in pixels.
        narrowing: how many of the poolings halve the width too; by default all. All halve the
            height.
    """
    stack: list[keras.Layer] = []
    for i, channels in enumerate(filters, start=1):
        pool = (2, 2) if narrowing is None or i <= narrowing else (2, 1)
        stack += [
            layers.Conv2D(
                channels, kernel_size, padding="same", activation="relu", name=f"conv{i}"
            ),
            layers.MaxPooling2D(pool, name=f"pool{i}"),
        ]
    return stack


def small_cnn(filters: Sequence[int] = (16, 32, 64), kernel_size: int = 3) -> keras.Sequential:
    """Three narrow stages in place of the reference's two: Conv-ReLU-MaxPool each, then Flatten.

    With the defaults half the multiplications of `conv_pool`, and a quarter of the parameters
    of a whole `cnn_lstm`, since 576 numbers reach the LSTM in place of 3,136.

    Args:
        filters: output channels of each convolution ("same" padding, ReLU), each followed by a
            max-pooling of 2.
        kernel_size: side of the convolutions in pixels.

    Returns:
        An unbuilt `keras.Sequential`; frames of (28, 28, 1) become vectors of 576 numbers.
    """
    maps = conv_pool_maps(filters, kernel_size)
    return keras.Sequential([*maps, layers.Flatten(name="flatten")], name="small_cnn")


ENCODERS: dict[str, Callable[..., keras.Layer]] = {
    "conv_pool": conv_pool,
    "small_cnn": small_cnn,
}
"""Encoders by name, as `cnn_lstm(encoder=...)` and `--encoder` take them."""
