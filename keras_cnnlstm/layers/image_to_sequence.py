"""One image as a sequence of rows, columns or patches."""

import keras
from keras import ops

from keras_cnnlstm.utils.validation import check_choice, is_integer, short_repr


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class ImageToSequence(keras.layers.Layer):
    """Cuts an image into the steps of a sequence: rows, columns, or patches row by row.

    A row of pixels is a step as a frame is one: 28x28 pixels become 28 steps of 28 numbers. The
    numbers of a step keep the order that they have in the image: top to bottom, in each line left
    to right, channels innermost.

    Args:
        by: "rows", from top to bottom; "columns", from left to right; "patches", line by line as
            one reads a page.
        size: pixels of a step: rows or columns in each, or the side of the square patches. A pair
            (height, width) for patches of another shape.
        **kwargs: `name`, `dtype`, ... of the layer.

    Call arguments:
        inputs: `(B, H, W, C)` of known H, W and C, which `size` must divide.

    Returns:
        `(B, T, features)`: rows `(B, H/size, size*W*C)`, columns `(B, W/size, H*size*C)`, patches
        `(B, H/size * W/size, size*size*C)`, of the dtype of `inputs`.

    Raises:
        ValueError: if an argument is none of these, or the image does not divide into the steps.

    Example:

    >>> import numpy as np
    >>> image = np.arange(12.0).reshape(1, 3, 4, 1)  # (B, H, W, C), numbered as one reads
    >>> np.asarray(ImageToSequence("columns")(image))[0, :2].tolist()
    [[0.0, 4.0, 8.0], [1.0, 5.0, 9.0]]
    """

    def __init__(self, by="rows", size=1, **kwargs):
        super().__init__(**kwargs)
        check_choice("ImageToSequence: `by`", by, ("rows", "columns", "patches"))
        pair = isinstance(size, tuple | list) and len(size) == 2 and by == "patches"
        if not all(is_integer(s, 1) for s in (size if pair else [size])):
            raise ValueError(
                "ImageToSequence: `size` must be a positive integer of pixels, or for patches "
                f"a pair of them; received {short_repr(size)} with by={by!r}."
            )
        self.by = by
        self.size = tuple(map(int, size)) if pair else int(size)

    def call(self, inputs):
        height, width, channels = self._checked_shape(inputs.shape)
        h, w = self.patch_shape(inputs.shape)
        x = ops.reshape(inputs, (-1, height // h, h, width // w, w, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # (B, H/h, W/w, h, w, C)
        return ops.reshape(x, (-1, *self.compute_output_shape(inputs.shape)[1:]))

    def compute_output_shape(self, input_shape):
        height, width, channels = self._checked_shape(input_shape)
        h, w = self.patch_shape(input_shape)
        return (input_shape[0], (height // h) * (width // w), h * w * channels)

    def compute_output_spec(self, inputs):
        # Keras's own would promise floats for raw pixels, which the layer leaves as they are.
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), inputs.dtype)

    def patch_shape(self, input_shape):
        """Height and width of a step in pixels, for images of this shape `(B, H, W, C)`."""
        _, height, width, _ = input_shape
        if self.by == "patches":
            return self.size if isinstance(self.size, tuple) else (self.size, self.size)
        return (self.size, width) if self.by == "rows" else (height, self.size)

    def get_config(self):
        return {**super().get_config(), "by": self.by, "size": self.size}

    def _checked_shape(self, shape):
        if len(shape) != 4 or None in shape[1:]:
            raise ValueError(
                "ImageToSequence: `inputs` must have shape (B, H, W, C), all known but B; received "
                f"{tuple(shape)}."
            )
        height, width = self.patch_shape(shape)
        if shape[1] % height or shape[2] % width:
            raise ValueError(
                f"ImageToSequence: `size` must divide the image; received steps of "
                f"{height}x{width} for {shape[1]}x{shape[2]} pixels. Choose another size, or pad "
                "or resize the image."
            )
        return shape[1:]
