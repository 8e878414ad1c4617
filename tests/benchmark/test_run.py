"""The benchmark keeps and writes what its sections measured, and lists what it left out."""

import json
import math
import os
import subprocess
import sys
import typing
from pathlib import Path
from types import SimpleNamespace

import pytest

from keras_cnnlstm.benchmark import run as module
from keras_cnnlstm.benchmark.run import DEFAULT, SECTIONS, benchmark, shares
from keras_cnnlstm.benchmark.timings import Row, Settings
from keras_cnnlstm.cli import commands


@pytest.fixture
def sections(monkeypatch):
    """Modules that measure nothing, in place of the real ones; what they were called with."""
    asked = []

    def section(name, *rows):
        def function(settings):
            asked.append((name, settings))
            return list(rows)

        return function

    latency = Row("latency", "LiteRT", math.nan, remark="left out: no ai_edge_litert")
    fakes = {
        "machine": {"machine": section("machine", Row("rate", "float32", 2e9, "FLOP/s"))},
        "models": {"models": section("models", Row("step", "a", 0.5, low=0.4, high=0.6))},
        "exports": {
            "latency": section("latency", latency, Row("latency", "Keras", 0.001, ratio=1.5)),
            "streaming": section("streaming"),
        },
    }

    def imported(name):
        short = name.removeprefix("keras_cnnlstm.benchmark.")
        if short not in fakes:
            raise ModuleNotFoundError(f"No module named {short!r}")
        return SimpleNamespace(**fakes[short])

    monkeypatch.setattr(module.importlib, "import_module", imported)
    return asked


def test_sections_run_in_their_order_with_their_options(sections):
    measured = benchmark(["models", "machine"], batch_size=8, lengths=[2, 3], repeats=1)
    assert [name for name, _ in sections] == ["machine", "models"]
    assert [settings[:3] for _, settings in sections] == [(8, (2, 3), 1)] * 2
    assert [row.section for row in measured.rows] == ["rate", "step"]
    assert measured.options == {
        "sections": ("machine", "models"), "batch_size": 8, "lengths": (2, 3), "repeats": 1,
        "data": None,
    }  # fmt: skip


def test_what_cannot_run_is_left_out_not_raised(sections):
    lines = []
    measured = benchmark(["latency", "torch", "streaming"], log=lines.append)
    assert measured.left_out == {
        "torch": "No module named 'pytorch'",
        "latency, LiteRT": "no ai_edge_litert",
    }
    assert [row.name for row in measured.rows] == ["Keras"]
    assert lines == [
        "torch",
        "torch: left out: No module named 'pytorch'",
        "latency",
        "streaming",
    ]
    assert "left out\n  torch: No module" in measured.text()


def test_other_backends_have_the_sections_that_speak_keras(sections, monkeypatch):
    monkeypatch.setattr(module, "facts", dict)
    monkeypatch.setattr(module.keras.backend, "backend", lambda: "jax")
    measured = benchmark()
    assert [name for name, _ in sections] == ["machine", "models"]
    why = "needs Keras on TensorFlow; this is Keras on jax"
    assert {name: measured.left_out[name] for name in ("latency", "streaming", "pipeline")} == {
        "latency": why, "streaming": why, "pipeline": why,
    }  # fmt: skip


def test_the_file_holds_all_and_is_there_after_each_section(sections, tmp_path, monkeypatch):
    path = tmp_path / "benchmark.json"
    measured = benchmark(["machine", "models"], lengths=(2,), output=path)
    assert path.read_text() == measured.to_json()
    found = json.loads(path.read_text())
    assert [Row(**row) for row in found["rows"]] == measured.rows
    assert found["machine"]["backend"] == "tensorflow"
    assert found["options"]["lengths"] == [2]
    assert found["date"].endswith("+00:00")
    path.unlink()
    written = []
    monkeypatch.setattr(module, "write_text", lambda path, text: written.append(json.loads(text)))
    benchmark(["machine", "models"], output=path)
    assert [len(found["rows"]) for found in written] == [1, 2, 2]


def test_the_table(sections):
    text = benchmark(["machine", "models", "latency"]).text()
    assert "\nauto precision: " in text
    assert (
        "\n\nrate\n  float32      2 GFLOP/s\n\nstep\n  a           500.000 ms  (400.000 ms to"
        in text
    )
    assert "1.000 ms                              1.50 times" in text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "bytes", "0 B"), (999, "FLOP", "999 FLOP"), (999.6, "FLOP", "1 kFLOP"),
        (1_500_000, "bytes", "1.5 MB"), (7.88e14, "FLOP/s", "788 TFLOP/s"),
        (12, "nodes", "12 nodes"), (1.33333, "times", "1.333 times"), (0.25, "", "0.250"),
        (1.5, "s", "1,500.000 ms"),
    ],
)  # fmt: skip
def test_figures(value, unit, text):
    assert module._figure(value, unit) == text


