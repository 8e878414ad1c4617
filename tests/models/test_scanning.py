"""The architectures that read one image, against PyTorch, NumPy and brute-force CTC."""

import itertools

import keras
import numpy as np
import pytest
from oracles import lstm, predict, softmax

from keras_cnnlstm.models.scanning import BLANK, crnn, renet, scan_lstm
from keras_cnnlstm.tasks.metrics import read_text

SMALL = (6, 4, 2)  # (H, W, C)


def batch(shape=SMALL, size=5, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, *shape), np.uint8)


def randomised(model, seed=0):
    """The model with weights that make every part of it matter, biases included."""
    rng = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    return model


def both_ways(steps, forwards, backwards):
    """Two LSTMs over one sequence `(T, F)`, one from its end: `(T, 2*H)`."""
    there, back = lstm(steps, forwards)[0], lstm(steps[::-1], backwards)[0]
    return np.concatenate([there, back[::-1]], axis=1)


class TestScanLSTM:
    def twin(self, model, *arguments, **options):
        other = scan_lstm(*arguments, **options)
        other.set_weights(model.get_weights())
        return other

    @pytest.mark.parametrize("bidirectional", [False, True])
    def test_by_rows_is_by_columns_of_the_transposed_image(self, bidirectional):
        options = {"lstm_units": (5, 3), "bidirectional": bidirectional}
        rows = randomised(scan_lstm(SMALL, 3, by="rows", **options))
        columns = self.twin(rows, (4, 6, 2), 3, by="columns", **options)
        x = batch()
        y = predict(rows, x)
        np.testing.assert_allclose(predict(columns, x.swapaxes(1, 2)), y, atol=1e-6)
        assert np.abs(predict(rows, x[:, ::-1]) - y).max() > 1e-2

    @pytest.mark.parametrize(
        ("by", "size", "steps"),
        [
            ("rows", 2, lambda x: x.reshape(3, 16)),
            ("columns", 2, lambda x: np.stack([x[:, :2].ravel(), x[:, 2:].ravel()])),
            ("patches", 2, lambda x: np.stack([
                x[i : i + 2, j : j + 2].ravel() for i in (0, 2, 4) for j in (0, 2)
            ])),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("read", ["last", "all"])
    def test_equals_numpy(self, by, size, steps, read):
        model = randomised(scan_lstm(SMALL, 3, by=by, size=size, lstm_units=(4,), read=read))
        x = batch()
        *weights, kernel, bias = model.get_weights()
        outputs = [lstm(steps(image / 127.5 - 1), weights)[0] for image in x]
        seen = [y.ravel() if read == "all" else y[-1] for y in outputs]
        expected = softmax(np.array(seen) @ kernel + bias)
        np.testing.assert_allclose(predict(model, x), expected, rtol=1e-4, atol=1e-6)

    def test_each_answer_is_that_to_the_columns_so_far(self):
        options = {"lstm_units": (5, 3)}
        model, x = randomised(scan_lstm(SMALL, 3, per_step=True, **options)), batch()
        y = predict(model, x)
        assert y.shape == (5, 4, 3)
        for t in range(4):
            plain = self.twin(model, (6, t + 1, 2), 3, **options)
            np.testing.assert_allclose(y[:, t], predict(plain, x[:, :, : t + 1]), atol=1e-6)

    def test_states_go_on_in_the_lower_half_of_the_image(self):
        options = {"by": "rows", "lstm_units": (5, 3)}
        whole, x = randomised(scan_lstm(SMALL, 3, **options)), batch()
        expected = predict(whole, x)
        given = self.twin(whole, (3, 4, 2), 3, initial_state=True, return_state=True, **options)
        states = {name: np.zeros((5, s.shape[1])) for name, s in given.output.items()}
        del states["probabilities"]
        for half in (x[:, :3], x[:, 3:]):
            states = predict(given, {"frames": half, **states})
            found = states.pop("probabilities")
        np.testing.assert_allclose(found, expected, atol=1e-6)
        kept = scan_lstm((3, 4, 2), 3, stateful=True, batch_size=5, **options)
        for ours, weight in zip(kept.trainable_variables, whole.trainable_variables, strict=True):
            ours.assign(weight)
        predict(kept, x[:, :3])
        np.testing.assert_allclose(predict(kept, x[:, 3:]), expected, atol=1e-6)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"read": "first"}, "`read` must be 'last' or 'all'.*received 'first' with per_step=F"),
            ({"read": "all", "per_step": True}, "received 'all' with per_step=True"),
            ({"lstm_units": ()}, r"units must be one or more positive numbers.*received \(\)"),
            ({"by": "lines"}, "`by` must be one of rows, columns, patches; received 'lines'"),
            ({"size": 5}, "`size` must divide the image; received steps of 28x5 for 28x28"),
            ({"stateful": True}, "`stateful` needs a known batch size"),
        ],
    )
    def test_bad_arguments(self, options, message):
        with pytest.raises(ValueError, match=message):
            scan_lstm(**options)


