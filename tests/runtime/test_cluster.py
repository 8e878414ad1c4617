"""Training on several workers: real processes on this machine, against one process alone."""

import json
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cnnlstm.layers.time_distributed  # noqa: F401 - registers what the saved models are made of
from keras_cnnlstm.runtime import cluster
from keras_cnnlstm.runtime.cluster import cluster_from_environment
from keras_cnnlstm.runtime.replicated_model import ReplicatedModel

TASK = {"type": "worker", "index": 0}


@pytest.fixture
def tf_config(monkeypatch):
    """Sets TF_CONFIG to a text, or to an object as JSON."""

    def put(config):
        text = config if isinstance(config, str) else json.dumps(config)
        monkeypatch.setenv("TF_CONFIG", text)

    return put


def test_without_a_description_there_is_no_cluster(tf_config, monkeypatch):
    for text in ("", "{}"):
        tf_config(text)
        assert cluster_from_environment() is None
    monkeypatch.delenv("TF_CONFIG")
    assert cluster_from_environment() is None


@pytest.mark.parametrize(
    ("job", "index", "worker"), [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)]
)
def test_the_chief_is_the_first_worker(tf_config, job, index, worker):
    jobs = {"worker": ["b:1", "c:1"], "chief": ["a:1"], "ps": []}
    tf_config({"cluster": jobs, "task": {"type": job, "index": index}, "environment": "cloud"})
    cluster = cluster_from_environment()
    assert cluster.addresses == ("a:1", "b:1", "c:1")
    assert (cluster.worker, cluster.num_workers) == (worker, 3)


def test_without_a_chief_worker_0_is_the_chief(tf_config):
    tf_config({"cluster": {"worker": ["a:1", "b:1"]}, "task": TASK})
    assert cluster_from_environment().worker == 0
    tf_config({"cluster": {"worker": ["a:1", "b:1"]}, "task": {**TASK, "index": 1}})
    assert cluster_from_environment().worker > 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", r"must be JSON; Expecting property name.*Correct it, or unset it"),
        ("[1]", r"must be a JSON object; received \[1\]"),
        ({"task": TASK}, "with a `cluster` of workers; received cluster None"),
        ({"cluster": [], "task": TASK}, r"with a `cluster` of workers; received cluster \[\]"),
        ({"cluster": {"worker": []}, "task": TASK}, r"received cluster \{'worker': \[\]\}"),
        (
            {"cluster": {"worker": ["a:1"], "ps": ["p:1"]}, "task": TASK},
            r"jobs 'chief' and 'worker'; received \['ps'\]",
        ),
        ({"cluster": {"master": ["a:1"]}, "task": TASK}, r"received \['master'\]"),
        ({"cluster": {"worker": "a:1"}, "task": TASK}, "'host:port' for each job.*'a:1'"),
        ({"cluster": {"worker": ["a"]}, "task": TASK}, r"'host:port' for each job.*\['a'\]"),
        ({"cluster": {"worker": [1]}, "task": TASK}, r"'host:port' for each job.*\[1\]"),
        (
            {"cluster": {"chief": ["a:1", "b:1"], "worker": ["c:1"]}, "task": TASK},
            "one chief at most; received 2",
        ),
        ({"cluster": {"worker": ["a:1"]}}, r"`type` is a job of the cluster.*received None"),
        (
            {"cluster": {"worker": ["a:1"]}, "task": {"type": "evaluator", "index": 0}},
            r"`type` is a job of the cluster, \['worker'\]; received .*'evaluator'",
        ),
        (
            {"cluster": {"worker": ["a:1", "b:1"]}, "task": {**TASK, "index": 2}},
            "`index` from 0 to 1, since there are 2 of 'worker'; received 2",
        ),
        ({"cluster": {"worker": ["a:1"]}, "task": {**TASK, "index": -1}}, "received -1"),
        ({"cluster": {"worker": ["a:1"]}, "task": {**TASK, "index": "0"}}, "received '0'"),
        ({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}, "received None"),
        ({"cluster": {"worker": ["a:1"]}, "task": {**TASK, "type": ["worker"]}}, "`type` is a job"),
        ({"cluster": {"worker": ["a:1"]}, "task": {**TASK, "type": {}}}, "`type` is a job"),
        ({"cluster": {"worker": ["a:1", "a:1"]}, "task": TASK}, "an address of its own"),
        *[
            ({"cluster": {"worker": [address]}, "task": TASK}, "'host:port' for each job")
            for address in ("a:x", "a:", ":1", "a:0", "a:65536", "a b:1", "a:1\nb:2")
        ],
        ("[" * 100_000, "must be JSON"),
        ('{"cluster": 1' + "0" * 5000 + "}", "must be JSON"),
        ({"cluster": {"worker": ["a:1"]}, "task": "x" * 9000}, r"received '.{1,200}\.\.\."),
    ],
)
def test_a_malformed_description_is_refused(tf_config, config, message):
    tf_config(config)
    with pytest.raises(ValueError, match=f"TF_CONFIG .*{message}"):
        cluster_from_environment()


