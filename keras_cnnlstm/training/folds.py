"""A cross-validation of clips: each clip is tested once, by a model that has not seen it.

RUN/folds/1 ...      a run of its own for each fold, with its split, vocabulary and calibration
RUN/out_of_fold.csv  the answer to each clip, of the fold that tests it
RUN/metrics.json     `test`: the scores of all these answers; `folds`: those of each fold, their
                     mean and spread, and an interval
RUN/model.keras      the mean of the folds' models, if the options ask for it
"""

import csv
import dataclasses
import shutil
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.clip_source import ClipSource
from keras_cnnlstm.data.run_files import save_task
from keras_cnnlstm.models.decoding import answering_model
from keras_cnnlstm.models.ensembles import average_models
from keras_cnnlstm.tasks.answers import plain_text
from keras_cnnlstm.tasks.scores import grouped_interval
from keras_cnnlstm.tasks.task import Task
from keras_cnnlstm.training.fit import score_plots, trained_part, write_scores
from keras_cnnlstm.training.run_directory import Run, save_model
from keras_cnnlstm.training.scoring import (
    Answers,
    answers_of,
    joined,
    measure_interval,
    measures_of,
)
from keras_cnnlstm.utils.files import replacing, write_text
from keras_cnnlstm.utils.validation import as_path, check_instance


def fold_configs(config: TrainConfig, path: str | Path) -> list[TrainConfig]:
    """The options that each fold of a cross-validation is trained with, as a run of its own.

    Args:
        config: the options of the cross-validation.
        path: its run directory; the folds' are `folds/1`, `folds/2`, ... in it.
    """
    check_instance("fold_configs: `config`", config, TrainConfig, "a TrainConfig")
    folder = as_path("fold_configs: `path`", path) / "folds"
    alone = dataclasses.replace(config, folds=None, ensemble_folds=False)
    return [
        dataclasses.replace(alone, run_dir=str(folder / str(number)))
        for number in range(1, (config.folds or 1) + 1)
    ]


def folds_begun(configs: list[TrainConfig]) -> bool:
    """Whether each fold has its run directory."""
    return all((Path(one.run_dir or "") / "config.json").exists() for one in configs)


def begin_folds(configs: list[TrainConfig], source: ClipSource, place: Path) -> None:
    """Makes the run directory of each fold with its split and its task; none has trained yet."""
    source.save_lists(place)
    shutil.rmtree(place / "folds", ignore_errors=True)  # of one that was stopped at its very start
    for config, fold in zip(configs, source.folds(), strict=True):
        path = Path(config.run_dir or "")
        path.mkdir(parents=True)
        fold.save(path)
        config = dataclasses.replace(config, steps_per_epoch=fold.steps_per_epoch)
        write_text(path / "config.json", config.to_json())  # last: what lies there is whole


class FoldAnswers(NamedTuple):
    """What the model of a fold answers to the clips that it is tested with.

    Attributes:
        task: of the fold, with all that was fitted to its training clips.
        clips: name, class and group of each.
        answers: the answers, with the targets.
    """

    task: Task
    clips: list[tuple[str, str, str]]
    answers: Answers


def answers_of_fold(run: Run) -> FoldAnswers:
    """The answers of a fold's run to its test clips."""
    source = ClipSource(run.config, run.path)
    trained_part(run.model, run.config, source)  # reads what a frozen encoder made of the clips
    (batches,) = source.tests().values()
    answers = answers_of(answering_model(run.model), batches)
    clips = [
        (clip.name, clip.class_name, source.split.groups[clip.name]) for clip in source.split.test
    ]
    return FoldAnswers(source.task, clips, answers)


