"""What is asked of a sequence: targets, classes and scores."""

from keras_cnnlstm.utils.lazy import attach

__all__ = attach(__name__)
