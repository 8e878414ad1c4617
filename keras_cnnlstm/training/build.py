"""From the options of a run to a compiled model."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import keras

from keras_cnnlstm.config import TrainConfig, load_config
from keras_cnnlstm.models.captioner import captioner
from keras_cnnlstm.models.encoders import ENCODERS, fewest_pixels
from keras_cnnlstm.models.ensembles import encoder_from
from keras_cnnlstm.models.imagenet import PRETRAINED, pretrained, unfreeze
from keras_cnnlstm.models.registry import MODELS
from keras_cnnlstm.tasks.task import Task
from keras_cnnlstm.training.objectives import Objective
from keras_cnnlstm.training.optimizers import Adam
from keras_cnnlstm.training.run_directory import load_model, load_run
from keras_cnnlstm.utils.validation import short_repr

# Options that not every model takes: their names in TrainConfig and in the builder.
_MODEL_OPTIONS = {
    "encoder_filters": "encoder",  # `build_model` makes one of it and the next
    "encoder": "encoder",
    "lstm_units": "lstm_units",
    "bidirectional": "bidirectional",
    "scan_by": "by",
    "scan_size": "size",
    "dropout": "dropout",
    "motion": "motion",
    "motion_lag": "motion_lag",
}
_NOTHING = {"encoder": "conv_pool", "dropout": 0.0, "motion": "none", "motion_lag": 1}

BUILDERS = {**MODELS, "captioner": captioner}
"""Architectures by name, as `TrainConfig.model` and `--model` take them."""

# Where Keras's defaults are not those that recipes were written for. Adadelta's first steps grow
# with epsilon: after a pass over MNIST the column scanner was at 92.4 % so, with Keras's at 90.7 %.
_OPTIMIZER_OPTIONS = {"adadelta": {"rho": 0.9, "epsilon": 1e-6}}


def build_model(config: TrainConfig, task: Task, image_shape: tuple[int, int, int]) -> keras.Model:
    """The model of a run, for images `(H, W, C)`."""
    config = config.resolved
    options = model_options(config)
    if "encoder" in options:
        options["encoder"] = _encoder(config, image_shape)
    builder = BUILDERS[config.model]
    asked = {"lengths": task.has_lengths, **task.head_options()}
    taken = inspect.signature(builder).parameters
    asked["normalize"] = config.encoder in PRETRAINED
    options |= {name: value for name, value in asked.items() if name in taken}
    return builder(task.input_shape(image_shape), *task.output_sizes(), **options)


def check_encoders(config: TrainConfig) -> None:
    """Refuses encoders of the frames of clips that cannot be had, or do not read such frames.

    Makes each, and drops it again. Looks for the run of `init_from` too.
    """
    assert config.image_size is not None  # filled in for clips
    image_shape = (*config.image_size, config.channels)
    for encoder in dict.fromkeys(config.ensemble or (config.encoder,)):
        one = dataclasses.replace(config, ensemble=None, encoder=encoder)
        if "encoder" in model_options(one):
            _encoder(one, image_shape)
    if config.init_from:
        load_config(config.init_from)


def _encoder(config, image_shape):
    """The encoder that the options name, for images `(H, W, C)`."""
    if config.encoder in ENCODERS:
        return _small_encoder(config, image_shape)
    if config.model == "early_fusion_cnn":
        raise ValueError(
            f"encoder must be one of {', '.join(ENCODERS)} with model early_fusion_cnn, which "
            f"reads all frames as channels of one image; received {config.encoder}."
        )
    if config.encoder_runs:
        models = [load_run(path).model for path in config.encoder_runs]
        try:
            encoder = encoder_from(models, tta=config.tta)
        except ValueError as error:
            raise ValueError(f"encoder {', '.join(config.encoder_runs)}: {error}") from error
    elif config.encoder in PRETRAINED:
        encoder = pretrained(config.encoder, input_shape=image_shape)
    else:
        encoder = load_model(Path(config.encoder))
    reads = tuple(encoder.input_shape[1:])
    if len(reads) != 3 or any(a not in (None, b) for a, b in zip(reads, image_shape, strict=True)):
        raise ValueError(
            f"encoder must read frames of {image_shape} as the data has them; received "
            f"{short_repr(config.encoder)}, which reads {reads}."
        )
    if config.fine_tune:
        unfreeze(encoder, config.fine_tune)
    return encoder


def _small_encoder(config, image_shape):
    """An encoder that is trained from the start."""
    small = ENCODERS[config.encoder]
    options = {"filters": config.encoder_filters} if config.encoder_filters else {}
    if "dropout" in inspect.signature(small).parameters:
        options["dropout"] = config.dropout
    encoder = small(**options)
    (height, width, _), fewest = image_shape, fewest_pixels(encoder)
    if min(height, width) < fewest:
        raise ValueError(
            f"encoder must fit images of {height}x{width} pixels; received {config.encoder}, which "
            f"needs {fewest} on each side. Give larger images or fewer --encoder-filters, or take "
            "another encoder."
        )
    return encoder


def model_options(config: TrainConfig) -> dict[str, Any]:
    """The options that the model takes; refuses one that was set although it does not."""
    taken = inspect.signature(BUILDERS[config.model]).parameters
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    options = {}
    for name, argument in _MODEL_OPTIONS.items():
        value = getattr(config, name)
        if argument in taken and value is not None:
            options[argument] = value
        elif argument not in taken and value not in (defaults.get(name), _NOTHING.get(name)):
            raise ValueError(
                f"{name} must be left out with model {config.model}, which has no such part; "
                f"received {short_repr(value)}."
            )
    return options


def adopt_weights(model: keras.Model, source: keras.Model) -> list[str]:
    """Takes over the weights of every layer that another model has too, by name and shapes.

    Args:
        model: the model to set.
        source: the model to take from; it is left as it is.

    Returns:
        The names of the layers that were set.
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
    """Compiles a model for training: optimizer, learning rate, loss and metrics."""
    rate: Any = float(config.learning_rate)  # Keras refuses an integer
    if config.optimizer != "adadelta":  # which adapts its steps itself
        rate = keras.optimizers.schedules.CosineDecay(rate, config.num_steps)
    settings = {"learning_rate": rate, **_OPTIMIZER_OPTIONS.get(config.optimizer, {})}
    if config.weight_decay:
        settings["weight_decay"] = config.weight_decay
    if config.optimizer == "adam":
        optimizer: keras.optimizers.Optimizer = Adam(**settings)
    else:
        optimizer = keras.optimizers.get({"class_name": config.optimizer, "config": settings})
    model.compile(optimizer, objective.loss, weighted_metrics=objective.metrics)
