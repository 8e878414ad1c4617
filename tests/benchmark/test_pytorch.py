"""PyTorch's model is ours, what fails is left out, and we compare with the best variant."""

import math

import keras
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from keras_cnnlstm.benchmark import pytorch as module  # noqa: E402
from keras_cnnlstm.benchmark.models import random_batch  # noqa: E402
from keras_cnnlstm.benchmark.pytorch import (  # noqa: E402
    VARIANTS,
    against_torch,
    torch_cnn_lstm,
    torch_predict,
    torch_train,
)
from keras_cnnlstm.benchmark.timings import Settings  # noqa: E402
from keras_cnnlstm.models.cnn_lstm import cnn_lstm  # noqa: E402
from keras_cnnlstm.torch_weights.convert import load_torch  # noqa: E402

EAGER, LAST, COMPILED = VARIANTS
SMALL = Settings(2, (2,), 1)


def weights_of(module_):
    return {name: value.detach().numpy() for name, value in module_.state_dict().items()}


def test_the_same_answers_flattened_as_pytorch_does():
    frames, _ = random_batch(3, 4)
    theirs, ours = torch_cnn_lstm(), cnn_lstm()
    load_torch(ours, weights_of(theirs))
    with torch.inference_mode():
        expected = torch.softmax(theirs(torch.from_numpy(frames)), -1).numpy()
    np.testing.assert_allclose(ours.predict_on_batch(frames), expected, atol=1e-5)
    assert expected.std() > 1e-3


def test_channels_last_is_the_same_model_with_its_lstms_rows_permuted():
    frames = torch.from_numpy(random_batch(3, 4)[0])
    plain, last = torch_cnn_lstm(), torch_cnn_lstm(channels_last=True)
    weights = plain.state_dict()
    rows = weights["lstm.weight_ih_l0"].unflatten(1, (64, 7, 7)).permute(0, 2, 3, 1).flatten(1)
    last.load_state_dict(weights | {"lstm.weight_ih_l0": rows})
    assert last.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(last(frames), plain(frames), atol=1e-5, rtol=0)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="moves weights of two frameworks")
def test_a_train_step_is_the_one_of_keras():
    batch = random_batch(4, 2)
    theirs, ours = torch_cnn_lstm(), cnn_lstm((2, 28, 28, 1))
    load_torch(ours, weights_of(theirs))
    theirs.lstm.bias_hh_l0.requires_grad_(False)  # of two biases for one, each would be moved
    ours.compile(keras.optimizers.Adam(epsilon=1e-8), "sparse_categorical_crossentropy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "torch_cnn_lstm", lambda channels_last: theirs)
        step = torch_train(EAGER, *batch, "float32", "cpu")
    losses = []
    for _ in range(3):
        loss, last = step()
        ours.reset_metrics()  # or it returns the mean since the first
        losses.append((loss, ours.train_on_batch(*batch)))
    theirs_, ours_ = np.transpose(losses)
    assert theirs_[0] == pytest.approx(ours_[0], abs=1e-5)
    # Adam's epsilon is not at the same place, which shows where a gradient is next to nothing.
    assert theirs_ == pytest.approx(ours_, abs=2e-3)
    assert theirs_[0] - theirs_[-1] > 0.02
    assert last == pytest.approx(float(ours.get_weights()[-1][0]), abs=2e-4)


def test_half_precision_is_pytorchs_autocast():
    frames, targets = random_batch(2, 2)
    answers = torch_predict(EAGER, frames, targets, "mixed_bfloat16")()
    assert answers.dtype == np.float32
    with module._autocast("mixed_bfloat16", "cpu"):
        assert torch_cnn_lstm()(torch.from_numpy(frames)).dtype == torch.bfloat16
    loss, _ = torch_train(LAST, frames, targets, "mixed_bfloat16", "cpu")()
    assert math.isfinite(loss)


def test_a_variant_that_fails_is_left_out_and_the_best_of_the_others_compared(monkeypatch):
    def fail(variant, *_):
        def call():
            raise RuntimeError("no C++ compiler\nSet CXX.")

        return call if variant is COMPILED else lambda: None

    ours, eager, last = "keras_cnnlstm, float32", f"{EAGER.name}, float32", f"{LAST.name}, float32"
    seconds = {ours: [1.0, 1.0, 2.0], eager: [9.0, 9.0, 9.0], last: [2.0, 3.0, 3.0]}
    monkeypatch.setattr(module, "torch_predict", fail)
    monkeypatch.setattr(
        module, "interleaved", lambda calls, *_, **__: {c: seconds[c] for c in calls}
    )
    rows = module._compare(Settings(repeats=1), "float32", 2, 1, train=False)
    assert [row.name for row in rows[:3]] == [ours, eager, last]
    assert [row.value for row in rows[:4]] == [1, 9, 3, 2]
    best, missing = rows[3:]
    assert best.name == f"{ours}, against the best of PyTorch"
    assert (best.ratio, best.unit, best.remark) == (2, "times", f"as fast as {last}")
    assert math.isnan(missing.value)
    assert missing.name == f"{COMPILED.name}, float32"
    assert missing.remark == "left out: RuntimeError: no C++ compiler"


def test_both_compute_in_as_many_threads(monkeypatch):
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr(module, "num_threads", lambda: before + 1)
    monkeypatch.setattr(
        module, "_compare", lambda *_, **__: seen.append(torch.get_num_threads()) or []
    )
    against_torch(SMALL)
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_what_is_compared(monkeypatch):
    asked = []

    def compare(settings, policy, length, batch_size, *, train):
        asked.append((policy, length, batch_size, train))
        return []

    monkeypatch.setattr(module, "_compare", compare)
    monkeypatch.setattr(module, "policies", lambda: ("float32",))
    (row,) = against_torch(Settings(8, (4, 16)))
    assert math.isnan(row.value)
    assert asked == [
        ("float32", 4, 8, True), ("float32", 4, 8, False), ("float32", 4, 1, False),
        ("float32", 16, 8, True), ("float32", 16, 8, False),
    ]  # fmt: skip
    monkeypatch.setattr(module, "policies", lambda: ("float32", "mixed_bfloat16"))
    assert against_torch(Settings(8, (4, 16))) == []
    assert len(asked) == 15


def test_a_pytorch_without_the_gpu_is_left_out(monkeypatch):
    monkeypatch.setattr(module, "accelerator", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ImportError, match="this PyTorch cannot use a GPU"):
        against_torch(SMALL)


@pytest.mark.slow  # torch.compile takes a minute
@pytest.mark.filterwarnings("ignore")  # of its compiler
def test_a_real_run():
    rows = against_torch(SMALL)
    rows = [row for row in rows if row.section != "against PyTorch"]
    names = [(row.section, row.name) for row in rows]
    assert len(set(names)) == len(names)
    assert all(row.value > 0 for row in rows)
    assert any(COMPILED.name in row.name for row in rows)
