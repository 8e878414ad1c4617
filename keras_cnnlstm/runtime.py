"""The hardware: which precision to compute in, and on which devices of which machines.

The mixed-precision and multi-device wrapper around building and fitting a model:

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

from keras_cnnlstm.arguments import is_whole, told
from keras_cnnlstm.processor import native_bfloat16
from keras_cnnlstm.replicas import ReplicatedModel
from keras_cnnlstm.workers import (
    Cluster,
    any_of,
    check_agreement,
    cluster_from_environment,
    join,
)

Precision = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]
Strategy = Literal["auto", "one-device", "mirrored", "multi-worker"]

_REFUSED = {
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
            where there is no GPU), each taking its share of every batch; "multi-worker", the same
            on each of the machines that TF_CONFIG names (see `workers`), one process on each;
            "auto" is multi-worker if TF_CONFIG names two or more, else mirrored with two GPUs or
            more. With several workers the Runtime waits until all have started; it must be made
            before TensorFlow computes anything.

    Raises:
        ValueError: if an argument is not one of these, Keras 3 cannot do it, or TF_CONFIG does not
            fit.
        RuntimeError: if there are several workers, and TensorFlow has computed something already.
    """

    precision: Precision = "auto"
    strategy: Strategy = "auto"

    def __post_init__(self):
        if not isinstance(self.precision, str) or self.precision not in get_args(Precision):
            raise ValueError(
                f"Runtime: `precision` must be one of {list(get_args(Precision))}; received "
                f"{told(self.precision)}."
            )
        named = isinstance(self.strategy, str)
        if named and self.strategy in _REFUSED:
            raise ValueError(
                f"Runtime: `strategy` {self.strategy!r} cannot be had: {_REFUSED[self.strategy]}. "
                "Use 'mirrored' for several GPUs of one machine, or 'one-device'."
            )
        if not named or self.strategy not in get_args(Strategy):
            raise ValueError(
                f"Runtime: `strategy` must be one of {list(get_args(Strategy))}; received "
                f"{told(self.strategy)}."
            )
        if keras.distribution.distribution() is not None:
            raise ValueError(
                "Runtime: `keras.distribution` must not be set, since it "
                f"{_REFUSED['keras-distribution'].partition(' ')[2]}. Use "
                "keras.distribution.set_distribution(None)."
            )
        self._check_cluster()
        if self.precision == "mixed_float16" and self.num_replicas > 1:
            raise ValueError(
                "Runtime: `precision` 'mixed_float16' cannot be had on several replicas, where an "
                "overflow on one of them reaches the weights. Use 'mixed_bfloat16' or 'float32'."
            )
        if self.num_workers > 1:
            _ = self.devices  # joins the workers, which must be before anything else

    def _check_cluster(self):
        workers = self.num_workers
        if self.strategy == "multi-worker" and self._cluster is None:
            raise ValueError(
                "Runtime: `strategy` 'multi-worker' needs the environment variable TF_CONFIG, "
                "which names the workers; received none. Start with TFJob, Ray Train or Vertex "
                "AI, which set it, or use 'mirrored'."
            )
        if self.strategy in ("one-device", "mirrored") and workers > 1:
            raise ValueError(
                f"Runtime: `strategy` {self.strategy!r} would train the same on each of the "
                f"{workers} workers that TF_CONFIG names. Use 'multi-worker', or unset "
                "TF_CONFIG to train on this machine alone."
            )

    @cached_property
    def _cluster(self) -> Cluster | None:
        return cluster_from_environment()

    @property
    def num_workers(self) -> int:
        """How many processes train together, each with its devices."""
        return self._cluster.num_workers if self._cluster else 1

    @property
    def worker(self) -> int:
        """Which of the workers this process is, from 0."""
        return self._cluster.worker if self._cluster else 0

    @property
    def is_chief(self) -> bool:
        """Whether this process writes what remains of a training; always, if it is alone."""
        return self.worker == 0

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
        """One line: what was chosen, and why."""
        count = len(self.devices)
        names = ", ".join(name.rpartition("/device:")[2] for name in self.devices)
        text = f"{self.policy} ({self._choice[1]}) on {count} device{'s'[: count > 1]} ({names})"
        if self.num_workers == 1:
            return text
        chief = ", the chief" if self.is_chief else ""
        return f"{text} on each of {self.num_workers} workers; this is worker {self.worker}{chief}"

    def check_batch_size(self, batch_size: int) -> None:
        """Refuses a batch that the replicas cannot share equally.

        Args:
            batch_size: rows of the whole batch, on all workers together.

        Raises:
            ValueError: if `batch_size` is no multiple of the number of replicas.
        """
        if not is_whole(batch_size):
            raise ValueError(
                f"Runtime: `batch_size` must be a whole number; received {told(batch_size)}."
            )
        replicas = self.num_replicas
        if batch_size > 0 and batch_size % replicas == 0:
            return
        below = max(batch_size, 0) // replicas * replicas
        sizes = f"{below} or {below + replicas}" if below else f"{replicas}"
        raise ValueError(
            f"Runtime: `batch_size` must be a multiple of the {replicas} replicas; received "
            f"{batch_size}. Use {sizes}."
        )

    def rows(self, batch_size: int) -> slice:
        """Which rows of each batch this worker makes and trains on.

        Args:
            batch_size: rows of the whole batch, on all workers together.

        Raises:
            ValueError: if `batch_size` is no multiple of the number of replicas.
        """
        self.check_batch_size(batch_size)
        share = batch_size // self.num_workers
        return slice(self.worker * share, (self.worker + 1) * share)

    def check_same(self, what: str, value: str) -> None:
        """Compares a text, such as the options of a run, among all workers; each calls this.

        Args:
            what: the name of the text, for the message.
            value: the text.

        Raises:
            ValueError: if it is another one on some worker.
        """
        if self.num_workers > 1:
            check_agreement(_joined(self._cluster), what, value)

    def on_any_worker(self, flag: bool) -> bool:
        """Whether a flag, such as that this process was told to stop, is set on some worker.

        Each worker must call this at the same point; it costs a message to all.
        """
        return any_of(_joined(self._cluster), flag) if self.num_workers > 1 else flag

    def fit_model(self, model: keras.Model) -> keras.Model:
        """What to `compile` and `fit` in place of a model: itself, if there is one replica.

        Args:
            model: built in `scope`, where this must be called too.

        Returns:
            A model that shares layers and weights with it; see `replicas.ReplicatedModel`.

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
        """Where to write: `path` on the chief, on other workers a directory that is then removed.

        Two workers that write one file destroy it. Callbacks are the same on each worker.
        """
        if self.is_chief:
            yield Path(path)
        else:
            with tempfile.TemporaryDirectory() as directory:
                yield Path(directory) / Path(path).name

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
        if self.num_workers > 1:
            return _joined(self._cluster)
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


@functools.cache  # a process can join its cluster once
def _joined(cluster: Cluster) -> tf.distribute.Strategy:
    return join(cluster)