def renet_by_hand(image, sweeps, size):
    """The maps `(H', W', 2*units)` after each layer of four sweeps, line by line."""
    x, layers_of_maps = image, []
    for down, up, right, left in sweeps:
        height, width = x.shape[0] // size, x.shape[1] // size
        patches = [
            [x[size * i : size * (i + 1), size * j : size * (j + 1)].ravel() for j in range(width)]
            for i in range(height)
        ]
        columns = []
        for j in range(width):
            column = np.array([patches[i][j] for i in range(height)])
            columns.append(both_ways(column, down, up))
        rows = []
        for i in range(height):
            row = np.array([column[i] for column in columns])
            rows.append(both_ways(row, right, left))
        x = np.array(rows)
        layers_of_maps.append(x)
    return layers_of_maps


class TestReNet:
    @pytest.mark.parametrize(
        ("shape", "units"), [((8, 8, 1), (3,)), ((8, 8, 1), (3, 2)), ((4, 6, 2), (3,))]
    )
    def test_equals_four_loops_over_the_patches(self, shape, units):
        model = randomised(renet(shape, 3, lstm_units=units, dense_units=(4,)))
        *weights, w1, b1, w2, b2 = model.get_weights()
        lstms = [weights[i : i + 3] for i in range(0, len(weights), 3)]
        sweeps = [lstms[i : i + 4] for i in range(0, len(lstms), 4)]
        x = batch(shape, 2)
        for image, found in zip(x, predict(model, x), strict=True):
            maps = renet_by_hand(image / 127.5 - 1, sweeps, 2)[-1]
            expected = softmax(np.maximum(0, maps.ravel() @ w1 + b1) @ w2 + b2)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)

    def test_each_position_has_seen_the_whole_image_after_both_sweeps(self):
        model = randomised(renet((8, 8, 1), 3, lstm_units=(3,)))
        names = ("vertical1", "horizontal1")
        maps = keras.Model(model.input, [model.get_layer(name).output for name in names])
        x = batch((8, 8, 1), 1)
        vertical, horizontal = predict(maps, x)
        for i, j in ((0, 0), (7, 3), (4, 6)):
            changed = x.copy()
            changed[0, i, j] ^= 255
            moved = predict(maps, changed)
            assert (np.abs(moved[1] - horizontal).max(axis=-1) > 1e-7).all()  # everywhere
            columns = np.abs(moved[0] - vertical).max(axis=(0, 2, 3)) > 1e-7
            assert np.flatnonzero(columns).tolist() == [j // 2]  # of the patch's column alone

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"input_shape": (28, 30, 1)}, "`size` must divide the image; received steps of 2x2"),
            ({"size": 3}, "`size` must divide the image; received steps of 3x3 for 28x28 pixels"),
            ({"size": 0}, "`size` must be a positive integer of pixels.*received 0"),
            ({"lstm_units": ()}, r"renet: units must be one or more.*received \(\)"),
            ({"lstm_units": (8, 0)}, r"renet: units must be one or more.*received \(8, 0\)"),
        ],
    )
    def test_bad_arguments(self, options, message):
        with pytest.raises(ValueError, match=message):
            renet(**options)


