"""CNN-LSTMs for sequences of images, on Keras 3 and TensorFlow.

The public names live in the modules; the ones that most notebooks need are here too. They are
loaded when first used, so that `import keras_cnnlstm` costs nothing.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "LabeledImages": "digits",
    "Runtime": "runtime",
    "TimeDistributed": "layers",
    "TrainConfig": "config",
    "Trend": "tasks",
    "cnn_lstm": "models",
    "digit_sequences": "pipeline",
    "load_digits": "digits",
    "load_run": "runs",
    "train": "training",
}

__all__ = sorted(["__version__", *_HOMES])


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__():
    return __all__
