"""Keras layers that CNN-LSTMs need and Keras lacks, or has in a form that is slow or wrong."""

from keras_cnnlstm.layers.averaging import GeometricMean, LogOfMean, TTACopies, TTAMean
from keras_cnnlstm.layers.batch_normalization import BatchNormalization
from keras_cnnlstm.layers.conv2d import Conv2D
from keras_cnnlstm.layers.frames_model import FramesModel
from keras_cnnlstm.layers.image_to_sequence import ImageToSequence
from keras_cnnlstm.layers.length_mask import LengthMask
from keras_cnnlstm.layers.lstm import LSTM
from keras_cnnlstm.layers.motion import Motion, TwoStream
from keras_cnnlstm.layers.residual_block import ResidualBlock
from keras_cnnlstm.layers.time_distributed import TimeDistributed
from keras_cnnlstm.layers.tokens import FirstToken, LikeliestToken

__all__ = [
    "LSTM",
    "BatchNormalization",
    "Conv2D",
    "FirstToken",
    "FramesModel",
    "GeometricMean",
    "ImageToSequence",
    "LengthMask",
    "LikeliestToken",
    "LogOfMean",
    "Motion",
    "ResidualBlock",
    "TTACopies",
    "TTAMean",
    "TimeDistributed",
    "TwoStream",
]
