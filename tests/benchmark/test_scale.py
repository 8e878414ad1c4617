"""Growth: each figure by hand, sizes that do not fit left out, memory in a fresh process."""

import math
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from keras_cnnlstm.benchmark import scale as module
from keras_cnnlstm.benchmark.models import in_fresh_process
from keras_cnnlstm.benchmark.scale import (
    SIZES,
    Memory,
    Size,
    limit_rows,
    memory_rows,
    scale,
    speed_rows,
    train_memory,
)
from keras_cnnlstm.benchmark.timings import Settings
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.runtime.memory import activation_memory, check_memory
from keras_cnnlstm.runtime.runtime import Runtime

TINY = Size(2, 3, 8)


class TestSizes:
    def test_words_and_shape(self):
        assert str(Size(4, 16, 112, 3)) == "B=4, T=16, 112x112x3"
        assert Size(4, 16, 112, 3).frame_shape == (112, 112, 3)
        assert Size(4, 16).frames == 64

    def test_what_is_measured(self):
        assert [size.batch_size for size in SIZES["batch size"]] == [8, 16, 32, 64, 128, 256, 512]
        assert [size.length for size in SIZES["T"]] == [4, 16, 64, 256]
        assert [size[2:] for size in SIZES["frame size"]] == [
            (28, 1), (28, 3), (56, 1), (56, 3), (112, 1), (112, 3),
        ]  # fmt: skip


class TestRows:
    def test_speed(self):
        (row,) = speed_rows("s", {Size(8, 4): [2.0, 4.0, 1.0]})
        assert (row.name, row.value, row.unit) == ("B=8, T=4, 28x28x1, speed", 4.0, "sequences/s")
        assert (row.low, row.high) == (3.0, 6.0)
        assert row.remark == "16 frames a second (3 turns)"

    def test_memory(self):
        found = {
            Size(2, 4): Memory(10_000_000, 12_500_000),
            Size(4, 4): Memory(11_000_000, 5_500_000),
            Size(10, 4): Memory(18_000_000, 1),
        }
        rows = {row.name: row for row in memory_rows("s", found)}
        peak = rows["B=2, T=4, 28x28x1, memory at peak"]
        assert (peak.value, peak.unit) == (10_000_000, "bytes")
        assert peak.remark == "1,250 kB for each of 8 frames"
        assert rows["B=2, T=4, 28x28x1, memory estimated"].value == 12_500_000
        assert rows["B=2, T=4, 28x28x1, memory estimated"].remark.startswith("1.25 times what was")
        assert rows["B=4, T=4, 28x28x1, memory estimated"].remark.startswith("0.50 times what was")
        further = rows["memory of a further frame"]
        assert further.value == 8_000_000 / 32
        assert further.remark == "from B=2, T=4, 28x28x1 to B=10, T=4, 28x28x1"

    def test_frames_that_differ_or_stand_alone_have_no_slope(self):
        both = {Size(2, 4): Memory(10, 1), Size(2, 4, 56): Memory(20, 1)}
        for found in (both, {Size(2, 4): Memory(10, 1)}, {}):
            assert not any("further" in row.name for row in memory_rows("s", found))


class TestLimits:
    LIMIT = 200_000_000

    def test_the_first_power_of_two_that_does_not_fit(self):
        batch, frames, length = limit_rows(self.LIMIT)
        with Runtime("auto", "one-device").scope():  # in half precision twice as many fit
            model = cnn_lstm()
        model.compile("adam", "sparse_categorical_crossentropy")
        sizes = [2**power for power in range(12)]
        first = next(b for b in sizes if activation_memory(model, b) > self.LIMIT)
        assert (batch.name, batch.value, batch.unit) == ("B at T=4, 28x28x1", first, "sequences")
        with pytest.raises(ValueError, match="check_memory") as info:
            check_memory(model, first, limit=self.LIMIT)
        assert batch.remark == str(info.value)
        assert (frames.name, frames.value) == ("B at T=16, 112x112x3", 1)  # its weights alone
        assert (length.name, length.unit) == ("T at B=4, 28x28x1", "frames")
        assert f"T={length.value}, to fit into 200 MB; received 4" in length.remark


