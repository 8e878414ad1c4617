"""Several models trained for one question, whose mean answer is better than that of each of them.

Networks that differ in their first weights, in the order of their data or in their architecture
err on different sequences, and a mean of probabilities outvotes what one of them alone gets wrong
(Hansen and Salamon, "Neural Network Ensembles", PAMI 1990; Lakshminarayanan et al., "Simple and
Scalable Predictive Uncertainty Estimation using Deep Ensembles", NeurIPS 2017).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from keras import layers, ops

from keras_cnnlstm.arguments import as_path, check_kind, check_model
from keras_cnnlstm.calibration import softmax_head
from keras_cnnlstm.config import TrainConfig

_LEAST = 1e-30  # of a probability whose logarithm is taken


def member_configs(config: TrainConfig, path: str | Path) -> list[TrainConfig]:
    """The options that each member of an ensemble is trained with, as a run of its own.

    Args:
        config: the options of the ensemble.
        path: its run directory; the members' are `members/1`, `members/2`, ... in it.

    Returns:
        For each of `config.members` its options: the next seed, and the next of
        `config.member_encoders`, over again when all have had their turn.
    """
    check_kind("member_configs: `config`", config, TrainConfig, "a TrainConfig")
    folder = as_path("member_configs: `path`", path) / "members"
    encoders = config.member_encoders or (config.encoder,)
    return [
        dataclasses.replace(
            config,
            members=1,
            member_encoders=None,
            encoder=encoders[i % len(encoders)],
            seed=config.seed + i,
            run_dir=str(folder / str(i + 1)),
        )
        for i in range(config.members)
    ]


def average_models(models: Sequence[keras.Model]) -> keras.Model:
    """The model that gives the mean of several models' answers.

    It takes and returns what each of them does and shares their weights, so it is saved, predicted,
    scored, streamed and exported in their place. Of classifiers the last layer is the softmax of a
    Dense layer, as theirs is: its inputs are the logarithms of the mean probabilities, its weights
    the identity, which leaves the mean as it is until `calibration.scale_temperature` divides it.

    Args:
        models: two or more, such as runs of one recipe with several seeds: functional, with equal
            inputs and one output, of probabilities or values, of equal shape.

    Returns:
        A model from the same inputs to the mean answer, under the same names.

    Raises:
        ValueError: if there are fewer than two, or they do not fit together.

    Example:

    >>> from keras_cnnlstm.models import cnn_lstm
    >>> average_models([cnn_lstm(), cnn_lstm()]).output_shape
    (None, 7)
    """
    check_kind("average_models: `models`", models, list | tuple, "a list of models")
    for model in models:
        check_model("average_models: `models`", model)
    if len(models) < 2:
        raise ValueError(f"average_models: `models` must be two or more; received {len(models)}.")
    first, *others = [_face(model) for model in models]
    for other in others:
        if other != first:
            raise ValueError(
                "average_models: `models` must have equal inputs and outputs; received "
                f"{_in_words(first)} and {_in_words(other)}."
            )
    if len(models[0].outputs) != 1:
        raise ValueError(
            "average_models: `models` must have one output each; received ones with "
            f"{len(models[0].outputs)}."
        )
    inputs = as_given(
        {x.name: keras.Input(x.shape[1:], dtype=x.dtype, name=x.name) for x in models[0].inputs}
    )
    answers = [  # of models with names of their own
        keras.Model(
            as_given({x.name: x for x in model.inputs}), model.outputs[0], name=f"member{number}"
        )(inputs)
        for number, model in enumerate(models, start=1)
    ]
    name = models[0].output_names[0]
    if all(softmax_head(model) for model in models):
        logits = LogOfMean(dtype="float32", name="logits")(answers)
        mean = layers.Dense(
            logits.shape[-1],
            activation="softmax",
            use_bias=False,
            kernel_initializer="identity",
            dtype="float32",
            name=name,
        )(logits)
    else:
        mean = layers.Average(dtype="float32", name=name)(answers)
    return keras.Model(inputs, mean, name=f"{models[0].name}_{len(models)}_models")


def as_given(inputs: Mapping[str, Any]) -> Any:
    """Inputs as they are given to a model: one as it is, several by their names."""
    return dict(inputs) if len(inputs) > 1 else next(iter(inputs.values()))


def _face(model):
    """What a model shows to the outside: names, shapes and dtypes of inputs, shapes of outputs."""
    inputs = {x.name: (tuple(x.shape), x.dtype) for x in model.inputs}
    return inputs, [tuple(x.shape) for x in model.outputs]


def _in_words(face):
    inputs, outputs = face
    given = ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in inputs.items())
    return f"{given} -> {', '.join(map(str, outputs))}"


@keras.saving.register_keras_serializable(package="keras_cnnlstm")
class LogOfMean(layers.Layer):
    """The logarithm of the mean of probabilities, `(..., num_classes)` each; of 1e-30 at least.

    Their softmax is the mean again, so they are its logits.
    """

    def call(self, probabilities):
        return ops.log(ops.maximum(sum(probabilities) / len(probabilities), _LEAST))
