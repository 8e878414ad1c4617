"""The hardware: which precision to compute in, and on which devices.

The mixed-precision and multi-device wrapper around building and fitting a model:

    runtime = Runtime()
    print(runtime.describe())
    with runtime.scope():
        model = cnn_lstm()
        model.compile(...)
        model.fit(...)
"""

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import keras
import tensorflow as tf

Precision = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]
Strategy = Literal["auto", "one-device", "mirrored"]

_REFUSED = {
    "multi-worker": "`fit` under MultiWorkerMirroredStrategy fails in Keras 3",
    "parameter-server": "`fit` under ParameterServerStrategy fails in Keras 3",
    "keras-distribution": "keras.distribution does nothing on the TensorFlow backend",
    "tpu": "this package has not been run on a TPU",
}


@dataclass(frozen=True)
class Runtime:
    """Precision and devices of a training, chosen by hand or by what the machine has.

    Args:
        precision: a Keras dtype policy. "auto" takes `mixed_bfloat16` on GPUs of compute
            capability 8 and up and on CPUs with native bfloat16 (`amx_bf16`, `avx512_bf16`),
            `mixed_float16` on a single GPU of capability 7.x, `float32` elsewhere. Weights are
            float32 under each of them.
        strategy: "one-device"; "mirrored", one replica on each GPU (or on each logical CPU
            where there is no GPU), each taking its share of every batch; "auto" is mirrored
            with two GPUs or more.

    Raises:
        ValueError: if an argument is not one of these, or Keras 3 cannot do it.
    """

    precision: Precision = "auto"
    strategy: Strategy = "auto"

    def __post_init__(self):
        if self.precision not in get_args(Precision):
            raise ValueError(
                f"Runtime: `precision` must be one of {list(get_args(Precision))}; received "
                f"{self.precision!r}."
            )
        if self.strategy in _REFUSED:
            raise ValueError(
                f"Runtime: `strategy` {self.strategy!r} cannot be had: {_REFUSED[self.strategy]}. "
                "Use 'mirrored' for several GPUs of one machine, or 'one-device'."
            )
        if self.strategy not in get_args(Strategy):
            raise ValueError(
                f"Runtime: `strategy` must be one of {list(get_args(Strategy))}; received "
                f"{self.strategy!r}."
            )
        if _workers() > 1:
            raise ValueError(
                f"Runtime: TF_CONFIG names {_workers()} workers, but "
                f"{_REFUSED['multi-worker']}. Unset TF_CONFIG to train on this machine alone."
            )
        if self.precision == "mixed_float16" and self.num_replicas > 1:
            raise ValueError(
                "Runtime: `precision` 'mixed_float16' cannot be had on several replicas, where an "
                "overflow on one of them reaches the weights. Use 'mixed_bfloat16' or 'float32'."
            )

    @cached_property
    def _choice(self) -> tuple[str, str]:
        """The dtype policy, and why it is this one."""
        if self.precision != "auto":
            return self.precision, "as asked"
        capability = _gpu_capability()
        if capability is not None:
            version = ".".join(map(str, capability))
            if capability >= (8, 0):
                return "mixed_bfloat16", f"GPU of compute capability {version}"
            if capability >= (7, 0) and self.num_replicas == 1:
                return "mixed_float16", f"GPU of compute capability {version}"
            return "float32", f"GPU of compute capability {version}"
        native = sorted(_cpu_flags() & {"amx_bf16", "avx512_bf16"})
        if native and os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0":
            return "mixed_bfloat16", f"CPU with native bfloat16 ({', '.join(native)})"
        return "float32", "CPU without native bfloat16"

    @property
    def policy(self) -> str:
        """The Keras dtype policy that `scope` sets."""
        return self._choice[0]

    @cached_property
    def devices(self) -> list[str]:
        """The devices that train, one replica on each."""
        gpus = [d.name for d in tf.config.list_logical_devices("GPU")]
        cpus = [d.name for d in tf.config.list_logical_devices("CPU")]
        if self.strategy == "mirrored" or (self.strategy == "auto" and len(gpus) > 1):
            return gpus or cpus
        return (gpus or cpus)[:1]

    @property
    def num_replicas(self) -> int:
        """How many copies of the model train side by side."""
        return len(self.devices)

    def describe(self) -> str:
        """One line: what was chosen, and why."""
        return (
            f"{self.policy} ({self._choice[1]}) on {self.num_replicas} "
            f"device{'s' if self.num_replicas > 1 else ''} "
            f"({', '.join(d.removeprefix('/device:') for d in self.devices)})"
        )

    def check_batch_size(self, batch_size: int) -> None:
        """Refuses a batch that the replicas cannot share equally, on which `fit` would crash.

        Raises:
            ValueError: if `batch_size` is no multiple of the number of replicas.
        """
        if batch_size % self.num_replicas:
            raise ValueError(
                f"Runtime: `batch_size` must be a multiple of the {self.num_replicas} replicas; "
                f"received {batch_size}. "
                f"Use {max(1, batch_size // self.num_replicas) * self.num_replicas}."
            )

    @contextlib.contextmanager
    def scope(self) -> Iterator["Runtime"]:
        """Builds, compiles and fits under this precision and strategy, then restores both.

        The dtype policy of Keras is one for the whole process, hence the restoring.
        """
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.policy)
        try:
            with self._tf_strategy().scope():
                yield self
        finally:
            keras.config.set_dtype_policy(before)

    def _tf_strategy(self) -> tf.distribute.Strategy:
        if self.num_replicas > 1:
            return tf.distribute.MirroredStrategy(self.devices)
        return tf.distribute.get_strategy()


def _gpu_capability() -> tuple[int, int] | None:
    """The lowest compute capability of the GPUs, or None without one."""
    found = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return min(found, default=None)


def _cpu_flags() -> set[str]:
    """What the processor can do, as Linux names it; empty elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    if platform.system() != "Linux" or not cpuinfo.exists():
        return set()
    flags = (s for s in cpuinfo.read_text().splitlines() if s.startswith("flags"))
    return set(next(flags, "flags:").split(":", 1)[1].split())


def _workers() -> int:
    """Machines that the cluster description in TF_CONFIG names."""
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(
            f"Runtime: the environment variable TF_CONFIG must be a JSON object ({error}). "
            "Unset it to train on this machine alone."
        ) from error
    return sum(len(cluster.get(job, ())) for job in ("chief", "master", "worker"))
