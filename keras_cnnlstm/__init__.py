"""CNN-LSTMs for sequences of images, on Keras 3 and TensorFlow.

The names that most notebooks need are here; all others are in the rooms, such as
`keras_cnnlstm.data`. They are loaded when they are first used, so that `import keras_cnnlstm` costs
nothing.
"""

from keras_cnnlstm.utils.lazy import attach, import_after

__version__ = "0.1.0"

__all__ = sorted(["__version__", *attach(__name__)])

# So that `keras.models.load_model` knows what saved models are made of.
import_after(
    "keras",
    [f"{__name__}.layers", f"{__name__}.tasks.metrics", f"{__name__}.training.optimizers"],
)
