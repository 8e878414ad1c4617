"""The hardware: precision, devices, several workers, memory."""

from keras_cnnlstm.utils.lazy import attach

__all__ = attach(__name__)
