"""A page to try a model in the browser."""

from keras_cnnlstm.utils.lazy import attach

__all__ = attach(__name__)
