"""Test-time averaging against SciPy's interpolation."""

import keras
import numpy as np
import pytest
from scipy.ndimage import affine_transform, shift

from keras_cnnlstm.export import export
from keras_cnnlstm.models import cnn_lstm
from keras_cnnlstm.predictors import open_predictor
from keras_cnnlstm.views import MOST_VIEWS, Views, average_views, neighbours

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
def test_each_view_is_that_of_scipy(move):
    plane = frames()[0, 0, :, :, 0].astype(float)
    places, weights = neighbours(move, *plane.shape)
    found = (plane.ravel()[places] * weights).sum(axis=1).reshape(plane.shape)
    np.testing.assert_allclose(found, moved(plane, move), atol=1e-4)


def test_a_shift_goes_down_and_to_the_right():
    plane = frames()[0, 0, :, :, 0].astype(float)
    places, weights = neighbours((0, 1, 1 / 12, 2 / 10), 12, 10)
    found = (plane.ravel()[places] * weights).sum(axis=1).reshape(plane.shape)
    np.testing.assert_allclose(found, shift(plane, (1, 2), order=0), atol=1e-4)


def test_views_of_all_frames_stand_one_after_the_other():
    from keras_cnnlstm.views import _MOVES

    x = frames()
    copies = keras.ops.convert_to_numpy(Views(MOST_VIEWS)(x)).reshape(MOST_VIEWS, *x.shape)
    assert copies.dtype == np.uint8
    np.testing.assert_array_equal(copies[0], x)
    for copy, move in zip(copies, _MOVES, strict=True):
        for b, t, c in np.ndindex(2, SHAPE[0], SHAPE[-1]):
            expected = moved(x[b, t, :, :, c].astype(float), move)
            np.testing.assert_allclose(copy[b, t, :, :, c], expected, atol=0.51)
    assert len(np.unique(copies.reshape(MOST_VIEWS, -1), axis=0)) == MOST_VIEWS


@pytest.mark.parametrize("options", [{}, {"per_step": True}, {"per_step": True, "head": "values"}])
@pytest.mark.parametrize("views", [2, MOST_VIEWS])
def test_the_answer_is_the_mean_of_those_to_each_view(views, options):
    one, x = model(**options), frames()
    copies = keras.ops.convert_to_numpy(Views(views)(x)).reshape(views, *x.shape)
    expected = np.mean([one(copy) for copy in copies], axis=0)
    found = average_views(one, views)
    np.testing.assert_allclose(found(x), expected, atol=1e-5)
    assert found.output_names == one.output_names
    assert found.inputs[0].name == "frames"


@pytest.mark.parametrize("options", [{}, {"per_step": True, "head": "values"}])
def test_of_unequal_lengths(options):
    one, x, lengths = model(lengths=True, **options), frames(), np.array([1, 3], "int32")
    copies = keras.ops.convert_to_numpy(Views(3)(x)).reshape(3, *x.shape)
    expected = np.mean([one({"frames": c, "lengths": lengths}) for c in copies], axis=0)
    mean, given = average_views(one, 3), {"frames": x, "lengths": lengths}
    np.testing.assert_allclose(mean(given), expected, atol=1e-5)
    mean.compile(loss="mse")  # which would take a mask of the views for one of the sequences
    loss = mean.evaluate(given, np.zeros_like(expected), verbose=0)
    assert loss == pytest.approx(np.square(expected).mean(), rel=1e-4)


def test_any_length():
    one = cnn_lstm((None, *SHAPE[1:]), 4, encoder="small_cnn")
    assert average_views(one)(frames()[:, :2]).shape == (2, 4)


def test_weights_are_shared_and_saved_with_it(tmp_path):
    one = model()
    whole = average_views(one, 3)
    one.set_weights([w + 0.1 for w in one.get_weights()])
    for a, b in zip(whole.weights, one.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    whole.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(loaded(frames()), whole(frames()), atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="export needs TensorFlow")
@pytest.mark.parametrize(
    "format",
    ["saved_model", *(pytest.param(f, marks=pytest.mark.slow) for f in ("litert", "onnx"))],
)
def test_it_can_be_exported(format, tmp_path):
    whole = average_views(model(), 3)
    done = export(whole, tmp_path / "out", format, class_names=list("abcd"))
    assert done.parity["max_difference"] <= 1e-5
    told = open_predictor(done.path).answer_frames(frames(1)[0])
    np.testing.assert_allclose(list(told["probabilities"].values()), whole(frames(1))[0], atol=1e-5)


@pytest.mark.parametrize(
    ("build", "views", "message"),
    [
        (model, 1, "`views` must be 2 to 7; received 1"),
        (model, 8, "`views` must be 2 to 7; received 8"),
        (
            lambda: model(initial_state=True),
            3,
            r"`model` must go from frames .* inputs \['frames', 'lstm1_c', 'lstm1_h'\] and 1",
        ),
        (lambda: model(return_state=True), 3, r".* inputs \['frames'\] and 3 outputs"),
    ],
)
def test_bad_arguments(build, views, message):
    with pytest.raises(ValueError, match=f"average_views: {message}"):
        average_views(build(), views)
