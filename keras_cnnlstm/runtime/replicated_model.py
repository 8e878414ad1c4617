"""Several replicas of a model in one `fit`: the losses, weights and scores of a single device.

Keras 3 alone gets these things wrong, which `ReplicatedModel` mends:

* `fit` fails on several machines (`MultiWorkerMirroredStrategy`), and on several devices if the
  first batch is no multiple of them or one of them gets no row of the last batch;
* the mean of the replicas' mean losses is not the mean over the batch if the replicas hold unequal
  numbers of rows, or weights of unequal sums;
* gradients are clipped, and with `mixed_float16` searched for an overflow, on each replica before
  they are summed: the norm is another one, and an overflow that is not on the first replica goes
  into the weights of all.

Two things still differ from one device: `BatchNormalization` normalises with the statistics of a
replica's rows, unless made with `synchronized=True`, and dropout draws alike on each replica.
"""

import contextlib
import functools
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_cnnlstm.layers.frames_model import FramesModel
from keras_cnnlstm.runtime.cluster import (
    LOST,
    alone,
    distribute,
    several_workers,
    sum_of_replicas,
    wait_for_all,
)

_KERAS = "3.15."  # the versions whose private names, marked below, are known to mean what they do


class ReplicatedModel(FramesModel):
    """A model to `compile`, `fit` and `evaluate` on all replicas of a `tf.distribute` strategy.

    It shares layers and weights with the plain model, and saving it saves that one, optimizer
    included. Make and use it in the scope in which the plain model was built.

    Datasets give this worker's rows of each batch; see `cluster.distribute`. What `fit` and
    `evaluate` return is exact; the numbers of a running epoch are means over the replicas so far.

    Args:
        plain: the model.

    Attributes:
        plain: the model.

    Raises:
        ValueError: if the model is not made of layers that are known, as a functional one is.
        RuntimeError: if this version of Keras is not one that this is known to work with.
    """

    def __init__(self, plain: keras.Model):
        check_keras()
        graph = getattr(plain, "_functional", plain)  # private: of a Sequential
        if not hasattr(graph, "_inputs_struct"):
            raise ValueError(
                "ReplicatedModel: `plain` must be a functional or a built Sequential model; "
                f"received {plain.name}, a {type(plain).__name__}. Make it with "
                "keras.Model(inputs, outputs), or train on one device."
            )
        # Private: `plain.inputs` is a flat list where the model takes a dict.
        super().__init__(graph._inputs_struct, graph._outputs_struct, name=plain.name)
        object.__setattr__(self, "plain", plain)  # not tracked: its layers are here already
        self._summed = _SummedAlready()

    def compile(self, optimizer="rmsprop", loss=None, **options):
        """As `keras.Model.compile`; compiles the plain model too, which saves the optimizer."""
        super().compile(optimizer, keras.tree.map_structure(_over_all_replicas, loss), **options)
        self._summed.guard(self.optimizer)
        # Metrics are given by name or shared; the plain model never updates them.
        self.plain.compile(self.optimizer, loss, **options)

    def fit(self, x=None, y=None, *, validation_data=None, **options):
        """As `keras.Model.fit`.

        Raises:
            ValueError: if there are several workers and the data is not a `tf.data.Dataset`.
            ConnectionError: if another worker has gone.
        """
        x, validation_data = self._distributed(x), self._distributed(validation_data)
        with _lost_workers_named(self.distribute_strategy):
            history = super().fit(x, y, validation_data=validation_data, **options)
        wait_for_all(self.distribute_strategy)
        return history

    def evaluate(self, x=None, y=None, **options):
        """As `keras.Model.evaluate`.

        Raises:
            ValueError: if there are several workers and the data is not a `tf.data.Dataset`.
            ConnectionError: if another worker has gone.
        """
        with _lost_workers_named(self.distribute_strategy):
            return super().evaluate(self._distributed(x), y, **options)

    def train_step(self, data):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            answers = self._answers(x, training=True)
            loss = self.compute_loss(x, y, answers, weight, training=True)
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        gradients = sum_of_replicas(tape.gradient(scaled, variables))
        with self._summed:
            self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        self._share_averages()
        return self._logs(x, y, answers, weight, loss)

    def test_step(self, data):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        answers = self._answers(x, training=False)
        loss = self.compute_loss(x, y, answers, weight, training=False)
        return self._logs(x, y, answers, weight, loss)

    def save(self, *args, **options):
        """Saves the plain model; one worker may do so alone."""
        return alone(self.plain.save, *args, **options)

    def _answers(self, x, training):
        rows = _rows(x)
        if isinstance(rows, int) and rows:
            return self(x, training=training)
        # No row of the last batch may be left for this replica, and layers fail on nothing.
        answers = self(keras.tree.map_structure(_at_least_one, x), training=training)
        return keras.tree.map_structure(lambda a: _first(a, rows), answers)

    def _share_averages(self):
        """Gives all replicas the means of what each BatchNormalization has moved alone."""
        names = ("moving_mean", "moving_variance")
        averages = [v for v in self.non_trainable_variables if v.name in names]
        totals = sum_of_replicas([tf.convert_to_tensor(average) for average in averages])
        for average, total in zip(averages, totals, strict=True):
            average.assign(total / self.distribute_strategy.num_replicas_in_sync)

    def _logs(self, x, y, answers, weight, loss):
        whole = sum_of_replicas([loss])[0]
        tracker = next(metric for metric in self.metrics if metric.name == "loss")
        tracker.update_state(whole, sample_weight=_rows(x))
        logs = self.compute_metrics(x, y, answers, weight)
        if not several_workers(self.distribute_strategy):
            return logs
        # Keras reduces over the first axis of what several workers return.
        return {name: tf.expand_dims(value, 0) for name, value in logs.items()}

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Private in Keras, where it averages the replicas' batches, which need not be equal."""
        strategy = self.distribute_strategy
        if iterator is not None:
            _, _, batches = next(iter(iterator))
            data_batch = keras.tree.map_structure(
                lambda value: strategy.experimental_local_results(value)[0], next(batches)
            )
        with strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    def _distributed(self, data):
        several = several_workers(self.distribute_strategy)
        if isinstance(data, tf.data.Dataset):
            shares = distribute(data, self.distribute_strategy)
            if several:
                shares._cardinality = data.cardinality().numpy()  # private: Keras reads the steps
            return shares
        if data is None or not several:
            return data
        if isinstance(data, tf.distribute.DistributedDataset):
            return data
        raise ValueError(
            "ReplicatedModel: on several workers data must be a tf.data.Dataset of this worker's "
            f"rows of each batch; received {type(data).__name__}. Make one of the arrays' rows "
            "`Runtime.rows(batch_size)`."
        )


