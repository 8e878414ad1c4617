"""All tasks by name. A task of your own is one more entry, before a run names it."""

from typing import Any

from keras_cnnlstm.tasks.captions import TrendCaption
from keras_cnnlstm.tasks.clip_classes import Classes
from keras_cnnlstm.tasks.clip_labels import ClipLabels
from keras_cnnlstm.tasks.clip_segments import ClipSegments
from keras_cnnlstm.tasks.clip_values import ClipValues
from keras_cnnlstm.tasks.digits import Digits, Label
from keras_cnnlstm.tasks.running_sum import RunningSum
from keras_cnnlstm.tasks.task import Task
from keras_cnnlstm.tasks.text import Text
from keras_cnnlstm.tasks.trends import Trend
from keras_cnnlstm.utils.validation import short_repr

TASKS: dict[str, type[Task]] = {
    "trend": Trend,
    "digits": Digits,
    "running_sum": RunningSum,
    "clip": Classes,
    "clip_labels": ClipLabels,
    "clip_values": ClipValues,
    "clip_segments": ClipSegments,
    "label": Label,
    "text": Text,
    "caption": TrendCaption,
}
"""Tasks by name, as `TrainConfig.task` and `--task` take them."""


def task_class(name: str, *, length: int | None = None, clips: bool = False) -> type[Task]:
    """The class of a task by its name.

    Args:
        name: a key of `TASKS`.
        length: T, if it is known.
        clips: whether it is asked of clips, not of digits.

    Raises:
        ValueError: if there is no such task.
    """
    if name not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}; received {short_repr(name)}.")
    return TASKS[name].variant(length=length, clips=clips)


def task_from_config(name: str, config: dict[str, Any]) -> Task:
    """The task that `Task.get_config` described.

    Raises:
        ValueError: if there is no such task, or it has other arguments.
    """
    clips = "class_names" in config
    try:
        return task_class(name, length=config.get("length"), clips=clips).from_config(config)
    except (TypeError, KeyError) as error:
        raise ValueError(f"task: the arguments do not fit {name}; {error}.") from error
