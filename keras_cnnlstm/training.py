"""A training run: from one `TrainConfig` to a directory with model, history, scores and plots.

`runs` says what lies in the directory.
"""

import contextlib
import dataclasses
import errno
import json
import platform
from pathlib import Path

import keras
import tensorflow as tf

from keras_cnnlstm import evaluation, plots
from keras_cnnlstm.arguments import check_kind
from keras_cnnlstm.artefacts import required
from keras_cnnlstm.calibration import softmax_head
from keras_cnnlstm.checkpoints import newest_checkpoint
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.features import FeatureCache, split_model
from keras_cnnlstm.files import locked, replacing, write_text
from keras_cnnlstm.memory import check_memory
from keras_cnnlstm.objectives import (
    adopt_weights,
    build_model,
    compile_model,
    model_options,
    objective_for,
)
from keras_cnnlstm.prefixes import every_step_model
from keras_cnnlstm.processor import num_cores
from keras_cnnlstm.progress import Progress
from keras_cnnlstm.run_writer import RunWriter, stopping
from keras_cnnlstm.runs import Run, load_config, load_model, load_run, new_run_dir, save_model
from keras_cnnlstm.runtime import Runtime
from keras_cnnlstm.sources import open_source
from keras_cnnlstm.state_dicts import read_state_dict
from keras_cnnlstm.tensorboard_images import ValidationImages
from keras_cnnlstm.torch_weights import Report, load_torch
from keras_cnnlstm.trends import TrendSoFar


def train(config: TrainConfig, *, resume: bool = False) -> Run:
    """Trains, keeps the best model, scores it on test data, and writes the run directory.

    A run that was stopped at any moment goes on with `resume`. On the same machine's CPU it ends
    with bit for bit the weights, history and scores of a run that was never stopped; on a GPU,
    whose sums come in any order, with nearly the same.

    Args:
        config: the options of the run.
        resume: go on with the run in `config.run_dir` from its newest checkpoint that is whole.
            Its options must be those of `config`; only `epochs` may have grown.

    Returns:
        The run with its best model, as saved.

    Raises:
        ValueError: if options do not fit together, to the machine, to the data, or to those of the
            run to resume.
        FileExistsError: if the run directory exists and is not to be resumed.
        FileNotFoundError: if there is no such folder of clips, or no run to resume.
        BlockingIOError: if another process trains this run.
        ConnectionError: if the data is not on this machine and cannot be had.
        FloatingPointError: if the loss is no longer a number; the last checkpoint is kept.
        OSError: if the disk is full, or cannot be written; the last checkpoint is kept.
        TrainingStopped: if the process was sent SIGTERM; the checkpoint of that batch is there.
    """
    check_kind("train: `config`", config, TrainConfig, "a TrainConfig")
    if resume:
        config = resumed_config(config)
    runtime = Runtime(config.precision, config.strategy)
    runtime.check_batch_size(config.batch_size or 1)
    _check_groups(config, runtime)
    model_options(config)  # refuses before there is a directory
    if config.tensorboard:
        required("tensorboard", extra="tensorboard")
    if runtime.num_workers > 1:
        _check_workers(config, runtime)
    place = Path(config.run_dir or "") if resume else None
    # A run that was stopped at once may not have got as far as its split.
    split = place if place and (place / "split.csv").exists() else None
    source = open_source(config, split)
    config = dataclasses.replace(config, steps_per_epoch=source.steps_per_epoch)
    keras.utils.set_random_seed(config.seed)
    with runtime.scope():
        model = build_model(config, source.task, source.image_shape)
        # For a new run before there is a directory, so that a refusal leaves none.
        adopted = _adopted(model, config) if place is None else []
        if place is None and config.cache and not config.data:
            _check_cacheable(model, config.cache)
        # Of the same layers; what is saved is the model.
        learner, lesson = model, source.lesson
        if isinstance(lesson, TrendSoFar):
            several = lesson.reorder or lesson.regroup > 1
            learner = every_step_model(model, lesson.orders if several else None)
    on_one = (config.batch_size or 1) // runtime.num_replicas
    memory = check_memory(learner, on_one, together=config.regroup)
    if place is None:
        place = new_run_dir(config) if runtime.is_chief else Path(config.run_dir or "")
    print(f"data      {source.describe()}")
    print(f"runtime   {runtime.describe()}")
    print(f"memory    {memory.describe()}")
    print(f"run       {place}", flush=True)
    with runtime.writable(place) as path, _told_how_to_go_on(path), _locked(path):
        checkpoint = newest_checkpoint(place / "checkpoints") if resume else None
        if checkpoint is None:
            source.save(path)
        (path / "calibration.json").unlink(missing_ok=True)  # of a model that may be outdone
        with runtime.scope():
            if resume and (config.freeze or checkpoint is None):
                adopted = _adopted(model, config)
            writer = _fit(model, learner, config, source, runtime, path, checkpoint, adopted)
        if not runtime.is_chief:
            return Run(place, config, model, {})
        return _finish(config, runtime, source, writer)


