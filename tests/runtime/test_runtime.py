"""What `Runtime` chooses on which hardware, and that it trains on several devices."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from oracles import assert_all_equal

from keras_cnnlstm.runtime import runtime
from keras_cnnlstm.runtime.runtime import Runtime
from keras_cnnlstm.utils import environment


@pytest.fixture
def hardware(monkeypatch):
    """Pretends to have GPUs of a compute capability, or CPU flags."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)

    def pretend(*, capability=None, flags=()):
        monkeypatch.setattr(runtime, "_gpu_capability", lambda: capability)
        monkeypatch.setattr(environment, "processor_flags", lambda: set(flags))

    return pretend


@pytest.mark.parametrize(
    ("machine", "policy", "reason"),
    [
        ({"capability": (9, 0)}, "mixed_bfloat16", "GPU of compute capability 9.0"),
        ({"capability": (8, 0)}, "mixed_bfloat16", "GPU of compute capability 8.0"),
        ({"capability": (7, 5)}, "mixed_float16", "GPU of compute capability 7.5"),
        ({"capability": (6, 1), "flags": ["amx_bf16"]}, "float32", "capability 6.1"),
        ({"flags": ["amx_bf16", "fma"]}, "mixed_bfloat16", r"native bfloat16 \(amx_bf16\)"),
        ({"flags": ["avx512_bf16"]}, "mixed_bfloat16", r"native bfloat16 \(avx512_bf16\)"),
        ({"flags": ["avx2", "avx512f"]}, "float32", "CPU without native bfloat16"),
    ],
)
def test_auto_precision(hardware, machine, policy, reason):
    hardware(**machine)
    chosen = Runtime()
    assert chosen.policy == policy
    text = chosen.describe()
    assert "\n" not in text
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(text)
    assert Runtime(precision="float32").policy == "float32"


def test_without_onednn_a_cpu_has_no_fast_bfloat16(hardware, monkeypatch):
    hardware(flags=["amx_bf16"])
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert Runtime().policy == "float32"


def test_several_old_gpus_do_not_get_float16(hardware, monkeypatch):
    hardware(capability=(7, 0))
    monkeypatch.setattr(Runtime, "num_replicas", 2)
    assert Runtime().policy == "float32"
    with pytest.raises(ValueError, match="'mixed_float16' is not possible on several replicas"):
        Runtime(precision="mixed_float16")


def test_scope_sets_the_policy_and_restores_it_even_after_an_error():
    before = keras.config.dtype_policy()
    with Runtime(precision="mixed_bfloat16").scope():
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
        assert keras.layers.Dense(1).compute_dtype == "bfloat16"
    assert keras.config.dtype_policy() == before
    with pytest.raises(KeyError), Runtime(precision="mixed_bfloat16").scope():
        raise KeyError
    assert keras.config.dtype_policy() == before


def test_one_device_by_default():
    chosen = Runtime()
    assert chosen.num_replicas == 1
    assert "on 1 device (" in chosen.describe()


@pytest.mark.parametrize("value", ["parameter-server", "keras-distribution", "tpu"])
def test_what_keras_cannot_do_is_refused(value):
    with pytest.raises(ValueError, match=f"`strategy` '{value}' is not possible: .*'mirrored'"):
        Runtime(strategy=value)


def test_a_keras_distribution_is_refused(monkeypatch):
    monkeypatch.setattr(keras.distribution, "distribution", lambda: "something")
    with pytest.raises(ValueError, match=r"`keras.distribution` must not be set, .*does nothing"):
        Runtime()


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`precision` must be one of auto, .*'float64'"):
        Runtime(precision="float64")
    with pytest.raises(ValueError, match=r"`strategy` must be one of auto, .*'all'"):
        Runtime(strategy="all")


@pytest.fixture
def cluster(monkeypatch):
    """Sets TF_CONFIG to a cluster of so many workers, of which this is one."""

    def put(size, index=0):
        jobs = {"worker": [f"127.0.0.1:{port}" for port in range(1, size + 1)]}
        task = {"type": "worker", "index": index}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": jobs, "task": task}))

    return put


