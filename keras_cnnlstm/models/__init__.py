"""Builders of Keras models, and what is done with a built one."""

from keras_cnnlstm.utils.lazy import attach

__all__ = attach(__name__)
