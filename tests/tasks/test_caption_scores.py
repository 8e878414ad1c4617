"""Scores of captions, counted by hand and by an implementation of BLEU of its own."""

import math
from collections import Counter

import numpy as np
import pytest

from keras_cnnlstm.tasks.scores import caption_scores, caption_summary
from keras_cnnlstm.tasks.vocabulary import Vocabulary

TRUTHS = ["one, two: rising", "three, one: falling", "a cat sat", "two"]
ANSWERS = ["one, two: rising", "three, two: falling", "a cat", "two, two"]


def numbers(captions, vocabulary):
    return np.stack([vocabulary.encode(caption, 8) for caption in captions])


def scored(truths, answers):
    vocabulary = Vocabulary.of([*truths, *answers])
    names = vocabulary.names
    return caption_scores(numbers(truths, vocabulary), numbers(answers, vocabulary), names)


def bleu(truths, answers, order=4):
    """Papineni et al., 2002, equation 3, for one reference each."""
    precision, lengths = 0.0, [0, 0]
    for n in range(1, order + 1):
        found = total = 0
        for truth, answer in zip(truths, answers, strict=True):
            grams = [
                Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
                for tokens in (truth, answer)
            ]
            found += sum(min(count, grams[0][gram]) for gram, count in grams[1].items())
            total += sum(grams[1].values())
        precision += math.log(found / total) / order
    lengths = [sum(map(len, captions)) for captions in (truths, answers)]
    return 100 * math.exp(precision + min(0, 1 - lengths[0] / lengths[1]))


def test_scores_by_hand():
    result = scored(TRUTHS, ANSWERS)
    assert result["num_sequences"] == 4
    assert result["accuracy"] == 0.25
    low, high = result["accuracy_95"]
    z = 1.959963984540054  # Wilson, 1927
    centre, spread = (0.25 + z * z / 8) / (1 + z * z / 4), z / (1 + z * z / 4)
    spread *= math.sqrt(0.25 * 0.75 / 4 + z * z / 64)
    assert (low, high) == pytest.approx((centre - spread, centre + spread))
    # One substitution, one word left out, two put in; 14 tokens in the truth.
    assert result["word_accuracy"] == pytest.approx(1 - 4 / 14)
    spaced = [[s.replace(",", " ,").replace(":", " :") for s in x] for x in (TRUTHS, ANSWERS)]
    tokens = [[s.split() for s in x] for x in spaced]
    assert result["bleu"] == pytest.approx(bleu(*tokens), rel=1e-6)


def test_all_right_is_a_hundred_even_where_sentences_are_short():
    result = scored(["a six", "an eight"], ["a six", "an eight"])
    assert result["accuracy"] == result["word_accuracy"] == 1
    assert result["bleu"] == pytest.approx(100)


def test_a_word_that_nobody_could_know_is_wrong():
    vocabulary = Vocabulary(("a", "cat"))
    truth = vocabulary.encode("a dog", 4)[None]
    result = caption_scores(truth, vocabulary.encode("a cat", 4)[None], vocabulary.names)
    assert (result["accuracy"], result["word_accuracy"]) == (0, 0.5)


def test_what_comes_after_the_end_does_not_count():
    names = Vocabulary(("a", "b")).names
    result = caption_scores(np.array([[4, 3, 0, 0]]), np.array([[4, 3, 0]]), names)
    assert result["accuracy"] == 1


def test_on_one_line():
    text = caption_summary(scored(TRUTHS, ANSWERS))
    assert text.startswith("accuracy 25.00% of 4 sequences (95 % interval 4.56% to 69.94%), 71.43%")
    assert "of words, BLEU " in text


def test_what_does_not_fit_together():
    names = Vocabulary(("a", "b")).names
    with pytest.raises(ValueError, match=r"`tokens` must have shape \(N, any length\)"):
        caption_scores(np.array([[4, 3]]), np.array([[4, 3], [4, 3]]), names)
    with pytest.raises(ValueError, match=r"`tokens` must .* numbers of `names`, 0 to 5; received"):
        caption_scores(np.array([[4, 3]]), np.array([[9, 3]]), names)