def _adopted(model, config) -> list[str]:
    """The layers whose weights were taken over from `init_from`, and frozen if need be."""
    adopted = adopt_weights(model, load_run(config.init_from).model) if config.init_from else []
    for name in adopted if config.freeze else ():
        model.get_layer(name).trainable = False
    return adopted


def _check_cacheable(model, directory) -> None:
    """Of digits it is the answers of a frozen encoder that a cache keeps."""
    encoder = split_model(model).frame_encoder
    learning = encoder.trainable_weights
    if learning:
        raise ValueError(
            "cache: expected, with digits, an encoder that is frozen as a whole, since its answers "
            f"are kept; received one that would train {learning[0].path}. Take --readers RUN, or a "
            "trained one with --init-from RUN --freeze and the --encoder of that run, or leave the "
            "cache out."
        )
    FeatureCache(directory, encoder)  # refuses layers that are random in training


def _check_groups(config, runtime) -> None:
    """Sequences that exchange their frames must be on one device."""
    on_one = (config.batch_size or 1) // runtime.num_replicas
    if on_one % config.regroup:
        raise ValueError(
            f"regroup: expected a divisor of the sequences of a batch on each device, {on_one}; "
            f"received {config.regroup}. Take another --batch-size."
        )


def _check_workers(config, runtime) -> None:
    """Workers that train together must mean the same run."""
    if config.run_dir is None:
        raise ValueError(
            "run_dir: expected a directory that all workers can read, since several train "
            "together; received None."
        )
    runtime.check_same("the options", config.to_json())


