"""Options of `TrainConfig` that belong together, under a name. Loads neither Keras nor TensorFlow.

`keras-cnnlstm train --recipe fast`, or `TrainConfig(**RECIPES["fast"])`. What each of them scores
and takes was measured on 2 cores, on natural test sequences of MNIST (`README.md` has the commands,
machines and more figures).
"""

from typing import Any, Literal

RecipeName = Literal["reference", "fast", "single", "best"]

_THOROUGH = {  # what the long ones have in common
    "dataset": "mnist",
    "encoder_filters": (32, 64, 128),
    "lstm_units": (256,),
    "so_far": True,
    "reorder": True,
    "regroup": 4,
    "distortion": 1.0,
    "elastic": 0.3,
    "untouched": 0.1,
    "batch_size": 48,
    "steps_per_epoch": 900,
    "learning_rate": 2e-3,
    "weight_decay": 0.1,
    "dropout": 0.4,
    "ema": 0.999,
    "keep": "last",
    "balance": 0.25,
    "validation_sequences": 4000,
}

RECIPES: dict[str, dict[str, Any]] = {
    "reference": {"dataset": "mnist"},
    "fast": {
        "dataset": "mnist",
        "encoder": "paired_cnn",
        "encoder_filters": (16, 32, 64),
        "so_far": True,
        "reorder": True,
        "regroup": 4,
        "distortion": 0.7,
        "elastic": 0.4,
        "untouched": 0.2,
        "steps_per_epoch": 480,
        "epochs": 3,
        "learning_rate": 3e-3,
        "ema": 0.998,
        "balance": 0.25,
    },
    "single": {**_THOROUGH, "encoder": "paired_cnn", "epochs": 10},
    "best": {
        **_THOROUGH,
        "members": 4,
        "member_encoders": ("paired_cnn", "strided_cnn"),
        "epochs": 8,
        "test_sequences": 40_000,
    },
}
"""The recipes by name.

* `reference`: the architecture and the settings of the tutorials, 40 epochs: 98.35 % in 494 s on
  another machine, with bfloat16.
* `fast`: the shortest way to 98 %: 98.32 % after 166 s of training; in half precision, on cores
  with AMX, 98.35 % after 94 s.
* `single`: the highest score of one model, 99.41 % of 40,000 sequences (99.34 % of the first
  10,000, a draw with more hard digits than most), in 86 minutes on one of the two cores, other
  work on both. BatchNorm and dropout, the trend so far at each step as a target, in several orders
  of the frames and beside those of other sequences, affine and elastic augmentation, small batches,
  averaged weights of the last epoch. No digit label reaches the model.
* `best`: four such models, half of them with convolutions that halve the image themselves, each
  with a fifth fewer batches, and the mean of their answers: 99.53 % of 40,000 sequences, after 53
  minutes of training in half precision on two cores with AMX, 63 with start and scoring.
"""
