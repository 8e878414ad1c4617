"""What does it show, in words? Captions of a digit, of a sequence of digits, and of clips.

Each task has a vocabulary, and turns the target of an example, its digits or its class, into the
numbers of the tokens of its caption (`tokens`, also inside a TensorFlow graph).
"""

from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from keras_cnnlstm.tasks.clip_classes import Classes
from keras_cnnlstm.tasks.digit_task import Array
from keras_cnnlstm.tasks.digits import Digits, Label
from keras_cnnlstm.tasks.scores import caption_scores, caption_summary
from keras_cnnlstm.tasks.task import Task
from keras_cnnlstm.tasks.trends import Trend
from keras_cnnlstm.tasks.vocabulary import LONGEST, PADDING, START, Vocabulary, split
from keras_cnnlstm.utils.validation import as_array, check_instance, check_integer, short_repr

if TYPE_CHECKING:
    import keras

_ONES = (  # noqa: SIM905
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905


def number_word(number: int) -> str:
    """An integer from 0 to 99 in words.

    Raises:
        ValueError: if it is another one.

    Example:

    >>> number_word(7), number_word(42)
    ('seven', 'forty-two')
    """
    check_integer("number_word: `number`", number, 0, 99)
    if number < 20:
        return _ONES[number]
    ten, one = divmod(number, 10)
    return _TENS[ten - 2] + (f"-{_ONES[one]}" if one else "")


class CaptionTask(Task):
    """A task that asks for a caption: it has a `vocabulary` and turns targets into `tokens`."""

    models: ClassVar[tuple[str, ...]] = ("captioner",)
    output = "tokens"
    has_baselines = False
    question = "What does it show, in words?"

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens that are known."""
        raise NotImplementedError

    @classmethod
    def variant(cls, *, length: int | None, clips: bool) -> type[Task]:
        """The captions of clips, of single images, or of sequences of digits."""
        return ClipCaption if clips else DigitCaption if length == 1 else TrendCaption

    @property
    def max_tokens(self) -> int:
        """L, tokens of the longest caption, its end counted."""
        raise NotImplementedError

    def tokens(self, targets: Array, *, xp: ModuleType = np) -> Array:
        """The tokens of the captions for targets, `(B, L)` int32."""
        raise NotImplementedError

    @property
    def output_names(self) -> tuple[str, ...]:
        """The tokens, in the order of their numbers."""
        return self.vocabulary.names

    @property
    def num_outputs(self) -> int:
        """The size of the vocabulary."""
        return len(self.vocabulary)

    def output_sizes(self) -> tuple[int, ...]:
        """The size of the vocabulary, and `max_tokens`."""
        return (self.num_outputs, self.max_tokens)

    def head_options(self) -> dict[str, Any]:
        """None: a captioner has one head."""
        return {}

    def loss(self) -> "keras.losses.Loss":
        """The crossentropy of all tokens, without padding."""
        import keras

        return keras.losses.SparseCategoricalCrossentropy(
            ignore_class=PADDING, reduction="mean_with_sample_weight"
        )

    def metrics(self) -> "list[keras.metrics.Metric]":
        """The share of captions that are right in each token."""
        import keras

        from keras_cnnlstm.tasks.metrics import caption_accuracy

        return [keras.metrics.MeanMetricWrapper(caption_accuracy, name="accuracy")]

    def score(
        self, targets: np.ndarray, answers: np.ndarray, mask: np.ndarray | None = None
    ) -> dict[str, Any]:
        """The entries of `scores.caption_scores`, of tokens `(N, L)` that a `greedy_model` says."""
        return caption_scores(targets, answers, self.vocabulary.names)

    def summary(self, score: dict[str, Any]) -> str:
        """Accuracy of captions and of words, and BLEU."""
        return caption_summary(score)

    def constant_answers(self, targets: np.ndarray, mask: np.ndarray | None = None) -> None:
        """None: no caption is frequent."""
        return None


class _OfClasses(CaptionTask):
    """A task with a caption for each class: it has `captions` and a `vocabulary`."""

    captions: Any

    @property
    def max_tokens(self) -> int:
        """L, tokens of the longest caption, its end counted."""
        return self.table.shape[1]

    @cached_property
    def table(self) -> np.ndarray:
        """The tokens of each class, `(num_classes, L)` int32."""
        return _table(self.captions, self.vocabulary)

    def tokens(self, labels: Array, *, xp: ModuleType = np) -> Array:
        """The tokens for examples of these classes: `(B,)` integers -> `(B, L)` int32.

        Raises:
            ValueError: if `labels` are none of them (in NumPy).
        """
        if xp is np:
            labels = _checked_labels(type(self).__name__, labels, len(self.table))
        return xp.take(self.table, labels, axis=0)


class DigitCaption(_OfClasses, Label):
    """One image of a digit in tokens: "a seven".

    Args:
        length: 1, since there is one image.
        num_digits: digits are 0 to `num_digits - 1`; 2 to 100.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> DigitCaption().captions[7:9]
    ['a seven', 'an eight']
    """

    @property
    def captions(self) -> list[str]:
        """What is said of an image of each digit."""
        tokens = map(number_word, range(self.num_digits))
        return [f"{'an' if word.startswith('e') else 'a'} {word}" for word in tokens]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """All tokens of all captions."""
        return Vocabulary.of(self.captions)


@dataclass(frozen=True)
class ClipCaption(_OfClasses, Classes):
    """A clip in tokens: the class that a clip belongs to is one of some captions.

    Args:
        class_names: the captions, two or more, all different.
        length: T, frames of the longest clip; shorter ones are padded.
        min_length: frames of the shortest.
        vocabulary: the tokens that are known; by default those of all captions.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> task = ClipCaption(("it rises", "it falls"))
    >>> task.vocabulary.decode(task.tokens(np.array([1]))[0])
    'it falls'
    """

    can_balance = False

    vocabulary: Vocabulary = None  # type: ignore[assignment]  # filled in

    def __post_init__(self):
        super().__post_init__()
        if not all(0 < len(split(name)) < LONGEST for name in self.class_names):
            raise ValueError(
                f"ClipCaption: `class_names` must be captions of 1 to {LONGEST - 1} tokens and "
                f"punctuation marks; received {short_repr(self.class_names)}."
            )
        if self.vocabulary is None:
            object.__setattr__(self, "vocabulary", Vocabulary.of(self.class_names))
        check_instance("ClipCaption: `vocabulary`", self.vocabulary, Vocabulary, "a Vocabulary")

    @property
    def captions(self) -> tuple[str, ...]:
        """The captions, which are the classes."""
        return self.class_names

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The task that `get_config` described."""
        return cls(**{**config, "vocabulary": Vocabulary(**config["vocabulary"])})


class TrendCaption(CaptionTask, Trend):
    """A sequence of digits in tokens: "seven, three, eight: falling, then rising".

    Sequences are drawn as those of `Trend`.

    Args:
        length: T, digits in a sequence, 2 to 32.
        num_digits: digits are 0 to `num_digits - 1`; 2 to 100.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> task = TrendCaption(length=3)
    >>> task.vocabulary.decode(task.tokens(np.array([[7, 3, 8]]))[0])
    'seven, three, eight: falling, then rising'
    """

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """All tokens of all captions."""
        numbers = ", ".join(map(number_word, range(self.num_digits)))
        return Vocabulary.of([f"{numbers}:", *self._trends])

    @property
    def max_tokens(self) -> int:
        """L, tokens of the longest caption, its end counted: 5T - 4."""
        return 2 * self.length + self._tails.shape[1]

    @property
    def _trends(self):
        return [self.label_text(name) for name in self.class_names]

    @cached_property
    def _tails(self) -> np.ndarray:
        """The tokens of each trend, `(num_classes, 3T - 4)` int32."""
        return _table(self._trends, self.vocabulary)

    def targets(self, digits: Array, *, xp: ModuleType = np) -> Array:
        """What `tokens` describes: the digits themselves, as `Digits.targets` gives them."""
        return Digits(self.length, self.num_digits).targets(digits, xp=xp)

    def tokens(self, digits: Array, *, xp: ModuleType = np) -> Array:
        """The tokens that describe sequences of digits.

        Arguments and errors are those of `targets`.

        Returns:
            `(B, L)` int32, `END` after the last word and then `PADDING`.
        """
        trends = super().targets(digits, xp=xp)  # (B,)
        numbers = [self.vocabulary.encode(number_word(n), 2)[0] for n in range(self.num_digits)]
        said = xp.take(np.array(numbers), digits, axis=0)  # (B, T)
        _, comma, _, colon, _ = self.vocabulary.encode("x, x:", 5)
        marks = np.array([comma] * (self.length - 1) + [colon])
        marked = xp.stack([said, xp.zeros_like(said) + marks], axis=2)  # (B, T, 2)
        head = xp.reshape(marked, (-1, 2 * self.length))
        return xp.concatenate([head, xp.take(self._tails, trends, axis=0)], axis=1)


def shifted(tokens: Array, *, xp: ModuleType = np) -> Array:
    """What a captioner reads while it learns to say `tokens`: `START`, and each word but the last.

    Args:
        tokens: `(B, L)` int32.
        xp: array namespace, `numpy` or `tf.experimental.numpy`.

    Returns:
        `(B, L)` int32.
    """
    return xp.concatenate([xp.zeros_like(tokens[:, :1]) + np.int32(START), tokens[:, :-1]], axis=1)


def _checked_labels(task, labels, count):
    labels = as_array(f"{task}.tokens: `labels`", labels)
    whole = labels.ndim == 1 and labels.dtype.kind in "iu"
    if not whole or (labels.size and not 0 <= labels.min() <= labels.max() < count):
        raise ValueError(
            f"{task}.tokens: `labels` must be integers (B,), 0 to {count - 1}; received "
            f"{short_repr(labels)}."
        )
    return labels


def _table(captions, vocabulary):
    """The tokens of each caption, `(len(captions), L)` int32, as long as the longest needs."""
    longest = 1 + max(len(split(caption)) for caption in captions)
    return np.stack([vocabulary.encode(caption, longest) for caption in captions])
