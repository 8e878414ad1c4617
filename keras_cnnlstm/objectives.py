"""From the options of a run to a compiled model: what a task asks of it, its loss, its metric."""

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from keras_cnnlstm.arguments import check_kind
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.describer import describer
from keras_cnnlstm.encoders import ENCODERS, fewest_pixels
from keras_cnnlstm.models import MODELS
from keras_cnnlstm.optimizers import Adam
from keras_cnnlstm.prefixes import last_step_accuracy
from keras_cnnlstm.pretrained import pretrained, unfreeze
from keras_cnnlstm.readers import mean_reader
from keras_cnnlstm.runs import load_run
from keras_cnnlstm.scanners import read_text
from keras_cnnlstm.sentences import Description
from keras_cnnlstm.tasks import Classes, Digits, Label, RunningSum, Task, Text
from keras_cnnlstm.trends import TrendSoFar
from keras_cnnlstm.vocabulary import END, PADDING

# Options that not every model takes: their names in TrainConfig and in the builder.
_MODEL_OPTIONS = {
    "encoder_filters": "encoder",  # `build_model` makes one of it and the next two
    "encoder_dropout": "encoder",
    "encoder": "encoder",
    "lstm_units": "lstm_units",
    "bidirectional": "bidirectional",
    "scan_by": "by",
    "scan_size": "size",
    "wrap": "wrap",
    "dropout": "dropout",
    "attention": "attention",
}

BUILDERS = {**MODELS, "describer": describer}
"""Architectures by name, as `TrainConfig.model` and `--model` take them."""

# Where Keras's defaults are not those that recipes were written for. Adadelta's first steps grow
# with epsilon: after a pass over MNIST the column scanner was at 92.4 % so, with Keras's at 90.7 %.
_OPTIMIZER_OPTIONS = {"adadelta": {"rho": 0.9, "epsilon": 1e-6}}


@dataclass(frozen=True)
class Objective:
    """What a training minimises, and what tells its best epoch.

    Attributes:
        loss: the loss. Steps of weight 0 neither count nor dilute it.
        metric: of training and validation; weighted as the loss.
        smaller_is_better: whether the best epoch has the smallest value of the metric.
        recall: which classes are learned and which are not yet; of tasks with classes.
    """

    loss: keras.losses.Loss
    metric: keras.metrics.Metric
    smaller_is_better: bool = False
    recall: "ClassRecall | None" = None

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """All that are to be measured."""
        return [self.metric] if self.recall is None else [self.metric, self.recall]

    def better(self, value: float, best: float | None) -> bool:
        """Whether `value` beats the best so far."""
        return best is None or (value < best if self.smaller_is_better else value > best)


def objective_for(task: Task) -> Objective:
    """The loss and the metric of a task, new ones with each call.

    Raises:
        ValueError: if it is no task.
    """
    check_kind("objective_for: `task`", task, Task, "a task, such as Trend(4)")
    if isinstance(task, RunningSum):
        loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
        return Objective(loss, keras.metrics.RootMeanSquaredError(name="rmse"), True)
    if isinstance(task, Text):
        return Objective(
            keras.losses.CTC(), keras.metrics.MeanMetricWrapper(text_accuracy, name="accuracy")
        )
    if isinstance(task, Description):
        return Objective(
            keras.losses.SparseCategoricalCrossentropy(
                ignore_class=PADDING, reduction="mean_with_sample_weight"
            ),
            keras.metrics.MeanMetricWrapper(sentence_accuracy, name="accuracy"),
        )
    last_step = isinstance(task, TrendSoFar)  # all steps are learned, the last is the answer
    return Objective(
        keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight"),
        keras.metrics.MeanMetricWrapper(last_step_accuracy, name="accuracy")
        if last_step
        else keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
        recall=ClassRecall(task.num_classes, last_step),
    )


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
def sentence_accuracy(target: Any, probabilities: Any) -> Any:
    """Whether the whole sentence is right: 1 or 0 for each, `(B,)` float32.

    Each word is the likeliest after the right ones before it. That is just when `greedy_model`,
    which goes on from its own words, says the sentence.

    Args:
        target: `(B, L)` integers, words, then `PADDING`.
        probabilities: `(B, L, V)`, as a `describer` answers.
    """
    target = ops.cast(target, "int32")
    words = ops.cast(ops.argmax(probabilities[:, :, END:], axis=-1), "int32") + END  # (B, L)
    fine = ops.logical_or(ops.equal(words, target), ops.equal(target, PADDING))
    return ops.cast(ops.all(fine, axis=1), "float32")


def build_model(config: TrainConfig, task: Task, image_shape: tuple[int, int, int]) -> keras.Model:
    """The model of a run, for images `(H, W, C)`.

    Raises:
        ValueError: if the model cannot be built so, or has no such option.
    """
    options = model_options(config)
    if "encoder" in options:
        options["encoder"] = _encoder(config, image_shape)
    if config.model in ("cnn_lstm", "bag_of_frames", "describer"):
        options["lengths"] = task.min_length != task.length or isinstance(task, Classes)
    if config.model == "cnn_lstm":
        options["per_step"] = isinstance(task, Digits)
        if isinstance(task, RunningSum):
            options |= {"head": "values", "scale": float(task.num_digits)}
    shape: tuple[int, ...] = (task.length, *image_shape)
    if isinstance(task, Label | Text):
        height, width, channels = image_shape
        shape = (height, task.length * width, channels)
    if isinstance(task, Description):
        return describer(shape, len(task.vocabulary), task.max_words, **options)
    return MODELS[config.model](shape, task.num_classes, **options)


