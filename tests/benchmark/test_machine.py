"""The work of a model is what other counters count; a rate is that of the best reading."""

import keras
import numpy as np
import pytest

from keras_cnnlstm.benchmark import machine as module
from keras_cnnlstm.benchmark.machine import facts, flops, machine, matrix_rate
from keras_cnnlstm.benchmark.timings import Settings
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.utils import environment

# Of a frame: 28x28 places of 3x3x1 -> 32, 14x14 of 3x3x32 -> 64; an LSTM's four gates of 128 read
# 7x7x64 features and 128 outputs. At the end a Dense of 128 -> 7.
FIRST, SECOND = 28 * 28 * 9 * 32, 14 * 14 * 9 * 32 * 64
STEP, HEAD = 4 * 128 * (7 * 7 * 64 + 128), 128 * 7


@pytest.mark.parametrize("length", [1, 4, 16])
@pytest.mark.parametrize("wrap", ["layer", "encoder"])
def test_the_reference_model_by_hand(length, wrap):
    model = cnn_lstm((length, 28, 28, 1), wrap=wrap)
    forward = 2 * (length * (FIRST + SECOND + STEP) + HEAD)
    assert flops(model) == forward
    assert flops(model, training=True) == 3 * forward - 2 * length * FIRST


def test_layers_without_time_by_hand():
    image = keras.Input((9, 8, 3))
    x = keras.layers.Conv2D(5, (3, 2), strides=2)(image)  # 4x4 places
    model = keras.Model(image, keras.layers.Dense(6, use_bias=False)(x))
    assert flops(model) == 2 * (16 * 3 * 2 * 3 * 5 + 16 * 5 * 6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own counter")
def test_tensorflow_counts_the_same_products():
    import tensorflow as tf
    from tensorflow.python.framework import ops

    model = cnn_lstm((3, 28, 28, 1))  # unrolled: all steps are in the graph
    call = tf.function(model).get_concrete_function(tf.TensorSpec((1, 3, 28, 28, 1), "uint8"))
    counted = 0
    for node in call.graph.as_graph_def().node:
        if node.op in ("Conv2D", "MatMul", "BatchMatMulV2"):
            counted += ops.get_stats_for_node_def(call.graph, node, "flops").value or 0
    assert counted == flops(model)


@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")  # of the flag that is set
def test_pytorch_counts_the_same_products_forward_and_backward():
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from keras_cnnlstm.benchmark.pytorch import torch_cnn_lstm

    module = torch_cnn_lstm()
    frames = torch.zeros((1, 4, 28, 28, 1), dtype=torch.uint8)
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        module(frames).sum().backward()
    counts = counter.get_flop_counts()
    total = sum(counts["Global"].values())
    # It takes no gradient of the state before the first step, which is a constant.
    assert total == flops(cnn_lstm(), training=True) - 2 * 4 * 128 * 128


def test_another_layer_with_weights_is_refused():
    lines = keras.Input((4, 3))
    model = keras.Model(lines, keras.layers.GRU(2)(lines))
    with pytest.raises(ValueError, match=r"`model` must .*Conv2D, Dense and LSTM"):
        flops(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cnn_lstm((None, 28, 28, 1)), "`model` must .*number of frames"),
        (lambda: 3, "`model` must be a keras.Model"),
    ],
)
def test_unknown_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        flops(make())


def test_the_best_reading_counts_but_not_the_first():
    ticks = iter([1, 3, 3, 3.5, 4, 6])  # 2 s, 0.5 s, 2 s; before them one that is not timed
    rate = matrix_rate("float32", size=8, products=3, repeats=3, clock=lambda: next(ticks))
    assert rate == 2 * 8**3 * 3 / 0.5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_rate_of_each_precision(dtype):
    assert matrix_rate(dtype, size=16, repeats=1) > 0


def test_rows(monkeypatch):
    monkeypatch.setattr(module, "matrix_rate", lambda dtype, **_: {"float32": 2e9}.get(dtype, 3e9))
    monkeypatch.setattr(module, "auto_policy", lambda: "mixed_float16")
    lines = []
    rows = machine(Settings(lengths=(2,), repeats=7, log=lines.append))
    assert [(row.section, row.name, row.value, row.unit) for row in rows] == [
        ("work of one sequence, T=2", "inference", flops(cnn_lstm((2, 28, 28, 1))), "FLOP"),
        ("work of one sequence, T=2", "training", 65217792, "FLOP"),
        ("matrix multiplication", "float32", 2e9, "FLOP/s"),
        ("matrix multiplication", "bfloat16", 3e9, "FLOP/s"),
        ("matrix multiplication", "float16", 3e9, "FLOP/s"),
    ]
    assert rows[2].remark == "best of 5, 2048 x 2048"
    assert len(lines) == 3


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compared with Runtime")
def test_facts():
    from keras_cnnlstm.runtime.runtime import Runtime

    found = facts()
    assert found["cores"] >= 1
    assert found["backend"] == "tensorflow"
    assert found["versions"]["keras"] == keras.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert found["auto precision"] == Runtime().policy


def test_the_processor_as_linux_describes_it(monkeypatch, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    one = "processor\t: {}\nmodel name\t: Some CPU: 2 GHz\nflags\t\t: fpu avx2 amx_bf16\n"
    cpuinfo.write_text(one.format(0) + "\n" + one.format(1).replace("avx2", "none"))
    monkeypatch.setattr(environment, "_CPUINFO", cpuinfo)
    found = facts()
    assert found["cpu"] == "Some CPU: 2 GHz"
    assert found["precision flags"] == ["amx_bf16", "avx2"]
    monkeypatch.setattr(module.keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(module, "accelerator", lambda: None)
    assert module.auto_policy() == "mixed_bfloat16"
    cpuinfo.write_text("processor : 0\nFeatures : fp asimd bf16\n")
    assert environment.processor_flags() == {"fp", "asimd", "bf16"}
    assert module.auto_policy() == "float32"
    monkeypatch.setattr(module, "accelerator", lambda: "a GPU")
    assert module.auto_policy() == "mixed_bfloat16"


def test_threads_are_those_of_the_variable(monkeypatch):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    assert module.num_threads() == 3
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
    assert module.num_threads() == module.num_cores()