def _finish(config, runtime, source, writer) -> Run:
    """Scores what was saved, and writes that down."""
    path = writer.path
    run = Run(path, config, writer.whole, {})
    if softmax_head(run.model):
        run = evaluation.calibrate(run)
    else:
        run = dataclasses.replace(run, model=load_model(path / "model.keras"))
    metrics = {
        "test": evaluation.score(run.model, source.tests(), source.task),
        "training": _training_facts(config, writer),
        "machine": _machine_facts(runtime),
    }
    write_text(path / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    _write_plots(path, writer.history, writer.objective, metrics["test"], source.task)
    return dataclasses.replace(run, metrics=metrics)


def resumed_config(config: TrainConfig) -> TrainConfig:
    """The options of the run in `config.run_dir`, with as many epochs as `config` asks for.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if another option differs, or there would be fewer epochs.
    """
    check_kind("resumed_config: `config`", config, TrainConfig, "a TrainConfig")
    if config.run_dir is None:
        raise ValueError("run_dir: expected the run to resume; received None.")
    stored = load_config(Path(config.run_dir))
    differing = [
        f"{field.name} is {getattr(stored, field.name)!r}, not {getattr(config, field.name)!r}"
        for field in dataclasses.fields(config)
        if field.name not in ("run_dir", "epochs")
        and getattr(config, field.name) not in (None, getattr(stored, field.name))
    ]
    if (config.epochs or 0) < (stored.epochs or 0):
        differing.append(f"epochs is {stored.epochs}, more than {config.epochs}")
    if differing:
        raise ValueError(
            f"resume: expected the options of {config.run_dir}, of which only epochs may grow; "
            f"{'; '.join(differing)}. Leave them out, or train a new run."
        )
    return dataclasses.replace(stored, epochs=config.epochs, run_dir=config.run_dir)


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # errors of writing alone


@contextlib.contextmanager
def _told_how_to_go_on(path):
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise OSError(
            f"{path}: expected a directory that can be written; {error.strerror}. What was written "
            f"before is kept. Make room, then go on with: keras-cnnlstm train --resume {path}"
        ) from error


@contextlib.contextmanager
def _locked(path):
    (path / "checkpoints").mkdir(parents=True, exist_ok=True)  # of a worker that is not the chief
    try:
        with locked(path / "lock"):
            yield
    except BlockingIOError as error:
        raise BlockingIOError(
            f"{path}: expected a run that nobody trains; another process does. Wait for it, or "
            "stop it."
        ) from error


def import_torch(file: str | Path, config: TrainConfig) -> tuple[Run, Report]:
    """Makes a run of a model that PyTorch trained, ready to evaluate, predict, stream and export.

    Args:
        file: the model's `state_dict` as `.safetensors`.
        config: the architecture that the weights belong to. It must scale images as the PyTorch
            model was fed them: to [0, 1], or to [-1, 1] in `scan_lstm` and `renet`.

    Returns:
        The run without scores, and what went where.

    Raises:
        ValueError: if the file cannot be read, or its weights do not fit the model.
        FileNotFoundError: if there is no such file.
        FileExistsError: if the run directory exists.
        ConnectionError: if the data set, which says how large images are, cannot be had.
    """
    check_kind("import_torch: `config`", config, TrainConfig, "a TrainConfig")
    state_dict = read_state_dict(file)
    source = open_source(config)
    with Runtime("float32", "one-device").scope():
        model = build_model(config, source.task, source.image_shape)
    report = load_torch(model, state_dict)
    path = new_run_dir(config)
    save_model(model, path / "model.keras")
    source.save(path)
    return Run(path, config, model, {}), report


def _fit(model, learner, config, source, runtime, path, checkpoint, adopted) -> RunWriter:
    """Trains from a checkpoint, or from the start, to the end."""
    if adopted:
        kept = ", which stay as they are" if config.freeze else ""
        print(f"start     from {config.init_from}: {', '.join(adopted)}{kept}", flush=True)
    objective = objective_for(source.lesson)
    anywhere = runtime.on_any_worker if runtime.num_workers > 1 else None
    names = source.task.class_names
    writer = RunWriter(
        path, objective, config, model, checkpoint, class_names=names, anywhere=anywhere
    )
    model = runtime.fit_model(_trained_part(learner, config, source))
    compile_model(model, config, objective)
    steps = config.steps_per_epoch
    rows = runtime.rows(config.batch_size)
    validation = source.validation(rows=rows, lesson=True)
    callbacks = _tensorboard(config, writer, validation) if config.tensorboard else [writer]
    if checkpoint:
        runtime.check_same("the checkpoint", str(checkpoint.step))
        # Makes the variables of optimizer and metrics, for the checkpoint to set.
        model.optimizer.build(model.trainable_variables)
        model.evaluate(validation.take(1), verbose=0)
    progress = Progress(config.epochs, steps, config.batch_size, step=writer.step)
    with stopping(writer), progress:
        # At most twice: the rest of an epoch that was broken off, then all others.
        while writer.step < config.num_steps and not writer.ended:
            epoch, done = divmod(writer.step, steps)
            model.fit(
                source.training(start=writer.step, rows=rows, lesson=True),
                validation_data=validation,
                steps_per_epoch=steps - done,
                initial_epoch=epoch,
                epochs=epoch + 1 if done else config.epochs,
                callbacks=[*callbacks, progress],
                shuffle=False,
                verbose=0,
            )
    return writer


def _tensorboard(config, writer, validation):
    """The writer and those that log beside it, in the order in which they must be called."""
    folder = writer.path / "tensorboard"
    logs = [writer, keras.callbacks.TensorBoard(folder)]
    if config.task == "sentence":
        return logs  # its answers are told word by word, one after the other
    # Before the writer, which takes averaged weights out again when a validation ends.
    return [ValidationImages(folder / "validation", validation, writer.class_names), *logs]


def _trained_part(model, config, source):
    """What learns of the model: its layers over time alone, if frozen ones' answers are cached."""
    if not config.cache or (config.data and (config.augment or config.flip)):
        return model
    if config.model == "describer":  # no chain of layers: the words come in beside the frames
        return model
    parts = split_model(model)
    if parts.frame_encoder.trainable_weights:
        return model
    source.encode(FeatureCache(config.cache, parts.frame_encoder))
    return parts.sequence_model


def _training_facts(config, writer):
    sequences = writer.step * config.batch_size
    return {
        "epochs": len(writer.history),
        "best_epoch": 1 + (writer.best_epoch or 0),
        "kept_epoch": 1 + (writer.kept_epoch or 0),
        "sequences": sequences,
        "seconds": round(writer.seconds, 1),
        "sequences_per_second": round(sequences / max(writer.seconds, 1e-9), 1),
    }


def _machine_facts(runtime):
    return {
        "precision": runtime.policy,
        "devices": runtime.devices,
        "cores": num_cores(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


def _write_plots(path, history, objective, tests, task):
    scores = next(iter(tests.values()))  # of digits the natural ones
    figures = {"history.png": plots.plot_history(history, objective.metric.name)}
    if "confusion" in scores:
        figures["confusion.png"] = plots.plot_confusion(scores["confusion"], task.class_names)
    if "rmse_by_length" in scores:
        figures["by_length.png"] = plots.plot_by_length(
            scores["rmse_by_length"], "root-mean-square error"
        )
    for name, figure in figures.items():
        with replacing(path / name) as temporary:
            plots.save_figure(figure, temporary)
