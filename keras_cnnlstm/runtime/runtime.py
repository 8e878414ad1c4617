"""The hardware: the precision, and the devices of one or several machines.

runtime = Runtime()
print(runtime.describe())
with runtime.scope():
    model = runtime.fit_model(cnn_lstm())
    model.compile(...)
    model.fit(...)
"""

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import keras
import tensorflow as tf

from keras_cnnlstm.runtime import cluster
from keras_cnnlstm.runtime.replicated_model import ReplicatedModel
from keras_cnnlstm.utils.environment import native_bfloat16
from keras_cnnlstm.utils.validation import check_choice, is_integer, short_repr

Precision = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]
Strategy = Literal["auto", "one-device", "mirrored", "multi-worker"]

_REFUSED = {
    "parameter-server": "`fit` under ParameterServerStrategy fails in Keras 3",
    "keras-distribution": "keras.distribution does nothing on the TensorFlow backend",
    "tpu": "this package was not tested on a TPU",
}


@dataclass(frozen=True)
class Runtime:
    """Precision and devices of a training.

    Args:
        precision: a Keras dtype policy. "auto" takes `mixed_bfloat16` on GPUs of compute
            capability 8 and up and on CPUs with native bfloat16 (`amx_bf16`, `avx512_bf16`),
            `mixed_float16` on a single GPU of capability 7.x, `float32` elsewhere. Weights are
            float32 under each of them.
        strategy: "one-device"; "mirrored", one replica on each GPU (or each logical CPU if there is
            no GPU), each with its share of every batch; "multi-worker", the same on each machine
            that TF_CONFIG names (see `cluster`), one process on each; "auto" is multi-worker if
            TF_CONFIG names two or more, else mirrored with two GPUs or more. With several workers
            the Runtime waits until all have started; make it before TensorFlow computes anything.

    Raises:
        ValueError: if an argument is not one of these, Keras 3 cannot do it, or TF_CONFIG does not
            fit.
        RuntimeError: if there are several workers, and TensorFlow has computed something already.
    """

    precision: Precision = "auto"
    strategy: Strategy = "auto"

    def __post_init__(self):
        if isinstance(self.strategy, str) and self.strategy in _REFUSED:
            raise ValueError(
                f"Runtime: `strategy` {self.strategy!r} is not possible: "
                f"{_REFUSED[self.strategy]}. Use 'mirrored' for several GPUs of one machine, or "
                "'one-device'."
            )
        for name, choices in (("precision", Precision), ("strategy", Strategy)):
            check_choice(f"Runtime: `{name}`", getattr(self, name), get_args(choices))
        if keras.distribution.distribution() is not None:
            raise ValueError(
                "Runtime: `keras.distribution` must not be set, since it does nothing on the "
                "TensorFlow backend. Use keras.distribution.set_distribution(None)."
            )
        if self.strategy == "multi-worker" and self._cluster is None:
            raise ValueError(
                "Runtime: `strategy` 'multi-worker' needs the environment variable TF_CONFIG, "
                "which names the workers; received none. Start with TFJob, Ray Train or Vertex "
                "AI, which set it, or use 'mirrored'."
            )
        if self.strategy in ("one-device", "mirrored") and self.num_workers > 1:
            raise ValueError(
                f"Runtime: `strategy` {self.strategy!r} would train the same on each of the "
                f"{self.num_workers} workers that TF_CONFIG names. Use 'multi-worker', or unset "
                "TF_CONFIG to train on this machine alone."
            )
        if self.precision == "mixed_float16" and self.num_replicas > 1:
            raise ValueError(
                "Runtime: `precision` 'mixed_float16' is not possible on several replicas, since "
                "an overflow on one reaches the weights. Use 'mixed_bfloat16' or 'float32'."
            )
        if self.num_workers > 1:
            _ = self.devices  # joins the workers, which must be before anything else

    @cached_property
    def _cluster(self) -> cluster.Cluster | None:
        return cluster.cluster_from_environment()

    @property
    def num_workers(self) -> int:
        """How many processes train together, each with its devices."""
        return self._cluster.num_workers if self._cluster else 1

    @property
    def worker(self) -> int:
        """The index of this process among the workers."""
        return self._cluster.worker if self._cluster else 0

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run directory; always, if it is alone."""
        return self.worker == 0

    @cached_property
    def _choice(self) -> tuple[str, str]:
        """The dtype policy, and the reason for it."""
        if self.precision != "auto":
            return self.precision, "as asked"
        capability = _gpu_capability()
        if capability is not None:
            policy = "float32"
            if capability >= (8, 0):
                policy = "mixed_bfloat16"
            elif capability >= (7, 0) and self.num_replicas == 1:
                policy = "mixed_float16"
            return policy, "GPU of compute capability {}.{}".format(*capability)
        native = native_bfloat16()
        if native and os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0":
            return "mixed_bfloat16", f"CPU with native bfloat16 ({', '.join(native)})"
        return "float32", "CPU without native bfloat16"

    @property
    def policy(self) -> str:
        """The Keras dtype policy that `scope` sets."""
        return self._choice[0]

    @cached_property
    def devices(self) -> list[str]:
        """The devices of this machine that train, one replica on each."""
        if self.num_workers > 1:
            return list(_joined(self._cluster).extended.worker_devices)
        gpus = [d.name for d in tf.config.list_logical_devices("GPU")]
        cpus = [d.name for d in tf.config.list_logical_devices("CPU")]
        if self.strategy == "mirrored" or (self.strategy == "auto" and len(gpus) > 1):
            return gpus or cpus
        return (gpus or cpus)[:1]

    @property
    def num_replicas(self) -> int:
        """How many copies of the model train side by side, on all machines."""
        return len(self.devices) * self.num_workers

    def describe(self) -> str:
        """One line: the precision and its reason, the devices, the workers."""
        count = len(self.devices)
        names = ", ".join(name.rpartition("/device:")[2] for name in self.devices)
        text = f"{self.policy} ({self._choice[1]}) on {count} device{'s'[: count > 1]} ({names})"
        if self.num_workers == 1:
            return text
        chief = ", the chief" if self.is_chief else ""
        return f"{text} on each of {self.num_workers} workers; this is worker {self.worker}{chief}"

    def check_batch_size(self, batch_size: int) -> None:
        """Refuses a batch, of all workers together, that the replicas cannot share equally.

        Raises:
            ValueError: if `batch_size` is no multiple of the number of replicas.
        """
        replicas, given = self.num_replicas, is_integer(batch_size, 1)
        if not given or batch_size % replicas:
            below = batch_size // replicas * replicas if given else 0
            sizes = f"{below} or {below + replicas}" if below else f"{replicas}"
            raise ValueError(
                f"Runtime: `batch_size` must be a multiple of the {replicas} replicas; received "
                f"{short_repr(batch_size)}. Use {sizes}."
            )

    def rows(self, batch_size: int) -> slice:
        """The rows of each batch that this worker makes and trains on; see `check_batch_size`."""
        self.check_batch_size(batch_size)
        share = batch_size // self.num_workers
        return slice(self.worker * share, (self.worker + 1) * share)

    def check_same(self, what: str, value: str) -> None:
        """Compares a text, such as the options of a run, among all workers; each calls this.

        Raises:
            ValueError: if it differs on some worker; `what` is the name of the text.
        """
        if self.num_workers > 1:
            cluster.check_agreement(_joined(self._cluster), what, value)

    def on_any_worker(self, flag: bool) -> bool:
        """Whether a flag, such as a signal to stop, is set on some worker.

        Each worker must call this at the same point; it costs a message to all.
        """
        return cluster.any_of(_joined(self._cluster), flag) if self.num_workers > 1 else flag

    def fit_model(self, model: keras.Model) -> keras.Model:
        """The model to `compile` and `fit`: a `ReplicatedModel` if there are several replicas.

        It shares layers and weights with `model`. Both must be built in `scope`.

        Raises:
            ValueError: if the workers have chosen different precisions.
            RuntimeError: if there are several replicas, and this version of Keras is not known to
                work with them.
        """
        if self.num_replicas == 1:
            return model
        self.check_same("`precision`", self.policy)
        return ReplicatedModel(model)

    @contextlib.contextmanager
    def writable(self, path: str | Path) -> Iterator[Path]:
        """Where to write: `path` on the chief, on other workers a temporary directory.

        Two workers that write one file destroy it. Callbacks are the same on each worker.
        """
        if self.is_chief:
            yield Path(path)
        else:
            with tempfile.TemporaryDirectory() as directory:
                yield Path(directory) / Path(path).name

    @contextlib.contextmanager
    def scope(self) -> Iterator["Runtime"]:
        """Builds, compiles and fits under this precision and strategy, then restores both."""
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.policy)
        try:
            with self._tf_strategy().scope():
                yield self
        finally:
            keras.config.set_dtype_policy(before)

    def _tf_strategy(self) -> tf.distribute.Strategy:
        if self.num_workers > 1:
            return _joined(self._cluster)
        if self.num_replicas > 1:
            return tf.distribute.MirroredStrategy(self.devices)
        return tf.distribute.get_strategy()


def _gpu_capability() -> tuple[int, int] | None:
    """The lowest compute capability of the GPUs, or `None` without one."""
    found = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return min(found, default=None)


_joined = functools.cache(cluster.join)  # a process can join its cluster once
