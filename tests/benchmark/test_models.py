"""What is compared is one model, each ratio is the right way up, memory and graphs are counted."""

import inspect
import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_cnnlstm.benchmark import models as module
from keras_cnnlstm.benchmark.models import (
    _ONCE,
    OURS,
    STOCK,
    VARIANTS,
    blocks_and_turns,
    compiled,
    in_fresh_process,
    models,
    peak_memory,
    predict_call,
    random_batch,
    stock_cnn_lstm,
    traced,
    train_call,
)
from keras_cnnlstm.benchmark.timings import Settings
from keras_cnnlstm.models.cnn_lstm import cnn_lstm


@pytest.fixture(scope="module")
def trio():
    """The three models of T = 2, compiled, with the same weights."""
    found = {name: compiled(name, 2, "float32") for name in _ONCE}
    for model in found.values():
        model.set_weights(found[OURS].get_weights())
    return found


def test_all_are_the_same_model_before_and_after_a_train_step(trio):
    frames, targets = random_batch(4, 2)
    for train in (False, True):
        if train:
            for model in trio.values():
                train_call(model, frames, targets)()
        answers = {name: predict_call(model, frames)() for name, model in trio.items()}
        assert answers[OURS].std() > 1e-3
        for name, answer in answers.items():
            # Adam takes the sign of the first gradient, so rounding is a step where it is nought.
            tolerance = 1e-3 if train else 1e-6
            np.testing.assert_allclose(answer, answers[OURS], atol=tolerance, err_msg=name)


def test_the_stock_model_is_made_of_stock_layers():
    for wrap, wrappers in (("layer", 5), ("encoder", 1)):
        model = stock_cnn_lstm((2, 28, 28, 1), wrap=wrap)
        assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
        kinds = [type(layer) for layer in model.layers]
        assert kinds.count(keras.layers.TimeDistributed) == wrappers
        assert model.count_params() == cnn_lstm().count_params()


def test_a_train_call_trains_and_hands_over_the_last_weight(trio):
    frames, targets = random_batch(2, 2)
    before = trio[OURS].get_weights()[-1]
    after = train_call(trio[OURS], frames, targets)()
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, trio[OURS].get_weights()[-1])


def test_a_policy_holds_for_the_model_alone():
    model = compiled(OURS, 2, "mixed_bfloat16")
    assert model.get_layer("lstm1").compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's graphs")
def test_our_graph_is_that_of_any_length_the_stock_one_grows():
    nodes = {
        (name, length): traced(compiled(name, length, "float32"))[0]
        for name, lengths in {STOCK: (2, 4), OURS: (9, 12)}.items()  # 9 are not unrolled
        for length in lengths
    }
    assert nodes[OURS, 9] == nodes[OURS, 12] > 100
    assert nodes[STOCK, 4] > 1.1 * nodes[STOCK, 2]


def test_rows_compare_with_stock_keras_in_float32(monkeypatch):
    monkeypatch.setattr(module, "policies", lambda: ("float32", "mixed_bfloat16"))
    monkeypatch.setattr(module, "compiled", lambda *names: names)
    monkeypatch.setattr(module, "train_call", lambda model, *batch: lambda: None)
    seconds = {f"{name}, {policy}": [1.0, 2.0, 3.0] for policy in ("float32", "mixed_bfloat16")
               for name in VARIANTS}  # fmt: skip
    seconds[f"{OURS}, mixed_bfloat16"] = [0.5, 0.5, 0.5]
    asked = []

    def timed(calls, turns, block):
        asked.append((tuple(calls), turns, block))
        return seconds

    monkeypatch.setattr(module, "interleaved", timed)
    lines = []
    rows = module._compare(Settings(5, repeats=3, log=lines.append), 4, train=True)
    assert asked == [(tuple(seconds), 3, 4)]
    assert {row.section for row in rows} == {"train step, B=5, T=4"}
    assert [row.ratio for row in rows] == [1] * 7 + [4]
    last = rows[-1]
    assert (last.name, last.value, last.unit) == (f"{OURS}, mixed_bfloat16", 0.5, "s")
    assert last.remark == f"as fast as {STOCK}, float32 (3 turns)"
    assert lines[0] == f"train step, B=5, T=4: compiling {STOCK}, float32"


def test_long_sequences_get_fewer_turns():
    assert [blocks_and_turns(length, 15)[1] for length in (1, 4, 8, 16, 40)] == [15, 15, 8, 4, 3]
    assert [blocks_and_turns(length, 1)[1] for length in (1, 4, 40)] == [1, 1, 1]
    assert [blocks_and_turns(length, 15)[0] for length in (1, 4, 8, 16, 40)] == [4, 4, 2, 1, 1]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems pass the parent's peak on")
def test_the_peak_is_that_of_the_process_alone():
    code = (
        "import re, sys\nfrom pathlib import Path\nimport numpy as np\n"
        + inspect.getsource(peak_memory)
        + "before = peak_memory()\n"
        "np.ones(before + 100_000_000, np.uint8)\n"
        "print(before, peak_memory() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, grown = map(int, done.stdout.split())
    assert before < 100_000_000 < peak_memory()  # its ru_maxrss would begin with that of this one
    assert grown == pytest.approx(before + 100_000_000, rel=0.3)


@pytest.mark.parametrize(
    ("code", "stderr", "reason"),
    [(-9, "", "the process ended with -9"), (1, "much\nMemoryError\n", "MemoryError")],
)
def test_a_process_that_ends_badly_is_left_out_with_the_reason(code, stderr, reason, monkeypatch):
    done = subprocess.CompletedProcess("python", code, stdout="", stderr=stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    rows = module._memory(Settings(2), 3)
    assert all(math.isnan(row.value) for row in rows)
    assert [row.remark for row in rows] == [f"left out: {reason}"] * 3


def test_a_fresh_process_calls_the_function_of_this_package():
    assert in_fresh_process(blocks_and_turns, 16, 15) == [1, 4]
    assert in_fresh_process(os.getpid) != os.getpid()


def test_a_system_that_counts_no_peak_has_a_reason(monkeypatch):
    monkeypatch.setattr(module.Path, "exists", lambda path: False)
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    with pytest.raises(OSError, match="peak memory"):
        peak_memory()


def test_an_accelerators_memory_is_left_out(monkeypatch):
    monkeypatch.setattr(module, "_compare", lambda *_, **__: [])
    monkeypatch.setattr(module, "_graphs", lambda *_: [])
    monkeypatch.setattr(module, "accelerator", lambda: "a GPU")
    (row,) = models(Settings(2, (2,), 1))
    assert math.isnan(row.value)


@pytest.mark.slow  # nine models, three of them in processes of their own
def test_a_real_run():
    rows = models(Settings(2, (2,), 1))
    names = [(row.section, row.name) for row in rows]
    assert len(set(names)) == len(names)
    assert all(row.value > 0 for row in rows)
    memory = {row.name: row.value for row in rows if row.section.startswith("memory")}
    assert tuple(memory) == _ONCE
    assert all(10e6 < grown < 1e9 for grown in memory.values())  # 13.5 MB of weights, updated
