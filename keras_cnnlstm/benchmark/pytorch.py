"""The reference model in PyTorch, where it is installed, and in this package in the same process.

Both read the same uint8 frames from main memory and return their answers there. Both train with
Adam (each with its fused one) on the cross entropy. Both compute in the same number of threads.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from keras_cnnlstm.benchmark.machine import accelerator, num_threads, policies
from keras_cnnlstm.benchmark.models import (
    OURS,
    blocks_and_turns,
    compiled,
    predict_call,
    random_batch,
    step_section,
    train_call,
)
from keras_cnnlstm.benchmark.timings import (
    Call,
    Row,
    Settings,
    against_best,
    interleaved,
    left_out,
    median_row,
    ready_calls,
)


class Variant(NamedTuple):
    """A way to run the model in PyTorch."""

    name: str
    channels_last: bool = False
    compile: bool = False


VARIANTS = (
    Variant("PyTorch eager"),
    Variant("PyTorch channels_last", channels_last=True),
    Variant("PyTorch torch.compile, channels_last", channels_last=True, compile=True),
)


def torch_cnn_lstm(num_classes: int = 7, *, channels_last: bool = False):
    """The reference architecture as a `torch.nn.Module`, for frames of 28x28x1.

    Args:
        num_classes: classes of the answer.
        channels_last: convolve in that memory format, and flatten (H, W, C), not (C, H, W).

    Returns:
        A module from uint8 frames `(B, T, 28, 28, 1)` to logits `(B, num_classes)`.
    """
    import torch
    from torch import nn

    class CnnLstm(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(1, 32, 3, padding="same")
            self.conv2 = nn.Conv2d(32, 64, 3, padding="same")
            self.lstm = nn.LSTM(64 * 7 * 7, 128, batch_first=True)
            self.scores = nn.Linear(128, num_classes)

        def forward(self, frames):
            x = frames.flatten(0, 1).permute(0, 3, 1, 2).to(torch.float32) / 255  # (B*T, C, H, W)
            for conv in (self.conv1, self.conv2):
                x = nn.functional.max_pool2d(torch.relu(conv(x)), 2)
            x = x.permute(0, 2, 3, 1) if channels_last else x
            x = x.flatten(1).unflatten(0, frames.shape[:2])  # (B, T, 3136)
            return self.scores(self.lstm(x)[0][:, -1])

    module: Any = CnnLstm()
    return module.to(memory_format=torch.channels_last) if channels_last else module


def against_torch(settings: Settings) -> list[Row]:
    """Times the reference model in PyTorch and in this package, in turn.

    The first length is timed with a batch of 1 too.
    """
    import torch

    if accelerator() and not torch.cuda.is_available():
        raise ImportError(f"this PyTorch cannot use {accelerator()}")
    rows = []
    if policies() == ("float32",):
        why = "on this machine the precision auto is float32"
        rows.append(left_out("against PyTorch", "bfloat16 autocast", why))
    with _threads(num_threads()):
        for policy in policies():
            for length in settings.lengths:
                measure = partial(_compare, settings, policy, length)
                rows += measure(settings.batch_size, train=True)
                rows += measure(settings.batch_size, train=False)
                if length == settings.lengths[0] and settings.batch_size > 1:
                    rows += measure(1, train=False)
    return rows


def _compare(settings, policy, length, batch_size, *, train):
    """Rows of one comparison: of train steps or of inference, in one precision, at one size."""
    section = f"{step_section(batch_size, length, train=train)}, against PyTorch"
    batch, torch_call = random_batch(batch_size, length), torch_train if train else torch_predict
    device = "cuda" if accelerator() else "cpu"
    makers = {
        f"{variant.name}, {policy}": partial(torch_call, variant, *batch, policy, device)
        for variant in VARIANTS
    }
    theirs, missing = ready_calls(section, makers, settings.log)
    ours, model = f"{OURS}, {policy}", compiled(OURS, length, policy)
    calls = {ours: (train_call if train else predict_call)(model, *batch), **theirs}
    settings.log(f"{section}: measuring")
    block, turns = blocks_and_turns(length, settings.repeats)
    seconds = interleaved(calls, turns, block=block)
    rows = [median_row(section, name, s, remark=f"{turns} turns") for name, s in seconds.items()]
    return rows + against_best(section, seconds, [ours], theirs) + missing


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _module(variant, device):
    """The module, and what to call in its place."""
    import torch

    if variant.compile:
        torch.compiler.reset()  # PyTorch silently stops compiling after 8 models
    module = torch_cnn_lstm(channels_last=variant.channels_last).to(device)
    return module, torch.compile(module, dynamic=False) if variant.compile else module


def _autocast(policy, device):
    """PyTorch's own choice of half-precision operations; nothing in float32."""
    import torch

    if policy == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device, getattr(torch, policy.removeprefix("mixed_")))


def torch_train(
    variant: Variant, frames: np.ndarray, targets: np.ndarray, policy: str, device: str
) -> Call:
    """A call that trains on the batch once, and returns when the weights are updated.

    The policy has its name in Keras; the device is "cpu" or "cuda".
    """
    import torch

    module, forward = _module(variant, device)
    optimizer = torch.optim.Adam(module.parameters(), fused=True)
    last = module.scores.bias
    targets = targets.astype(np.int64)

    def step():
        optimizer.zero_grad()
        with _autocast(policy, device):
            logits = forward(torch.from_numpy(frames).to(device))
            loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets).to(device))
        loss.backward()
        optimizer.step()
        return loss.item(), last.detach()[0].item()

    return step


def torch_predict(
    variant: Variant,
    frames: np.ndarray,
    _: object = None,
    policy: str = "float32",
    device: str = "cpu",
) -> Call:
    """A call that answers the batch with probabilities, as a NumPy array; see `torch_train`."""
    import torch

    module, forward = _module(variant, device)
    module.eval()

    def predict():
        with torch.inference_mode(), _autocast(policy, device):
            logits = forward(torch.from_numpy(frames).to(device))
            return torch.softmax(logits.float(), -1).cpu().numpy()

    return predict
