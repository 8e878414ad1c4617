"""Calls take turns, the right ones are timed, and each ratio is the right way up."""

import math

import numpy as np
import pytest

from keras_cnnlstm.benchmark import timings
from keras_cnnlstm.benchmark.timings import (
    against_best,
    each_call,
    interleaved,
    median_row,
    ready_calls,
    turns_within,
)


def test_calls_take_turns_in_blocks_after_calls_that_are_not_timed():
    order = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    seconds = each_call(calls, 2, block=3, warm=5)
    assert "".join(order) == ("a" * 8 + "b" * 8) * 2
    assert {name: s.shape for name, s in seconds.items()} == {"a": (2, 3), "b": (2, 3)}


def test_each_call_is_timed_separately():
    now = 0.0
    taken = iter([9.0] * 5 + [1.0, 2.0] + [9.0] * 5 + [3.0, 4.0])

    def call():
        nonlocal now
        now += next(taken)

    seconds = each_call({"a": call}, 2, block=2, warm=5, clock=lambda: now)
    np.testing.assert_array_equal(seconds["a"], [[1, 2], [3, 4]])


def test_interleaved_leaves_out_two_turns_and_the_first_call_of_each(monkeypatch):
    now = 0.0
    taken = iter([9.0] * 6 + [9.0, 1.0, 2.0] + [9.0, 3.0, 5.0])

    def call():
        nonlocal now
        now += next(taken)

    monkeypatch.setattr(timings.time, "perf_counter", lambda: now)
    assert interleaved({"a": call}, 2, block=2) == {"a": [1.5, 4.0]}


def test_median_quartiles_and_ratio():
    row = median_row("s", "n", [2.0, 1.0, 4.0, 3.0, 5.0], reference=[2.0, 3.0, 4.0, 12.0, 10.0])
    assert (row.value, row.low, row.high, row.unit) == (3.0, 2.0, 4.0, "s")
    assert row.ratio == 2.0  # of 1, 3, 1, 4, 2
    assert median_row("s", "n", [1.0]).ratio is None


def test_the_fastest_of_ours_against_the_best_of_pytorch():
    seconds = {
        "slow": [[9.0], [9.0], [9.0]],
        "ours": [[2.0], [4.0], [2.0]],
        "eager": [[9.0], [9.0], [9.0]],
        "best": [[3.0], [8.0], [4.0]],
    }
    (row,) = against_best("s", seconds, ["slow", "ours", "gone"], ["eager", "best"])
    assert row.name == "ours, against the best of PyTorch"
    assert (row.value, row.unit, row.remark, row.ratio) == (2.0, "times", "as fast as best", 2.0)
    assert (row.low, row.high) == (1.75, 2.0)
    assert against_best("s", seconds, ["gone"], ["best"]) == []
    assert against_best("s", seconds, ["ours"], ["gone"]) == []


@pytest.mark.parametrize(
    ("repeats", "seconds", "turns"),
    [(15, 0.1, 15), (15, 5.0, 12), (15, 50.0, 3), (2, 50.0, 2)],
)
def test_turns_fit_into_the_budget(repeats, seconds, turns):
    assert turns_within(60, seconds, repeats) == turns


def test_a_call_that_fails_has_its_reason_and_the_others_stay():
    def missing():
        raise ValueError("onnxruntime: expected this package\nto be installed")

    def broken():
        raise RuntimeError("no compiler")

    lines = []
    makers = {"good": lambda: list, "missing": missing, "broken": lambda: broken}
    calls, rows = ready_calls("s", makers, lines.append)
    assert calls == {"good": list}
    assert all(math.isnan(row.value) for row in rows)
    assert {row.name: row.remark for row in rows} == {
        "missing": "left out: ValueError: onnxruntime: expected this package",
        "broken": "left out: RuntimeError: no compiler",
    }
    assert lines[0] == "s: compiling good"
