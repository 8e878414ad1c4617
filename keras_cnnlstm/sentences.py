"""What is said of images: the words for a digit, for a sequence of them, and for clips.

Each task has a vocabulary, and turns what the data tells of an example, digits or a class, into the
numbers of the words that describe it (`words`).

NumPy only; `words` also runs inside a TensorFlow graph, with `xp=tf.experimental.numpy`.
"""

from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import numpy as np

from keras_cnnlstm.arguments import as_array, check_whole, told
from keras_cnnlstm.task_arguments import Array
from keras_cnnlstm.tasks import Classes, Digits, Label, Trend
from keras_cnnlstm.vocabulary import LONGEST, START, Vocabulary, split

_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def number_word(number: int) -> str:
    """A whole number from 0 to 99 in words.

    Raises:
        ValueError: if it is another one.

    Example:

    >>> number_word(7), number_word(42)
    ('seven', 'forty-two')
    """
    check_whole("number_word: `number`", number, 0, 99)
    if number < 20:
        return _ONES[number]
    ten, one = divmod(number, 10)
    return _TENS[ten - 2] + (f"-{_ONES[one]}" if one else "")


class _OfClasses:
    """A task with a sentence for each class: it has `sentences` and a `vocabulary`."""

    @property
    def max_words(self) -> int:
        """L, words of the longest sentence, its end counted."""
        return self.table.shape[1]

    @cached_property
    def table(self) -> np.ndarray:
        """The words of each class, `(num_classes, L)` int32."""
        return _table_of(self)

    def words(self, labels: Array, *, xp: ModuleType = np) -> Array:
        """The words for examples of these classes: `(B,)` integers -> `(B, L)` int32.

        Raises:
            ValueError: if `labels` are none of them (in NumPy).
        """
        if xp is np:
            labels = _checked_labels(type(self).__name__, labels, len(self.table))
        return xp.take(self.table, labels, axis=0)


class Caption(_OfClasses, Label):
    """One image of a digit in words: "a seven".

    Args:
        length: 1, since there is one image.
        num_digits: digits are 0 to `num_digits - 1`; 2 to 100.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> Caption().sentences[7:9]
    ['a seven', 'an eight']
    """

    @property
    def sentences(self) -> list[str]:
        """What is said of an image of each digit."""
        words = map(number_word, range(self.num_digits))
        return [f"{'an' if word.startswith('e') else 'a'} {word}" for word in words]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """All words of all sentences."""
        return Vocabulary.of(self.sentences)


@dataclass(frozen=True)
class Captions(_OfClasses, Classes):
    """A clip in words: the class that a clip belongs to is one of some sentences.

    Args:
        class_names: the sentences, two or more, all different.
        length: T, frames of the longest clip; shorter ones are padded.
        min_length: frames of the shortest.
        vocabulary: the words that are known; by default those of all sentences.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> task = Captions(("it rises", "it falls"))
    >>> task.vocabulary.decode(task.words(np.array([1]))[0])
    'it falls'
    """

    vocabulary: Vocabulary = None  # type: ignore[assignment]  # filled in

    def __post_init__(self):
        super().__post_init__()
        if not all(0 < len(split(name)) < LONGEST for name in self.class_names):
            raise ValueError(
                f"Captions: `class_names` must be sentences of 1 to {LONGEST - 1} words and "
                f"punctuation marks; received {told(self.class_names)}."
            )
        if self.vocabulary is None:
            object.__setattr__(self, "vocabulary", Vocabulary.of(self.class_names))
        if not isinstance(self.vocabulary, Vocabulary):
            raise ValueError(
                f"Captions: `vocabulary` must be a Vocabulary; received {told(self.vocabulary)}."
            )

    @property
    def sentences(self) -> tuple[str, ...]:
        """The sentences, which are the classes."""
        return self.class_names


class Sentence(Trend):
    """A sequence of digits in words: "seven, three, eight: falling, then rising".

    Sequences are drawn as those of `Trend`.

    Args:
        length: T, digits in a sequence, 2 to 32.
        num_digits: digits are 0 to `num_digits - 1`; 2 to 100.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> task = Sentence(length=3)
    >>> task.vocabulary.decode(task.words(np.array([[7, 3, 8]]))[0])
    'seven, three, eight: falling, then rising'
    """

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """All words of all sentences."""
        numbers = ", ".join(map(number_word, range(self.num_digits)))
        return Vocabulary.of([f"{numbers}:", *self._trends])

    @property
    def max_words(self) -> int:
        """L, words of the longest sentence, its end counted: 5T - 4."""
        return 2 * self.length + self._tails.shape[1]

    @property
    def _trends(self):
        return [name.replace("-", ", then ") for name in self.class_names]

    @cached_property
    def _tails(self) -> np.ndarray:
        """The words of each trend, `(num_classes, 3T - 4)` int32."""
        return _table(self._trends, self.vocabulary)

    def targets(self, digits: Array, *, xp: ModuleType = np) -> Array:
        """What `words` tells of: the digits themselves, as `Digits.targets` gives them."""
        return Digits(self.length, self.num_digits).targets(digits, xp=xp)

    def words(self, digits: Array, *, xp: ModuleType = np) -> Array:
        """The words that describe sequences of digits.

        Args:
            digits: `(B, T)` integers, 0 to `num_digits - 1`.
            xp: array namespace, `numpy` or `tf.experimental.numpy`.

        Returns:
            `(B, L)` int32, `END` after the last word and then `PADDING`.

        Raises:
            ValueError: if `digits` has another shape (or, in NumPy, dtype or range).
        """
        trends = super().targets(digits, xp=xp)  # (B,)
        numbers = [self.vocabulary.encode(number_word(n), 2)[0] for n in range(self.num_digits)]
        said = xp.take(np.array(numbers), digits, axis=0)  # (B, T)
        _, comma, _, colon, _ = self.vocabulary.encode("x, x:", 5)
        marks = np.array([comma] * (self.length - 1) + [colon])
        marked = xp.stack([said, xp.zeros_like(said) + marks], axis=2)  # (B, T, 2)
        head = xp.reshape(marked, (-1, 2 * self.length))
        return xp.concatenate([head, xp.take(self._tails, trends, axis=0)], axis=1)


Description = Caption | Captions | Sentence
"""Any task that asks for a sentence."""


def shifted(words: Array, *, xp: ModuleType = np) -> Array:
    """What a describer reads while it learns to say `words`: `START`, and each word but the last.

    Args:
        words: `(B, L)` int32.
        xp: array namespace, `numpy` or `tf.experimental.numpy`.

    Returns:
        `(B, L)` int32.
    """
    return xp.concatenate([xp.zeros_like(words[:, :1]) + np.int32(START), words[:, :-1]], axis=1)


def _checked_labels(task, labels, count):
    labels = as_array(f"{task}.words: `labels`", labels)
    whole = labels.ndim == 1 and labels.dtype.kind in "iu"
    if not whole or (labels.size and not 0 <= labels.min() <= labels.max() < count):
        raise ValueError(
            f"{task}.words: `labels` must be integers (B,), 0 to {count - 1}; received "
            f"{told(labels)}."
        )
    return labels


def _table_of(task):
    return _table(task.sentences, task.vocabulary)


def _table(sentences, vocabulary):
    """The words of each sentence, `(len(sentences), L)` int32, as long as the longest needs."""
    longest = 1 + max(len(split(sentence)) for sentence in sentences)
    return np.stack([vocabulary.encode(sentence, longest) for sentence in sentences])
