"""A training run: from one `TrainConfig` to a directory with model, history, scores and plots.

`runs` says what lies in the directory.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.clip_source import ClipSource
from keras_cnnlstm.data.sources import open_source
from keras_cnnlstm.models.ensembles import average_models
from keras_cnnlstm.runtime.runtime import Runtime
from keras_cnnlstm.torch_weights.convert import Report, load_torch
from keras_cnnlstm.torch_weights.state_dict import read_state_dict
from keras_cnnlstm.training.build import build_model, check_encoders, model_options
from keras_cnnlstm.training.clip_defaults import suited
from keras_cnnlstm.training.fit import (
    build_learner,
    finish_run,
    print_start,
    resume_hint,
    run_lock,
    throughput,
    train_one,
)
from keras_cnnlstm.training.folds import (
    answers_of_fold,
    begin_folds,
    finish_folds,
    fold_configs,
    folds_begun,
)
from keras_cnnlstm.training.run_directory import (
    Run,
    load_run,
    new_run_dir,
    resumed_config,
    save_model,
)
from keras_cnnlstm.utils.environment import required
from keras_cnnlstm.utils.validation import as_path, check_instance


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
    check_instance("train: `config`", config, TrainConfig, "a TrainConfig")
    if resume:
        config = resumed_config(config)
    else:
        config, chosen = suited(config)
        config = config.resolved
        if chosen:
            print(f"chosen    {chosen}", flush=True)
    runtime = Runtime(config.precision, config.strategy)
    runtime.check_batch_size(config.batch_size or 1)
    _check_groups(config, runtime)
    model_options(config)  # refuses before there is a directory
    if config.tensorboard:
        required("tensorboard", extra="tensorboard")
    if runtime.num_workers > 1:
        _check_workers(config, runtime)
    place = Path(config.run_dir or "") if resume else None
    if config.folds:
        return _train_folds(config, runtime, place)
    # A run that was stopped at once may not have got as far as its split.
    split = place if place and (place / "split.csv").exists() else None
    if config.reads_clips and not place:
        check_encoders(config)  # before all clips are decoded
    source = open_source(config, split)
    config = dataclasses.replace(config, steps_per_epoch=source.steps_per_epoch)
    train_it = _train_members if config.ensemble else train_one
    return train_it(config, runtime, source, place)


def _train_members(config, runtime, source, place) -> Run:
    """Trains the members of an ensemble, each as a run of its own, and makes one model of them."""
    if runtime.num_workers > 1:
        raise ValueError(
            "ensemble must be left out where several workers train together; received "
            f"{config.ensemble}. Train each member with a seed of its own, and average them with "
            "evaluate --ensemble."
        )
    if place is None:
        # One of each encoder, so that what does not fit is refused before there is a directory.
        for member in {one.encoder: one for one in member_configs(config, Path())}.values():
            build_learner(member, runtime, source)
        place = new_run_dir(config)
    print_start(source, runtime)
    print(f"ensemble  {place}")
    with resume_hint(place), run_lock(place):
        source.save(place)
        members = []
        for number, member in enumerate(member_configs(config, place), start=1):
            of = f"{number} of {len(config.ensemble)}, seed {member.seed}, {member.encoder}"
            print(f"\nmember    {of}", flush=True)
            members.append(_train_member(member, runtime, place, split=place))
        (place / "calibration.json").unlink(missing_ok=True)  # of members that trained less
        model = average_models([member.model for member in members])
        save_model(model, place / "model.keras")
        run = Run(place, config, model, {})
        return finish_run(run, runtime, source, _together(members, place))


def _train_folds(config, runtime, place) -> Run:
    """Trains a model for each fold of the clips, as a run of its own, and scores them together."""
    if runtime.num_workers > 1:
        raise ValueError(
            "folds must be left out where several workers train together; received "
            f"{config.folds}. Train them on one machine."
        )
    source = None
    if place is None or not folds_begun(fold_configs(config, place)):
        source = ClipSource(config)
        first = source.folds()[0]
        build_learner(fold_configs(config, Path())[0], runtime, first)  # refuses what does not fit
        place = place or new_run_dir(config)
        print_start(source, runtime)
    print(f"folds     {place}")
    configs = fold_configs(config, place)
    with resume_hint(place), run_lock(place):
        if source:
            begin_folds(configs, source, place)
        runs, answers = [], []
        for number, fold in enumerate(configs, start=1):
            print(f"\nfold      {number} of {config.folds}", flush=True)
            run = _train_member(fold, runtime, place, split=Path(fold.run_dir or ""))
            answers.append(answers_of_fold(run))
            # Only a mean needs all models at once.
            runs.append(run if config.ensemble_folds else dataclasses.replace(run, model=None))
        facts = _together(runs, place)
        return finish_folds(config, runtime, place, runs, answers, facts)


def _train_member(config, runtime, ensemble, *, split) -> Run:
    """One member, or fold: trained, trained further, or read if it is there already."""
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
    source = open_source(config, split)
    return train_one(config, runtime, source, path if begun else None, ensemble)


def _together(members, place):
    """The facts of an ensemble's training: the sums, and what each member is."""
    rows = []
    for member in members:
        scores = next(iter(member.metrics["test"].values()))  # of digits the natural ones
        row = {"run": str(member.path.relative_to(place)), "seed": member.config.seed}
        row |= {"encoder": member.config.encoder, **member.metrics["training"]}
        rows.append(row | {name: scores[name] for name in ("accuracy", "rmse") if name in scores})
    sequences, seconds = (sum(row[what] for row in rows) for what in ("sequences", "seconds"))
    return {**throughput(sequences, seconds), "members": rows}


