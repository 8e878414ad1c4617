"""PyTorch's model is ours; what fails is told; the best variant is the one we are held against."""

import math

import keras
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from keras_cnnlstm import benchmark_torch as module  # noqa: E402
from keras_cnnlstm.benchmark_models import random_batch  # noqa: E402
from keras_cnnlstm.benchmark_torch import (  # noqa: E402
    VARIANTS,
    against_torch,
    comparison_rows,
    torch_cnn_lstm,
)
from keras_cnnlstm.models import cnn_lstm  # noqa: E402
from keras_cnnlstm.torch_weights import load_torch  # noqa: E402

EAGER, LAST, COMPILED = VARIANTS


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
        step = module._train_call(EAGER, "float32", *batch)
    losses = []
    for _ in range(3):
        loss, last = step()
        ours.reset_metrics()  # or it tells the mean since the first
        losses.append((loss, ours.train_on_batch(*batch)))
    theirs_, ours_ = np.transpose(losses)
    assert theirs_[0] == pytest.approx(ours_[0], abs=1e-5)
    # Adam's epsilon is not at the same place, which tells where a gradient is next to nothing.
    assert theirs_ == pytest.approx(ours_, abs=2e-3)
    assert theirs_[0] - theirs_[-1] > 0.02
    assert last == pytest.approx(float(ours.get_weights()[-1][0]), abs=2e-4)


def test_half_precision_is_pytorchs_autocast():
    frames, targets = random_batch(2, 2)
    answers = module._predict_call(EAGER, "mixed_bfloat16", frames, targets)()
    assert answers.dtype == np.float32
    with module._autocast("mixed_bfloat16", "cpu"):
        assert torch_cnn_lstm()(torch.from_numpy(frames)).dtype == torch.bfloat16
    loss, _ = module._train_call(LAST, "mixed_bfloat16", frames, targets)()
    assert math.isfinite(loss)


def test_held_against_the_best_of_the_others():
    seconds = {"ours": [1.0, 1.0, 2.0], "slow": [9.0, 9.0, 9.0], "best": [2.0, 3.0, 3.0]}
    rows = comparison_rows("train", "ours", seconds)
    assert [row.name for row in rows] == [
        "ours",
        "slow",
        "best",
        "ours, against the best of PyTorch",
    ]
    assert [row.value for row in rows] == [1, 9, 3, 2]
    assert (rows[-1].ratio, rows[-1].unit, rows[-1].remark) == (2, "times", "as fast as best")
    assert [row.name for row in comparison_rows("train", "ours", {"ours": [1.0]})] == ["ours"]


def test_a_variant_that_fails_is_told(monkeypatch):
    def fail(variant, *_):
        def call():
            raise RuntimeError("no C++ compiler\nSet CXX.")

        return call if variant is COMPILED else lambda: None

    monkeypatch.setattr(module, "_predict_call", fail)
    rows = module._compare("float32", 2, 1, train=False, repeats=1, say=lambda text: None)
    assert math.isnan(rows[-1].value)
    assert rows[-1].name == f"{COMPILED[0]}, float32"
    assert rows[-1].remark == "left out: RuntimeError: no C++ compiler"
    assert [row.name for row in rows[:3]] == [
        "keras_cnnlstm, float32", f"{EAGER[0]}, float32", f"{LAST[0]}, float32",
    ]  # fmt: skip


def test_both_compute_in_as_many_threads(monkeypatch):
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr(module, "num_threads", lambda: before + 1)
    monkeypatch.setattr(
        module, "_compare", lambda *_, **__: seen.append(torch.get_num_threads()) or []
    )
    against_torch(batch_size=2, lengths=(2,), repeats=1, say=lambda text: None)
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_what_is_compared(monkeypatch):
    asked = []

    def compare(policy, length, batch_size, *, train, **_):
        asked.append((policy, length, batch_size, train))
        return []

    monkeypatch.setattr(module, "_compare", compare)
    monkeypatch.setattr(module, "auto_policy", lambda: "float32")
    (row,) = against_torch(batch_size=8, lengths=(4, 16), repeats=1, say=lambda text: None)
    assert math.isnan(row.value)
    assert asked == [
        ("float32", 4, 8, True), ("float32", 4, 8, False), ("float32", 4, 1, False),
        ("float32", 16, 8, True), ("float32", 16, 8, False),
    ]  # fmt: skip
    monkeypatch.setattr(module, "auto_policy", lambda: "mixed_bfloat16")
    assert against_torch(batch_size=8, lengths=(4, 16), repeats=1, say=lambda text: None) == []
    assert len(asked) == 15


def test_a_pytorch_without_the_gpu_is_left_out(monkeypatch):
    monkeypatch.setattr(module, "accelerator", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ImportError, match="this PyTorch cannot use a GPU"):
        against_torch(batch_size=2, lengths=(2,), repeats=1, say=lambda text: None)


@pytest.mark.slow  # torch.compile takes a minute
@pytest.mark.filterwarnings("ignore")  # of its compiler
def test_a_real_run():
    rows = against_torch(batch_size=2, lengths=(2,), repeats=1, say=lambda text: None)
    rows = [row for row in rows if row.section != "against PyTorch"]
    names = [(row.section, row.name) for row in rows]
    assert len(set(names)) == len(names)
    assert all(row.value > 0 for row in rows)
    assert any(COMPILED[0] in row.name for row in rows)
