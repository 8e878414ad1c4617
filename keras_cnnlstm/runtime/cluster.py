"""The workers of a training: their addresses, how they connect, what they share.

TFJob of Kubernetes, Ray Train and Vertex AI describe the workers in the environment variable
TF_CONFIG, a JSON object:

    {"cluster": {"worker": ["host1:port", "host2:port"]}, "task": {"type": "worker", "index": 0}}

`cluster` is the same everywhere, `task` is the place of this process in it. There may be a job
`chief` of one worker, which then is the first.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from keras_cnnlstm.utils.validation import short_repr

LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)
"""Errors of an operation that needs all workers after one of them has ended."""

_JOBS = ("chief", "worker")  # in the order in which TensorFlow counts them


@dataclass(frozen=True)
class Cluster:
    """The workers that TF_CONFIG names.

    Attributes:
        addresses: `host:port` of each worker, the chief's first.
        worker: the index of this process among them.
    """

    addresses: tuple[str, ...]
    worker: int

    @property
    def num_workers(self) -> int:
        """How many workers train together."""
        return len(self.addresses)


def cluster_from_environment() -> Cluster | None:
    """The cluster of TF_CONFIG; `None` if it is unset or an empty object.

    Raises:
        ValueError: if it is malformed, or has other jobs than chief and worker.
    """
    config = _json_object(os.environ.get("TF_CONFIG") or "{}")
    if not config:
        return None
    jobs = _jobs(config.get("cluster"))
    job, index = _task(config.get("task"), jobs)
    addresses = tuple(address for name in _JOBS for address in jobs.get(name, ()))
    return Cluster(addresses, index + (len(jobs.get("chief", ())) if job == "worker" else 0))


def join(cluster: Cluster) -> tf.distribute.Strategy:
    """Waits until all workers have started, and connects them.

    Raises:
        RuntimeError: if TensorFlow has computed something in this process before.
    """
    gpus = bool(tf.config.list_physical_devices("GPU"))
    kinds = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=kinds.NCCL if gpus else kinds.RING
    )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    except RuntimeError as error:
        if "program startup" not in str(error):
            raise
        raise RuntimeError(
            "Runtime: workers must be joined before TensorFlow computes anything in the process. "
            "Make the Runtime first, before data and models."
        ) from error


def check_agreement(strategy: tf.distribute.Strategy, what: str, value: str) -> None:
    """Compares a text among all workers, each of which must call this."""
    digest = hashlib.sha256(value.encode()).digest()[:6]
    number = tf.constant([int.from_bytes(digest, "big")], tf.int64)
    everyone = strategy.gather(number, axis=0).numpy()
    if len(set(everyone.tolist())) > 1:
        raise ValueError(
            f"Runtime: {what} must be the same on all workers; received {value} here, another one "
            f"on {sum(everyone != number.numpy()[0])} of {len(everyone)}. Start all workers with "
            "the same options."
        )


def distribute(dataset: tf.data.Dataset, strategy: tf.distribute.Strategy) -> Any:
    """Hands the batches of a dataset to the devices of this process, each its share of the rows.

    Nothing is divided among the workers: each reads its own dataset, whose batches hold its rows.

    Args:
        dataset: batches of any structure whose tensors all have the rows first. A batch that does
            not divide gives some devices a row less, or none.
        strategy: of the replicas.

    Returns:
        A `tf.distribute.DistributedDataset`, as `fit` and `evaluate` take it.
    """
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    dataset = dataset.with_options(options)
    if not several_workers(strategy):
        return strategy.experimental_distribute_dataset(dataset)
    # That would divide by the devices of all workers.
    devices = len(strategy.extended.worker_devices)
    shares = dataset if devices == 1 else _cut(dataset, devices)
    return strategy.distribute_datasets_from_function(lambda context: shares)


def several_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether the replicas are in several processes."""
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return several and "worker" in strategy.cluster_resolver.cluster_spec().jobs


