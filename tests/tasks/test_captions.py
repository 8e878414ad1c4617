"""What is said of digits and clips is what a person would say, told by other means."""

import itertools

import numpy as np
import pytest

from keras_cnnlstm.tasks.captions import (
    ClipCaption,
    DigitCaption,
    TrendCaption,
    number_word,
    shifted,
)
from keras_cnnlstm.tasks.vocabulary import END, PADDING, START, Vocabulary

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def short_repr(digits):
    """The caption of some digits, by walking along them."""
    ways = ["rising" if b > a else "falling" for a, b in itertools.pairwise(digits) if a != b]
    turns = [way for way, _ in itertools.groupby(ways)]
    return f"{', '.join(WORDS[d] for d in digits)}: {', then '.join(turns) or 'constant'}"


@pytest.mark.parametrize("length", [2, 3, 4])
def test_every_sequence_is_told_as_a_person_would(length):
    task = TrendCaption(length)
    digits = np.array(list(itertools.product(range(10), repeat=length)))
    tokens = task.tokens(digits)
    assert tokens.shape == (10**length, task.max_tokens)
    assert tokens.dtype == np.int32
    vocabulary = task.vocabulary
    assert [vocabulary.decode(row) for row in tokens] == [short_repr(row) for row in digits]
    ends = (tokens == END).argmax(axis=1)
    assert all((row[end + 1 :] == PADDING).all() for row, end in zip(tokens, ends, strict=True))
    assert ends.max() == task.max_tokens - 1  # no longer than the longest needs


def test_words_in_a_graph_are_the_same():
    tf = pytest.importorskip("tensorflow")
    task, digits = TrendCaption(4), np.array([[7, 3, 8, 2], [1, 1, 1, 1]])
    xp = tf.experimental.numpy
    graph = tf.function(lambda x: shifted(task.tokens(x, xp=xp), xp=xp))
    np.testing.assert_array_equal(graph(tf.constant(digits)), shifted(task.tokens(digits)))


def test_digits_are_drawn_as_those_of_trends():
    task, uniforms = TrendCaption(4), np.random.default_rng(0).random((200, 6))
    digits = task.draw(uniforms, balance=1.0)
    np.testing.assert_array_equal(task.targets(digits), digits)
    constant = sum(short_repr(row).endswith(": constant") for row in digits)
    assert 10 < constant < 60  # one in seven, not one in a thousand


def test_one_image():
    task = DigitCaption()
    said = [task.vocabulary.decode(row) for row in task.tokens(np.arange(10))]
    assert said == [f"{'an' if word == 'eight' else 'a'} {word}" for word in WORDS]
    assert task.max_tokens == 3


def test_numbers_beyond_nine():
    tokens = [number_word(n) for n in range(100)]
    assert len(set(tokens)) == 100
    assert [tokens[n] for n in (0, 11, 18, 20, 42, 99)] == [
        "zero", "eleven", "eighteen", "twenty", "forty-two", "ninety-nine"
    ]  # fmt: skip
    assert DigitCaption(num_digits=12).captions[11] == "an eleven"


def test_a_learner_reads_the_words_before():
    tokens = np.array([[7, 8, END, PADDING]], np.int32)
    assert shifted(tokens).tolist() == [[START, 7, 8, END]]
    assert shifted(tokens).dtype == np.int32


def test_clips_have_sentences_of_their_own_and_words_may_be_unknown():
    known = Vocabulary.of(["it rises"])
    task = ClipCaption(("it falls slowly", "it rises"), 5, vocabulary=known)
    tokens = task.tokens(np.array([1, 0]))
    assert [known.decode(row) for row in tokens] == ["it rises", "it <unknown> <unknown>"]
    assert ClipCaption(("a b", "a c")).vocabulary.tokens == ("a", "b", "c")
    with pytest.raises(
        ValueError, match="ClipCaption: `vocabulary` must be a Vocabulary; received 7"
    ):
        ClipCaption(("a b", "a c"), vocabulary=7)


@pytest.mark.parametrize("length", [0, 33])
def test_lengths_out_of_range(length):
    with pytest.raises(ValueError, match="`length` must be 2 to 32 digits; received"):
        TrendCaption(length)
