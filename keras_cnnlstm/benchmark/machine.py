"""What this machine can do, and how much work the reference model asks of it.

Runs on every backend of Keras, and loads TensorFlow only where it is that backend.
"""

import importlib.metadata
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_cnnlstm.benchmark.timings import Row, Settings, each_call
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.utils.environment import (
    native_bfloat16,
    num_cores,
    processor_flags,
    processor_name,
)
from keras_cnnlstm.utils.validation import check_model, short_repr

RATES = "matrix multiplication"
"""The section of the rows with rates."""

_PRECISION_FLAGS = {"avx2", "avx512f", "avx512_fp16", "avx512_bf16", "amx_bf16", "sve", "bf16"}
_READINGS = 5  # of a rate at most


def work_section(length: int) -> str:
    """The section of the rows with the work of a sequence of `length` frames."""
    return f"work of one sequence, T={length}"


def machine(settings: Settings) -> list[Row]:
    """Counts the work of a sequence, and measures the rate of matrix multiplication.

    The best of several readings of a rate counts: `repeats`, at most 5.
    """
    rows = []
    for length in settings.lengths:
        model = cnn_lstm((length, 28, 28, 1))
        for name, training in (("inference", False), ("training", True)):
            work = flops(model, training=training)
            rows.append(Row(work_section(length), name, work, "FLOP", remark="products alone"))
    # Several products on an accelerator, so that the waiting for the last does not count.
    size, products = (8192, 10) if accelerator() else (2048, 1)
    repeats = min(settings.repeats, _READINGS)
    for dtype in dict.fromkeys(("float32", "bfloat16", auto_policy().removeprefix("mixed_"))):
        settings.log(f"{RATES}: {dtype}")
        rate = matrix_rate(dtype, size=size, products=products, repeats=repeats)
        remark = f"best of {repeats}, {size} x {size}"
        rows.append(Row(RATES, dtype, rate, "FLOP/s", remark=remark))
    return rows


def flops(model: keras.Model, *, training: bool = False) -> int:
    """Floating-point operations of a model's products for one sequence.

    Counts a multiplication and an addition for each number of a kernel and each place where a
    convolution, Dense or LSTM layer applies it. Biases, activations, pooling and normalisation are
    few, and are not counted. Training takes three times as many: the gradients of a product's
    inputs and of its kernel take one product each. The first layer's inputs need no gradient.

    Args:
        model: functional, its layers in a chain, T and all sizes known.
        training: count the forward and the backward pass; otherwise the forward pass.

    Example:

    >>> flops(cnn_lstm())  # 4 frames of two convolutions and an LSTM's step, then a Dense
    44078848
    """
    check_model("flops: `model`", model)
    counts: list[int] = []
    for layer in model.layers:
        if layer.weights:
            shape = layer.input.shape if isinstance(layer.input, keras.KerasTensor) else ()
            if None in shape[1:] or not shape:
                raise ValueError(
                    "flops: `model` must have layers of one input of known size each; received "
                    f"{layer.name!r} with {short_repr(layer.input)}. Give the number of frames."
                )
            counts += _products(layer, (1, *shape[1:]))
    forward = 2 * sum(counts)
    return 3 * forward - 2 * sum(counts[:1]) if training else forward


def _products(layer: keras.Layer, shape: tuple[int, ...]) -> Iterator[int]:
    """Multiplications of each layer within `layer`, for an input of this shape with B = 1."""
    if isinstance(layer, layers.TimeDistributed):
        yield from (shape[1] * count for count in _products(layer.layer, (1, *shape[2:])))
    elif isinstance(layer, keras.Sequential):
        for inner in layer.layers:
            yield from _products(inner, shape)
            shape = inner.compute_output_shape(shape)
    elif isinstance(layer, layers.Conv2D | layers.Dense):
        *places, _ = layer.compute_output_shape(shape)
        yield math.prod(places) * math.prod(layer.kernel.shape)
    elif isinstance(layer, layers.LSTM):
        kernels = (layer.cell.kernel, layer.cell.recurrent_kernel)
        yield shape[1] * sum(math.prod(kernel.shape) for kernel in kernels)
    elif layer.weights:
        raise ValueError(
            "flops: `model` must have its weights in Conv2D, Dense and LSTM layers, plain or in "
            f"TimeDistributed; received {layer.name!r}, a {type(layer).__name__}. Count that one "
            "by hand."
        )


def matrix_rate(
    dtype: str,
    *,
    size: int = 2048,
    products: int = 1,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Floating-point operations a second in products of square matrices on this machine.

    In float32 a GPU may round the factors to fewer bits first; the backend decides that.

    Args:
        dtype: of the matrices, such as "bfloat16".
        size: N, of matrices N x N.
        products: how many are started before the last is waited for.
        repeats: readings, of which the best counts; one before them does not.
        clock: returns the time in seconds.
    """
    rng = np.random.default_rng(0)
    a, b = (
        ops.cast(rng.standard_normal((size, size), np.float32) / size**0.5, dtype) for _ in range(2)
    )

    def multiply():
        product = a
        for _ in range(products):
            product = ops.matmul(product, b)
        return ops.convert_to_numpy(ops.cast(product[0, 0], "float32"))  # waits until it is there

    seconds = each_call({dtype: multiply}, 1, block=repeats, warm=1, clock=clock)[dtype]
    return 2 * size**3 * products / float(seconds.min())


def accelerator() -> str | None:
    """The name of the GPU or TPU that Keras's backend computes on; None for the CPU."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        return None if device.platform == "cpu" else device.device_kind
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else None
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
    return None


def auto_policy() -> str:
    """The dtype policy that `Runtime` chooses for the precision "auto".

    On other backends than TensorFlow an accelerator gets `mixed_bfloat16`.
    """
    if keras.backend.backend() == "tensorflow":
        from keras_cnnlstm.runtime.runtime import Runtime

        return Runtime("auto", "one-device").policy
    return "mixed_bfloat16" if accelerator() or native_bfloat16() else "float32"


def policies() -> tuple[str, ...]:
    """The dtype policies to compare: float32, and what "auto" chooses if that is another one."""
    return tuple(dict.fromkeys(("float32", auto_policy())))


def num_threads() -> int:
    """Threads that TensorFlow computes in: $TF_NUM_INTRAOP_THREADS, or one for each core."""
    return int(os.environ.get("TF_NUM_INTRAOP_THREADS", 0)) or num_cores()


def facts() -> dict[str, Any]:
    """The machine and the software, as a reader of the figures must know them."""
    backend = keras.backend.backend()
    packages = dict.fromkeys(("keras-cnnlstm", "keras", backend, "torch", "numpy"))
    return {
        "cpu": processor_name(),
        "cores": num_cores(),
        "threads": num_threads(),
        "precision flags": sorted(_PRECISION_FLAGS & processor_flags()),
        "accelerator": accelerator(),
        "backend": backend,
        "auto precision": auto_policy(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in packages if (version := _version(name))},
    }


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