def adam_averages(optimizer: keras.optimizers.Adam, variable: Any) -> tuple[Any, Any]:
    """The averages that Adam keeps of the gradients of a variable and of their squares.

    The variable is one that `update_step` receives: under a strategy, that of a replica.
    """
    i = optimizer._get_variable_index(variable)  # private, as the next two
    return optimizer._momentums[i], optimizer._velocities[i]


def check_keras() -> None:
    """Refuses a version of Keras whose private names are not known to mean the same."""
    if not keras.__version__.startswith(_KERAS):
        raise RuntimeError(
            f"ReplicatedModel: several replicas need keras {_KERAS}*, whose private methods this "
            f"extends; received {keras.__version__}. Install keras=={_KERAS}*, or train on one "
            "device."
        )


class _MeanOverReplicas(keras.losses.Loss):
    """A loss divided by the size, or the weights, of the whole batch: its sum is the mean."""

    def __init__(self, loss):
        super().__init__(loss.name, loss.reduction, loss.dtype)
        self._each = object.__new__(type(loss))  # copy.copy would serialise it
        self._each.__dict__.update({**loss.__dict__, "reduction": "none"})

    def __call__(self, y_true, y_pred, sample_weight=None):
        values = self._each(y_true, y_pred, sample_weight)  # weighted
        if self.reduction in ("none", None):
            return values
        total = ops.sum(values)
        if self.reduction == "sum":
            return total
        mask = getattr(y_pred, "_keras_mask", None)  # private: Keras attaches it to the answers
        count = ops.cast(self._count(values, mask, sample_weight), total.dtype)
        return ops.divide_no_nan(total, sum_of_replicas([tf.stop_gradient(count)])[0])

    def _count(self, values, mask, weight):
        """What Keras divides the loss of the rows here by."""
        given = [ops.cast(part, values.dtype) for part in (mask, weight) if part is not None]
        if self.reduction == "mean_with_sample_weight" and given:
            return ops.sum(functools.reduce(_product, given))
        size = ops.cast(ops.size(values), values.dtype)
        return size if mask is None else size * ops.mean(given[0])


