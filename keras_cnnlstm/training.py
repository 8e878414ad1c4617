"""A training run: from one `TrainConfig` to a directory with model, history, scores and plots.

`runs` says what lies in the directory.
"""

import contextlib
import dataclasses
import errno
import json
import platform
import shutil
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_cnnlstm import evaluation, plots
from keras_cnnlstm.arguments import check_kind
from keras_cnnlstm.artefacts import required
from keras_cnnlstm.calibration import softmax_head
from keras_cnnlstm.checkpoints import newest_checkpoint
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.ensembles import average_models, member_configs
from keras_cnnlstm.features import FeatureCache, split_model
from keras_cnnlstm.files import locked, replacing, write_text
from keras_cnnlstm.memory import Estimate, check_memory
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
    train_it = _train_one if config.members == 1 else _train_members
    return train_it(config, runtime, source, place)


def _train_one(config, runtime, source, place, ensemble=None) -> Run:
    """Trains one model, anew or from where the run `place` stands; or a member of an ensemble."""
    built = _build(config, runtime, source, new=place is None)
    resume = place is not None
    if place is None:
        place = new_run_dir(config) if runtime.is_chief else Path(config.run_dir or "")
    if ensemble is None:
        _print_start(source, runtime)
    print(f"memory    {built.memory.describe()}")
    print(f"run       {place}", flush=True)
    with runtime.writable(place) as path, _told_how_to_go_on(ensemble or path), _locked(path):
        checkpoint = newest_checkpoint(place / "checkpoints") if resume else None
        if checkpoint is None:
            source.save(path)
        (path / "calibration.json").unlink(missing_ok=True)  # of a model that may be outdone
        with runtime.scope():
            adopted = built.adopted
            if resume and (config.freeze or checkpoint is None):
                adopted = _adopted(built.model, config)
            if adopted:
                kept = ", which stay as they are" if config.freeze else ""
                print(f"start     from {config.init_from}: {', '.join(adopted)}{kept}", flush=True)
            objective = objective_for(source.lesson)
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
        return _finish(run, runtime, source, _training_facts(config, writer), curves)


class _Built(NamedTuple):
    """What is trained."""

    model: keras.Model  # that is saved
    learner: keras.Model  # of the same layers
    adopted: list[str]  # layers whose weights were taken over
    memory: Estimate


def _build(config, runtime, source, *, new=True) -> _Built:
    """The model of a run; refuses what does not fit before there is a directory."""
    keras.utils.set_random_seed(config.seed)
    with runtime.scope():
        model = build_model(config, source.task, source.image_shape)
        adopted = _adopted(model, config) if new else []
        if new and config.cache and not config.data:
            _check_cacheable(model, config.cache)
        learner, lesson = model, source.lesson
        if isinstance(lesson, TrendSoFar):
            several = lesson.reorder or lesson.regroup > 1
            learner = every_step_model(model, lesson.orders if several else None)
    on_one = (config.batch_size or 1) // runtime.num_replicas
    return _Built(model, learner, adopted, check_memory(learner, on_one, together=config.regroup))


def _print_start(source, runtime):
    print(f"data      {source.describe()}")
    print(f"runtime   {runtime.describe()}", flush=True)


def _train_members(config, runtime, source, place) -> Run:
    """Trains the members of an ensemble, each as a run of its own, and makes one model of them."""
    if runtime.num_workers > 1:
        raise ValueError(
            f"members: expected 1 where several workers train together; received {config.members}. "
            "Train each with a seed of its own, and average with evaluate --ensemble."
        )
    if place is None:
        # One of each kind, so that what does not fit is refused before there is a directory.
        for member in member_configs(config, Path())[: len(config.member_encoders or (None,))]:
            _build(member, runtime, source)
        place = new_run_dir(config)
    _print_start(source, runtime)
    print(f"ensemble  {place}")
    with _told_how_to_go_on(place), _locked(place):
        source.save(place)
        members = []
        for number, member in enumerate(member_configs(config, place), start=1):
            of = f", {member.encoder}" if config.member_encoders else ""
            print(f"\nmember    {number} of {config.members}, seed {member.seed}{of}", flush=True)
            members.append(_train_member(member, runtime, place))
        (place / "calibration.json").unlink(missing_ok=True)  # of members that trained less
        model = average_models([member.model for member in members])
        save_model(model, place / "model.keras")
        run = Run(place, config, model, {})
        return _finish(run, runtime, source, _together(members, place))


def _train_member(config, runtime, ensemble) -> Run:
    """One member: trained, trained further, or read if it is there already."""
    path = Path(config.run_dir)
    begun = (path / "config.json").exists()
    if begun:
        config = resumed_config(config)
        run = load_run(path) if (path / "metrics.json").exists() else None
        if run and run.metrics["training"]["epochs"] >= config.epochs:
            print("trained   already", flush=True)
            return run
    elif path.exists():
        shutil.rmtree(path)  # of one that was stopped at its very start
    source = open_source(config, ensemble if config.data else None)
    return _train_one(config, runtime, source, path if begun else None, ensemble)


def _together(members, place):
    """The facts of an ensemble's training: the sums, and what each member is."""
    rows = []
    for member in members:
        scores = next(iter(member.metrics["test"].values()))  # of digits the natural ones
        row = {"run": str(member.path.relative_to(place)), "seed": member.config.seed}
        row |= {"encoder": member.config.encoder, **member.metrics["training"]}
        rows.append(row | {name: scores[name] for name in ("accuracy", "rmse") if name in scores})
    sequences, seconds = (sum(row[what] for row in rows) for what in ("sequences", "seconds"))
    return {**_spent(sequences, seconds), "members": rows}


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


def _finish(run, runtime, source, facts, curves=None) -> Run:
    """Scores what was saved, and writes that down with the facts of the training."""
    if softmax_head(run.model):
        run = evaluation.calibrate(run)
    else:
        run = dataclasses.replace(run, model=load_model(run.path / "model.keras"))
    metrics = {
        "test": evaluation.score(run.model, source.tests(), source.task),
        "training": facts,
        "machine": _machine_facts(runtime),
    }
    write_text(run.path / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    _write_plots(run.path, {**(curves or {}), **_score_plots(metrics["test"], source.task)})
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


def _fit(learner, config, source, runtime, writer, checkpoint) -> None:
    """Trains from a checkpoint, or from the start, to the end."""
    model = runtime.fit_model(_trained_part(learner, config, source))
    compile_model(model, config, writer.objective)
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
    return {
        "epochs": len(writer.history),
        "best_epoch": 1 + (writer.best_epoch or 0),
        "kept_epoch": 1 + (writer.kept_epoch or 0),
        **_spent(writer.step * config.batch_size, writer.seconds),
    }


def _spent(sequences, seconds):
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


def _score_plots(tests, task):
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