class TestCRNN:
    def test_the_first_two_poolings_halve_the_width_and_all_the_height(self):
        model = crnn((21, 30, 1), 3, filters=(2, 3, 4, 5))
        shapes = [model.get_layer(f"pool{i}").output.shape[1:3] for i in (1, 2, 3, 4)]
        assert shapes == [(10, 15), (5, 7), (2, 7), (1, 7)]
        assert model.output_shape == (None, 7, 4)
        assert crnn((8, 4, 1), 3).output_shape == (None, 1, 4)  # the least

    def test_each_step_is_a_column_of_the_maps(self):
        model = randomised(crnn((8, 12, 1), 3, filters=(4,), lstm_units=(5,)))
        assert model.output_shape == (None, 6, 4)
        x, names = batch((8, 12, 1)), ("relu1", "bidirectional1")
        parts = keras.Model(model.input, [model.get_layer(name).output for name in names])
        maps, read = predict(parts, x)  # (B, 4, 6, 4), (B, 6, 10)
        *lstms, kernel, bias = model.get_weights()[2:]
        for b, image in enumerate(maps):
            columns = np.array([image[:, t].ravel() for t in range(6)])
            expected = both_ways(columns, lstms[:3], lstms[3:])
            np.testing.assert_allclose(read[b], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(predict(model, x), read @ kernel + bias, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"input_shape": (7, 12, 1)},
                r"8 pixels high and 4 wide for 3 .*received \(7, 12, 1\)",
            ),
            ({"input_shape": (8, 3, 1)}, r"received \(8, 3, 1\)"),
            ({"input_shape": (2, 1, 1), "filters": (4,)}, "2 pixels high and 2 wide for 1 pooling"),
            ({"filters": ()}, r"crnn: units must be one or more.*received \(\)"),
            ({"lstm_units": (0,)}, r"units must be one or more.*received \(0,\)"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            crnn(**arguments)


def collapsed(path):
    """The characters that a row of classes stands for: repeats merged, blanks dropped."""
    return [c - 1 for c, _ in itertools.groupby(path) if c != BLANK]


class TestText:
    def test_equals_greedy_decoding_by_brute_force(self):
        logits = np.random.default_rng(0).normal(0, 1, (300, 7, 4)).astype("float32")
        read = keras.ops.convert_to_numpy(read_text(logits))
        assert (read.shape, str(read.dtype)) == ((300, 7), "int32")
        for path, found in zip(logits.argmax(axis=-1), read.tolist(), strict=True):
            text = collapsed(path)
            assert found == text + [-1] * (7 - len(text))
        lengths = (read >= 0).sum(axis=1)
        assert lengths.min() <= 1
        assert lengths.max() >= 6

    @pytest.mark.parametrize("text", [[], [0], [1], [0, 1], [0, 0], [1, 0, 1], [0, 1, 0, 1]])
    def test_ctc_sums_over_all_alignments(self, text):
        """The loss of Keras and the decoder here agree on what the classes stand for."""
        logits = np.random.default_rng(1).normal(0, 1, (4, 3)).astype("float32")  # (T, classes)
        shares = softmax(logits)
        likelihood = sum(
            np.prod(shares[np.arange(4), list(path)])
            for path in itertools.product(range(3), repeat=4)
            if collapsed(path) == text
        )
        target = np.array([[c + 1 for c in text] + [BLANK] * (4 - len(text))])
        loss = keras.losses.CTC(reduction=None)(target, logits[None])
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(loss), [-np.log(likelihood)], rtol=1e-4
        )
