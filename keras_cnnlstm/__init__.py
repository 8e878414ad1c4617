"""CNN-LSTMs for sequences of images, on Keras 3 and TensorFlow.

The names that most notebooks need are here; all others are in the rooms, such as
`keras_cnnlstm.data`. They are loaded when they are first used, so that `import keras_cnnlstm` costs
nothing.
"""

from keras_cnnlstm.utils.lazy import attach

__version__ = "0.1.0"

__all__ = sorted(["__version__", *attach(__name__)])
