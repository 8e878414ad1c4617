"""Recipes: options with a name, which those given on the command line replace one by one."""

import dataclasses

import numpy as np
import pytest

from keras_cnnlstm import cli
from keras_cnnlstm.commands import parse
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.digits import LabeledImages
from keras_cnnlstm.ensembles import member_configs
from keras_cnnlstm.objectives import build_model
from keras_cnnlstm.recipes import RECIPES
from keras_cnnlstm.sources import digit_task


def parsed(*words):
    command = parse(["train", *words])
    return TrainConfig(
        **{
            name: getattr(command, name)
            for name in (field.name for field in dataclasses.fields(TrainConfig))
        }
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_configuration_that_answers_the_trend(name):
    config = TrainConfig(**RECIPES[name])
    assert (config.dataset, config.task, config.length) == ("mnist", "trend", 4)
    images = LabeledImages(np.zeros((10, 28, 28, 1), np.uint8), range(10))
    for member in member_configs(config, "run"):
        model = build_model(member, digit_task(member, images), (28, 28, 1))
        assert model.output_shape == (None, 7)
        assert {w.dtype for w in model.weights} == {"float32"}


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_takes_it_by_name(name):
    assert parsed("--recipe", name) == TrainConfig(**RECIPES[name])
    assert parsed() == TrainConfig()


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["--epochs", "3", "--elastic=0"], {"epochs": 3, "elastic": 0.0}),
        (
            ["--no-so-far", "--no-reorder", "--regroup", "1"],
            {"so_far": False, "reorder": False, "regroup": 1},
        ),
        (["--lstm_units", "7", "8"], {"lstm_units": (7, 8)}),
        # Those of the recipe that follow from others follow the given ones.
        (["--length", "6"], {"length": 6}),
        # Given as the default it counts as given.
        (["--batch-size", "64", "--ema", "0.0"], {"batch_size": 64, "ema": 0.0}),
    ],
)
def test_what_is_given_takes_the_place_of_the_recipe_s(words, changes):
    expected = TrainConfig(**{**RECIPES["best"], **changes})
    assert parsed("--recipe", "best", *words) == expected
    assert parsed(*words, "--recipe=best") == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "worst"], "invalid choice 'worst'"),
        (["--recipe", "best", "--resume", "run"], "recipe: expected none with --resume"),
        (["--recipe", "best", "--encoder", "small_cnn"], "encoder: expected its default with"),
        (["--recipe", "best", "--task", "digits"], "so_far: expected off but for the task trend"),
    ],
)
def test_bad_input_ends_in_one_line(words, message, capsys):
    assert cli.main(["train", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