def sum_of_replicas(tensors: list[Any]) -> list[Any]:
    """The sums over all replicas of each of these tensors, in a step; `None` stays."""
    context = tf.distribute.get_replica_context()
    if not tensors or context is None or context.num_replicas_in_sync == 1:
        return tensors
    # all_reduce reads the device of each tensor, and reads of variables have none.
    present = [tf.identity(tensor) for tensor in tensors if tensor is not None]
    sums = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
    return [None if tensor is None else next(sums) for tensor in tensors]


def any_of(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """Whether the flag is set on some worker; each must call this."""
    return bool(strategy.gather(tf.constant([int(flag)]), axis=0).numpy().any())


def alone(function: Callable[..., Any], *args, **options) -> Any:
    """Calls a function outside the scope of a strategy, so that no other worker must take part.

    Within the scope each new variable is sent to all workers, and Keras makes temporary ones when
    it saves an optimizer.
    """
    with ThreadPoolExecutor(1) as threads:  # scopes belong to a thread
        return threads.submit(function, *args, **options).result()


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Keeps a worker that has finished alive until the others have read its last numbers."""
    if several_workers(strategy):
        with contextlib.suppress(*LOST):
            strategy.gather(tf.zeros(1), axis=0)


def _json_object(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"JSON; {error}") from error
    if not isinstance(config, dict):
        raise _malformed(f"a JSON object; received {short_repr(config)}")
    return config


def _jobs(cluster: Any) -> dict[str, list[str]]:
    if not isinstance(cluster, dict) or not any(cluster.values()):
        raise _malformed(
            f"an object with a `cluster` of workers; received cluster {short_repr(cluster)}"
        )
    jobs = {job: addresses for job, addresses in cluster.items() if addresses}
    other = sorted(jobs.keys() - set(_JOBS))
    if other:
        raise _malformed(
            f"a cluster of the jobs 'chief' and 'worker'; received {short_repr(other)}, and "
            "parameter servers and evaluators are not supported"
        )
    for job, addresses in jobs.items():
        if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
            raise _malformed(
                f"a list of 'host:port' for each job; received {job} {short_repr(addresses)}"
            )
    everyone = [address for addresses in jobs.values() for address in addresses]
    if len(set(everyone)) < len(everyone):
        raise _malformed(f"an address of its own for each worker; received {short_repr(everyone)}")
    if len(jobs.get("chief", ())) > 1:
        raise _malformed(f"one chief at most; received {len(jobs['chief'])}")
    return jobs


def _is_address(text: Any) -> bool:
    found = re.fullmatch(r"\S*[^\s:]:(\d{1,5})", text, re.ASCII) if isinstance(text, str) else None
    return found is not None and 0 < int(found[1]) < 65_536


def _task(task: Any, jobs: dict[str, list[str]]) -> tuple[str, int]:
    if not isinstance(task, dict) or task.get("type") not in [*jobs]:
        raise _malformed(
            f"a `task` whose `type` is a job of the cluster, {sorted(jobs)}; received "
            f"{short_repr(task)}"
        )
    job, index = task["type"], task.get("index")
    if type(index) is not int or not 0 <= index < len(jobs[job]):
        raise _malformed(
            f"a task `index` from 0 to {len(jobs[job]) - 1}, since there are {len(jobs[job])} of "
            f"{job!r}; received {short_repr(index)}"
        )
    return job, index


def _malformed(expected: str) -> ValueError:
    return ValueError(
        f"Runtime: the environment variable TF_CONFIG must be {expected}. Correct it, or unset it "
        "to train on this machine alone."
    )


def _cut(dataset, pieces):
    """Each batch as this many batches, one after the other."""

    def cut(*batch):
        def piece(i, tensor):
            rows = tf.shape(tensor, out_type=tf.int64)[0]
            part = tensor[rows * i // pieces : rows * (i + 1) // pieces]
            whole = tensor.shape[0]
            known = None if whole is None or whole % pieces else whole // pieces
            return tf.ensure_shape(part, (known, *tensor.shape[1:]))

        def all_pieces(i):
            result = keras.tree.map_structure(lambda tensor: piece(i, tensor), batch)
            return result if len(result) > 1 else result[0]

        return tf.data.Dataset.range(pieces).map(all_pieces)

    endless = dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    result = dataset.flat_map(cut)
    if endless:  # else each step asks all workers whether there is another
        result = result.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return result.prefetch(pieces)