@pytest.mark.parametrize("strategy", ["mirrored", "one-device"])
def test_a_cluster_is_not_trained_once_on_each_machine(cluster, strategy):
    cluster(2)
    with pytest.raises(ValueError, match=f"{strategy}' would train the same on each of the 2 work"):
        Runtime(strategy=strategy)


def test_a_bad_description_of_the_cluster_is_refused(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{")
    with pytest.raises(ValueError, match="TF_CONFIG must be JSON"):
        Runtime()


def test_several_workers_need_a_description(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match=r"'multi-worker' needs .*TF_CONFIG.*received none"):
        Runtime(strategy="multi-worker")


@pytest.mark.parametrize("strategy", ["auto", "one-device", "multi-worker"])
def test_one_worker_is_alone(cluster, strategy):
    cluster(1)
    alone = Runtime("float32", strategy)
    assert (alone.num_workers, alone.worker, alone.is_chief) == (1, 0, True)
    assert alone.num_replicas == 1
    assert "worker" not in alone.describe()
    assert alone.rows(5) == slice(0, 5)
    assert not alone.on_any_worker(False)
    alone.check_same("the seed", "0")
    with alone.scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        assert alone.fit_model(model) is model


def test_rows_of_each_worker(cluster, monkeypatch):
    """Without the others: what `Runtime` learns by joining them is pretended."""
    monkeypatch.setattr(Runtime, "devices", ["GPU:0", "GPU:1"])
    shares = []
    for index in range(3):
        cluster(3, index)
        chosen = Runtime("float32")
        assert chosen.num_replicas == 6
        assert chosen.is_chief == (index == 0)
        shares.append(list(range(24))[chosen.rows(24)])
    assert [row for share in shares for row in share] == list(range(24))
    assert {len(share) for share in shares} == {8}
    for size, remedy in ((20, "18 or 24"), (5, "6"), (0, "6"), (-7, "6")):
        with pytest.raises(ValueError, match=f"multiple of the 6 replicas; .*{size}. Use {remedy}"):
            chosen.rows(size)


def test_others_than_the_chief_write_elsewhere(tmp_path, cluster, monkeypatch):
    monkeypatch.setattr(Runtime, "devices", ["CPU:0"])
    cluster(2, 0)
    with Runtime("float32").writable(tmp_path / "run") as path:
        assert path == tmp_path / "run"
    cluster(2, 1)
    with Runtime("float32").writable(str(tmp_path / "run")) as path:
        path.mkdir()
        (path / "file").touch()
        assert tmp_path not in path.parents
    assert not path.parent.exists()
    assert not list(tmp_path.iterdir())


TWO_DEVICES = """
import json, sys
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.runtime.runtime import Runtime

x = np.random.default_rng(0).integers(0, 256, (32, 3, 8, 8, 1), np.uint8)
y = np.arange(32) % 5
out = {}
for strategy in ("one-device", "mirrored", "auto"):
    runtime = Runtime("float32", strategy)
    keras.utils.set_random_seed(0)
    with runtime.scope():
        model = runtime.fit_model(cnn_lstm((3, 8, 8, 1), 5))
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
        losses = model.fit(data, epochs=3, shuffle=False, verbose=0).history["loss"]
    inside = type(tf.distribute.get_strategy()).__name__
    out[strategy] = [runtime.num_replicas, losses, runtime.describe(), inside,
                     [w.tolist() for w in model.get_weights()]]
try:
    Runtime("float32", "mirrored").check_batch_size(7)
except ValueError as error:
    out["batch"] = str(error)
print(json.dumps(out))
"""


def test_two_devices_train_as_one():
    out = json.loads(subprocess.check_output([sys.executable, "-c", TWO_DEVICES]).splitlines()[-1])
    assert [out[s][0] for s in ("one-device", "mirrored", "auto")] == [1, 2, 1]
    np.testing.assert_allclose(out["mirrored"][1], out["one-device"][1], rtol=1e-5)
    assert_all_equal(out["mirrored"][4], out["one-device"][4], atol=1e-5)
    assert "on 2 devices (CPU:0, CPU:1)" in out["mirrored"][2]
    assert {out[s][3] for s in ("one-device", "mirrored")} == {"_DefaultDistributionStrategy"}
    assert "multiple of the 2 replicas; received 7. Use 6 or 8." in out["batch"]
