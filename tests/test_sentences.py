"""What is said of digits and clips is what a person would say, told by other means."""

import itertools

import numpy as np
import pytest

from keras_cnnlstm.sentences import Caption, Captions, Sentence, number_word, shifted
from keras_cnnlstm.vocabulary import END, PADDING, START, Vocabulary

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def told(digits):
    """The sentence of some digits, by walking along them."""
    ways = ["rising" if b > a else "falling" for a, b in itertools.pairwise(digits) if a != b]
    turns = [way for way, _ in itertools.groupby(ways)]
    return f"{', '.join(WORDS[d] for d in digits)}: {', then '.join(turns) or 'constant'}"


@pytest.mark.parametrize("length", [2, 3, 4])
def test_every_sequence_is_told_as_a_person_would(length):
    task = Sentence(length)
    digits = np.array(list(itertools.product(range(10), repeat=length)))
    words = task.words(digits)
    assert words.shape == (10**length, task.max_words)
    assert words.dtype == np.int32
    vocabulary = task.vocabulary
    assert [vocabulary.decode(row) for row in words] == [told(row) for row in digits]
    ends = (words == END).argmax(axis=1)
    assert all((row[end + 1 :] == PADDING).all() for row, end in zip(words, ends, strict=True))
    assert ends.max() == task.max_words - 1  # no longer than the longest needs


def test_words_in_a_graph_are_the_same():
    tf = pytest.importorskip("tensorflow")
    task, digits = Sentence(4), np.array([[7, 3, 8, 2], [1, 1, 1, 1]])
    xp = tf.experimental.numpy
    graph = tf.function(lambda x: shifted(task.words(x, xp=xp), xp=xp))
    np.testing.assert_array_equal(graph(tf.constant(digits)), shifted(task.words(digits)))


def test_digits_are_drawn_as_those_of_trends():
    task, uniforms = Sentence(4), np.random.default_rng(0).random((200, 6))
    digits = task.draw(uniforms, balance=1.0)
    np.testing.assert_array_equal(task.targets(digits), digits)
    constant = sum(told(row).endswith(": constant") for row in digits)
    assert 10 < constant < 60  # one in seven, not one in a thousand


def test_one_image():
    task = Caption()
    said = [task.vocabulary.decode(row) for row in task.words(np.arange(10))]
    assert said == [f"{'an' if word == 'eight' else 'a'} {word}" for word in WORDS]
    assert task.max_words == 3


def test_numbers_beyond_nine():
    words = [number_word(n) for n in range(100)]
    assert len(set(words)) == 100
    assert [words[n] for n in (0, 11, 18, 20, 42, 99)] == [
        "zero", "eleven", "eighteen", "twenty", "forty-two", "ninety-nine"
    ]  # fmt: skip
    assert Caption(num_digits=12).sentences[11] == "an eleven"


def test_a_learner_reads_the_words_before():
    words = np.array([[7, 8, END, PADDING]], np.int32)
    assert shifted(words).tolist() == [[START, 7, 8, END]]
    assert shifted(words).dtype == np.int32


def test_clips_have_sentences_of_their_own_and_words_may_be_unknown():
    known = Vocabulary.of(["it rises"])
    task = Captions(("it falls slowly", "it rises"), 5, vocabulary=known)
    words = task.words(np.array([1, 0]))
    assert [known.decode(row) for row in words] == ["it rises", "it <unknown> <unknown>"]
    assert Captions(("a b", "a c")).vocabulary.words == ("a", "b", "c")
    with pytest.raises(ValueError, match="Captions: `vocabulary` must be a Vocabulary; received 7"):
        Captions(("a b", "a c"), vocabulary=7)


@pytest.mark.parametrize("length", [0, 33])
def test_lengths_out_of_range(length):
    with pytest.raises(ValueError, match="`length` must be 2 to 32 digits; received"):
        Sentence(length)