def _check_groups(config, runtime) -> None:
    """Sequences that exchange their frames must be on one device."""
    on_one = (config.batch_size or 1) // runtime.num_replicas
    if on_one % config.group:
        raise ValueError(
            f"batch_size must be a multiple of {config.group} on each device with --supervision "
            f"{config.supervision}; received {on_one} on each."
        )


def _check_workers(config, runtime) -> None:
    """Workers that train together must mean the same run."""
    if config.run_dir is None:
        raise ValueError(
            "run_dir: expected a directory that all workers can read, since several train "
            "together; received None."
        )
    runtime.check_same("the options", config.to_json())


def import_torch(
    file: str | Path, config: TrainConfig, *, ignore: str | Sequence[str] = ()
) -> tuple[Run, Report]:
    """Makes a run of a model that PyTorch trained, ready to evaluate, predict, stream and export.

    Args:
        file: the model's `state_dict` as `.safetensors`.
        config: the architecture that the weights belong to. It must scale images as the PyTorch
            model was fed them: to [0, 1], or to [-1, 1] in `scan_lstm` and `renet`.
        ignore: entries of the file to leave out, as `load_torch` takes them.

    Returns:
        The run without scores, and what went where.

    Raises:
        ValueError: if the file cannot be read, or its weights do not fit the model.
        FileNotFoundError: if there is no such file.
        FileExistsError: if the run directory exists.
        ConnectionError: if the data set, which says how large images are, cannot be had.
    """
    check_instance("import_torch: `config`", config, TrainConfig, "a TrainConfig")
    config, state_dict = config.resolved, read_state_dict(file)
    source = open_source(config)
    with Runtime("float32", "one-device").scope():
        model = build_model(config, source.task, source.frame_shape)
    report = load_torch(model, state_dict, ignore=ignore)
    path = new_run_dir(config)
    save_model(model, path / "model.keras")
    source.save(path)
    return Run(path, config, model, {}), report


def member_configs(config: TrainConfig, path: str | Path) -> list[TrainConfig]:
    """The options that each member of an ensemble is trained with, as a run of its own.

    Args:
        config: the options of the ensemble.
        path: its run directory; the members' are `members/1`, `members/2`, ... in it.

    Returns:
        For each encoder in `config.ensemble` the options of its member, with the next seed.
    """
    check_instance("member_configs: `config`", config, TrainConfig, "a TrainConfig")
    folder = as_path("member_configs: `path`", path) / "members"
    return [
        dataclasses.replace(
            config,
            ensemble=None,
            encoder=encoder,
            seed=config.seed + i,
            run_dir=str(folder / str(i + 1)),
        )
        for i, encoder in enumerate(config.ensemble or (config.encoder,))
    ]
