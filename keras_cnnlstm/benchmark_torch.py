"""The reference model in PyTorch, where it is installed, beside this package's in one process.

Both read the same uint8 frames from main memory and answer there; both train by Adam (each by
its fused one) on the cross entropy. Both compute in as many threads.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from keras_cnnlstm.benchmark_machine import accelerator, auto_policy, num_threads
from keras_cnnlstm.benchmark_models import (
    OURS,
    blocks_and_turns,
    compiled,
    inference_section,
    left_out,
    predict_call,
    random_batch,
    train_call,
    train_section,
    warmed,
)
from keras_cnnlstm.timings import Row, against_row, interleaved, timing_row

Say = Callable[[str], object]
Variant = tuple[str, bool, bool]  # its name; channels last? compiled?

VARIANTS: tuple[Variant, ...] = (
    ("PyTorch eager", False, False),
    ("PyTorch channels_last", True, False),
    ("PyTorch torch.compile, channels_last", True, True),
)


def torch_cnn_lstm(num_classes: int = 7, *, channels_last: bool = False):
    """The reference architecture as a `torch.nn.Module`, for frames of 28x28x1.

    Args:
        num_classes: classes of the answer.
        channels_last: convolve in that memory format, and flatten (H, W, C), not (C, H, W).

    Returns:
        A module from uint8 frames `(B, T, 28, 28, 1)` to logits `(B, num_classes)`.

    Raises:
        ImportError: if PyTorch is not installed.
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


def against_torch(*, batch_size: int, lengths: Sequence[int], repeats: int, say: Say) -> list[Row]:
    """Times the reference model in PyTorch and in this package, in turn.

    Args:
        batch_size: B, sequences in a batch; the first length is timed with a batch of 1 too.
        lengths: T, frames in a sequence, of each comparison.
        repeats: turns of each comparison, as `benchmark_models.blocks_and_turns` takes them.
        say: told what is being done.

    Returns:
        A row for each variant, and one of this package against the best of them. A variant that
        does not run here has a row without a figure, which says why.

    Raises:
        ImportError: if PyTorch is not installed.
    """
    import torch

    if accelerator() and not torch.cuda.is_available():
        raise ImportError(f"this PyTorch cannot use {accelerator()}")
    rows = []
    policies = tuple(dict.fromkeys(("float32", auto_policy())))
    if len(policies) < 2:
        why = f"{policies[0]} is what auto picks on this machine"
        rows.append(left_out("against PyTorch", "bfloat16 autocast", why))
    with _threads(num_threads()):
        for policy in policies:
            for length in lengths:
                measure = partial(_compare, policy, length, repeats=repeats, say=say)
                rows += measure(batch_size, train=True) + measure(batch_size, train=False)
                if length == lengths[0] and batch_size > 1:
                    rows += measure(1, train=False)
    return rows


def _compare(policy, length, batch_size, *, train, repeats, say):
    """Rows of one comparison: of train steps or of inference, in one precision, at one size."""
    batch = random_batch(batch_size, length)
    title = (train_section if train else inference_section)(batch_size, length)
    section = f"{title}, against PyTorch"
    model = compiled(OURS, length, policy)
    ours = f"{OURS}, {policy}"
    calls, missing = {ours: (train_call if train else predict_call)(model, *batch)}, []
    for variant in VARIANTS:
        name = f"{variant[0]}, {policy}"
        call = (_train_call if train else _predict_call)(variant, policy, *batch)
        try:
            warmed(section, {name: call}, say)
        except Exception as error:  # of whatever kind: a compiler that is not there, or fails
            why = str(error).strip().partition("\n")[0]
            missing.append(left_out(section, name, f"{type(error).__name__}: {why}"))
        else:
            calls[name] = call
    block, turns = blocks_and_turns(length, repeats)
    say(f"{section}: measuring")
    seconds = interleaved(calls, turns, block=block)
    return comparison_rows(section, ours, seconds) + missing


def comparison_rows(section: str, ours: str, seconds: dict[str, list[float]]) -> list[Row]:
    """Rows of all variants, and one of ours against the best of the others.

    Args:
        section: of the rows.
        ours: the name of this package's among `seconds`.
        seconds: of one call, one for each turn, by name.
    """
    rows = [timing_row(section, name, s, remark=f"{len(s)} turns") for name, s in seconds.items()]
    others = {name: s for name, s in seconds.items() if name != ours}
    if not others:
        return rows
    best = min(others, key=lambda name: np.median(others[name]))
    return [*rows, against_row(section, ours, seconds[ours], (best, others[best]))]


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _module(variant):
    import torch

    _, channels_last, compile_ = variant
    device = "cuda" if accelerator() else "cpu"
    if compile_:
        torch.compiler.reset()  # it gives up, in silence, on what it has compiled 8 times
    module = torch_cnn_lstm(channels_last=channels_last).to(device)
    return module, torch.compile(module, dynamic=False) if compile_ else module, device


def _autocast(policy, device):
    """Half precision where it pays, as PyTorch chooses it; nothing in float32."""
    import torch

    if policy == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device, getattr(torch, policy.removeprefix("mixed_")))


def _train_call(variant, policy, frames, targets):
    """A call that trains on the batch once, and returns when the weights are the new ones."""
    import torch

    module, forward, device = _module(variant)
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


def _predict_call(variant, policy, frames, _):
    """A call that answers the batch with probabilities, as a NumPy array."""
    import torch

    module, forward, device = _module(variant)
    module.eval()

    def predict():
        with torch.inference_mode(), _autocast(policy, device):
            logits = forward(torch.from_numpy(frames).to(device))
            return torch.softmax(logits.float(), -1).cpu().numpy()

    return predict
