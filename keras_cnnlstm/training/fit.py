"""Trains one model: builds, fits or resumes it, scores it, and writes its run directory."""

import contextlib
import dataclasses
import errno
import json
import platform
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_cnnlstm import plots
from keras_cnnlstm.models.calibration import softmax_head
from keras_cnnlstm.models.graph import every_step_model, split_model
from keras_cnnlstm.runtime.memory import Estimate, check_memory, out_of_memory_hint
from keras_cnnlstm.training import scoring
from keras_cnnlstm.training.build import adopt_weights, build_model, compile_model
from keras_cnnlstm.training.callbacks import RunWriter, TrainingStopped, stopping
from keras_cnnlstm.training.checkpoints import newest_checkpoint
from keras_cnnlstm.training.feature_cache import FeatureCache
from keras_cnnlstm.training.objectives import objective_for
from keras_cnnlstm.training.progress import Progress
from keras_cnnlstm.training.run_directory import Run, load_model, load_run, new_run_dir
from keras_cnnlstm.training.tensorboard import ValidationImages
from keras_cnnlstm.utils.environment import num_cores, user_cache
from keras_cnnlstm.utils.files import locked, replacing, write_text


def train_one(config, runtime, source, place, ensemble=None) -> Run:
    """Trains one model, or a member of an ensemble, from the start or from the run `place` on."""
    built = build_learner(config, runtime, source, new=place is None)
    resume = place is not None
    if place is None:
        place = new_run_dir(config) if runtime.is_chief else Path(config.run_dir or "")
    if ensemble is None:
        print_start(source, runtime)
    print(f"memory    {built.memory.describe()}")
    print(f"run       {place}", flush=True)
    with runtime.writable(place) as path, resume_hint(ensemble or path), run_lock(path):
        checkpoint = newest_checkpoint(place / "checkpoints") if resume else None
        if checkpoint is None:
            source.save(path)
        (path / "calibration.json").unlink(missing_ok=True)  # of a model that may be outdone
        with runtime.scope():
            adopted = built.adopted
            if resume and checkpoint is None:
                adopted = _adopted(built.model, config)
            if adopted:
                print(f"start     from {config.init_from}: {', '.join(adopted)}", flush=True)
            objective = objective_for(source.training_task)
            writer = RunWriter(
                path,
                objective,
                config,
                built.model,
                checkpoint,
                class_names=source.task.class_names,
                anywhere=runtime.on_any_worker if runtime.num_workers > 1 else None,
                resumed_as=ensemble,
            )
            _fit(built.learner, config, source, runtime, writer, checkpoint)
        if not runtime.is_chief:
            return Run(place, config, built.model, {})
        curves = {"history.png": plots.plot_history(writer.history, objective.metric.name)}
        run = Run(path, config, built.model, {})
        return finish_run(run, runtime, source, _training_facts(config, writer), curves)


class _Built(NamedTuple):
    """What is trained."""

    model: keras.Model  # that is saved
    learner: keras.Model  # of the same layers
    adopted: list[str]  # layers whose weights were taken over
    memory: Estimate


def build_learner(config, runtime, source, *, new=True) -> _Built:
    """The model of a run; refuses what does not fit before there is a directory."""
    keras.utils.set_random_seed(config.seed)
    with runtime.scope():
        model = build_model(config, source.task, source.frame_shape)
        adopted = _adopted(model, config) if new else []
        if new and source.encodes == "always":
            _check_cacheable(model, config.cache)
        learner = model
        if source.training_task is not source.task:
            orders = source.training_task.orders
            learner = every_step_model(model, orders if len(orders[0]) > 1 else None)
    on_one = (config.batch_size or 1) // runtime.num_replicas
    memory = check_memory(learner, on_one, together=config.group)
    if new and config.reads_clips:
        _draw_once(source)
    return _Built(model, learner, adopted, memory)


def _draw_once(source) -> None:
    """One batch of each part: what fails later fails here, before there is a directory."""
    for data in (source.training(), source.validation(), *source.tests().values()):
        for _ in data.take(1):
            pass


def print_start(source, runtime):
    """Prints what the training reads and what it runs on."""
    print(f"data      {source.describe()}")
    print(f"runtime   {runtime.describe()}", flush=True)


def _adopted(model, config) -> list[str]:
    """The layers whose weights were taken over from `init_from`."""
    return adopt_weights(model, load_run(config.init_from).model) if config.init_from else []


def _check_cacheable(model, directory) -> None:
    """Of digits it is the answers of a frozen encoder that a cache keeps."""
    encoder = split_model(model).frame_encoder
    learning = encoder.trainable_weights
    if learning:
        raise ValueError(
            "cache must come with a frozen encoder where digits are read, since it keeps what the "
            f"encoder makes of them; received one that would train {learning[0].path}. Give run "
            "directories as --encoder, or leave the cache out."
        )
    FeatureCache(directory, encoder)  # refuses layers that are random in training


def finish_run(run, runtime, source, facts, curves=None) -> Run:
    """Scores what was saved, and writes that down with the facts of the training."""
    if softmax_head(run.model):
        run = scoring.calibrate(run, source=source)
    else:
        run = dataclasses.replace(run, model=load_model(run.path / "model.keras"))
    tests = scoring.score(run.model, source.tests(), source.task)
    figures = {**(curves or {}), **score_plots(tests, source.task)}
    return write_scores(run, runtime, {"test": tests, "training": facts}, figures)


