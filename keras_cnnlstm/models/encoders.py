"""Encoders: CNNs that turn one frame into one vector, `(B, H, W, C) -> (B, features)`.

They take floating-point frames in [0, 1]; the models rescale the raw `uint8` ones. `conv1d` takes
frames that are lines, `(B, L, C)`, as they are. They know nothing of time: the models apply them to
each frame of a sequence. Each function returns an unbuilt `keras.Sequential`.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal

import keras
from keras import layers

from keras_cnnlstm.layers.batch_normalization import BatchNormalization
from keras_cnnlstm.layers.conv2d import Conv2D
from keras_cnnlstm.layers.residual_block import ResidualBlock
from keras_cnnlstm.utils.validation import check_dropout, check_instance, is_integer, short_repr

_MOST = 65_536  # channels, or pixels of a kernel


def conv_pool(filters: Sequence[int] = (32, 64), kernel_size: int = 3) -> keras.Sequential:
    """The reference encoder: for each entry of `filters` Conv-MaxPool-ReLU, then Flatten.

    ReLU after the pooling has a quarter of the work, and the same answers and gradients as in the
    usual order, since it is monotonic.

    Args:
        filters: output channels of each convolution ("same" padding), each followed by a
            max-pooling of 2 and ReLU.
        kernel_size: side of the convolutions in pixels.

    Returns:
        An encoder of frames (28, 28, 1) into vectors of 3,136 numbers.

    Raises:
        ValueError: if an argument is out of range.
    """
    maps = conv_pool_maps(filters, kernel_size)
    return keras.Sequential([*maps, layers.Flatten(name="flatten")], name="conv_pool")


def conv_pool_maps(
    filters: Sequence[int], kernel_size: int = 3, *, narrowing: int | None = None
) -> list[keras.Layer]:
    """The Conv-MaxPool-ReLU layers of `conv_pool`: image -> maps `(B, H', W', channels)`.

    Each pooling halves the height; the first `narrowing` of them, by default all, also the width.
    """
    _check_sizes("conv_pool", filters, kernel_size=kernel_size)
    stack: list[keras.Layer] = []
    for i, channels in enumerate(filters, start=1):
        pool = (2, 2) if narrowing is None or i <= narrowing else (2, 1)
        stack += [
            Conv2D(channels, kernel_size, padding="same", name=f"conv{i}"),
            layers.MaxPooling2D(pool, name=f"pool{i}"),
            layers.ReLU(name=f"relu{i}"),
        ]
    return stack


def small_cnn(filters: Sequence[int] = (16, 32, 64), kernel_size: int = 3) -> keras.Sequential:
    """Three narrow stages in place of the two of `conv_pool`, whose arguments it has.

    With the defaults half the multiplications, and a quarter of the parameters of a whole
    `cnn_lstm`: frames of (28, 28, 1) become vectors of 576 numbers, not of 3,136.
    """
    maps = conv_pool_maps(filters, kernel_size)
    return keras.Sequential([*maps, layers.Flatten(name="flatten")], name="small_cnn")


def residual_cnn(
    filters: Sequence[int] = (32, 64, 96), *, pooling: Literal["average", "flatten"] = "average"
) -> keras.Sequential:
    """A convolution, then residual blocks with BatchNorm, at half the image's size and less.

    Conv-MaxPool-BatchNorm-ReLU, a block at half the image's size, each further block at half the
    size of the one before; see `layers.ResidualBlock`. BatchNorm takes its statistics over all
    frames of a batch together, without those of padding (if `cnn_lstm` wraps the layers one by one,
    its default).

    Args:
        filters: output channels of the blocks; the first convolution has as many as the first.
        pooling: how the last maps become a vector. "average" over all positions, for things that
            are *there*; "flatten", for where they are: the answer to a movement needs it.

    Returns:
        An encoder of frames (28, 28, 1) into vectors of 96 numbers, or of 1,536 with "flatten".

    Raises:
        ValueError: if an argument is out of range.
    """
    if not _positive(filters) or str(pooling) not in ("average", "flatten"):
        raise ValueError(
            "residual_cnn: `filters` must have one entry or more and `pooling` be 'average' or "
            f"'flatten'; received {short_repr(filters)} and {short_repr(pooling)}."
        )
    first, *others = filters
    return keras.Sequential(
        [
            layers.Conv2D(first, 3, padding="same", use_bias=False, name="conv1"),
            # Before the normalisation, which then has a quarter of the positions to go through.
            layers.MaxPooling2D(2, name="pool1"),
            BatchNormalization(name="norm1"),
            layers.ReLU(name="relu1"),
            ResidualBlock(first, name="block1"),
            *(ResidualBlock(f, 2, name=f"block{i}") for i, f in enumerate(others, start=2)),
            layers.GlobalAveragePooling2D(name="pool")
            if pooling == "average"
            else layers.Flatten(name="flatten"),
        ],
        name="residual_cnn",
    )


def paired_cnn(filters: Sequence[int] = (24, 48, 96)) -> keras.Sequential:
    """Two convolutions at each size of the image, the first two at its full size.

    For each entry of `filters` Conv-BatchNorm-ReLU twice, with a max-pooling of 2 before the second
    normalisation except in the last entry; then the average over all positions. Pairs of 3x3
    convolutions are those of Simonyan and Zisserman, "Very Deep Convolutional Networks for
    Large-Scale Image Recognition", ICLR 2015, table 1, column B. The full size suits strokes of a
    pixel or two, and takes twice the arithmetic of `residual_cnn`.

    Args:
        filters: output channels of both convolutions at each size, each size half the one before.

    Returns:
        An encoder of frames (28, 28, 1) into vectors of 96 numbers.

    Raises:
        ValueError: if an argument is out of range.
    """
    _check_sizes("paired_cnn", filters)
    stack: list[keras.Layer] = []
    for i, channels in enumerate(filters, start=1):
        for part in "ab":
            name = f"{i}{part}"
            stack.append(_conv(channels, 3, name=f"conv{name}"))
            if part == "b" and i < len(filters):
                stack.append(layers.MaxPooling2D(2, name=f"pool{i}"))
            stack += [BatchNormalization(name=f"norm{name}"), layers.ReLU(name=f"relu{name}")]
    return keras.Sequential([*stack, layers.GlobalAveragePooling2D(name="pool")], name="paired_cnn")


def strided_cnn(filters: Sequence[int] = (32, 64, 128), dropout: float = 0.0) -> keras.Sequential:
    """Convolutions of stride 2 in place of pooling, and a Dense layer that sees positions.

    For each entry of `filters` except the last: Conv 3x3 twice without padding, then Conv 5x5 of
    stride 2, each with BatchNorm and ReLU, then dropout. The result is flattened for a Dense layer
    with BatchNorm and ReLU. Convolutions in place of pooling are those of Springenberg et al.,
    "Striving for Simplicity: The All Convolutional Net", ICLR 2015 workshop, section 2. A frame of
    MNIST takes half the multiplications of a `paired_cnn` with the same filters.

    Args:
        filters: output channels of each stage, and units of the last layer.
        dropout: share of the outputs of each convolutional stage dropped in training, 0 to below 1.

    Returns:
        An encoder of frames (28, 28, 1) into vectors of 128 numbers. Frames must have
        `fewest_pixels` on each side.

    Raises:
        ValueError: if an argument is out of range.
    """
    _check_sizes("strided_cnn", filters)
    check_dropout("strided_cnn", dropout)
    *stages, units = filters
    stack: list[keras.Layer] = []
    for i, channels in enumerate(stages, start=1):
        for part in "abc":
            last = part == "c"
            stack += [
                _conv(channels, 5, strides=2, name=f"conv{i}{part}")
                if last
                else _conv(channels, 3, padding="valid", name=f"conv{i}{part}"),
                BatchNormalization(name=f"norm{i}{part}"),
                layers.ReLU(name=f"relu{i}{part}"),
            ]
        if dropout:
            stack.append(layers.Dropout(dropout, name=f"conv{i}_dropout"))
    stack += [
        layers.Flatten(name="flatten"),
        layers.Dense(units, use_bias=False, kernel_initializer="he_normal", name="dense"),
        BatchNormalization(name="norm"),
        layers.ReLU(name="relu"),
    ]
    return keras.Sequential(stack, name="strided_cnn")


def fewest_pixels(encoder: keras.Sequential) -> int:
    """The least height and width of the frames that an encoder can take.

    Args:
        encoder: as the functions here return it, built or not.

    Raises:
        ValueError: if it is no encoder of frames `(B, H, W, 1)`.

    Example:

    >>> [fewest_pixels(encoder()) for encoder in (residual_cnn, conv_pool, strided_cnn)]
    [2, 4, 13]
    """
    check_instance("fewest_pixels: `encoder`", encoder, keras.Sequential, "a keras.Sequential")
    sides = range(1, _MOST + 1)
    fewer = bisect_left(sides, True, key=lambda side: _takes(encoder, side))
    if fewer == len(sides):
        raise ValueError(
            f"fewest_pixels: `encoder` must take frames (B, H, W, 1) of up to {_MOST:,} pixels; "
            f"received {short_repr(encoder.name)}, which takes none."
        )
    return sides[fewer]


def _takes(encoder, side):
    """Whether each layer has an output for a frame of this height and width."""
    shape = (None, side, side, 1)
    try:
        for layer in encoder.layers:
            shape = layer.compute_output_shape(shape)
    except ValueError:  # from Keras, if an output would be empty
        return False
    return True


def conv1d(
    filters: Sequence[int] = (32, 64),
    kernel_size: int = 5,
    *,
    pool_size: int = 2,
    pooling: Literal["max", "flatten"] = "max",
) -> keras.Sequential:
    """For frames that are lines `(L, C)`, not planes: windows of a signal, audio, embedded text.

    Conv1D-ReLU-MaxPool for each entry of `filters`, then one vector: with "max", the features of
    Kim, "Convolutional Neural Networks for Sentence Classification", EMNLP 2014, section 2.

    Args:
        filters: output channels of each convolution ("same" padding, ReLU), each followed by a
            max-pooling.
        kernel_size: length of the convolutions in samples (or tokens).
        pool_size: samples of each max-pooling; a shorter rest at the end of a line is pooled too.
        pooling: how the last maps become a vector. "max" over all positions, for things that occur
            anywhere, such as a tone of any phase; "flatten", for where they occur.

    Returns:
        An encoder of lines (400, 1) into vectors of 64 numbers, or of 6,400 with "flatten".

    Raises:
        ValueError: if an argument is out of range.
    """
    sizes = (kernel_size, pool_size)
    if not _positive(filters) or not _positive(sizes) or str(pooling) not in ("max", "flatten"):
        raise ValueError(
            "conv1d: `filters` must have one entry or more, all sizes must be positive and "
            f"`pooling` be 'max' or 'flatten'; received {short_repr(filters)}, "
            f"{short_repr(kernel_size)}, {short_repr(pool_size)} and {short_repr(pooling)}."
        )
    stack: list[keras.Layer] = []
    for i, channels in enumerate(filters, start=1):
        stack += [
            layers.Conv1D(
                channels, kernel_size, padding="same", activation="relu", name=f"conv{i}"
            ),
            layers.MaxPooling1D(pool_size, padding="same", name=f"pool{i}"),
        ]
    # No average: that layer takes masks and divides by their sum, which is 0 in a frame of padding.
    stack.append(
        layers.GlobalMaxPooling1D(name="pool")
        if pooling == "max"
        else layers.Flatten(name="flatten")
    )
    return keras.Sequential(stack, name="conv1d")


ENCODERS: dict[str, Callable[..., keras.Layer]] = {
    "conv_pool": conv_pool,
    "small_cnn": small_cnn,
    "residual_cnn": residual_cnn,
    "paired_cnn": paired_cnn,
    "strided_cnn": strided_cnn,
    "conv1d": conv1d,
}
"""Encoders by name, as `cnn_lstm(encoder=...)` takes them, and `--encoder` those of images."""


def _conv(filters, size, *, name, strides=1, padding="same"):
    """A convolution in front of a normalisation, which has the bias, and a ReLU."""
    return layers.Conv2D(
        filters,
        size,
        strides=strides,
        padding=padding,
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )


def _positive(sizes) -> bool:
    """Whether these are one or more sizes of a layer."""
    fits = isinstance(sizes, list | tuple) and bool(sizes)
    return fits and all(is_integer(size, 1, _MOST) for size in sizes)


def _check_sizes(function, filters, **sizes):
    for name, size in {"filters": filters, **sizes}.items():
        if not _positive(size if name == "filters" else [size]):
            raise ValueError(
                f"{function}: `{name}` must be positive, {_MOST:,} at most, one or more for "
                f"filters; received {short_repr(size)}."
            )
