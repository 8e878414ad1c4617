"""Latency: each call timed by itself, in turn; each percentile and each ratio the right way up."""

import math

import numpy as np
import pytest

from keras_cnnlstm import benchmark_exports as module
from keras_cnnlstm.benchmark_exports import (
    EXPORTED,
    TORCH,
    each_call,
    latency,
    latency_rows,
    opened,
    streaming,
)


class TestEachCall:
    def test_forms_take_turns_in_blocks_after_calls_that_do_not_count(self):
        order = []
        calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
        seconds = each_call(calls, 2, block=3)
        assert "".join(order) == ("a" * 8 + "b" * 8) * 2
        assert {name: s.shape for name, s in seconds.items()} == {"a": (2, 3), "b": (2, 3)}

    def test_each_call_is_timed_by_itself(self):
        now = 0.0
        taken = iter([9.0] * 5 + [1.0, 2.0] + [9.0] * 5 + [3.0, 4.0])

        def call():
            nonlocal now
            now += next(taken)

        seconds = each_call({"a": call}, 2, block=2, clock=lambda: now)
        np.testing.assert_array_equal(seconds["a"], [[1, 2], [3, 4]])


def rows_of(**seconds):
    return {row.name: row for row in latency_rows({n: np.array(s) for n, s in seconds.items()})}


class TestRows:
    def test_median_percentile_and_ratio(self):
        rows = rows_of(
            Keras=[[4.0] * 50, [6.0] * 50], LiteRT=[[2.0] * 50, [1.0] * 48 + [9.0, 10.0]]
        )
        assert rows["Keras"].value == 5.0
        assert (rows["Keras"].low, rows["Keras"].high, rows["Keras"].ratio) == (4.0, 6.0, 1.0)
        assert rows["LiteRT"].value == 2.0
        # Half of the turns are twice as fast, half six times, but for two calls.
        assert rows["LiteRT"].ratio == 2.0
        assert rows["LiteRT"].remark == "as fast as Keras"
        slowest = rows["LiteRT, 99th percentile"]
        assert slowest.value == pytest.approx(np.percentile([2.0] * 50 + [1.0] * 48 + [9, 10], 99))
        assert 9.0 <= slowest.value <= 10.0
        assert slowest.remark == "of 100 calls"

    def test_the_fastest_export_against_the_best_of_pytorch(self):
        seconds = {
            "Keras, predict_on_batch": [[9.0], [9.0], [9.0]],
            "SavedModel": [[5.0], [5.0], [5.0]],
            "ONNX Runtime": [[2.0], [4.0], [2.0]],
            "PyTorch eager": [[9.0], [9.0], [9.0]],
            "PyTorch channels_last": [[3.0], [8.0], [4.0]],
        }
        row = rows_of(**seconds)["ONNX Runtime, against the best of PyTorch"]
        assert (row.value, row.unit, row.remark) == (
            2.0,
            "times",
            "as fast as PyTorch channels_last",
        )
        assert row.ratio == 2.0
        assert (row.low, row.high) == (1.75, 2.0)

    @pytest.mark.parametrize("missing", [EXPORTED, TORCH])
    def test_without_one_side_nothing_is_compared(self, missing):
        names = {"Keras", *EXPORTED, *TORCH} - {*missing}
        assert not any("against" in name for name in rows_of(**{name: [[1.0]] for name in names}))


def test_a_form_that_fails_is_told_and_the_others_stay():
    def missing():
        raise ValueError("onnxruntime: expected this package\nto be installed")

    def broken():
        raise RuntimeError("no compiler")

    calls, reasons = opened({"good": lambda: len, "missing": missing, "broken": lambda: broken})
    assert not calls  # `len` takes an argument, so its first call fails
    assert reasons["missing"] == "ValueError: onnxruntime: expected this package"
    assert reasons["broken"] == "RuntimeError: no compiler"
    assert reasons["good"].startswith("TypeError")
    calls, reasons = opened({"good": lambda: list})
    assert calls == {"good": list}
    assert not reasons


def test_left_out_rows_have_no_figure(monkeypatch):
    forms = {"quick": lambda: list, "gone": lambda: 1 / 0}
    monkeypatch.setattr(module, "_forms", lambda *_: forms)
    rows = {row.name: row for row in latency(repeats=100)}
    assert rows.keys() == {"quick", "quick, 99th percentile", "gone"}
    assert rows["quick, 99th percentile"].remark == "of 300 calls"
    assert math.isnan(rows["gone"].value)
    assert rows["gone"].remark == "left out: ZeroDivisionError: division by zero"


def test_at_least_300_calls_whatever_the_turns(monkeypatch):
    monkeypatch.setattr(module, "_forms", lambda *_: {"quick": lambda: list})
    assert latency(repeats=7)[1].remark == "of 301 calls"


def test_streaming_compares_one_frame_with_sixteen(monkeypatch):
    read = []
    monkeypatch.setattr(module, "interleaved", lambda calls, *_, **__: [
        read.append(call()) for call in calls.values()
    ] and dict(zip(calls, ([3.0, 8.0], [1.0, 2.0]), strict=True)))  # fmt: skip
    rows = module._streamed(2, (8, 8, 1))
    assert [row.name for row in rows] == ["window of 16 read again", "streamed"]
    assert [row.ratio for row in rows] == [1.0, 3.5]
    assert rows[0].section == "one new frame of 8x8x1, float32"
    window, (outputs, state) = read
    assert window.shape == outputs["probabilities"].shape == (1, 7)
    assert sorted(state) == ["lstm1_c", "lstm1_h"]


@pytest.mark.parametrize("call", [latency, streaming])
def test_bad_arguments(call):
    with pytest.raises(
        ValueError, match=f"{call.__name__}: `repeats` must be 1 or more; received 0"
    ):
        call(repeats=0)


@pytest.mark.slow
def test_all_forms_answer_alike():
    """The whole of it, each form once: what is timed is the same function."""
    seen = {}

    def ask(calls, turns, *, block):
        seen.update({name: call() for name, call in calls.items()})
        return {name: np.ones((turns, block)) for name in calls}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "each_call", ask)
        rows = latency(repeats=1)
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    answers = {
        name: answer["probabilities"] if isinstance(answer, dict) else answer
        for name, answer in seen.items()
    }
    first = answers["Keras, predict_on_batch"]
    for name, answer in answers.items():
        if name in TORCH:  # of other weights
            np.testing.assert_allclose(answer.sum(), 1, atol=1e-5)
            assert answer.shape == first.shape
        else:
            np.testing.assert_allclose(answer, first, atol=1e-5)
    assert {"SavedModel", "LiteRT", "LiteRT, 2 threads", "ONNX Runtime"} <= answers.keys()


@pytest.mark.slow
def test_streaming_for_real():
    rows = streaming(repeats=1)
    assert len({(row.section, row.name) for row in rows}) == 4
    assert all(row.value > 0 for row in rows)