def test_workers_must_be_joined_first(tf_config):
    tf_config({"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": TASK})
    tf.zeros(()).numpy()
    with pytest.raises(RuntimeError, match=r"before TensorFlow computes.*Make the Runtime first"):
        cluster.join(cluster_from_environment())


@pytest.mark.parametrize(("rows", "shares"), [(6, [[0, 1, 2], [3, 4, 5]]), (3, [[0], [1, 2]])])
def test_a_batch_is_cut_into_consecutive_rows(rows, shares):
    data = tf.data.Dataset.range(100, 100 + 2 * rows).batch(rows, drop_remainder=True)
    data = data.map(lambda x: ({"frames": x}, x - 100))
    cut = cluster._cut(data, 2)
    parts = list(cut.as_numpy_iterator())
    assert [part[1].tolist() for part in parts[:2]] == shares
    assert [part[1].tolist() for part in parts[2:]] == [[i + rows for i in s] for s in shares]
    assert all((part[0]["frames"] == part[1] + 100).all() for part in parts)
    assert cut.element_spec[1].shape.as_list() == [3 if rows == 6 else None]
    assert cluster._cut(data.repeat(), 2).cardinality() == tf.data.INFINITE_CARDINALITY


def test_a_batch_smaller_than_the_devices_leaves_some_none():
    parts = cluster._cut(tf.data.Dataset.range(1).batch(1), 3)
    assert [part.tolist() for part in parts.as_numpy_iterator()] == [[], [], [0]]


