"""Trains a model, and keeps all of it in a run directory."""

from keras_cnnlstm.utils.lazy import attach

__all__ = attach(__name__)