def _encoder(config, image_shape):
    """The encoder that the options say, for images `(H, W, C)`."""
    if config.readers:
        return _readers(config.readers, image_shape, config.reader_views)
    small = ENCODERS.get(config.encoder)
    drops = small is not None and "dropout" in inspect.signature(small).parameters
    if config.encoder_dropout and not drops:
        raise ValueError(
            f"encoder_dropout: expected none with encoder {config.encoder}, which has no such "
            f"layers; received {config.encoder_dropout}. Take --encoder strided_cnn, or --dropout "
            "for what an encoder answers."
        )
    if small is None:
        return _large_encoder(config, image_shape)
    options = {"filters": config.encoder_filters} if config.encoder_filters else {}
    if drops:
        rate = config.dropout if config.encoder_dropout is None else config.encoder_dropout
        options["dropout"] = rate
    encoder = small(**options)
    (height, width, _), fewest = image_shape, fewest_pixels(encoder)
    if min(height, width) < fewest:
        raise ValueError(
            f"encoder: expected one for images of {height}x{width} pixels; received "
            f"{config.encoder}, which needs {fewest} on each side. Give larger images or fewer "
            "--encoder-filters, or take another encoder."
        )
    return encoder


def _readers(paths, image_shape, views):
    """What the classifiers of these runs say of images `(H, W, C)`, in so many views of each."""
    runs = [load_run(path) for path in paths]
    for run in runs:
        task, length, shape = run.config.task, run.config.length, run.model.input_shape[-3:]
        if task not in ("label", "digits") or (length, shape) != (1, image_shape):
            raise ValueError(
                "readers: expected runs that tell one digit of images "
                f"{'x'.join(map(str, image_shape))} (--model image_cnn); received {run.path}, of "
                f"task {task}, length {length}, images {'x'.join(map(str, shape))}."
            )
    return mean_reader([run.model for run in runs], views=views)


def _large_encoder(config, image_shape):
    """A network of `pretrained`, frozen but for its last layers if the options say so."""
    if config.encoder_filters:
        raise ValueError(
            f"encoder_filters: expected none with encoder {config.encoder}, whose channels are "
            f"those of its weights; received {config.encoder_filters}."
        )
    if config.model == "channel_cnn":
        raise ValueError(
            f"encoder: expected a small one with model channel_cnn, which reads all frames as "
            f"channels of one image; received {config.encoder!r}."
        )
    weights = None if config.encoder_weights == "none" else config.encoder_weights
    encoder = pretrained(config.encoder, weights=weights, input_shape=image_shape)
    if config.fine_tune:
        unfreeze(encoder, config.fine_tune)
    return encoder


def model_options(config: TrainConfig) -> dict[str, Any]:
    """The options that the model takes; refuses one that was set although it does not.

    Raises:
        ValueError: if there is one.
    """
    taken = inspect.signature(BUILDERS[config.model]).parameters
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    options = {}
    for name, argument in _MODEL_OPTIONS.items():
        value = getattr(config, name)
        if argument in taken and value is not None:
            options[argument] = value
        elif argument not in taken and value != defaults[name]:
            raise ValueError(
                f"{name}: expected its default with model {config.model}, which has no such part; "
                f"received {value!r}. Use another model, or leave the option out."
            )
    return options


def adopt_weights(model: keras.Model, source: keras.Model) -> list[str]:
    """Takes over the weights of every layer that another model has too, by name and shapes.

    Args:
        model: the model to set.
        source: the model to take from; it is left as it is.

    Returns:
        The names of the layers that were set.

    Raises:
        ValueError: if there is no such layer.
    """
    have = {layer.name: layer.get_weights() for layer in source.layers if layer.weights}
    adopted = []
    for layer in model.layers:
        weights = have.get(layer.name, [])
        if weights and [w.shape for w in weights] == [w.shape for w in layer.weights]:
            layer.set_weights(weights)
            adopted.append(layer.name)
    if not adopted:
        raise ValueError(
            f"init_from: expected a run with a layer of the same name and shapes as one of "
            f"{model.name}; {source.name} has {', '.join(have)}, none of which fits."
        )
    return adopted


def compile_model(model: keras.Model, config: TrainConfig, objective: Objective) -> None:
    """Compiles a model for training: optimizer, schedule, loss and metrics."""
    rate: Any = float(config.learning_rate)  # Keras refuses a whole number
    if config.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, config.num_steps)
    settings = {"learning_rate": rate, **_OPTIMIZER_OPTIONS.get(config.optimizer, {})}
    if config.weight_decay:
        settings["weight_decay"] = config.weight_decay
    if config.optimizer == "adam":
        optimizer: keras.optimizers.Optimizer = Adam(**settings)
    else:
        optimizer = keras.optimizers.get({"class_name": config.optimizer, "config": settings})
    model.compile(optimizer, objective.loss, weighted_metrics=objective.metrics)
