"""The words that sentences are made of, and their numbers.

A sentence is cut into words and the punctuation after them, and is put together again exactly. Each
word has a number; those below `END` are never said: `PADDING` fills up short sentences, `START`
stands before the first word, `UNKNOWN` for words that no sentence of the training had.

NumPy only. `join` needs nothing but the names, so that an exported model's answer can be told
without Keras.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_cnnlstm.arguments import as_array, check_names, check_whole, told

PADDING, START, UNKNOWN, END = range(4)
"""Numbers that stand for no word. Words are numbered from 4 on."""

SPECIAL = ("<padding>", "<start>", "<unknown>", "<end>")
"""Their names, by which a list of names is known to be a vocabulary."""

LONGEST = 1000
"""Words of a sentence at most, its end counted."""

_PUNCTUATION = ",.:;!?"
_TRAILING = re.compile(rf"([{re.escape(_PUNCTUATION)}]*)$")


@dataclass(frozen=True)
class Vocabulary:
    """Words by their numbers.

    Args:
        words: the words and punctuation marks, all different, as `split` cuts them.

    Raises:
        ValueError: if a word is empty, is there twice, or has the name of a special one.

    Example:

    >>> vocabulary = Vocabulary.of(["a seven", "an eight"])
    >>> vocabulary.words
    ('a', 'an', 'eight', 'seven')
    >>> vocabulary.encode("a seven", 5)
    array([4, 7, 3, 0, 0], dtype=int32)
    >>> vocabulary.decode([4, 7, 3, 0, 0])
    'a seven'
    """

    words: tuple[str, ...]

    def __post_init__(self):
        check_names("Vocabulary: `words`", self.words)
        object.__setattr__(self, "words", tuple(self.words))
        if len({*self.names, ""}) < len(self.names) + 1 or not self.words:
            raise ValueError(
                "Vocabulary: `words` must be one or more different words, none of them empty or "
                f"one of {', '.join(SPECIAL)}; received {told(self.words)}."
            )

    @classmethod
    def of(cls, sentences: Iterable[str]) -> "Vocabulary":
        """The vocabulary of some sentences: all of their words, in the order of their letters.

        Raises:
            ValueError: if these are no texts, or have no words.
        """
        what = "Vocabulary.of: `sentences`"
        try:
            listed: Any = sentences if isinstance(sentences, str) else list(sentences)
        except TypeError:  # nothing that goes on, or an array of no axis
            listed = sentences
        check_names(what, listed)
        return cls(tuple(sorted({word for sentence in listed for word in split(sentence)})))

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each number, those of `SPECIAL` first."""
        return (*SPECIAL, *self.words)

    def __len__(self) -> int:
        return len(SPECIAL) + len(self.words)

    def encode(self, sentence: str, max_words: int) -> np.ndarray:
        """The numbers of a sentence's words, then `END`, then `PADDING`.

        Args:
            sentence: the text; words that are not in the vocabulary become `UNKNOWN`.
            max_words: how many numbers, the `END` counted.

        Returns:
            `(max_words,)` int32.

        Raises:
            ValueError: if the sentence has no words, or too many.
        """
        check_whole("Vocabulary.encode: `max_words`", max_words, 2, LONGEST)
        words = split(sentence)
        if not 0 < len(words) < max_words:
            raise ValueError(
                f"Vocabulary.encode: `sentence` must have 1 to {max_words - 1} words and "
                f"punctuation marks; received {len(words)}: {told(sentence)}."
            )
        numbers = {word: number for number, word in enumerate(self.names)}
        encoded = np.full(max_words, PADDING, np.int32)
        encoded[: len(words)] = [numbers.get(word, UNKNOWN) for word in words]
        encoded[len(words)] = END
        return encoded

    def decode(self, numbers: Sequence[int] | np.ndarray) -> str:
        """The sentence of some numbers; see `join`."""
        return join(numbers, self.names)

    def to_json(self) -> str:
        """The words as a JSON list."""
        return json.dumps(self.words, indent=0, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Vocabulary":
        """Reads what `to_json` wrote.

        Raises:
            ValueError: if the text is no JSON list of different words.
        """
        try:
            words = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"Vocabulary: expected a JSON list of words; {error}.") from error
        return cls(words)


def split(sentence: str) -> list[str]:
    """Cuts a sentence into words and the punctuation after them.

    A punctuation mark that stands by itself keeps the space before it, so that nothing is lost.

    Args:
        sentence: the text; how wide its spaces are does not matter.

    Raises:
        ValueError: if it is no text.

    Example:

    >>> split("seven, three: falling")
    ['seven', ',', 'three', ':', 'falling']
    """
    if not isinstance(sentence, str):
        raise ValueError(f"split: `sentence` must be a text; received {told(sentence)}.")
    words = []
    for chunk in sentence.split():
        marks = _TRAILING.search(chunk).group()  # type: ignore[union-attr]  # matches any text
        word = chunk.removesuffix(marks) if marks else chunk
        words += [word, *marks] if word else [f" {marks[0]}", *marks[1:]]
    return words


def pieces(names: Sequence[str]) -> list[str]:
    """What each number of a vocabulary adds to a text: the word, with the space before it.

    The texts of all pieces one after the other, less a space at the start, are the sentence.
    Special numbers add nothing, but for `UNKNOWN`, which adds its name.

    Args:
        names: as `Vocabulary.names`.

    Raises:
        ValueError: if they are no names.
    """
    check_names("pieces: `names`", names)
    silent = {SPECIAL[number] for number in (PADDING, START, END)}
    alone = {*_PUNCTUATION, *(f" {mark}" for mark in _PUNCTUATION)}
    return ["" if n in silent else n if n in alone else f" {n}" for n in names]


def join(numbers: Sequence[int] | np.ndarray, names: Sequence[str]) -> str:
    """The sentence of some numbers, up to the first `END`.

    Args:
        numbers: `(L,)` integers.
        names: as `Vocabulary.names`.

    Raises:
        ValueError: if a number has no name.

    Example:

    >>> join([5, 4, 6, 3, 5], (*SPECIAL, ",", "seven", "three"))
    'seven, three'
    """
    check_names("join: `names`", names)
    numbers = as_array("join: `numbers`", numbers)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise ValueError(f"join: `numbers` must be integers (L,); received {told(numbers)}.")
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(names):
        raise ValueError(
            f"join: `numbers` must be 0 to {len(names) - 1}, each with a name; received "
            f"{numbers.min()} to {numbers.max()}."
        )
    said = pieces(names)
    ends = np.flatnonzero(numbers == END)
    text = "".join(said[n] for n in numbers[: ends[0] if ends.size else None])
    return text.removeprefix(" ")
