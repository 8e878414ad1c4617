"""Test-time augmentation against SciPy's interpolation."""

import keras
import numpy as np
import pytest
from oracles import assert_all_equal
from scipy.ndimage import affine_transform, shift

from keras_cnnlstm.export.exporter import export
from keras_cnnlstm.export.predictor import open_predictor
from keras_cnnlstm.layers.averaging import MOST_COPIES, TTACopies, neighbours
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.ensembles import with_test_time_augmentation

SHAPE = (3, 12, 10, 2)


def frames(batch=2):
    return np.random.default_rng(0).integers(0, 256, (batch, *SHAPE), np.uint8)


def model(**options):
    return cnn_lstm(SHAPE, 4, encoder="small_cnn", lstm_units=(5,), **options)


def moved(image, move):
    """A plane `(H, W)`, moved by SciPy."""
    degrees, zoom, down, right = move
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    centre = (np.array(image.shape) - 1) / 2
    offset = centre - turn @ (centre + np.array([down, right]) * image.shape)
    return affine_transform(image, turn, offset, order=1, mode="grid-constant")


@pytest.mark.parametrize(
    "move", [(0, 1, 0, 0), (5, 1, 0, 0), (0, 0.94, 0, 0), (0, 1, 0.02, -0.05), (-8, 1.1, 0.1, 0)]
)
def test_each_copy_is_that_of_scipy(move):
    plane = frames()[0, 0, :, :, 0].astype(float)
    places, weights = neighbours(move, *plane.shape)
    found = (plane.ravel()[places] * weights).sum(axis=1).reshape(plane.shape)
    np.testing.assert_allclose(found, moved(plane, move), atol=1e-4)


def test_a_shift_goes_down_and_to_the_right():
    plane = frames()[0, 0, :, :, 0].astype(float)
    places, weights = neighbours((0, 1, 1 / 12, 2 / 10), 12, 10)
    found = (plane.ravel()[places] * weights).sum(axis=1).reshape(plane.shape)
    np.testing.assert_allclose(found, shift(plane, (1, 2), order=0), atol=1e-4)


def test_copies_of_all_frames_stand_one_after_the_other():
    from keras_cnnlstm.layers.averaging import _MOVES

    x = frames()
    copies = keras.ops.convert_to_numpy(TTACopies(MOST_COPIES)(x)).reshape(MOST_COPIES, *x.shape)
    assert copies.dtype == np.uint8
    np.testing.assert_array_equal(copies[0], x)
    for copy, move in zip(copies, _MOVES, strict=True):
        for b, t, c in np.ndindex(2, SHAPE[0], SHAPE[-1]):
            expected = moved(x[b, t, :, :, c].astype(float), move)
            np.testing.assert_allclose(copy[b, t, :, :, c], expected, atol=0.51)
    assert len(np.unique(copies.reshape(MOST_COPIES, -1), axis=0)) == MOST_COPIES


@pytest.mark.parametrize(
    "options", [{}, {"per_step": True}, {"per_step": True, "head": "regression"}]
)
@pytest.mark.parametrize("count", [2, MOST_COPIES])
def test_the_answer_is_the_mean_of_those_to_each_copy(count, options):
    one, x = model(**options), frames()
    copies = keras.ops.convert_to_numpy(TTACopies(count)(x)).reshape(count, *x.shape)
    expected = np.mean([one(copy) for copy in copies], axis=0)
    found = with_test_time_augmentation(one, count)
    np.testing.assert_allclose(found(x), expected, atol=1e-5)
    assert found.output_names == one.output_names
    assert found.inputs[0].name == "frames"


@pytest.mark.parametrize("options", [{}, {"per_step": True, "head": "regression"}])
def test_of_unequal_lengths(options):
    one, x, lengths = model(lengths=True, **options), frames(), np.array([1, 3], "int32")
    copies = keras.ops.convert_to_numpy(TTACopies(3)(x)).reshape(3, *x.shape)
    expected = np.mean([one({"frames": c, "lengths": lengths}) for c in copies], axis=0)
    mean, given = with_test_time_augmentation(one, 3), {"frames": x, "lengths": lengths}
    np.testing.assert_allclose(mean(given), expected, atol=1e-5)
    mean.compile(loss="mse")  # which would take a mask of the copies for one of the sequences
    loss = mean.evaluate(given, np.zeros_like(expected), verbose=0)
    assert loss == pytest.approx(np.square(expected).mean(), rel=1e-4)


def test_any_length():
    one = cnn_lstm((None, *SHAPE[1:]), 4, encoder="small_cnn")
    assert with_test_time_augmentation(one)(frames()[:, :2]).shape == (2, 4)


def test_weights_are_shared_and_saved_with_it(reloaded):
    one = model()
    whole = with_test_time_augmentation(one, 3)
    one.set_weights([w + 0.1 for w in one.get_weights()])
    assert_all_equal(whole.weights, one.weights)
    loaded = reloaded(whole)
    np.testing.assert_allclose(loaded(frames()), whole(frames()), atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="export needs TensorFlow")
@pytest.mark.parametrize(
    "format",
    ["saved_model", *(pytest.param(f, marks=pytest.mark.slow) for f in ("litert", "onnx"))],
)
def test_it_can_be_exported(format, tmp_path):
    whole = with_test_time_augmentation(model(), 3)
    done = export(whole, tmp_path / "out", format, class_names=list("abcd"))
    assert done.parity["max_difference"] <= 1e-5
    told = open_predictor(done.path).answer_frames(frames(1)[0])
    np.testing.assert_allclose(list(told["probabilities"].values()), whole(frames(1))[0], atol=1e-5)


@pytest.mark.parametrize(
    ("build", "copies", "message"),
    [
        (model, 1, "`copies` must be 2 to 7; received 1"),
        (model, 8, "`copies` must be 2 to 7; received 8"),
        (
            lambda: model(initial_state=True),
            3,
            r"`model` must go from frames .* inputs \['frames', 'lstm1_c', 'lstm1_h'\] and 1",
        ),
        (lambda: model(return_state=True), 3, r".* inputs \['frames'\] and 3 outputs"),
    ],
)
def test_bad_arguments(build, copies, message):
    with pytest.raises(ValueError, match=f"with_test_time_augmentation: {message}"):
        with_test_time_augmentation(build(), copies)
