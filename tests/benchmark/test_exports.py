"""Latency: each percentile and each ratio the right way up, and the same answers in every form."""

import math

import numpy as np
import pytest

from keras_cnnlstm.benchmark import exports as module
from keras_cnnlstm.benchmark.exports import EXPORTED, TORCH, latency, latency_rows, streaming
from keras_cnnlstm.benchmark.timings import Settings

IN_TORCH = [variant.name for variant in TORCH]


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
        seconds = {"Keras": 9.0, "SavedModel": 5.0, "ONNX Runtime": 2.0, IN_TORCH[0]: 3.0}
        rows = rows_of(**{name: [[s]] for name, s in seconds.items()})
        assert rows["ONNX Runtime, against the best of PyTorch"].value == 1.5

    @pytest.mark.parametrize("missing", [EXPORTED, IN_TORCH])
    def test_without_one_side_nothing_is_compared(self, missing):
        names = {"Keras", *EXPORTED, *IN_TORCH} - {*missing}
        assert not any("against" in name for name in rows_of(**{name: [[1.0]] for name in names}))


def test_left_out_rows_have_no_figure(monkeypatch):
    forms = {"quick": lambda: list, "gone": lambda: 1 / 0}
    monkeypatch.setattr(module, "_forms", lambda *_: forms)
    rows = {row.name: row for row in latency(Settings(repeats=100))}
    assert rows.keys() == {"quick", "quick, 99th percentile", "gone"}
    assert rows["quick, 99th percentile"].remark == "of 300 calls"
    assert math.isnan(rows["gone"].value)
    assert rows["gone"].remark == "left out: ZeroDivisionError: division by zero"


def test_at_least_300_calls_whatever_the_turns(monkeypatch):
    monkeypatch.setattr(module, "_forms", lambda *_: {"quick": lambda: list})
    assert latency(Settings(repeats=7))[1].remark == "of 301 calls"


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


@pytest.mark.slow
def test_all_forms_answer_alike():
    """What is timed is the same function."""
    seen = {}

    def ask(calls, turns, *, block, warm):
        seen.update({name: call() for name, call in calls.items()})
        return {name: np.ones((turns, block)) for name in calls}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "each_call", ask)
        rows = latency(Settings(repeats=1))
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    answers = {
        name: answer["probabilities"] if isinstance(answer, dict) else answer
        for name, answer in seen.items()
    }
    first = answers["Keras, predict_on_batch"]
    for name, answer in answers.items():
        if name in IN_TORCH:  # of other weights
            np.testing.assert_allclose(answer.sum(), 1, atol=1e-5)
            assert answer.shape == first.shape
        else:
            np.testing.assert_allclose(answer, first, atol=1e-5)
    assert {"SavedModel", "LiteRT", "LiteRT, 2 threads", "ONNX Runtime"} <= answers.keys()


@pytest.mark.slow
def test_streaming_for_real():
    rows = streaming(Settings(repeats=1))
    assert len({(row.section, row.name) for row in rows}) == 4
    assert all(row.value > 0 for row in rows)
