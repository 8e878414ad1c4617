"""Metrics of tasks that Keras lacks. Imports Keras; tasks import this file when they are asked."""

from typing import Any

import keras
from keras import ops

from keras_cnnlstm.tasks.vocabulary import END, PADDING


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class ClassRecall(keras.metrics.Metric):
    """The share of each class that is answered rightly, and as one number their mean.

    The mean is the macro recall, over the classes that have occurred.

    Args:
        num_classes: how many classes there are.
        last_step: of targets `(B, T)` and answers `(B, T, num_classes)` only the last steps count.
        name: the metric's name.

    Example:

    >>> metric = ClassRecall(3)
    >>> metric.update_state([0, 0, 1], [[0.9, 0.1, 0], [0.2, 0.8, 0], [0.3, 0.7, 0]])
    >>> float(metric.result()), metric.by_class()
    (0.75, [0.5, 1.0, None])
    """

    def __init__(
        self,
        num_classes: int,
        last_step: bool = False,
        name: str = "macro_recall",
        **options: Any,
    ):
        super().__init__(name=name, **options)
        self.num_classes, self.last_step = num_classes, last_step
        self.right = self.add_variable((num_classes,), "zeros", name="right")
        self.count = self.add_variable((num_classes,), "zeros", name="count")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds targets `(...)`, answers `(..., num_classes)`, and what each of them counts."""
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        if self.last_step:
            y_true, y_pred = y_true[:, -1], y_pred[:, -1]
        classes = ops.one_hot(ops.reshape(y_true, (-1,)), self.num_classes, dtype=self.dtype)
        answers = ops.argmax(ops.reshape(y_pred, (-1, self.num_classes)), axis=-1)
        if sample_weight is not None:
            weight = ops.reshape(ops.cast(sample_weight, self.dtype), (-1, 1))
            classes = classes * weight  # (N, num_classes)
        hits = classes * ops.one_hot(answers, self.num_classes, dtype=self.dtype)
        self.count.assign(self.count + ops.sum(classes, axis=0))
        self.right.assign(self.right + ops.sum(hits, axis=0))

    def result(self) -> Any:
        """The macro recall."""
        recalls = self.right / ops.maximum(self.count, 1e-9)
        occurred = ops.cast(self.count > 0, self.dtype)
        return ops.sum(recalls) / ops.maximum(ops.sum(occurred), 1.0)

    def by_class(self) -> list[float | None]:
        """The recall of each class; `None` of one that has not occurred."""
        right, count = (ops.convert_to_numpy(ops.convert_to_tensor(v)) for v in self.variables)
        return [float(r / n) if n else None for r, n in zip(right, count, strict=True)]

    def get_config(self) -> dict[str, Any]:
        """The arguments, for Keras to make it again."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "last_step": self.last_step,
        }


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class SparseFocalCrossentropy(keras.losses.Loss):
    """`-(1 - p)^gamma log p` of the probability p of the right class.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 3.2, without weights of
    the classes.

    Args:
        gamma: the exponent; 0 is cross-entropy.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        reduction: str = "mean_with_sample_weight",
        name: str = "sparse_focal_crossentropy",
        **options: Any,
    ):
        super().__init__(reduction=reduction, name=name, **options)
        self.gamma = float(gamma)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each target `(...)` for probabilities `(..., num_classes)`."""
        y_pred = ops.convert_to_tensor(y_pred)
        classes = ops.one_hot(ops.cast(y_true, "int32"), y_pred.shape[-1], dtype=y_pred.dtype)
        right = ops.clip(ops.sum(classes * y_pred, axis=-1), 1e-7, 1.0)
        return -ops.power(1.0 - right, self.gamma) * ops.log(right)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for Keras to make it again."""
        return {**super().get_config(), "gamma": self.gamma}


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class ScaledSquaredError(keras.losses.Loss):
    """The mean squared error of numbers `(B, K)`, each divided by a scale of its own.

    Args:
        scale: K numbers over 0, such as standard deviations, or one for all.
    """

    def __init__(
        self,
        scale: tuple[float, ...],
        reduction: str = "mean_with_sample_weight",
        name: str = "scaled_squared_error",
        **options: Any,
    ):
        super().__init__(reduction=reduction, name=name, **options)
        self.scale = tuple(map(float, scale))

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The error of each example, `(B,)`."""
        return ops.mean(ops.square((y_true - y_pred) / ops.array(self.scale, self.dtype)), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for Keras to make it again."""
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class ScaledAbsoluteError(keras.metrics.MeanMetricWrapper):
    """The mean absolute error of numbers `(B, K)`, each divided by a scale of its own.

    Args:
        scale: K numbers over 0, such as standard deviations, or one for all.
    """

    def __init__(self, scale: tuple[float, ...], name: str = "mae", **options: Any):
        self.scale = tuple(map(float, scale))
        super().__init__(self._error, name=name, **options)

    def _error(self, y_true, y_pred):
        error = ops.cast(y_true, self.dtype) - ops.cast(y_pred, self.dtype)
        return ops.mean(ops.abs(error) / ops.array(self.scale, self.dtype), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for Keras to make it again."""
        return {"name": self.name, "dtype": self.dtype, "scale": self.scale}


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
def text_accuracy(target: Any, logits: Any) -> Any:
    """Whether the whole text is right: 1 or 0 for each, `(B,)` float32.

    Args:
        target: `(B, length)` integers, classes for CTC: characters from 1, then 0 to the end.
        logits: `(B, T, num_classes + 1)`, as `models.crnn` answers; T at least `length`.
    """
    characters = ops.cast(read_text(logits), "int32")  # (B, T)
    missing = ops.shape(characters)[1] - ops.shape(target)[1]
    target = ops.pad(ops.cast(target, "int32"), ((0, 0), (0, missing)))
    return ops.cast(ops.all(ops.equal(characters, target - 1), axis=1), "float32")


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
def caption_accuracy(target: Any, probabilities: Any) -> Any:
    """Whether the whole caption is right: 1 or 0 for each, `(B,)` float32.

    Each word is the likeliest after the right ones before it. That is just when `greedy_model`,
    which goes on from its own words, says the caption.

    Args:
        target: `(B, L)` integers, words, then `PADDING`.
        probabilities: `(B, L, V)`, as a `captioner` answers.
    """
    target = ops.cast(target, "int32")
    words = ops.cast(ops.argmax(probabilities[:, :, END:], axis=-1), "int32") + END  # (B, L)
    fine = ops.logical_or(ops.equal(words, target), ops.equal(target, PADDING))
    return ops.cast(ops.all(fine, axis=1), "float32")


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
def last_step_accuracy(target, probabilities):
    """Whether the answer at the last step is right: 1 or 0 for each, `(B,)` float32.

    Args:
        target: `(B, T)` integers.
        probabilities: `(B, T, num_classes)`.
    """
    answers = ops.argmax(probabilities[:, -1], axis=-1)
    return ops.cast(ops.equal(ops.cast(target[:, -1], answers.dtype), answers), "float32")


def read_text(logits: keras.KerasTensor) -> keras.KerasTensor:
    """What a `crnn` reads: the likeliest class of each step, repeats merged, blanks dropped.

    Args:
        logits: `(B, T, num_classes + 1)`, as a `crnn` answers.

    Returns:
        `(B, T)` int32, the characters' numbers from 0, then -1 to the end.
    """
    batch, time, _ = ops.shape(logits)
    decoded, _ = ops.ctc_decode(
        logits, ops.full((batch,), time, "int32"), strategy="greedy", mask_index=0
    )  # (1, B, T): classes, then -1
    return ops.maximum(decoded[0] - 1, -1)
