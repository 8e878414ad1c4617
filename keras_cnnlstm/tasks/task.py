"""What every task answers for: the one class behind all that depends on what is asked.

A task is a small frozen object. It knows its targets, the head that a model for it needs, the loss,
the metrics, the scores and how one answer is written down. Training, evaluation, exports and the
page ask the task and never which task it is. A new task is a subclass in a file of its own and a
line in `tasks.registry.TASKS`.

NumPy only while it is imported; losses and metrics import Keras when they are asked for.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from keras_cnnlstm.tasks.answers import answer_dict
from keras_cnnlstm.tasks.linear import softmax_regression
from keras_cnnlstm.tasks.scores import class_summary, scores

if TYPE_CHECKING:
    import keras


class Task:
    """What is asked of a sequence of images.

    A subclass sets these class attributes; options are checked against them before there is data.

    Attributes:
        default_length: T, frames of the longest sequence where the options name none.
        lengths: the smallest and the largest T.
        variable_length: whether sequences may be shorter than T; the default of the shortest is
            then `default_min_length`.
        default_min_length: frames of the shortest sequence where the options name none; `None`
            means T.
        arrangement: how the frames reach the model: a "sequence" `(T, H, W, C)`, one "image"
            `(H, W, C)`, or a "strip" `(H, T*W, C)` of frames side by side.
        models: the architectures that can answer, by their names in `TrainConfig.model`.
        output: the name of the model's output: "probabilities" of classes, "label_probabilities",
            "values", "logits" (CTC) or "tokens".
        per_step: whether there is an answer at each step, `(B, T, ...)`, or one at the end.
        head: the head of a `cnn_lstm`: "probabilities", "multi_label" or "regression".
        answers_at_every_step: whether the beginnings of a sequence have an answer too, from which a
            model may learn (`at_every_step`).
        can_balance: whether sequences can be drawn so that each class is equally frequent.
        measure: the entry of `score` that matters most; its 95 % interval is `MEASURE_95`.
        measure_name: that number in words.
        measure_is_mean: whether the measure of many sequences is the mean of that of each, or the
            root of the mean square; macro F1 is not.
        smaller_is_better: whether a smaller measure, and a smaller first metric, is better.
        constant_answer_name: the answer of `constant_answers` in words.
        has_baselines: whether the model is compared with simpler answers (`linear_answers`, and of
            digits `exact_answers`).
        needs_labels: whether folders of clips are not enough, and a table has to say more of them.
        outputs_name: what the model has an output for each of.
        question: what is asked, as the page puts it.
        draws_digits: whether sequences are drawn from images of single digits.
        has_rule: whether an exact rule leads from the digits to the answer.
    """

    default_length: ClassVar[int] = 4
    lengths: ClassVar[tuple[int, int]] = (1, 32)
    variable_length: ClassVar[bool] = True
    default_min_length: ClassVar[int | None] = None
    arrangement: ClassVar[Literal["sequence", "image", "strip"]] = "sequence"
    models: ClassVar[tuple[str, ...]] = ("cnn_lstm",)
    output: ClassVar[
        Literal["probabilities", "label_probabilities", "values", "logits", "tokens"]
    ] = "probabilities"
    per_step: ClassVar[bool] = False
    head: ClassVar[Literal["probabilities", "multi_label", "regression"]] = "probabilities"
    can_balance: ClassVar[bool] = False
    answers_at_every_step: ClassVar[bool] = False
    measure: ClassVar[str] = "accuracy"
    measure_name: ClassVar[str] = "accuracy"
    measure_is_mean: ClassVar[bool] = True
    smaller_is_better: ClassVar[bool] = False
    constant_answer_name: ClassVar[str] = "Most frequent class"
    has_baselines: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    outputs_name: ClassVar[str] = "classes"
    question: ClassVar[str] = "What does it show?"
    draws_digits: ClassVar[bool] = False
    has_rule: ClassVar[bool] = False

    length: int
    min_length: Any  # int; of some tasks a property

    @classmethod
    def variant(cls, *, length: int | None, clips: bool) -> type["Task"]:
        """The class that is meant by this name for sequences of this length, of clips or digits."""
        return cls

    @property
    def classifies(self) -> bool:
        """Whether an answer is a probability for each class, of which one is right."""
        return self.output == "probabilities"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the outputs; none where the answers are numbers."""
        raise NotImplementedError

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the model's outputs: the classes, or the tokens of a vocabulary."""
        return self.class_names

    @property
    def num_outputs(self) -> int:
        """The size of the last axis of the model's output, without the blank of CTC."""
        return len(self.class_names)

    def output_sizes(self) -> tuple[int, ...]:
        """The sizes that the builder of a model takes behind the input shape."""
        return (self.num_outputs,)

    def head_options(self) -> dict[str, Any]:
        """Arguments of `cnn_lstm` for the head that the task needs."""
        return {"per_step": self.per_step, "head": self.head}

    @property
    def has_lengths(self) -> bool:
        """Whether models read the lengths of the sequences beside their frames."""
        return self.min_length != self.length

    def input_shape(self, frame_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """The model's input shape for frames `(H, W, C)`, as `arrangement` says."""
        height, width, channels = frame_shape
        if self.arrangement == "sequence":
            return (self.length, *frame_shape)
        return (height, width * self.length, channels)

    def loss(self) -> "keras.losses.Loss":
        """The loss. Steps of weight 0 neither count nor dilute it."""
        import keras

        return keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")

    def metrics(self) -> "list[keras.metrics.Metric]":
        """The metrics, new ones at each call; the first one picks the best epoch."""
        import keras

        from keras_cnnlstm.tasks.metrics import ClassRecall

        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        return [accuracy, ClassRecall(self.num_outputs)]

    def score(
        self, targets: np.ndarray, answers: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, Any]:
        """Scores answers.

        Args:
            targets: `(N, ...)`, as the task's batches hold them.
            answers: `(N, ...)`, as a model for the task gives them.
            mask: `(N, T)` boolean, the steps that count, if there is an answer at each step.

        Returns:
            A dict that JSON can hold, with `num_sequences`, `measure` and its interval.

        Here the entries of `scores.scores`, for a task with one class for each sequence.

        Raises:
            ValueError: if the arguments do not fit together.
        """
        return scores(targets, answers, self.class_names)

    def measured(
        self, targets: np.ndarray, answers: np.ndarray, mask: np.ndarray | None = None
    ) -> float:
        """The measure of `score` alone, for which a bootstrap asks thousands of times."""
        return self.score(targets, answers, mask)[self.measure]

    def summary(self, score: dict[str, Any]) -> str:
        """What `score` returned as a few lines of text."""
        return class_summary(score)

    def answer(
        self, row: np.ndarray, *, confidence_threshold: float | None = None
    ) -> dict[str, Any]:
        """One example's answer as a dict that JSON can hold; see `tasks.answers.answer_dict`."""
        return answer_dict(
            self.output, row, self.output_names, confidence_threshold=confidence_threshold
        )

    def target_answer(self, target: np.ndarray) -> dict[str, Any]:
        """One example's target as the dict that `answer` returns of a right answer."""
        return self.answer(self.perfect_answers(target[None])[0])

    def label_text(self, label: str) -> str:
        """The name of a class as a person says it."""
        return label

    def clip_target(self, clip: Any, frames: np.ndarray, rate: float | None) -> np.ndarray:
        """The target of a clip on disk; of tasks on clips alone.

        Here the number of the clip's class, `()` int64.

        Args:
            clip: a `data.Clip`, with its `class_name` and perhaps a `label`.
            frames: `(n,)`, the numbers of the frames that the model is shown, from 0.
            rate: frames per second of the clip; `None` of images, which have no time.
        """
        return np.asarray(self.class_names.index(clip.class_name), np.int64)

    def perfect_answers(self, targets: np.ndarray) -> np.ndarray:
        """What a model that makes no mistake would answer, `(N, ...)`, as `score` takes it."""
        return np.eye(self.num_outputs)[targets]

    def constant_answers(
        self, targets: np.ndarray, mask: np.ndarray | None = None
    ) -> np.ndarray | None:
        """The best answers that do not look at the frames, `(N, ...)`; `None` if there are none.

        Here the most frequent class of the targets for every sequence.
        """
        counted = targets if mask is None else targets[mask]
        most = np.bincount(counted.reshape(-1), minlength=self.num_outputs).argmax()
        return self.perfect_answers(np.full_like(targets, most))

    def linear_answers(
        self, fitted: tuple[np.ndarray, ...], x_test: np.ndarray, mask_test: np.ndarray
    ) -> np.ndarray:
        """What a linear model of the mean vector of each sequence answers, `(M, ...)`.

        Here that of a softmax regression; where each step has a class, it is fitted to all steps.

        Args:
            fitted: of the sequences to fit to the mean vectors `(N, F)`, the targets `(N, ...)`
                and the frames that count `(N, T)` boolean.
            x_test: `(M, F)`, the vectors to answer.
            mask_test: `(M, T)` boolean.
        """
        x, y, mask = fitted
        if not self.per_step:
            return softmax_regression(x, y, x_test, self.num_outputs)
        answers = softmax_regression(x[np.nonzero(mask)[0]], y[mask], x_test, self.num_outputs)
        return np.broadcast_to(answers[:, None], (*mask_test.shape, answers.shape[-1]))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON can hold them."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The task that `get_config` described.

        Raises:
            ValueError: if an argument is out of range.
        """
        return cls(**config)
