"""All architectures by name."""

from collections.abc import Callable

import keras

from keras_cnnlstm.models.baselines import bag_of_frames, early_fusion_cnn, flat_mlp, image_cnn
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.scanning import crnn, renet, scan_lstm

MODELS: dict[str, Callable[..., keras.Model]] = {
    "cnn_lstm": cnn_lstm,
    "bag_of_frames": bag_of_frames,
    "flat_mlp": flat_mlp,
    "early_fusion_cnn": early_fusion_cnn,
    "image_cnn": image_cnn,
    "scan_lstm": scan_lstm,
    "renet": renet,
    "crnn": crnn,
}
"""Architectures by name, as `TrainConfig.model` and `--model` take them."""