# Imports once, then forks the workers: most of a short training's time is the import.
TRAININGS = """
import json, os, pathlib, signal, socket, sys, traceback
import keras, numpy as np, tensorflow as tf
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.runtime.runtime import Runtime

folder, dies = pathlib.Path(sys.argv[1]), json.loads(sys.argv[3])
BATCH, STEPS, T = 12, 10, 3
rng = np.random.default_rng(0)
FRAMES = rng.integers(0, 256, (BATCH * STEPS, T, 8, 8, 1), np.uint8)
LENGTHS = rng.integers(1, T + 1, BATCH * STEPS).astype("int32")
LENGTHS[::BATCH] = LENGTHS[1::BATCH] = 1  # unequal sums of weights in each batch
TARGETS = rng.integers(0, 5, (BATCH * STEPS, T))
WEIGHTS = (np.arange(T) < LENGTHS[:, None]).astype("float32")


def batches(rows, count):
    def batch(step):
        def cut(array):
            return tf.constant(array[:count])[step * BATCH : (step + 1) * BATCH][rows]

        return {"frames": cut(FRAMES), "lengths": cut(LENGTHS)}, cut(TARGETS), cut(WEIGHTS)

    return tf.data.Dataset.range(-(-count // BATCH)).map(batch)


class Saver(keras.callbacks.Callback):
    def __init__(self, path, runtime):
        super().__init__()
        self.path, self.runtime = path, runtime

    def on_train_batch_end(self, batch, logs=None):
        if batch == 5 and self.runtime.worker == dies:
            print(json.dumps({"dead": os.times().elapsed}), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def on_epoch_end(self, epoch, logs=None):
        if self.runtime.is_chief:  # the others must not have to take part
            self.model.save(self.path / "last.keras")


def train(strategy):
    runtime = Runtime("float32", strategy)
    rows = runtime.rows(BATCH)
    runtime.check_same("the seed", "0")
    flags = [runtime.on_any_worker(False), runtime.on_any_worker(runtime.worker == 1)]
    out = {"flags": flags, "describe": runtime.describe(), "rows": [rows.start, rows.stop],
           "replicas": runtime.num_replicas}
    keras.utils.set_random_seed(runtime.worker)  # the chief's weights are those of all
    with runtime.scope(), runtime.writable(folder / f"run{runtime.num_workers}") as path:
        path.mkdir()
        out["path"] = str(path)
        encoder = keras.Sequential([keras.layers.Conv2D(4, 3), keras.layers.Flatten()])
        plain = cnn_lstm((T, 8, 8, 1), 5, encoder=encoder, lstm_units=(8,), lengths=True,
                         per_step=True)
        model = runtime.fit_model(plain)
        model.compile(
            keras.optimizers.Adam(0.01, global_clipnorm=0.1),
            keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight"),
            weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        )
        # 25 rows: the last batch has one, so that most workers have none.
        out["history"] = model.fit(
            batches(rows, BATCH * STEPS).repeat(), steps_per_epoch=STEPS, epochs=5, shuffle=False,
            validation_data=batches(rows, 2 * BATCH + 1), verbose=0,
            callbacks=[Saver(path, runtime)],
        ).history
        out["evaluated"] = model.evaluate(batches(rows, 2 * BATCH + 1), verbose=0)
        for name, call in {
            "arrays": lambda: model.evaluate(FRAMES, TARGETS),
            "options": lambda: runtime.check_same("the seed", str(runtime.worker)),
        }.items():
            try:
                runtime.num_workers > 1 and call()
            except ValueError as error:
                out[name] = str(error)
    out["removed"] = not path.exists()
    out["normalised"] = normalise(runtime)
    out["weights"] = [w.tolist() for w in plain.get_weights()]
    return out


def normalise(runtime):
    with runtime.scope():
        plain = keras.Sequential([
            keras.Input((1,)), keras.layers.BatchNormalization(momentum=0.5),
            keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(1),
        ])
        model = runtime.fit_model(plain)
        model.compile("sgd", "mse")
        x = np.arange(BATCH, dtype="float32")[runtime.rows(BATCH), None]
        model.fit(tf.data.Dataset.from_tensors((x, x)), shuffle=False, verbose=0)
    return {w.name: w.numpy().ravel().tolist() for w in plain.weights}


def main(jobs, job, index):
    size = len(sum(jobs.values(), []))
    if size > 1:
        task = {"type": job, "index": index}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": jobs, "task": task})
    log = open(folder / f"{size}-{job}{index}.log", "w")
    os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
    try:
        out = train("auto" if "chief" in jobs else "multi-worker" if size > 1 else "one-device")
    except ConnectionError as error:
        traceback.print_exc()
        out = {"error": str(error), "time": os.times().elapsed}
    except BaseException:
        traceback.print_exc()
        raise
    (folder / f"{size}-{job}{index}.json").write_text(json.dumps(out))


bound = []  # until all addresses are known, so that all of them differ


def free_address():
    bound.append(socket.create_server(("127.0.0.1", 0)))
    return f"127.0.0.1:{bound[-1].getsockname()[1]}"


os.environ.pop("TF_CONFIG", None)
clusters = [
    {job: [free_address() for _ in range(size)] for job, size in jobs.items()}
    for jobs in json.loads(sys.argv[2])
]
for server in bound:
    server.close()
children = []
for jobs in clusters:
    for job, addresses in jobs.items():
        for index in range(len(addresses)):
            children.append(os.fork())
            if not children[-1]:
                main(jobs, job, index)
                sys.exit()
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


def run(folder, *clusters, dies=None):
    """The exit codes and what each worker wrote, of clusters that train side by side."""
    threads = {"TF_NUM_INTEROP_THREADS": "2", "TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    output = subprocess.run(
        [sys.executable, "-c", TRAININGS, folder, json.dumps(clusters), json.dumps(dies)],
        env={**os.environ, **threads, "TF_CPP_MIN_LOG_LEVEL": "2"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        check=True,
    ).stdout
    return json.loads(output.splitlines()[-1]), {
        path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")
    }


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """One process alone, two workers, and a chief with two workers, on the same batches."""
    folder = tmp_path_factory.mktemp("workers")
    codes, outputs = run(folder, {"worker": 1}, {"worker": 2}, {"chief": 1, "worker": 2})
    assert codes == [0] * 6, "".join(path.read_text() for path in folder.glob("*.log"))
    return folder, outputs


MANY = ["2-worker0", "2-worker1", "3-chief0", "3-worker0", "3-worker1"]


@pytest.mark.slow
def test_workers_train_as_one_process(trainings, record):
    alone = trainings[1]["1-worker0"]
    assert np.ptp(alone["history"]["loss"]) > 0.01  # it has learnt something
    for name in MANY:
        many = trainings[1][name]
        assert many["history"].keys() == alone["history"].keys()
        for key, values in alone["history"].items():
            np.testing.assert_allclose(many["history"][key], values, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(many["evaluated"], alone["evaluated"], atol=1e-5)
        for ours, theirs in zip(many["weights"], alone["weights"], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)
        losses = np.subtract(many["history"]["loss"], alone["history"]["loss"])
        pairs = zip(many["weights"], alone["weights"], strict=True)
        weights = max(np.abs(np.subtract(a, b)).max() for a, b in pairs)
        record(f"{name}: losses {np.abs(losses).max():.1e}, weights {weights:.1e} off one process")


@pytest.mark.slow
def test_workers_keep_the_same_weights_and_averages(trainings):
    """Although each normalises its own rows, and drops others."""
    for names in (MANY[:2], MANY[2:]):
        first, *others = (trainings[1][name]["normalised"] for name in names)
        assert all(other == first for other in others)
        np.testing.assert_allclose(first["moving_mean"], [0.5 * np.arange(12).mean()], rtol=1e-6)


@pytest.mark.slow
def test_workers_know_who_they_are(trainings):
    rows = [trainings[1][name]["rows"] for name in MANY]
    assert rows == [[0, 6], [6, 12], [0, 4], [4, 8], [8, 12]]
    assert [trainings[1][name]["replicas"] for name in MANY] == [2, 2, 3, 3, 3]
    assert all(trainings[1][name]["flags"] == [False, True] for name in MANY)
    assert trainings[1]["1-worker0"]["flags"] == [False, False]
    text = trainings[1]["3-chief0"]["describe"]
    assert text.endswith("on 1 device (CPU:0) on each of 3 workers; this is worker 0, the chief")
    assert trainings[1]["3-worker1"]["describe"].endswith("3 workers; this is worker 2")


@pytest.mark.slow
def test_only_the_chief_writes_the_run(trainings):
    folder, outputs = trainings
    for size, chief in ((2, "2-worker0"), (3, "3-chief0")):
        assert outputs[chief]["path"] == str(folder / f"run{size}")
        saved = keras.models.load_model(folder / f"run{size}" / "last.keras")
        assert not isinstance(saved, ReplicatedModel)
        assert int(saved.optimizer.iterations) == 50
        for ours, theirs in zip(saved.get_weights(), outputs[chief]["weights"], strict=True):
            np.testing.assert_array_equal(ours, np.float32(theirs))
    others = [outputs[name] for name in ("2-worker1", "3-worker0", "3-worker1")]
    assert not any(out["path"].startswith(str(folder)) for out in others)
    assert all(out["removed"] for out in others)


@pytest.mark.slow
def test_what_workers_refuse(trainings):
    for name in MANY:
        out = trainings[1][name]
        assert "must be a tf.data.Dataset of this worker's rows" in out["arrays"]
        assert "received ndarray" in out["arrays"]
        assert "the seed must be the same on all workers" in out["options"]
        others = 2 if name.startswith("3") else 1
        assert f"another one on {others} of {others + 1}" in out["options"]


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_the_others_stop_when_a_worker_is_killed(tmp_path, dies, record):
    codes, outputs = run(tmp_path, {"worker": 2}, dies=dies)
    assert codes[dies] == -signal.SIGKILL
    out = outputs[f"2-worker{1 - dies}"]
    assert out["error"].startswith("fit: another worker stopped or cannot be reached")
    assert "\n" not in out["error"]
    assert "Start all workers again, with --resume" in out["error"]
    dead = json.loads((tmp_path / f"2-worker{dies}.log").read_text().splitlines()[-1])["dead"]
    record(f"worker {dies} was killed, and missed after {out['time'] - dead:.1f} s")
    assert out["time"] - dead < 60
