"""An LSTM layer that also runs with float16, and on every backend."""

import keras
from keras import ops

from keras_cnnlstm.layers.recomputed import Recomputed
from keras_cnnlstm.layers.time_distributed import fold, unfold


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class LSTM(Recomputed, keras.layers.LSTM):
    """`keras.layers.LSTM`, faster where no cuDNN runs it: it projects all steps' inputs at once.

    The gates of step t are `x_t W + h_{t-1} U + b`. The stock layer multiplies by W step by
    step; but `x W` needs no state, so this one takes it for all B*T rows in one product, which a
    processor finishes sooner than T small ones, and so for its gradients: of the reference model's
    train step it took 2 % in float32 and 7 % in mixed_bfloat16, against the stock layer unrolled
    (2 cores with avx512_bf16, T = 4, B = 64; medians, interleaved), and 9 % in float32 against the
    stock layer rolled (one core with AVX-512, T = 16).
    Weights, configuration and answers are those of the stock layer. Dropout is left to it, and so
    are rolled loops with cuDNN, which TensorFlow has on GPUs, and on other backends. One answer is
    not: unrolled, backwards and with a mask, as in `Bidirectional`, the stock layer of Keras 3.15.1
    on TensorFlow returns zeros in place of the first steps' outputs, and keeps those of the
    padding.

    Example:

    >>> LSTM(128, unroll=True)(ops.zeros((3, 4, 3136))).shape
    TensorShape([3, 128])
    """

    def inner_loop(self, sequences, initial_state, mask, training=False):
        if not self._projects_at_once(training):
            return super().inner_loop(sequences, initial_state, mask, training)
        mask = mask[0] if keras.tree.is_nested(mask) else mask
        projected = ops.matmul(fold(sequences), self.cell.kernel)  # (B*T, 4*units)
        if self.cell.use_bias:
            projected = ops.add(projected, self.cell.bias)
        projected = unfold(projected, sequences)  # (B, T, 4*units)
        if self.unroll:
            return self._unrolled(projected, initial_state, mask)
        loop = keras.layers.RNN(
            _ProjectedCell(self),
            return_sequences=self.return_sequences,
            go_backwards=self.go_backwards,
            zero_output_for_mask=self.zero_output_for_mask,
        )
        return loop.inner_loop(projected, initial_state, mask)

    def _projects_at_once(self, training):
        if training and (self.dropout or self.recurrent_dropout):
            return False
        if self.unroll:
            return True
        # Elsewhere Keras calls what the hardware or the backend has for a whole LSTM.
        tensorflow = keras.backend.backend() == "tensorflow" and self.use_cudnn is not True
        return tensorflow and not (self.use_cudnn and keras.distribution.list_devices("gpu"))

    def _unrolled(self, projected, state, mask):
        if self.go_backwards:
            projected = ops.flip(projected, axis=1)
            mask = None if mask is None else ops.flip(mask, axis=1)
        outputs = []
        # Unstacked at once: the gradient of T slices would be T arrays of the whole size.
        for t, x in enumerate(ops.unstack(projected, projected.shape[1], axis=1)):
            output, state = self.step(x, state, None if mask is None else mask[:, t, None])
            outputs.append(output)
        return output, ops.stack(outputs if self.return_sequences else [output], axis=1), state

    def step(self, x, state, mask=None):
        """The output `(B, units)` and the state after a step, from projected inputs `(B, 4*units)`.

        `mask` is boolean `(B, 1)`, `False` where the step is padding, or `None` if none is.
        """
        cell, (h, c) = self.cell, state
        i, f, g, o = ops.split(ops.add(x, ops.matmul(h, cell.recurrent_kernel)), 4, axis=1)
        c = cell.recurrent_activation(f) * c + cell.recurrent_activation(i) * cell.activation(g)
        h = cell.recurrent_activation(o) * cell.activation(c)  # (B, units)
        if mask is None:
            return h, [h, c]
        state = [ops.where(mask, new, old) for new, old in zip((h, c), state, strict=True)]
        return ops.where(mask, h, 0) if self.zero_output_for_mask else state[0], state


class _ProjectedCell:
    """The cell of an LSTM, for inputs that are projected already, in Keras's own loop."""

    def __init__(self, lstm):
        self.call, self.state_size = lstm.step, [lstm.units, lstm.units]

    def __call__(self, x, state):
        return self.call(x, state)
