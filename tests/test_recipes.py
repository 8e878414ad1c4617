"""Recipes: options with a name, which those given on the command line replace one by one."""

import dataclasses
from typing import get_args

import numpy as np
import pytest

from keras_cnnlstm.cli import main
from keras_cnnlstm.cli.commands import Train, parse
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.datasets import LabeledImages
from keras_cnnlstm.data.digit_source import digit_task
from keras_cnnlstm.recipes import RECIPES
from keras_cnnlstm.training.build import build_model
from keras_cnnlstm.training.trainer import member_configs


def parsed(*words):
    return parse(["train", *words]).config


OF_CLIPS = ("quick", "careful", "from_scratch")


@pytest.mark.parametrize("name", OF_CLIPS)
def test_a_recipe_of_clips_takes_the_folder_from_the_command(name, tmp_path):
    config = parsed("--recipe", name, "--data", str(tmp_path), "--epochs", "3")
    assert config == dataclasses.replace(RECIPES[name], data=str(tmp_path), epochs=3)
    assert config.reads_clips
    assert config.resolved.task == "clip"


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in OF_CLIPS])
def test_a_recipe_is_a_configuration_that_answers_the_trend(name):
    config = RECIPES[name].resolved
    assert (config.data, config.task, config.length) == ("mnist", "trend", 4)
    images = LabeledImages(np.zeros((10, 28, 28, 1), np.uint8), range(10))
    for member in member_configs(config, "run"):
        model = build_model(member, digit_task(member, images), (28, 28, 1))
        assert model.output_shape == (None, 7)
        assert {w.dtype for w in model.weights} == {"float32"}


def test_the_command_names_all_of_them():
    (choices, _) = get_args({f.name: f.type for f in dataclasses.fields(Train)}["recipe"])
    assert get_args(choices) == tuple(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_takes_it_by_name(name):
    assert parsed("--recipe", name) == RECIPES[name]
    assert parsed() == TrainConfig()


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["--epochs", "3", "--dropout=0"], {"epochs": 3, "dropout": 0.0}),
        (
            ["--supervision", "last", "--task", "digits", "--balance", "0"],
            {"supervision": "last", "task": "digits", "balance": 0.0},
        ),
        (["--augmentation", "affine", "2"], {"augmentation": {"affine": 2.0}}),
        (["--ensemble", "small_cnn", "./run"], {"ensemble": ("small_cnn", "./run")}),
        (["--lstm_units", "7", "8"], {"lstm_units": (7, 8)}),
        # Options that the recipe leaves open follow the given ones.
        (["--length", "6"], {"length": 6}),
        # Given as the default it counts as given.
        (["--batch-size", "64", "--ema", "0.0"], {"batch_size": 64, "ema": 0.0}),
    ],
)
def test_what_is_given_takes_the_place_of_the_recipe_s(words, changes):
    expected = dataclasses.replace(RECIPES["best"], **changes)
    assert parsed("--recipe", "best", *words) == expected
    assert parsed(*words, "--recipe=best") == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "worst"], "invalid choice 'worst'"),
        (["--recipe", "best", "--resume", "run"], "--recipe cannot be combined with --resume"),
        (
            ["--recipe", "best", "--encoder", "small_cnn"],
            "encoder must be left out with --ensemble",
        ),
        (
            ["--recipe", "best", "--task", "digits"],
            "supervision must be last except for the task trend",
        ),
    ],
)
def test_bad_input_ends_in_one_line(words, message, capsys):
    assert main.main(["train", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
