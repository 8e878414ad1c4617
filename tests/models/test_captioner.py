"""The captioner keeps the models' contract, computes what NumPy computes, and speaks well."""

import itertools
import math

import keras
import numpy as np
import pytest
from keras import layers
from oracles import sigmoid, softmax

from keras_cnnlstm.models.captioner import captioner
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.decoding import beam_search, greedy_model
from keras_cnnlstm.models.encoders import conv_pool
from keras_cnnlstm.tasks.vocabulary import END, PADDING, START

SMALL = (3, 8, 8, 1)  # (T, H, W, C)
FORMS = {
    "sequences": {},
    "sequences without attention": {"attention": False},
    "images": {"input_shape": (8, 8, 1)},
    "unequal lengths": {"lengths": True},
    "both directions": {"bidirectional": True, "lstm_units": (4, 3), "dropout": 0.2},
}


def small(vocabulary_size=7, max_tokens=4, **options):
    defaults = {"input_shape": SMALL, "lstm_units": (6,), "embedding": 5}
    options = defaults | {"encoder": conv_pool((3,))} | options
    return captioner(vocabulary_size=vocabulary_size, max_tokens=max_tokens, **options)


def outspoken(model, seed=0):
    """Gives a model random weights that make its answers differ from example to example."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 4 / w.shape[0] ** 0.5, w.shape) for w in model.get_weights()])
    # Centred, so that each word is the likeliest one somewhere.
    head, size = model.get_layer("next_token"), (50, model.output_shape[1])
    tokens = rng.integers(START, model.output_shape[2], size).astype(np.int32)
    head.bias.assign(head.bias - np.log(chances(model, inputs(model, 50), tokens)).mean((0, 1)))
    return model


def inputs(model, size=6, seed=0):
    """Inputs by name, without tokens: frames that are noise, and lengths."""
    rng, given = np.random.default_rng(seed), {t.name: t.shape for t in model.inputs}
    frames = rng.integers(0, 256, (size, *given["frames"][1:]), np.uint8)
    brightness = np.linspace(0, 1, size).reshape(size, *[1] * (frames.ndim - 1))
    found = {"frames": (frames * brightness).astype(np.uint8)}
    if "lengths" in given:
        found["lengths"] = rng.integers(1, given["frames"][1] + 1, size).astype(np.int32)
    return found


def greedy(model, given):
    """What the greedy model answers, as NumPy arrays."""
    answer = greedy_model(model)(given if len(given) > 1 else given["frames"])
    return {name: keras.ops.convert_to_numpy(value) for name, value in answer.items()}


def chances(model, given, tokens):
    """Probabilities of each word `(B, L, V)` when the right tokens so far are these `(B, L)`."""
    start = np.full((len(tokens), 1), START, np.int32)
    before = np.concatenate([start, tokens[:, :-1]], axis=1)
    return keras.ops.convert_to_numpy(model({**given, "tokens": before}))


def test_builds_for_the_reference_task():
    model = captioner()
    assert {t.name: t.shape for t in model.inputs} == {
        "frames": (None, 4, 28, 28, 1), "tokens": (None, 16)
    }  # fmt: skip
    assert model.output_shape == (None, 16, 20)
    assert model.name == "captioner"


def test_reads_with_the_layers_of_a_classifier():
    shapes = [
        {layer.name: [w.shape for w in layer.weights] for layer in model.layers if layer.weights}
        for model in (captioner(SMALL, lstm_units=(8, 6)), cnn_lstm(SMALL, lstm_units=(8, 6)))
    ]
    shared = [name for name, own in shapes[1].items() if shapes[0].get(name) == own]
    assert shared == ["conv1", "conv2", "lstm1", "lstm2"]


# Half precision in some forms alone, since each case compiles a model or two.
CASES = [(form, "float32") for form in FORMS]
CASES += [("both directions", "mixed_bfloat16"), ("sequences", "mixed_float16")]


@pytest.mark.parametrize(("form", "policy"), CASES, indirect=["policy"])
class TestContract:
    def test_answers_in_float32_and_differently_to_different_frames(self, form, policy):
        model = outspoken(small(**FORMS[form]))
        given = inputs(model)
        y = chances(model, given, np.full((6, 4), 5, np.int32))
        assert y.shape == (6, 4, 7)
        assert y.dtype == np.float32
        np.testing.assert_allclose(y.sum(axis=-1), 1, rtol=1e-5)
        assert y.std(axis=0).max() > 1e-3

    def test_speaks_the_likeliest_word_after_each_other(self, form, policy):
        model = outspoken(small(max_tokens=6, **FORMS[form]))
        given = inputs(model, 12)
        said = greedy(model, given)
        tokens, probabilities = said["tokens"], chances(model, given, said["tokens"])
        assert tokens.dtype == np.int32
        assert len({tuple(row) for row in tokens.tolist()}) > 1
        likeliest = probabilities[:, :, END:].argmax(axis=-1) + END
        for row, best, p, log in zip(
            tokens, likeliest, probabilities, said["log_probability"], strict=True
        ):
            length = row.tolist().index(END) + 1 if END in row else len(row)
            assert (row[length:] == PADDING).all()
            if policy == "float32":
                np.testing.assert_array_equal(row[:length], best[:length])
            truth = sum(math.log(p[t, row[t]]) for t in range(length))
            assert log == pytest.approx(truth, abs=1e-4 if policy == "float32" else 0.1)

    def test_saves_and_loads_equal_and_speaks_the_same(self, form, policy, tmp_path):
        model = outspoken(small(**FORMS[form]))
        model.save(tmp_path / "model.keras")
        given = inputs(model)
        tokens, said = np.full((6, 4), 4, np.int32), greedy(model, given)
        keras.utils.clear_session()  # names begin anew, as in the process that loads
        loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
        np.testing.assert_array_equal(chances(loaded, given, tokens), chances(model, given, tokens))
        np.testing.assert_array_equal(greedy(loaded, given)["tokens"], said["tokens"])


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"], indirect=True)
def test_learns_one_batch_by_heart_and_speaks_right_just_where_it_answers_right(policy):
    model = small(lstm_units=(32,), embedding=16)
    model.compile(
        keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(ignore_class=0)
    )
    given = inputs(model, 8)
    tokens = np.array([[4, 5, 3, 0], [5, 3, 0, 0], [6, 6, 6, 3], [4, 4, 3, 0]] * 2, np.int32)
    tokens[4:, 0] = [6, 4, 5, 6]
    before = np.concatenate([np.full((8, 1), START), tokens[:, :-1]], axis=1).astype(np.int32)
    speaker, seen = greedy_model(model), set()
    for step in range(400):
        model.train_on_batch({**given, "tokens": before}, tokens)
        if step % 20 == 19:
            likeliest = chances(model, given, tokens)[:, :, END:].argmax(axis=-1) + END
            right = ((likeliest == tokens) | (tokens == PADDING)).all(axis=1)
            said = keras.ops.convert_to_numpy(speaker(given["frames"])["tokens"])
            if policy == "float32":  # half precision rounds elsewhere, and may turn a near tie
                np.testing.assert_array_equal((said == tokens).all(axis=1), right)
            seen.add(int(right.sum()))
            if (said == tokens).all():
                break
    np.testing.assert_array_equal(said, tokens)
    assert len(seen) > 1  # on the way some were right and some were not


@pytest.fixture
def no_masks_handed_on(monkeypatch):
    """As in Keras after 3.15.1: no layer over time hands its mask on by itself."""
    for layer in (layers.TimeDistributed, layers.RNN, layers.Bidirectional, layers.Identity):
        monkeypatch.setattr(layer, "compute_mask", lambda self, *_: None)


@pytest.mark.usefixtures("no_masks_handed_on")
@pytest.mark.parametrize("attention", [True, False])
def test_words_come_as_numpy_computes_them(attention):
    model = outspoken(small(lengths=attention, attention=attention))
    given, tokens = inputs(model), np.random.default_rng(1).integers(3, 7, (6, 4)).astype(np.int32)
    names = ["first_h", "first_c", "seen" if attention else "lstm1"]
    parts = keras.Model(model.inputs, [model.get_layer(name).output for name in names])
    before = np.concatenate([np.full((6, 1), START), tokens[:, :-1]], axis=1).astype(np.int32)
    answers = keras.tree.flatten(parts({**given, "tokens": before}))
    h, c, seen, *_ = map(keras.ops.convert_to_numpy, answers)
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    (vectors,), (kernel, recurrent, bias) = weights["embedding"], weights["decoder"]
    expected = np.empty((6, 4, 7))
    for t in range(4):
        i, f, g, o = np.split(vectors[before[:, t]] @ kernel + h @ recurrent + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = y = sigmoid(o) * np.tanh(c)
        if attention:
            scores = np.einsum("bd,btd->bt", h @ weights["query"][0], seen)
            scores[np.arange(3) >= given["lengths"][:, None]] = -np.inf
            context = np.einsum("bt,btd->bd", softmax(scores), seen)
            kernel_a, bias_a = weights["attended"]
            y = np.tanh(np.concatenate([h, context], axis=1) @ kernel_a + bias_a)
        expected[:, t] = softmax(y @ weights["next_token"][0] + weights["next_token"][1])
    np.testing.assert_allclose(chances(model, given, tokens), expected, atol=1e-5)


@pytest.mark.usefixtures("no_masks_handed_on")
def test_padding_changes_no_word():
    model = outspoken(small(lengths=True, bidirectional=True))
    given = inputs(model)
    given["lengths"] = np.array([1, 2, 3, 1, 2, 3], np.int32)
    other = {**given, "frames": given["frames"].copy()}
    for row, length in zip(other["frames"], given["lengths"], strict=True):
        row[length:] = 255 - row[length:]
    for name, value in greedy(model, given).items():
        np.testing.assert_array_equal(greedy(model, other)[name], value)
    longer = {**given, "lengths": np.full(6, 3, np.int32)}
    assert not np.array_equal(greedy(model, longer)["log_probability"], value)


def test_any_number_of_frames():
    fixed, model = outspoken(small()), small(input_shape=(None, 8, 8, 1))
    model.set_weights(fixed.get_weights())
    three = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 1), np.uint8)
    np.testing.assert_allclose(
        greedy(model, {"frames": three})["log_probability"],
        greedy(fixed, {"frames": three})["log_probability"], rtol=1e-5,
    )  # fmt: skip
    assert greedy(model, {"frames": three[:, :2]})["tokens"].shape == (2, 4)


class TestBeamSearch:
    @pytest.mark.parametrize("form", FORMS)
    def test_one_beam_is_the_greedy_answer(self, form):
        model = outspoken(small(max_tokens=6, **FORMS[form]))
        given = inputs(model, 5)
        found, said = beam_search(model, **given, width=1), greedy(model, given)
        np.testing.assert_array_equal(found.tokens[:, 0], said["tokens"])
        np.testing.assert_allclose(found.log_probabilities[:, 0], said["log_probability"], 1e-5)

    def test_enough_beams_find_all_captions_in_order(self):
        model = outspoken(small(6, 4))  # two tokens and the end
        given = inputs(model, 3)
        found = beam_search(model, given["frames"], 40)
        captions = sorted(all_captions(4))
        assert len(captions) == 1 + 2 + 4 + 8 + 16
        for b in range(3):
            one = {"frames": np.repeat(given["frames"][b : b + 1], len(captions), axis=0)}
            p = chances(model, one, np.array(captions, np.int32))
            logs = [
                sum(math.log(p[i, t, word]) for t, word in enumerate(row) if word != PADDING)
                for i, row in enumerate(captions)
            ]
            order = np.argsort(logs)[::-1]
            np.testing.assert_allclose(
                found.log_probabilities[b, :31], np.array(logs)[order], atol=1e-4
            )
            assert sorted(map(tuple, found.tokens[b, :31].tolist())) == captions
            assert tuple(found.tokens[b, 0].tolist()) == captions[order[0]]
        assert (found.log_probabilities[:, 31:] == -np.inf).all()

    def test_more_beams_find_likelier_sentences(self):
        model = outspoken(small(9, 6), seed=3)
        frames = inputs(model, 40)["frames"]
        best = [beam_search(model, frames, w).log_probabilities[:, 0] for w in (1, 4, 200)]
        assert (best[1] > best[0] + 1e-3).any()
        assert (best[2] >= np.maximum(*best[:2]) - 1e-5).all()

    def test_what_is_refused(self):
        model, frames = small(), np.zeros((2, *SMALL), np.uint8)
        with pytest.raises(ValueError, match="beam_search: `width` must be an integer from 1"):
            beam_search(model, frames, 0)
        with pytest.raises(ValueError, match=r"uint8 of shape \(B, 3, 8, 8, 1\); received float32"):
            beam_search(model, frames.astype("float32"))
        with pytest.raises(ValueError, match=r"received uint8 of shape \(2, 2, 8, 8, 1\)"):
            beam_search(model, frames[:, 1:])
        with pytest.raises(ValueError, match="`lengths` must be None, as the model was"):
            beam_search(model, frames, lengths=np.array([1, 2]))
        with pytest.raises(ValueError, match="`lengths` must be given, as the model was"):
            beam_search(small(lengths=True), frames)


def all_captions(longest):
    """Every row of numbers that a vocabulary of two tokens allows."""
    for length in range(longest):
        for tokens in itertools.product((4, 5), repeat=length):
            yield (*tokens, END, *[PADDING] * (longest - length - 1))
    yield from itertools.product((4, 5), repeat=longest)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary_size": 4}, "`vocabulary_size` must be an integer from 5"),
        ({"max_tokens": 1}, "`max_tokens` must be an integer from 2"),
        ({"embedding": 0}, "`embedding` must be an integer from 1"),
        ({"lstm_units": ()}, r"one or more positive numbers, .*`lstm_units`.*received \(\)"),
        ({"dropout": 1}, r"`dropout` must be in \[0, 1\); received 1"),
        ({"input_shape": (28, 28)}, r"`input_shape` must be \(T, H, W, C\).*received \(28, 28\)"),
        (
            {"input_shape": (8, 8, 1), "lengths": True},
            "`lengths` must be off for single images; received True",
        ),
        ({"encoder": "none"}, "`encoder` must be one of .*; received 'none'"),
        (
            {"vocabulary_size": 1_000_000, "embedding": 10_000},
            "`vocabulary_size` must give a layer .* weights at most",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        captioner(**arguments)


@pytest.mark.parametrize("ask", [greedy_model, lambda model: beam_search(model, np.zeros(1))])
def test_what_is_no_captioner(ask):
    with pytest.raises(ValueError, match="`model` must be one that captioner built; received 'cnn"):
        ask(cnn_lstm(SMALL, 3, lstm_units=(4,)))
