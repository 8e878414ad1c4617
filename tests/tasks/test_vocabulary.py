"""Captions are cut into tokens and put together again, exactly, whatever they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_cnnlstm.tasks.vocabulary import (
    END,
    PADDING,
    SPECIAL,
    START,
    UNKNOWN,
    Vocabulary,
    join,
    split,
)

TEXTS = st.lists(st.text("ab ,.:;!?é'\n\t-", min_size=1), min_size=1, max_size=6).map(" ".join)


@given(TEXTS | st.text())
def test_every_sentence_is_put_together_again(text):
    tokens = split(text)
    if not tokens:
        assert not text.strip()
        return
    vocabulary = Vocabulary.of([text])
    encoded = vocabulary.encode(text, len(tokens) + 3)
    assert vocabulary.decode(encoded) == " ".join(text.split())
    assert encoded[len(tokens) :].tolist() == [END, PADDING, PADDING]


def test_punctuation_after_a_word_is_a_word_by_itself():
    assert split("Seven, three:  isn't it?!") == [
        "Seven",
        ",",
        "three",
        ":",
        "isn't",
        "it",
        "?",
        "!",
    ]
    assert split("a : b ,c ...") == ["a", " :", "b", ",c", " .", ".", "."]


def test_numbers_of_words_by_hand():
    vocabulary = Vocabulary(("a", "cat", ","))
    assert (PADDING, START, UNKNOWN, END) == (0, 1, 2, 3)
    assert vocabulary.names == (*SPECIAL, "a", "cat", ",")
    assert len(vocabulary) == 7
    encoded = vocabulary.encode("a dog, a cat", 8)
    assert encoded.tolist() == [4, UNKNOWN, 6, 4, 5, END, 0, 0]
    assert encoded.dtype == np.int32
    assert vocabulary.decode(encoded) == "a <unknown>, a cat"
    assert vocabulary.decode([4, END, 5]) == "a"
    assert vocabulary.decode([]) == vocabulary.decode([END]) == ""


def test_stored_and_read_back():
    vocabulary = Vocabulary.of(["naïve, 平", "a, b"])
    assert vocabulary.tokens == (",", "a", "b", "naïve", "平")
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Vocabulary(()), "`tokens` must be one or more different tokens.*received"),
        (lambda: Vocabulary(("a", "a")), "different tokens.*received"),
        (lambda: Vocabulary(("a", "<end>")), "or one of <padding>, <start>, <unknown>, <end>"),
        (lambda: Vocabulary("abc"), "`tokens` must be a list or tuple of names; received 'abc'"),
        (lambda: Vocabulary(("a",)).encode("a a", 2), "1 to 1 tokens .* received 2: 'a a'"),
        (lambda: Vocabulary(("a",)).encode(" ", 2), "1 to 1 tokens .* received 0: ' '"),
        (lambda: Vocabulary(("a",)).encode("a", 1), "`max_tokens` must be an integer from 2"),
        (lambda: Vocabulary.from_json("[1]"), "`tokens` must be a list or tuple of names"),
        (lambda: Vocabulary.from_json("{"), "Vocabulary: expected a JSON list of tokens; "),
        (lambda: split(7), "split: `caption` must be a text; received 7"),
        (lambda: join([9], SPECIAL), "`numbers` must be 0 to 3, each with a name; received 9 to 9"),
        (lambda: join([[1]], SPECIAL), r"`numbers` must be integers \(L,\); received"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