def test_the_share_of_the_rate():
    rows = [
        Row("work of one sequence, T=4", "training", 1e9, "FLOP"),
        Row("matrix multiplication", "float32", 1e12, "FLOP/s"),
        Row("matrix multiplication", "bfloat16", 4e12, "FLOP/s"),
        Row("train step, B=8, T=4", "keras_cnnlstm, float32", 0.02),
        Row("train step, B=8, T=4", "keras_cnnlstm, mixed_bfloat16", 0.008),
        Row("train step, B=8, T=16", "keras_cnnlstm, float32", 0.02),
    ]
    found = shares(rows, Settings(8, (4, 16)))
    assert [(row.name, row.value) for row in found] == [
        ("T=4, float32", pytest.approx(0.4)),  # 8 GFLOP in 20 ms: 400 GFLOP/s
        ("T=4, mixed_bfloat16", pytest.approx(0.25)),
    ]
    assert found[1].remark == "of 4 TFLOP/s"


def test_shares_find_the_rows_that_the_sections_make(monkeypatch):
    from keras_cnnlstm.benchmark import machine, models

    monkeypatch.setattr(machine, "matrix_rate", lambda *_, **__: 1e9)
    monkeypatch.setattr(models, "compiled", lambda *_: None)
    monkeypatch.setattr(models, "train_call", lambda *_: lambda: None)
    settings = Settings(3, (2,), 1)
    rows = [*machine.machine(settings), *models._compare(settings, 2, train=True)]
    names = [row.name for row in shares(rows, settings)]
    assert "T=2, float32" in names


def test_the_command_offers_the_sections():
    sections = typing.get_args(typing.get_type_hints(commands.Benchmark)["sections"])[0]
    assert typing.get_args(sections) == tuple(SECTIONS)
    assert commands.Benchmark().sections == DEFAULT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be an integer from 1"),
        ({"repeats": 0}, "`repeats` must be an integer from 1"),
        ({"lengths": [0]}, "`lengths` must be an integer from 1"),
        ({"lengths": 4}, "`lengths` must be a list"),
        ({"lengths": []}, "`lengths` must .*one"),
        ({"sections": []}, "`sections` must .*one"),
        ({"sections": "all"}, "`sections` must be a list of machine"),
        ({"sections": ["gpu"]}, "`sections` must be one of machine"),
        ({"output": "."}, "`output` must be a file"),
        ({"output": "nowhere/benchmark.json"}, "`output` must .*folder that exists"),
        ({"output": 3}, "`output` must be a path"),
    ],
)
def test_bad_arguments(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"benchmark: {message}"):
        benchmark(**options)


WITHOUT_TENSORFLOW = """
import importlib.machinery, sys
class Others(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, *where):
        return None if name.partition(".")[0] == "tensorflow" else super().find_spec(name, *where)
stock = importlib.machinery.PathFinder
sys.meta_path[:] = [Others if finder is stock else finder for finder in sys.meta_path]
from keras_cnnlstm.cli import main as cli
code = cli.main(sys.argv[1:])
assert "tensorflow" not in sys.modules
sys.exit(code)
"""


def run_without_tensorflow(backend, tmp_path):
    """The command on another backend, in a Python where TensorFlow cannot be imported."""
    root = Path(module.__file__).parents[2]
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(root)}
    words = "benchmark --sections machine models latency --batch-size 2 --lengths 2 --repeats 1"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, *words.split()],
        env=environment, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done, json.loads((tmp_path / "benchmark.json").read_text())


@pytest.mark.slow  # compiles six models on another backend, and three processes begin
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_model_rows_need_no_tensorflow(backend, tmp_path):
    pytest.importorskip(backend)
    done, found = run_without_tensorflow(backend, tmp_path)
    assert found["machine"]["backend"] == backend
    sections = {row["section"] for row in found["rows"]}
    assert {"train step, B=2, T=2", "inference, B=2, T=2", "matrix multiplication"} <= sections
    assert found["left_out"]["latency"].startswith("needs Keras on TensorFlow")
    assert "train step, B=2, T=2: measuring" in done.stderr
    assert "share of that rate in training" in done.stdout