class _SummedAlready:
    """Has optimizers leave out their sum over the replicas while in a block of it."""

    def __init__(self):
        self._blocks = 0  # a number, since the replicas' steps are traced side by side

    def __enter__(self):
        self._blocks += 1

    def __exit__(self, *error):
        self._blocks -= 1

    def guard(self, optimizer):
        for each in (optimizer, getattr(optimizer, "inner_optimizer", None)):
            if each is not None:
                usual = each._all_reduce_sum_gradients  # private
                each._all_reduce_sum_gradients = functools.partial(self._unless_in_block, usual)

    def _unless_in_block(self, usual, pairs):
        return list(pairs) if self._blocks else usual(pairs)


def _over_all_replicas(loss):
    """A loss, or its name or function, as one whose mean is over the batch of all replicas."""
    if loss is None or isinstance(loss, _MeanOverReplicas):
        return loss
    if not isinstance(loss, keras.losses.Loss):
        from keras.src.losses.losses import LossFunctionWrapper  # private, as `compile` does it

        function = keras.losses.get(loss)
        loss = LossFunctionWrapper(function, name=getattr(function, "__name__", "loss"))
    return _MeanOverReplicas(loss)


def _rows(x):
    """How many rows a batch has: a number if it is known, else a tensor."""
    first = keras.tree.flatten(x)[0]
    return tf.shape(first)[0] if first.shape[0] is None else first.shape[0]


def _at_least_one(tensor):
    """A tensor with one element of 0 along each axis that had none."""
    missing = tf.cast(tf.equal(tf.shape(tensor), 0), tf.int32)
    padded = tf.pad(tensor, tf.stack([tf.zeros_like(missing), missing], axis=1))
    return tf.ensure_shape(padded, (None, *[side or None for side in tensor.shape[1:]]))


def _first(tensor, rows):
    """The first rows of an answer, with the mask that Keras attached to it."""
    result, mask = tensor[:rows], getattr(tensor, "_keras_mask", None)
    if mask is not None:
        result._keras_mask = mask[:rows]
    return result


def _product(mask, weight):
    """Of which one may have a further axis of 1."""
    if len(weight.shape) > len(mask.shape):
        weight = ops.squeeze(weight, -1)
    elif len(mask.shape) > len(weight.shape):
        mask = ops.squeeze(mask, -1)
    return mask * weight


@contextlib.contextmanager
def _lost_workers_named(strategy):
    """Says in one line that a worker has gone, and how to go on."""
    try:
        yield
    except LOST as error:
        if not several_workers(strategy):
            raise
        raise ConnectionError(
            "fit: another worker stopped or cannot be reached any more "
            f"({type(error).__name__}). Start all workers again, with --resume to go on from the "
            "last checkpoint."
        ) from error
