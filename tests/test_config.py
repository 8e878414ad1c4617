"""`TrainConfig`: its checks, its JSON, and that it costs nothing to import."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from keras_cnnlstm.config import Encoder, TrainConfig


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"data": "mnist", "lstm_units": [64, 32], "dropout": 0},
        {"data": "./clips", "augmentation": {"affine": 0.5}},
        {"encoder": ["./a", "./b"], "tta": 3, "ensemble": None},
        {"ensemble": ("small_cnn", "mine.keras"), "augmentation": "strong"},
    ],
)
def test_json_round_trip(options):
    config = TrainConfig(**options)
    again = TrainConfig.from_json(config.to_json())
    assert again == config.resolved
    assert again.resolved is again
    assert again.to_json() == config.to_json()


def test_what_is_left_open_stays_open_and_is_decided_beside_it():
    config = TrainConfig()
    assert (config.task, config.epochs, config.steps_per_epoch) == (None, None, None)
    assert config.resolved.epochs == 8
    assert TrainConfig(data="mnist").resolved.epochs == 40
    assert TrainConfig(data="mnist", epochs=3).resolved.epochs == 3
    assert TrainConfig(epochs=3, steps_per_epoch=7).num_steps == 21
    clips = TrainConfig(data="./clips").resolved
    found = clips.epochs, clips.batch_size, clips.image_size, clips.sampling, clips.steps_per_epoch
    assert found == (30, 16, (64, 64), "segments", None)


def test_the_task_follows_the_model_and_the_lengths_follow_the_task():
    def decided(**options):
        config = TrainConfig(**options).resolved
        return config.task, config.length, config.min_length, config.balance

    assert decided() == ("trend", 4, 4, 0.5)
    assert decided(task="digits") == ("digits", 4, 4, 0.0)
    assert decided(task="digits", length=6, min_length=2) == ("digits", 6, 2, 0.0)
    assert decided(task="running_sum") == ("running_sum", 8, 1, 0.0)
    assert decided(task="running_sum", length=3) == ("running_sum", 3, 1, 0.0)
    assert decided(model="scan_lstm") == decided(model="renet") == ("label", 1, 1, 0.0)
    assert decided(model="crnn", length=5) == ("text", 5, 5, 0.0)


def test_data_is_a_folder_by_its_form_or_since_there_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("clips", "my/clips", "mnist", "digits"):
        (tmp_path / name).mkdir(parents=True)
    folders = "clips", "my/clips", "./mnist", "../x", "/x", "a/b/c", "gone/"
    assert all(TrainConfig(data=name).reads_clips for name in folders)
    names = "digits", "mnist", "kmnist", "emnist/digits", "gone", "gone/too"
    assert not any(TrainConfig(data=name).reads_clips for name in names)
    kept = [TrainConfig(data=name).to_json() for name in ("clips", "my/clips")]
    monkeypatch.chdir("/")  # where there are none
    assert [TrainConfig.from_json(text).data for text in kept] == ["./clips", "./my/clips"]


def test_an_encoder_is_a_name_a_file_or_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "small_cnn").mkdir()
    for encoder, runs, kept in [
        ("small_cnn", (), ()),
        ("mine.keras", (), ()),
        ("run", ("run",), ("./run",)),
        (("run", "../a/b"), ("run", "../a/b"), ("./run", "../a/b")),
    ]:
        config = TrainConfig(encoder=encoder)
        assert (config.encoder_runs, config.resolved.encoder_runs) == (runs, kept)


def test_levels_of_augmentation():
    plain = {"affine": 0.0, "elastic": 0.0, "erasing": 0.0, "probability": 1.0}
    for clips, level, changes in [
        (False, "none", {}), (False, "light", {"affine": 1.0}),
        (False, "strong", {"affine": 1.0, "elastic": 0.3, "probability": 0.9}),
        (True, "none", {}), (True, "light", {"affine": 1.0}), (True, "strong", {"affine": 2.0}),
        (False, {"erasing": 1, "probability": 0.5}, {"erasing": 1, "probability": 0.5}),
    ]:  # fmt: skip
        config = TrainConfig(data="./clips" if clips else "digits", augmentation=level)
        assert config.transforms == config.resolved.augmentation == plain | changes
        assert config.augments == (level != "none")
    assert not TrainConfig(augmentation={"affine": 1, "probability": 0}).augments
    assert not TrainConfig(augmentation={}).augments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"task": "text"},
            "task must be trend or digits or running_sum with model cnn_lstm",
        ),
        ({"model": "flat_mlp", "task": "digits"}, "task must be trend with model flat_mlp"),
        ({"model": "renet", "task": "trend"}, "task must be label with model renet .*received"),
        ({"model": "renet", "length": 2}, "length must be 1 to 1 for the task label; received 2"),
        ({"min_length": 2}, "min_length must be 4 to 4 for the task trend; received 2"),
        ({"task": "digits", "min_length": 5}, "min_length must be 1 to 4 for the task digits"),
        ({"supervision": "permuted", "batch_size": 6}, "batch_size must be a multiple of 4 .* 6"),
        ({"supervision": "all"}, "supervision must be one of 'last', 'every_step', 'permuted'"),
        ({"supervision": "permuted", "task": "digits"}, "supervision must be last .* task trend"),
        ({"supervision": "every_step", "model": "flat_mlp"}, "supervision must .* model cnn_lstm"),
        ({"supervision": "every_step", "bidirectional": True}, "supervision .* not bidirectional"),
        ({"encoder": ()}, r"encoder must be text or one or more.*; received \(\)"),
        ({"encoder": "smal_cnn"}, "encoder must be one of conv_pool, small_cnn, .* run director"),
        ({"encoder": ("./run", "small_cnn")}, "encoder must be .*, or run directories; received"),
        ({"encoder": "./run", "model": "flat_mlp"}, "encoder must be no run .* model flat_mlp"),
        ({"encoder": "./run", "encoder_filters": (4,)}, r"encoder_filters must .* \(4,\)"),
        ({"encoder": "./run", "fine_tune": 1}, "fine_tune must be left out unless .*ImageNet"),
        ({"encoder": "small_cnn", "fine_tune": 1}, "fine_tune must .*.keras file; received 1"),
        ({"tta": 2}, "tta must be 1 unless --encoder names run directories; received 2"),
        ({"encoder": "./run", "tta": 8}, "tta must be an integer from 1 to 7; received 8"),
        (
            {"data": "./x", "task": "trend"},
            r"task must be .* on (digits|clips)",
        ),
        ({"task": "clip"}, r"task must be .* on digits; received 'clip'"),
        ({"data": "./x", "min_length": 2}, "min_length must be 1 to 1 for the task clip"),
        (
            {"flip": True},
            r"flip must be left out unless --data .*clips \(digits is none\); received True",
        ),
        (
            {"color_mode": "grayscale"},
            "color_mode must be left out unless --data is an existing folder",
        ),
        ({"sampling": "first"}, "sampling must be left out unless --data .*; received 'first'"),
        ({"data": "./x", "stride": 2}, "stride must be 1 unless --sampling window; received 2"),
        ({"task": "digits", "balance": 0.5}, "balance must be 0 for the task digits"),
        ({"cache": "x", "model": "crnn"}, "cache must be left out with digits, except for a cnn_"),
        ({"cache": "x", "supervision": "every_step"}, "cache must be .* --supervision last"),
        ({"data": "./x", "augmentation": {"elastic": 1}}, "augmentation must name affine alone"),
        ({"data": "./x", "augmentation": {"probability": 0.5}}, "augmentation must name affine"),
        ({"augmentation": {"probability": 2}}, "augmentation must have a probability from 0 to 1"),
        ({"augmentation": {"bent": 1}}, "augmentation must be .* each of 'affine', .*'bent'"),
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
    config = TrainConfig(data="emnist/digits")
    names = []
    for _ in range(3):
        names.append(str(config.default_run_dir))
        config.default_run_dir.mkdir(parents=True)
    base = "runs/emnist-digits-cnn_lstm"
    assert names == [base, f"{base}-2", f"{base}-3"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("length", 1, "length must be 2 to 32 for the task trend; received 1"),
        ("batch_size", 0, "batch_size must be an integer from 1 to 1,000,000; received 0"),
        ("epochs", 0, "epochs must be an integer from 1 to 1,000,000; received 0"),
        ("steps_per_epoch", 0, "steps_per_epoch must be an integer from 1 to"),
        ("learning_rate", 0.0, "learning_rate must be a number from 1e-12 to 1,000; received 0.0"),
        ("learning_rate", float("nan"), "learning_rate must .* received nan"),
        ("balance", -0.1, "balance must be a number from 0 to 1; received -0.1"),
        ("dropout", 1.0, "dropout must be a number from 0 to 0.999; received 1.0"),
        ("seed", -1, "seed must be an integer from 0 to 2,147,483,647; received -1"),
        ("lstm_units", (), r"lstm_units must be one or more, each an integer .* received \(\)"),
        ("lstm_units", (8, 0), r"received \(8, 0\)"),
        ("lstm_units", (8,) * 101, "lstm_units must name 100 layers at most"),
        ("encoder_filters", (0,), r"encoder_filters must be one or more, .* \(0,\)"),
        ("lstm_units", 8, "lstm_units must be one or more, each an integer from .*; received 8"),
        ("image_size", (8,), r"image_size must be 2, each an integer from .*; received \(8,\)"),
        ("model", "resnet", "model must be one of 'cnn_lstm', 'bag_of_frames', .* 'resnet'"),
        ("length", 4.5, "length must be an integer from 1 to 10,000; received 4.5"),
        ("length", True, "length must be an integer from 1 to 10,000; received True"),
        ("balance", "half", "balance must be a number from 0 to 1; received 'half'"),
        ("tensorboard", 1, "tensorboard must be True or False; received 1"),
        ("cache", 7, "cache must be text; received 7"),
        ("augmentation", {"affine": 4}, "augmentation must be .* a number from 0 to 3 for each"),
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
        ('{"epochs": "3"}', "epochs must be an integer .* received '3'"),
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

    from keras_cnnlstm.models.encoders import ENCODERS
    from keras_cnnlstm.models.imagenet import PRETRAINED
    from keras_cnnlstm.runtime.runtime import Precision, Strategy
    from keras_cnnlstm.tasks import TASKS
    from keras_cnnlstm.training.build import BUILDERS

    choices = {f.name: get_args(f.type) for f in dataclasses.fields(TrainConfig)}
    assert set(choices["model"]) == set(BUILDERS)
    models = {
        model for task in TASKS.values() for model in task.variant(length=4, clips=False).models
    }
    assert models == set(BUILDERS)
    assert set(get_args(Encoder)) == (set(ENCODERS) - {"conv1d"}) | set(PRETRAINED)
    assert choices["precision"] == get_args(Precision)
    assert choices["strategy"] == get_args(Strategy)


def test_a_run_has_few_options():
    assert len(dataclasses.fields(TrainConfig)) <= 55


def test_importing_package_and_command_line_loads_nothing_heavy():
    code = (
        "import json, sys, keras_cnnlstm, keras_cnnlstm.cli;"
        "print(json.dumps([m for m in sys.modules if '.' not in m]))"
    )
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert not {"keras", "tensorflow", "numpy", "sklearn", "matplotlib"} & set(loaded)
