"""Finds out how good a trained model is, and why: reports, comparisons, explanations."""

from keras_cnnlstm.utils.lazy import attach

__all__ = attach(__name__)
