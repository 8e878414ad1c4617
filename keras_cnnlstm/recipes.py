"""Options of `TrainConfig` that belong together, under a name. Loads neither Keras nor TensorFlow.

`keras-cnnlstm train --recipe fast`, or `train(RECIPES["fast"])`. What each of them scores and takes
was measured on 2 cores, on natural test sequences of MNIST (`README.md` has the commands, machines
and more figures).
"""

from dataclasses import replace

from keras_cnnlstm.config import TrainConfig

_CLIPS = "./clips"  # stands for a folder of clips, which --data names

_SINGLE = TrainConfig(
    data="mnist",
    encoder="paired_cnn",
    encoder_filters=(32, 64, 128),
    lstm_units=(256,),
    supervision="permuted",
    augmentation="strong",
    batch_size=48,
    steps_per_epoch=900,
    epochs=10,
    learning_rate=2e-3,
    weight_decay=0.1,
    dropout=0.4,
    ema=0.999,
    keep="last",
    balance=0.25,
    validation_sequences=4000,
)

RECIPES: dict[str, TrainConfig] = {
    "reference": TrainConfig(data="mnist"),
    "fast": TrainConfig(
        data="mnist",
        encoder="paired_cnn",
        encoder_filters=(16, 32, 64),
        supervision="permuted",
        augmentation={"affine": 0.7, "elastic": 0.4, "probability": 0.8},
        steps_per_epoch=480,
        epochs=3,
        learning_rate=3e-3,
        ema=0.998,
        balance=0.25,
    ),
    "single": _SINGLE,
    "best": replace(
        _SINGLE,
        encoder=None,
        ensemble=("paired_cnn", "strided_cnn", "paired_cnn", "strided_cnn"),
        epochs=8,
        test_sequences=40_000,
    ),
    "quick": TrainConfig(data=_CLIPS, augmentation="none", epochs=12),
    "careful": TrainConfig(
        data=_CLIPS,
        encoder="efficientnet_lite0",
        image_size=(224, 224),
        motion="difference",
        fine_tune=12,
        learning_rate=1e-4,
        weight_decay=0.05,
        ema=0.99,
    ),
    "from_scratch": TrainConfig(
        data=_CLIPS, encoder="residual_cnn", image_size=(96, 96), motion="both", epochs=60
    ),
}
"""The recipes by name. The last three are for clips, whose folder --data names; what they leave
open `training.clip_defaults` decides.

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
* `quick`: a first answer. Each frame is encoded once, as it is, and 12 epochs are trained.
* `careful`: the last layers of the pretrained encoder are trained too, at a small learning rate:
  hours without a GPU.
* `from_scratch`: a small encoder that has seen no other images, of frames and their differences.
"""
