"""Images, clips and videos, and the batches that are made of them."""

from keras_cnnlstm.utils.lazy import attach

__all__ = attach(__name__)
