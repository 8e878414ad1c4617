"""Temperatures against grids and known truths, calibration errors against hand-made cases."""

import json

import keras
import numpy as np
import pytest
from oracles import softmax

from keras_cnnlstm.models.baselines import bag_of_frames
from keras_cnnlstm.models.calibration import (
    Calibration,
    calibration_facts,
    expected_calibration_error,
    facts_as_text,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    scale_temperature,
    scaled,
    softmax_head,
)
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.scanning import crnn, scan_lstm


def drawn(count, sureness, seed=0):
    """Targets drawn from probabilities, and what a model says that is too sure by a factor."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 4)) * 2
    chances = softmax(logits).cumsum(axis=1)
    targets = (rng.random((count, 1)) > chances).sum(axis=1).clip(0, 3)
    return targets, softmax(sureness * logits)


@pytest.mark.parametrize("sureness", [0.4, 1.0, 3.0])
def test_the_temperature_is_by_how_much_the_model_is_too_sure(sureness):
    targets, probabilities = drawn(20_000, sureness)
    assert fit_temperature(targets, probabilities) == pytest.approx(sureness, rel=0.03)


def test_no_temperature_of_a_grid_is_more_likely():
    targets, probabilities = drawn(5_000, 2.0, seed=1)
    best = fit_temperature(targets, probabilities)
    losses = {
        t: negative_log_likelihood(targets, scaled(probabilities, t))
        for t in np.geomspace(0.1, 10, 400)
    }
    assert best == pytest.approx(min(losses, key=losses.get), rel=0.02)


def test_a_few_answers_all_right_do_not_make_the_model_certain():
    probabilities = np.array([[0.8, 0.2]] * 5)
    assert 0.5 < fit_temperature(np.zeros(5, int), probabilities) < 1


def test_answers_in_float32_have_the_temperature_of_those_in_float64():
    targets, probabilities = drawn(57, 0.01)  # of a model that hardly learned: no sharp optimum
    told = probabilities.astype(np.float32)
    assert scaled(told, 0.9).dtype == np.float64
    again = np.nextafter(told, np.float32(1))  # as another machine rounds it
    best = fit_temperature(targets, probabilities)
    assert fit_temperature(targets, told) == pytest.approx(best, rel=1e-5)
    assert fit_temperature(targets, again) == pytest.approx(best, rel=1e-5)


def test_scaling_probabilities_is_scaling_logits():
    logits = np.random.default_rng(0).normal(size=(50, 3, 7)) * 5
    np.testing.assert_allclose(scaled(softmax(logits), 2.5), softmax(logits / 2.5), rtol=1e-9)
    np.testing.assert_allclose(scaled(scaled(softmax(logits), 3), 1 / 3), softmax(logits))


def test_probabilities_of_zero_stay_numbers():
    assert scaled(np.array([1.0, 0.0]), 5).tolist() == pytest.approx([1, 0], abs=1e-6)


def test_reliability_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.93, 0.07], [0.4, 0.6], [0.5, 0.5], [1.0, 0.0]])
    points = reliability(np.array([0, 1, 1, 1, 0]), probabilities, bins=10)
    assert points == [
        {"confidence": 0.5, "accuracy": 0.0, "count": 1},  # an end belongs to the bin below it
        {"confidence": 0.6, "accuracy": 1.0, "count": 1},
        {"confidence": pytest.approx(0.96), "accuracy": pytest.approx(2 / 3), "count": 3},
    ]


def test_expected_calibration_error_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.93, 0.07], [0.4, 0.6], [0.5, 0.5], [1.0, 0.0]])
    error = expected_calibration_error(np.array([0, 1, 1, 1, 0]), probabilities, bins=10)
    assert error == pytest.approx((0.5 + 0.4 + 3 * (0.96 - 2 / 3)) / 5)


def test_a_calibrated_model_has_no_error_and_a_too_sure_one_has():
    assert expected_calibration_error(*drawn(50_000, 1.0)) < 0.01
    assert expected_calibration_error(*drawn(50_000, 3.0)) > 0.1


def test_the_facts_of_an_over_sure_model():
    targets, probabilities = drawn(20_000, 3.0)
    facts = calibration_facts(targets, probabilities, 3.0, 0.9)
    assert facts["calibration_error"] < 0.02 < 0.1 < facts["calibration_error_before"]
    assert facts["log_likelihood_loss"] < facts["log_likelihood_loss_before"]
    sure = scaled(probabilities, 3.0).max(axis=1) >= 0.9
    assert facts["share_sure"] == pytest.approx(sure.mean())
    right = probabilities.argmax(axis=1) == targets
    assert facts["accuracy_where_sure"] == pytest.approx(right[sure].mean())
    assert facts["accuracy_where_sure"] > 0.9
    assert f"{facts['share_sure']:.2%} of answers sure" in facts_as_text(facts)
    none = calibration_facts(targets, probabilities, 20.0, 1.0)
    assert none["share_sure"] == none["accuracy_where_sure"] == 0


@pytest.mark.parametrize("per_step", [False, True])
def test_a_scaled_model_answers_as_scaled_probabilities(per_step):
    keras.utils.set_random_seed(0)
    model = cnn_lstm((3, 8, 8, 1), 5, lstm_units=(6,), per_step=per_step)
    head = softmax_head(model)
    head.set_weights([weight * 9 for weight in head.get_weights()])
    frames = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8, 1), np.uint8)
    before = model.predict(frames, verbose=0)
    scale_temperature(model, 2.5)
    after = model.predict(frames, verbose=0)
    np.testing.assert_allclose(after, scaled(before, 2.5), atol=1e-6)
    np.testing.assert_array_equal(after.argmax(-1), before.argmax(-1))
    assert np.abs(after - before).max() > 0.01


def test_what_has_a_temperature_and_what_has_none():
    assert softmax_head(cnn_lstm((2, 8, 8, 1), 3)).name == "probabilities"
    assert softmax_head(scan_lstm((8, 8, 1), 3)).name == "probabilities"
    for model in (
        cnn_lstm((2, 8, 8, 1), 3, head="regression"),
        crnn((16, 32, 1), 3),
        bag_of_frames((2, 8, 8, 1), 3),
    ):
        assert softmax_head(model) is None
        with pytest.raises(ValueError, match="must answer with the softmax of a Dense layer; rec"):
            scale_temperature(model, 2.0)


def test_a_calibration_survives_its_file():
    calibration = Calibration(1.25, 0.9, {"num_answers": 10})
    assert Calibration.from_json(calibration.to_json()) == calibration


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "expected a JSON object of"),
        ("{", "expected a JSON object of"),
        ("[" * 100_000, "expected a JSON object of"),
        ('{"temperature": 1, "heat": 2}', "expected a JSON object of"),
        ('{"temperature": 0}', "`temperature` must be 0.05 to 20; received 0"),
        ('{"temperature": NaN}', "`temperature` must be 0.05 to 20; received nan"),
        ('{"temperature": "1"}', "`temperature` must be 0.05 to 20; received '1'"),
        (
            '{"temperature": 1, "confidence_threshold": 2}',
            "`confidence_threshold` must be 0 to 1",
        ),
        ('{"temperature": 1, "validation": 3}', "`validation` must be numbers by name"),
    ],
)
def test_a_strange_file_is_refused(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        Calibration.from_json(text)


def test_arguments_that_do_not_fit_together():
    with pytest.raises(ValueError, match=r"fit_temperature: .* must have the same N, 1 at least"):
        fit_temperature(np.array([0, 1]), np.array([[0.5, 0.5]]))
    with pytest.raises(ValueError, match="reliability: `targets` must be 0 to 1; received 2 to 2"):
        reliability(np.array([2]), np.array([[0.5, 0.5]]))
    with pytest.raises(ValueError, match=r"reliability: `bins` must be an integer from 1"):
        reliability(np.array([1]), np.array([[0.5, 0.5]]), bins=0)
    with pytest.raises(ValueError, match="scaled: `temperature` must be over 0; received 0"):
        scaled(np.array([0.5, 0.5]), 0)


def test_json_holds_the_facts():
    json.dumps(calibration_facts(*drawn(100, 1.0), 1.0, 0.5))