def finish_folds(config, runtime, place, runs, found: list[FoldAnswers], training) -> Run:
    """Writes the answers, the scores and perhaps the mean model of folds that have trained."""
    task = found[0].task
    _write_answers(place / "out_of_fold.csv", found)
    tests: dict[str, Any] = {}
    answers = _together(found)
    if answers:
        tests["out_of_fold"] = task.score(*answers)
    facts = _facts(task, found, answers, tests.get("out_of_fold"))
    if answers:
        facts |= _constant(task, answers)
    facts["summary"] = _summary(task, facts)
    model = None
    if config.ensemble_folds:
        model = average_models([run.model for run in runs])
        save_model(model, place / "model.keras")
        save_task(place, config, task)
    run = Run(place, config, model, {})
    metrics = {"test": tests, "folds": facts, "training": training}
    return write_scores(run, runtime, metrics, score_plots(tests, task) if tests else {})


def _together(found: list[FoldAnswers]) -> Answers | None:
    """The answers of all folds; `None` if each has words of its own."""
    if len({fold.task.output_names for fold in found}) > 1:
        return None
    return joined(fold.answers for fold in found)


def _write_answers(path, found):
    """A line for each clip: what it is, the fold, the answer, its probabilities, its measure."""
    task = found[0].task
    names = task.output_names if _each_probability(task) else ()
    measure = "correct" if task.classifies and not task.per_step else task.measure
    rows = [
        (*clip, number, *_cells(fold.task, answer), f"{value:g}")
        for number, fold in enumerate(found, start=1)
        for clip, answer, value in zip(
            fold.clips, fold.answers.answers, measures_of(fold.task, fold.answers), strict=True
        )
    ]
    head = [
        "clip",
        "class",
        "group",
        "fold",
        "answer",
        *(f"probability {n}" for n in names),
        measure,
    ]
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows([head, *sorted(rows)])


def _each_probability(task) -> bool:
    """Whether an answer is a probability for each name."""
    return task.output in ("probabilities", "label_probabilities") and not task.per_step


def _cells(task, row):
    """An answer as cells of a table: its text, then its probabilities."""
    text = plain_text(task.answer(row))
    return [text, *row.tolist()] if _each_probability(task) else [text]


def _facts(task, found, answers, score) -> dict[str, Any]:
    """The measure of each fold, their mean and spread, and that of all clips with its interval."""
    by_fold = [fold.task.score(*fold.answers)[task.measure] for fold in found]
    groups = [group for fold in found for _, _, group in fold.clips]
    if answers is None:
        measures = np.concatenate([measures_of(fold.task, fold.answers) for fold in found])
        all_clips, interval = float(measures.mean()), grouped_interval(measures, groups)
    else:
        all_clips = score[task.measure]
        interval = measure_interval(task, answers, groups)
    return {
        "measure": task.measure,
        "by_fold": by_fold,
        "mean": statistics.mean(by_fold),
        "standard_deviation": statistics.stdev(by_fold),
        "all_clips": all_clips,
        "interval_95": interval,
        "num_clips": len(groups),
        "num_groups": len(set(groups)),
    }


def _constant(task, answers):
    """The measure of the best answer that looks at no clip, if there is one."""
    constant = task.constant_answers(answers.targets, answers.mask)
    if constant is None:
        return {}
    return {"constant": task.score(*answers._replace(answers=constant))[task.measure]}


def _summary(task, facts):
    """The facts as a line of text."""
    share = not task.smaller_is_better
    factor, unit, digits = (100, " %", 1) if share else (1, "", 3)

    def text(value, digits=digits):
        return f"{factor * value:.{digits}f}"

    low, high = (text(value, 0 if share else digits) for value in facts["interval_95"])
    spread = f"{text(facts['mean'])}{unit} +- {text(facts['standard_deviation'])}"
    parts = [
        f"{task.measure_name}: mean {spread} over {len(facts['by_fold'])} folds",
        f"of all {facts['num_clips']:,} clips {text(facts['all_clips'])}{unit}",
        f"95 % interval {low} to {high}{unit} (bootstrap over {facts['num_groups']:,} groups)",
    ]
    if "constant" in facts:
        parts.append(f"{task.constant_answer_name.lower()} {text(facts['constant'])}{unit}")
    return "; ".join(parts)