class TestMeasuredMemory:
    def test_of_a_process_of_its_own(self, monkeypatch):
        asked = []

        def run(command, **options):
            asked.append(command[2])
            return SimpleNamespace(returncode=0, stdout="noise\n[5, 7]\n", stderr="")

        monkeypatch.setattr(subprocess, "run", run)
        rows = {row.name: row.value for row in module._grown("s", [TINY], Settings(repeats=1))}
        assert rows[f"{TINY}, memory at peak"] == 5
        assert rows[f"{TINY}, memory estimated"] == 7
        assert all(word in asked[0] for word in ("train_memory", "(2, 3, 8, 1)"))

    def test_one_that_is_killed(self, monkeypatch):
        done = SimpleNamespace(returncode=-9, stdout="", stderr="begins\nKilled\n")
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
        (row,) = module._grown("s", [TINY], Settings(repeats=1))
        assert (row.name, row.remark) == (str(TINY), "left out: Killed")

    def test_growth_from_before_the_model_to_the_peak(self, monkeypatch):
        peaks = iter([1000, 1700])
        monkeypatch.setattr(module, "peak_memory", lambda: next(peaks))
        memory = train_memory(*TINY)
        model = module._model(TINY)
        model.optimizer.build(model.trainable_variables)
        assert memory == Memory(measured=700, estimated=activation_memory(model, 2))

    @pytest.mark.slow
    def test_for_real_more_frames_take_more(self):
        sizes = Size(8, 4), Size(256, 4)
        small, large = (Memory(*in_fresh_process(train_memory, *size)) for size in sizes)
        assert 10**7 < small.measured < large.measured < 10**10
        assert 0.3 < large.estimated / large.measured < 3


class TestScale:
    @pytest.fixture
    def memory(self, monkeypatch):
        """Each size takes as many bytes as it has frames, but for T=5, whose process is killed."""

        def measured(function, *size, timeout):
            if Size(*size).length == 5:
                raise ChildProcessError("killed\nby the system")
            return [Size(*size).frames, 2 * Size(*size).frames]

        monkeypatch.setattr(module, "in_fresh_process", measured)
        monkeypatch.setattr(module, "limit_rows", list)

    def test_rows_of_two_comparisons(self, memory):
        lines = []
        sizes = {"T": [TINY, Size(2, 4, 8)], "frame size": [TINY, Size(2, 3, 12)]}
        rows = scale(Settings(repeats=1, log=lines.append), sizes)
        names = [(row.section, row.name) for row in rows]
        assert len(set(names)) == len(names) == 2 * 2 * 3 + 1
        assert all(row.value > 0 for row in rows)
        assert {row.section.partition(",")[0] for row in rows} == {
            "training over T", "training over frame size",
        }  # fmt: skip
        assert any(text.endswith("B=2, T=3, 8x8x1") for text in lines)

    def test_what_does_not_fit_is_left_out(self, memory, monkeypatch):
        def check(model, batch_size):
            if batch_size > 2:
                raise ValueError("check_memory: too large")

        monkeypatch.setattr(module, "check_memory", check)
        rows = scale(Settings(repeats=1), {"T": [TINY, Size(3, 3, 8), Size(2, 5, 8)]})
        missing = {row.name: row.remark for row in rows if math.isnan(row.value)}
        assert missing == {
            "B=3, T=3, 8x8x1": "left out: check_memory: too large",
            "B=2, T=5, 8x8x1": "left out: killed by the system",
        }
        assert [row.name for row in rows if "speed" in row.name] == ["B=2, T=3, 8x8x1, speed"]

    def test_turns_fit_into_the_budget(self, monkeypatch):
        clock = iter(np.arange(1000) * 3.0)
        monkeypatch.setattr(
            "keras_cnnlstm.benchmark.timings.time.perf_counter", lambda: next(clock)
        )
        # A turn of 3 s is measured twice over; 45 s hold 7, of which 2 do not count.
        assert module._turns([lambda: None], 15) == 5
        assert module._turns([lambda: None], 4) == 4
        monkeypatch.setattr(module, "_BUDGET", 1.0)
        assert module._turns([lambda: None], 15) == 3
