"""Measures speed and memory, beside stock Keras and PyTorch."""

from keras_cnnlstm.utils.lazy import attach

__all__ = attach(__name__)
