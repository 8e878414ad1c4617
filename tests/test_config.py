"""`TrainConfig`: its checks, its JSON, and that it costs nothing to import."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from keras_cnnlstm.config import TrainConfig


def test_json_round_trip():
    config = TrainConfig(dataset="mnist", lstm_units=(64, 32), dropout=0, data_dir="x")
    assert TrainConfig.from_json(config.to_json()) == config


def test_epochs_follow_the_data_set_unless_given():
    assert TrainConfig().epochs == 8
    assert TrainConfig(dataset="mnist").epochs == 40
    assert TrainConfig(dataset="mnist", epochs=3).epochs == 3
    assert TrainConfig(epochs=3, steps_per_epoch=7).num_steps == 21


def test_the_task_follows_the_model_and_the_lengths_follow_the_task():
    def told(**options):
        config = TrainConfig(**options)
        return config.task, config.length, config.min_length, config.balance

    assert told() == ("trend", 4, 4, 0.5)
    assert told(task="digits") == ("digits", 4, 4, 0.0)
    assert told(task="digits", length=6, min_length=2) == ("digits", 6, 2, 0.0)
    assert told(task="running_sum") == ("running_sum", 8, 1, 0.0)
    assert told(task="running_sum", length=3) == ("running_sum", 3, 1, 0.0)
    assert told(model="scan_lstm") == told(model="renet") == ("label", 1, 1, 0.0)
    assert told(model="crnn", length=5) == ("text", 5, 5, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"task": "text"},
            "task: expected trend or digits or running_sum or clip with model cnn_lstm",
        ),
        ({"model": "flat_mlp", "task": "digits"}, "task: expected trend with model flat_mlp"),
        ({"model": "renet", "task": "trend"}, "task: expected label with model renet; received"),
        ({"model": "renet", "length": 2}, "length: expected 1 to 1 for the task label; received 2"),
        ({"min_length": 2}, "min_length: expected 4 to 4 for the task trend; received 2"),
        ({"task": "digits", "min_length": 5}, "min_length: expected 1 to 4 for the task digits"),
        ({"freeze": True}, "freeze: expected off without init_from"),
        ({"regroup": 4}, r"regroup: expected 1 without so_far \(--so-far\); received 4"),
        ({"regroup": 0, "so_far": True}, "regroup: expected 1 to 1000; received 0"),
        ({"readers": ()}, "readers: expected one run directory or more; received none"),
        (
            {"readers": ("a",), "model": "flat_mlp"},
            "readers: .* but for model cnn_lstm .* received a ",
        ),
        ({"readers": ("a",), "data": "b"}, "readers: .* on digits; received a .*, data 'b'"),
        ({"readers": ("a",), "encoder": "small_cnn"}, "encoder: .* with readers, .* 'small_cnn'"),
        (
            {"readers": ("a",), "encoder_filters": (4,)},
            r"encoder_filters: .* with readers.* \(4,\)",
        ),
        ({"data": "x", "task": "trend"}, r"task: expected clip with a folder of clips \(--data\)"),
        ({"task": "clip"}, "task: expected clip with a folder of clips .* with data None"),
        ({"data": "x", "min_length": 2}, "min_length: expected 1 to 1 for the task clip"),
        ({"flip": True}, "flip: expected its default without clips; received True"),
        ({"sampling": "first"}, "sampling: expected none without clips; received 'first'"),
        ({"data": "x", "stride": 2}, "stride: expected 1 with sampling segments; received 2"),
        ({"task": "digits", "balance": 0.5}, "balance: expected 0 for the task digits"),
        ({"so_far": True, "task": "digits"}, "so_far: expected off but for the task trend"),
        ({"so_far": True, "model": "flat_mlp"}, "so_far: .* model flat_mlp"),
        ({"so_far": True, "bidirectional": True}, "so_far: .* bidirectional True"),
        ({"reorder": True}, r"reorder: expected off without so_far \(--so-far\); received True"),
        ({"cache": "x", "model": "crnn"}, "cache: expected none with digits, .* model crnn"),
        ({"cache": "x", "so_far": True}, "cache: expected none with digits, .* so_far True"),
        ({"cached_copies": 0}, "cached_copies: expected 1 to 1000; received 0"),
        ({"data": "x", "elastic": 1.0}, r"elastic: expected 0 with a folder of clips .* 1.0"),
        ({"reader_views": 2}, r"reader_views: expected 1 without readers .*; received 2"),
        ({"readers": ("run",), "reader_views": 8}, "reader_views: expected 1 to 7; received 8"),
        ({"data": "x", "erasing": 1.0}, r"erasing: expected 0 with a folder of clips .* 1.0"),
    ],
)
def test_options_that_do_not_fit_the_task(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


def test_the_run_dir_names_an_unusual_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert TrainConfig(task="digits").default_run_dir == Path("runs/digits-cnn_lstm-digits")
    assert TrainConfig(model="crnn").default_run_dir == Path("runs/digits-crnn")


def test_default_run_dir_takes_the_first_free_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(dataset="emnist/digits")
    names = []
    for _ in range(3):
        names.append(str(config.default_run_dir))
        config.default_run_dir.mkdir(parents=True)
    base = "runs/emnist-digits-cnn_lstm"
    assert names == [base, f"{base}-2", f"{base}-3"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("length", 1, "length: expected 2 to 32 for the task trend; received 1"),
        ("batch_size", 0, r"batch_size: expected 1 to 1e\+06; received 0"),
        ("epochs", 0, r"epochs: expected 1 to 1e\+06; received 0"),
        ("steps_per_epoch", 0, "steps_per_epoch: expected 1 to"),
        ("learning_rate", 0.0, "learning_rate: expected 1e-12 to 1000; received 0.0"),
        ("learning_rate", float("nan"), "learning_rate: .* received nan"),
        ("balance", -0.1, "balance: expected 0 to 1; received -0.1"),
        ("dropout", 1.0, "dropout: expected 0 to 0.999; received 1.0"),
        ("seed", -1, "seed: expected 0 to"),
        ("lstm_units", (), r"lstm_units: expected one or more positive numbers; received \(\)"),
        ("lstm_units", (8, 0), r"received \(8, 0\)"),
        ("encoder_filters", (0,), r"encoder_filters: expected one or more positive .* \(0,\)"),
        ("lstm_units", 8, r"lstm_units: expected tuple\[int, \.\.\.\] or None; received 8"),
        (
            "model",
            "resnet",
            "model: expected one of 'cnn_lstm', 'bag_of_frames', .*; received 'resnet'",
        ),
        ("length", 4.5, "length: expected int or None; received 4.5"),
        ("length", True, "length: expected int or None; received True"),
        ("balance", "half", "balance: expected float or None; received 'half'"),
        ("augment", 1, "augment: expected bool; received 1"),
        ("data_dir", 7, r"data_dir: expected str or None; received 7"),
    ],
)
def test_bad_options(name, value, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{name: value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config: expected a JSON object; received bad JSON \(Expecting"),
        ("[" * 100_000, "config: expected a JSON object"),
        ("[1]", "expected a JSON object; received list"),
        ('{"epoch": 3}', r"expected options of TrainConfig; received \['epoch'\] too"),
        ('{"epochs": "3"}', r"epochs: expected int or None; received '3'"),
    ],
)
def test_bad_json(text, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_json(text)


def test_every_option_is_described():
    source = Path(sys.modules[TrainConfig.__module__].__file__).read_text()
    for field in dataclasses.fields(TrainConfig):
        assert f"\n    {field.name}: " in source
        after = source.split(f"\n    {field.name}: ", 1)[1].split("\n", 1)[1].lstrip()
        assert after.startswith('"""'), field.name


def test_choices_are_those_of_the_models():
    from typing import get_args

    from keras_cnnlstm.encoders import ENCODERS
    from keras_cnnlstm.objectives import BUILDERS
    from keras_cnnlstm.pretrained import PRETRAINED
    from keras_cnnlstm.runtime import Precision, Strategy
    from keras_cnnlstm.tasks import TASKS

    choices = {f.name: get_args(f.type) for f in dataclasses.fields(TrainConfig)}
    assert set(choices["model"]) == set(BUILDERS)
    assert set(get_args(choices["task"][0])) == {*TASKS, "sentence"}  # of one of three classes
    assert set(choices["encoder"]) == (set(ENCODERS) - {"conv1d"}) | set(PRETRAINED)
    assert choices["precision"] == get_args(Precision)
    assert choices["strategy"] == get_args(Strategy)


def test_importing_package_and_command_line_loads_nothing_heavy():
    code = (
        "import json, sys, keras_cnnlstm, keras_cnnlstm.cli;"
        "print(json.dumps([m for m in sys.modules if '.' not in m]))"
    )
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert not {"keras", "tensorflow", "numpy", "sklearn", "matplotlib"} & set(loaded)
