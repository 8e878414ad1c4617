"""SavedModel, LiteRT and ONNX files, each proven to answer like the model."""

from keras_cnnlstm.utils.lazy import attach

__all__ = attach(__name__)
