"""The workers of a training: who they are, how they find each other, that they agree.

TFJob of Kubernetes, Ray Train and Vertex AI describe the workers in the environment variable
TF_CONFIG, a JSON object:

    {"cluster": {"worker": ["host1:port", "host2:port"]}, "task": {"type": "worker", "index": 0}}

`cluster` is the same everywhere, `task` says which of its workers this process is. There may be a
job `chief` of one worker, which then is the first.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

_JOBS = ("chief", "worker")  # in the order in which TensorFlow counts them


@dataclass(frozen=True)
class Cluster:
    """The workers that TF_CONFIG names, and which of them this process is.

    Attributes:
        addresses: `host:port` of each worker, the chief's first.
        worker: which one this process is, from 0.
    """

    addresses: tuple[str, ...]
    worker: int

    @property
    def num_workers(self) -> int:
        """How many workers train together."""
        return len(self.addresses)

    @property
    def is_chief(self) -> bool:
        """Whether this is the worker that writes the run directory."""
        return self.worker == 0


def cluster_from_environment() -> Cluster | None:
    """Reads TF_CONFIG.

    Returns:
        The cluster, or `None` if TF_CONFIG is unset or an empty object.

    Raises:
        ValueError: if it is no such description, or has jobs that do not train alike.
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
            "Runtime: workers must be joined before TensorFlow computes anything in a process; it "
            "has. Make the Runtime first, before data and models."
        ) from error


def check_agreement(strategy: tf.distribute.Strategy, what: str, value: str) -> None:
    """Compares a text among all workers, each of which must call this.

    Args:
        strategy: of the workers.
        what: the name of the text, for the message.
        value: the text.

    Raises:
        ValueError: if it is another one on some worker.
    """
    digest = hashlib.sha256(value.encode()).digest()[:6]
    number = tf.constant([int.from_bytes(digest, "big")], tf.int64)
    everyone = strategy.gather(number, axis=0).numpy()
    if len(set(everyone.tolist())) > 1:
        raise ValueError(
            f"Runtime: {what} must be the same on all workers; received another one than here on "
            f"{sum(everyone != number.numpy()[0])} of {len(everyone)}: here {value}. Start all "
            "workers with the same options."
        )


def _json_object(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise _malformed(f"JSON; {error}") from error
    if not isinstance(config, dict):
        raise _malformed(f"a JSON object; received {text[:60]}")
    return config


def _jobs(cluster: Any) -> dict[str, list[str]]:
    if not isinstance(cluster, dict) or not any(cluster.values()):
        raise _malformed(f"an object with a `cluster` of workers; received cluster {cluster!r}")
    jobs = {job: addresses for job, addresses in cluster.items() if addresses}
    other = sorted(jobs.keys() - set(_JOBS))
    if other:
        raise _malformed(
            f"a cluster of the jobs 'chief' and 'worker', which train alike; received {other}, "
            "and parameter servers and evaluators are not supported"
        )
    for job, addresses in jobs.items():
        texts = isinstance(addresses, list) and all(isinstance(a, str) for a in addresses)
        if not texts or not all(":" in address for address in addresses):
            raise _malformed(f"a list of 'host:port' for each job; received {job} {addresses!r}")
    if len(jobs.get("chief", ())) > 1:
        raise _malformed(f"one chief at most; received {len(jobs['chief'])}")
    return jobs


def _task(task: Any, jobs: dict[str, list[str]]) -> tuple[str, int]:
    if not isinstance(task, dict) or task.get("type") not in jobs:
        raise _malformed(
            f"a `task` whose `type` is a job of the cluster, {sorted(jobs)}; received {task!r}"
        )
    job, index = task["type"], task.get("index")
    if type(index) is not int or not 0 <= index < len(jobs[job]):
        raise _malformed(
            f"a task `index` from 0 to {len(jobs[job]) - 1}, since there are {len(jobs[job])} of "
            f"{job!r}; received {index!r}"
        )
    return job, index


def _malformed(expected: str) -> ValueError:
    return ValueError(
        f"Runtime: the environment variable TF_CONFIG must be {expected}. Correct it, or unset it "
        "to train on this machine alone."
    )
