"""The benchmark measures what it says: the same model, in turn, and each ratio the right way up."""

import numpy as np
import pytest

from keras_cnnlstm import benchmark as module
from keras_cnnlstm.benchmark import benchmark, interleaved, stock_cnn_lstm
from keras_cnnlstm.models import cnn_lstm


def test_rows_name_what_they_timed():
    rows = benchmark(batch_size=2, repeats=1)
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert names[0] == "train step, B=2, T=4, stock Keras, float32"
    assert all(row.seconds > 0 for row in rows)
    assert rows[0].remark == "1.00 times as fast as stock Keras in float32"


def test_calls_take_turns(monkeypatch):
    order = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    seconds = interleaved(calls, 3, block=2)
    assert "".join(order) == "aaabbb" * 5
    assert [len(s) for s in seconds.values()] == [3, 3]


def test_times_are_of_one_call(monkeypatch):
    clock = iter(np.arange(100) * 6.0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    assert interleaved({"a": lambda: None}, 2, block=3) == {"a": [2.0, 2.0]}
    assert module._ratio([4.0, 6.0, 9.0], [2.0, 2.0, 3.0]) == 3.0


def test_both_sides_are_the_same_model():
    stock, ours = stock_cnn_lstm((4, 28, 28, 1), 7), cnn_lstm()
    stock.set_weights(ours.get_weights())
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 28, 28, 1), np.uint8)
    np.testing.assert_allclose(stock(frames), ours(frames), atol=1e-6)


@pytest.mark.parametrize("name", ["batch_size", "repeats"])
def test_bad_arguments(name):
    with pytest.raises(ValueError, match=f"`{name}` must be 1 or more; received 0"):
        benchmark(**{name: 0})