def write_scores(run, runtime, metrics, figures) -> Run:
    """Writes metrics.json, which also names the machine, and figures."""
    metrics = {**metrics, "machine": _machine_facts(runtime)}
    write_text(run.path / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    _write_plots(run.path, figures)
    return dataclasses.replace(run, metrics=metrics)


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # errors of writing alone


@contextlib.contextmanager
def resume_hint(path):
    """Adds how to go on to Ctrl-C, and to the error of a disk that is full or read-only."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if isinstance(stop, TrainingStopped):
            raise
        raise TrainingStopped(f"stopped; go on with: keras-cnnlstm train --resume {path}") from stop
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise OSError(
            f"{path}: expected a directory that can be written; {error.strerror}. What was written "
            f"before is kept. Make room, then go on with: keras-cnnlstm train --resume {path}"
        ) from error


@contextlib.contextmanager
def run_lock(path):
    """Refuses a run directory in which another process trains."""
    (path / "checkpoints").mkdir(parents=True, exist_ok=True)  # of a worker that is not the chief
    try:
        with locked(path / "lock"):
            yield
    except BlockingIOError as error:
        raise BlockingIOError(
            f"{path}: expected a run that nobody trains; another process does. Wait for it, or "
            "stop it."
        ) from error


def _fit(learner, config, source, runtime, writer, checkpoint) -> None:
    """Trains from a checkpoint, or from the start, to the end."""
    model = runtime.fit_model(trained_part(learner, config, source))
    compile_model(model, config, writer.objective)
    steps = config.steps_per_epoch
    rows = runtime.rows(config.batch_size)
    validation = source.validation(rows=rows, training_task=True)
    callbacks = [writer]
    if config.tensorboard:
        callbacks = _tensorboard(config, source.training_task, writer, validation)
    if checkpoint:
        runtime.check_same("the checkpoint", str(checkpoint.step))
        # Makes the variables of optimizer and metrics, for the checkpoint to set.
        model.optimizer.build(model.trainable_variables)
        model.evaluate(validation.take(1), verbose=0)
    progress = Progress(config.epochs, steps, config.batch_size, step=writer.step)
    with stopping(writer), progress, out_of_memory_hint(config.batch_size):
        # At most twice: the rest of an epoch that was broken off, then all others.
        while writer.step < config.num_steps and not writer.ended:
            epoch, done = divmod(writer.step, steps)
            model.fit(
                source.training(start=writer.step, rows=rows, training_task=True),
                validation_data=validation,
                steps_per_epoch=steps - done,
                initial_epoch=epoch,
                epochs=epoch + 1 if done else config.epochs,
                callbacks=[*callbacks, progress],
                shuffle=False,
                verbose=0,
            )


def _tensorboard(config, task, writer, validation):
    """The writer and those that log beside it, in the order in which they must be called."""
    folder = writer.path / "tensorboard"
    logs = [writer, keras.callbacks.TensorBoard(folder)]
    if config.model == "captioner":
        return logs  # it answers token by token
    # Before the writer, which takes averaged weights out again when a validation ends.
    return [ValidationImages(folder / "validation", validation, task), *logs]


def trained_part(model, config, source):
    """What learns of the model: its layers over time alone, if frozen ones' answers are cached."""
    if source.encodes == "never":
        return model
    if config.model == "captioner":  # no chain of layers: the words come in beside the frames
        return model
    parts = split_model(model)
    motion, folder = parts.motion, config.cache or user_cache()
    if parts.frame_encoder.trainable_weights or (motion and not source.shows_neighbours):
        return model
    cache = FeatureCache(folder, parts.frame_encoder)

    def features(key, frames):
        if motion is None:
            return cache.features(key, frames)

        def images():
            given = frames()
            short = max(0, motion.lag + 1 - len(given))  # of a clip without motion, as a batch pads
            given = np.pad(given, [(0, short), *[(0, 0)] * 3])
            return np.asarray(motion(given[None]))[0]

        kind = f"lag {motion.lag} frames {motion.keep_frames}"
        return cache.features(f"{key} motion {kind}", images)

    source.encode(features, skip=motion.lag if motion else 0)
    return parts.sequence_model


def _training_facts(config, writer):
    return {
        "epochs": len(writer.history),
        "best_epoch": 1 + (writer.best_epoch or 0),
        "kept_epoch": 1 + (writer.kept_epoch or 0),
        **throughput(writer.step * config.batch_size, writer.seconds),
    }


def throughput(sequences, seconds):
    """Sequences, seconds and sequences per second, as metrics.json holds them."""
    rate = round(sequences / max(seconds, 1e-9), 1)
    return {"sequences": sequences, "seconds": round(seconds, 1), "sequences_per_second": rate}


def _machine_facts(runtime):
    return {
        "precision": runtime.policy,
        "devices": runtime.devices,
        "cores": num_cores(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


def score_plots(tests, task):
    """The figure of the first scores by its file name, if there is one."""
    scores = next(iter(tests.values()))  # of digits the natural ones
    if "confusion" in scores:
        return {"confusion.png": plots.plot_confusion(scores["confusion"], task.class_names)}
    if "rmse_by_length" in scores:
        title = "root-mean-square error"
        return {"by_length.png": plots.plot_by_length(scores["rmse_by_length"], title)}
    return {}


def _write_plots(path, figures):
    for name, figure in figures.items():
        with replacing(path / name) as temporary:
            plots.save_figure(figure, temporary)
