"""Difference images and the two-stream encoder, against NumPy loops."""

import keras
import numpy as np
import pytest

from keras_cnnlstm.layers import Motion, TwoStream


def frames_of(shape=(2, 5, 4, 3, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype("uint8")


def by_hand(frames, lag):
    found = np.empty_like(frames[:, lag:])
    for t in range(lag, frames.shape[1]):
        before, after = frames[:, t - lag].astype(int), frames[:, t].astype(int)
        found[:, t - lag] = np.clip(np.round(127 + 1.5 * (after - before)), 0, 255)
    return found


@pytest.mark.parametrize("lag", [1, 2, 4])
@pytest.mark.parametrize("keep_frames", [False, True])
def test_each_frame_is_compared_with_the_one_lag_steps_before(lag, keep_frames):
    frames = frames_of()
    found = keras.ops.convert_to_numpy(Motion(lag, keep_frames)(frames))
    expected = by_hand(frames, lag)
    if keep_frames:
        expected = np.concatenate([frames[:, lag:], expected], axis=-1)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_a_still_scene_is_grey_and_a_change_has_its_sign():
    frames = np.full((1, 3, 1, 1, 1), 100, "uint8")
    frames[0, 2] = 110
    assert keras.ops.convert_to_numpy(Motion()(frames)).ravel().tolist() == [127, 142]


def test_any_number_of_frames():
    frames = keras.Input((None, 4, 3, 3), dtype="uint8")
    model = keras.Model(frames, Motion(2)(frames))
    for time in (3, 6):
        given = frames_of((2, time, 4, 3, 3))
        np.testing.assert_array_equal(model.predict_on_batch(given), by_hand(given, 2))


def test_both_streams_go_through_one_encoder(tmp_path):
    encoder = keras.Sequential([keras.Input((4, 3, 3)), keras.layers.Flatten()])
    encoder.add(keras.layers.Dense(7))
    images = frames_of((6, 4, 3, 6)).astype("float32")
    layer = TwoStream(encoder)
    halves = [keras.ops.convert_to_numpy(encoder(images[..., i : i + 3])) for i in (0, 3)]
    found = keras.ops.convert_to_numpy(layer(images))
    np.testing.assert_allclose(found, np.concatenate(halves, axis=1), rtol=1e-5)
    given = keras.Input((4, 3, 6))
    model = keras.Model(given, layer(given))
    assert model.output_shape == (None, 14)
    model.save(tmp_path / "two.keras")
    again = keras.saving.load_model(tmp_path / "two.keras", safe_mode=True)
    np.testing.assert_array_equal(again.predict_on_batch(images), model.predict_on_batch(images))
    assert len(layer.trainable_weights) == 2
    encoder.trainable = False
    assert not layer.trainable_weights
