"""Weights from PyTorch and back, without PyTorch."""

from keras_cnnlstm.utils.lazy import attach

__all__ = attach(__name__)
