"""What a training minimises, and which metric picks its best epoch."""

from dataclasses import dataclass

import keras

from keras_cnnlstm.tasks.metrics import ClassRecall, SparseFocalCrossentropy
from keras_cnnlstm.tasks.task import Task
from keras_cnnlstm.utils.validation import check_instance


@dataclass(frozen=True)
class Objective:
    """The loss and the metrics of a task.

    Attributes:
        loss: the loss. Steps of weight 0 neither count nor dilute it.
        metrics: of training and validation, weighted like the loss; the first picks the best epoch.
        smaller_is_better: whether the best epoch has the smallest value of that metric.
    """

    loss: keras.losses.Loss
    metrics: list[keras.metrics.Metric]
    smaller_is_better: bool = False

    @property
    def metric(self) -> keras.metrics.Metric:
        """The metric that picks the best epoch."""
        return self.metrics[0]

    @property
    def recall(self) -> ClassRecall | None:
        """The metric with a recall of each class, if there is one."""
        return next((metric for metric in self.metrics if isinstance(metric, ClassRecall)), None)

    def better(self, value: float, best: float | None) -> bool:
        """Whether `value` beats the best so far."""
        return best is None or (value < best if self.smaller_is_better else value > best)


def objective_for(task: Task, *, focal: float = 0.0) -> Objective:
    """The loss and the metrics of a task, new ones at each call.

    Args:
        task: the task.
        focal: exponent of the focal loss in place of the task's own, for one class; 0 is off.

    Raises:
        ValueError: if `task` is not a task.
    """
    check_instance("objective_for: `task`", task, Task, "a task, such as Trend(4)")
    loss = SparseFocalCrossentropy(focal) if focal else task.loss()
    return Objective(loss, task.metrics(), task.smaller_is_better)
