"""Motion between the frames of a sequence as images, which an image encoder can read."""

import keras
from keras import ops

MIDDLE, GAIN = 127.0, 1.5  # pixel value of no change; gray levels for each level of change


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class Motion(keras.layers.Layer):
    """Difference images: how each frame differs from the one `lag` steps before it.

    A pixel that does not change is 127, one that becomes brighter is brighter: `127 + 1.5 (after -
    before)`, rounded and clipped to 0 to 255. The first `lag` frames have nothing to be compared
    with, so there are `lag` images fewer. Difference images as the input of a CNN-LSTM are those of
    Sudhakaran and Lanz, "Learning to Detect Violent Videos Using Convolutional Long Short-Term
    Memory", AVSS 2017, section 3; frames and motion side by side those of Simonyan and Zisserman,
    "Two-Stream Convolutional Networks for Action Recognition in Videos", NeurIPS 2014.

    Args:
        lag: steps between the two frames, 1 or more.
        keep_frames: also give the frames themselves, as channels before those of the differences.
        **kwargs: `name`, ... of the layer.

    Call arguments:
        frames: `(B, T, H, W, C)` uint8.

    Returns:
        `(B, T - lag, H, W, C)` uint8, or `(B, T - lag, H, W, 2C)` with `keep_frames`.

    Example:

    >>> frames = ops.reshape(ops.array([10, 12, 200], "uint8"), (1, 3, 1, 1, 1))
    >>> Motion()(frames).numpy().ravel().tolist()
    [130, 255]
    """

    def __init__(self, lag=1, keep_frames=False, **kwargs):
        super().__init__(**{"dtype": "uint8"} | kwargs)
        self.lag, self.keep_frames = lag, keep_frames

    def call(self, frames):
        return self.compared(frames[:, self.lag :], frames[:, : -self.lag])

    def compared(self, after, before):
        """The differences of frames `(..., H, W, C)` uint8, behind the frames if these are kept."""
        change = ops.cast(after, "float32") - ops.cast(before, "float32")
        change = ops.cast(ops.clip(ops.round(MIDDLE + GAIN * change), 0, 255), "uint8")
        return ops.concatenate([after, change], axis=-1) if self.keep_frames else change

    def compute_output_spec(self, frames):
        batch, time, height, width, channels = frames.shape
        time = None if time is None else max(time - self.lag, 0)
        channels *= 1 + self.keep_frames
        return keras.KerasTensor((batch, time, height, width, channels), "uint8")

    def get_config(self):
        return {**super().get_config(), "lag": self.lag, "keep_frames": self.keep_frames}


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class TwoStream(keras.layers.Layer):
    """One encoder for frames and for their differences, whose two vectors become one.

    Args:
        encoder: frame -> vector, `(N, H, W, C) -> (N, F)`; a layer or model, frozen or not.
        **kwargs: `name`, ... of the layer.

    Call arguments:
        images: `(N, H, W, 2C)`, as `Motion(keep_frames=True)` makes them.

    Returns:
        `(N, 2F)`: the vectors of the frames, then those of the differences.
    """

    def __init__(self, encoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder

    def build(self, input_shape):
        *shape, channels = input_shape
        if not self.encoder.built:
            self.encoder.build((*shape, channels // 2))

    def call(self, images):
        return self.encoded(images, self.encoder)

    def encoded(self, images, encoder):
        """The vectors of the images, `encoder` being called for the layer's own one."""
        *_, height, width, channels = images.shape
        halves = images[..., : channels // 2], images[..., channels // 2 :]
        both = ops.reshape(ops.stack(halves, axis=1), (-1, height, width, channels // 2))
        vectors = encoder(both)  # (2N, F)
        return ops.reshape(vectors, (-1, 2 * vectors.shape[-1]))

    def compute_output_spec(self, images):
        count, height, width, channels = images.shape
        half = keras.KerasTensor((count, height, width, channels // 2), images.dtype)
        vectors = self.encoder.compute_output_spec(half)
        return keras.KerasTensor((count, 2 * vectors.shape[-1]), vectors.dtype)

    def get_config(self):
        encoder = keras.saving.serialize_keras_object(self.encoder)
        return {**super().get_config(), "encoder": encoder}

    @classmethod
    def from_config(cls, config):
        encoder = keras.saving.deserialize_keras_object(config.pop("encoder"))
        return cls(encoder, **config)
