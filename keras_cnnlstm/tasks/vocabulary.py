"""The tokens that captions are made of, and their numbers.

A caption is cut into tokens and the punctuation after them, and is put together again exactly. Each
word has a number; those below `END` are never said: `PADDING` fills up short captions, `START`
stands before the first word, `UNKNOWN` for tokens that no caption of the training had.

NumPy only. `join` needs nothing but the names, so that an exported model's answer can be written
without Keras.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_cnnlstm.utils.validation import (
    as_array,
    check_instance,
    check_integer,
    check_names,
    short_repr,
)

PADDING, START, UNKNOWN, END = range(4)
"""Numbers that stand for no word. Tokens are numbered from 4 on."""

SPECIAL = ("<padding>", "<start>", "<unknown>", "<end>")
"""Their names, by which a list of names is known to be a vocabulary."""

LONGEST = 1000
"""Tokens of a caption at most, its end counted."""

_PUNCTUATION = ",.:;!?"
_TRAILING = re.compile(rf"([{re.escape(_PUNCTUATION)}]*)$")


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by their numbers.

    Args:
        tokens: the tokens and punctuation marks, all different, as `split` cuts them.

    Raises:
        ValueError: if a word is empty, is there twice, or has the name of a special one.

    Example:

    >>> vocabulary = Vocabulary.of(["a seven", "an eight"])
    >>> vocabulary.tokens
    ('a', 'an', 'eight', 'seven')
    >>> vocabulary.encode("a seven", 5)
    array([4, 7, 3, 0, 0], dtype=int32)
    >>> vocabulary.decode([4, 7, 3, 0, 0])
    'a seven'
    """

    tokens: tuple[str, ...]

    def __post_init__(self):
        check_names("Vocabulary: `tokens`", self.tokens)
        object.__setattr__(self, "tokens", tuple(self.tokens))
        if len({*self.names, ""}) < len(self.names) + 1 or not self.tokens:
            raise ValueError(
                "Vocabulary: `tokens` must be one or more different tokens, none of them empty or "
                f"one of {', '.join(SPECIAL)}; received {short_repr(self.tokens)}."
            )

    @classmethod
    def of(cls, captions: Iterable[str]) -> "Vocabulary":
        """The vocabulary of some captions: all of their tokens, in the order of their letters.

        Raises:
            ValueError: if these are no texts, or have no tokens.
        """
        what = "Vocabulary.of: `captions`"
        try:
            listed: Any = captions if isinstance(captions, str) else list(captions)
        except TypeError:  # nothing that goes on, or an array of no axis
            listed = captions
        check_names(what, listed)
        return cls(tuple(sorted({word for caption in listed for word in split(caption)})))

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each number, those of `SPECIAL` first."""
        return (*SPECIAL, *self.tokens)

    def __len__(self) -> int:
        return len(SPECIAL) + len(self.tokens)

    def encode(self, caption: str, max_tokens: int) -> np.ndarray:
        """The numbers of a caption's tokens, then `END`, then `PADDING`.

        Args:
            caption: the text; tokens that are not in the vocabulary become `UNKNOWN`.
            max_tokens: how many numbers, the `END` counted.

        Returns:
            `(max_tokens,)` int32.

        Raises:
            ValueError: if the caption has no tokens, or too many.
        """
        check_integer("Vocabulary.encode: `max_tokens`", max_tokens, 2, LONGEST)
        tokens = split(caption)
        if not 0 < len(tokens) < max_tokens:
            raise ValueError(
                f"Vocabulary.encode: `caption` must have 1 to {max_tokens - 1} tokens and "
                f"punctuation marks; received {len(tokens)}: {short_repr(caption)}."
            )
        numbers = {word: number for number, word in enumerate(self.names)}
        encoded = np.full(max_tokens, PADDING, np.int32)
        encoded[: len(tokens)] = [numbers.get(word, UNKNOWN) for word in tokens]
        encoded[len(tokens)] = END
        return encoded

    def decode(self, numbers: Sequence[int] | np.ndarray) -> str:
        """The caption of some numbers; see `join`."""
        return join(numbers, self.names)

    def to_json(self) -> str:
        """The tokens as a JSON list."""
        return json.dumps(self.tokens, indent=0, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Vocabulary":
        """Reads what `to_json` wrote.

        Raises:
            ValueError: if the text is no JSON list of different tokens.
        """
        try:
            tokens = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"Vocabulary: expected a JSON list of tokens; {error}.") from error
        return cls(tokens)


def split(caption: str) -> list[str]:
    """Cuts a caption into tokens and the punctuation after them.

    A punctuation mark that stands alone keeps the space before it, so that nothing is lost.

    Args:
        caption: the text; how wide its spaces are does not matter.

    Raises:
        ValueError: if it is no text.

    Example:

    >>> split("seven, three: falling")
    ['seven', ',', 'three', ':', 'falling']
    """
    check_instance("split: `caption`", caption, str, "a text")
    tokens = []
    for chunk in caption.split():
        marks = _TRAILING.search(chunk).group()  # type: ignore[union-attr]  # matches any text
        word = chunk.removesuffix(marks) if marks else chunk
        tokens += [word, *marks] if word else [f" {marks[0]}", *marks[1:]]
    return tokens


def pieces(names: Sequence[str]) -> list[str]:
    """What each number of a vocabulary adds to a text: the word, with the space before it.

    The texts of all pieces one after the other, less a space at the start, are the caption.
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
    """The caption of some numbers, up to the first `END`.

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
        raise ValueError(f"join: `numbers` must be integers (L,); received {short_repr(numbers)}.")
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(names):
        raise ValueError(
            f"join: `numbers` must be 0 to {len(names) - 1}, each with a name; received "
            f"{numbers.min()} to {numbers.max()}."
        )
    said = pieces(names)
    ends = np.flatnonzero(numbers == END)
    text = "".join(said[n] for n in numbers[: ends[0] if ends.size else None])
    return text.removeprefix(" ")
