"""The page of `demo` as HTML: its head, the boxes to draw in, an answer, and its style sheet.

Nothing here loads anything from outside of the page: no font, no script and no image. Whatever
comes from a model or a user is escaped.
"""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from keras_cnnlstm.plots import data_uri, image_png
from keras_cnnlstm.tasks.answers import headline, plain_text
from keras_cnnlstm.tasks.task import Task

_MOST_BARS = 12  # classes shown, the likeliest ones

STYLE = (files("keras_cnnlstm.demo") / "page.css").read_text(encoding="utf-8")
"""Style sheet of the page; colours are those of Gradio's theme, light and dark."""

PAD_SCRIPT = (files("keras_cnnlstm.demo") / "pad.js").read_text(encoding="utf-8")
"""What a browser runs for `pad`."""


class Step(NamedTuple):
    """What is known after one more frame."""

    frame: np.ndarray
    """`(H, W, C)` uint8: what the model saw."""

    answer: Mapping[str, Any] | None
    """For all frames up to this one, as `Task.answer` returns it; `None` if the model waits for
    more frames."""

    digit: tuple[int, float] | None = None
    """The digit that a reader of single images sees in this frame, and its probability."""


_HINTS = {
    "Drop a clip": "A video, a GIF, or several images in order. The answer appears after each "
    "frame.",
    "Draw a digit": "With mouse, finger or pen, as large as the box. The answer appears when you "
    "pause.",
}
_HINT = (
    "With mouse, finger or pen, one digit in a box, as large as the box. The answer appears after "
    "each one."
)


def intro(task: Task, count: int, facts: Iterable[str] = ()) -> str:
    """The head of the page: what to do, for `count` digits at most, and `facts` in small print."""
    if not task.draws_digits:
        request = "Drop a clip"
    elif task.arrangement == "image":
        request = "Draw a digit"
    else:
        request = f"Draw {'up to ' if task.variable_length else ''}{count} digits"
    small = " · ".join(html.escape(fact) for fact in facts)
    return (
        f'<h1>{request}. {task.question}</h1><p class="hint">{_HINTS.get(request, _HINT)}</p>'
        f'<p class="facts">{small}</p>'
    )


def pad(count: int, glyphs: Sequence[Any]) -> str:
    """Boxes to draw in and their buttons; `glyphs` are strokes of examples, as `GLYPHS`."""
    boxes = "".join(
        f'<div class="box"><canvas width="320" height="320" role="img" '
        f'aria-label="Box {n} to draw a digit in"></canvas><span>{n}</span>'
        f'<button type="button" class="wipe" aria-label="Wipe box {n}">&times;</button></div>'
        for n in range(1, count + 1)
    )
    examples = html.escape(json.dumps(glyphs, separators=(",", ":")), quote=True)
    columns, narrow = (count, min(count, 2)) if count <= 4 else (4 if count <= 8 else 6, 3)
    return (
        f'<div class="pad" data-glyphs="{examples}">'
        f'<div class="boxes" style="--columns:{columns};--narrow:{narrow}">{boxes}</div>'
        '<div class="tools"><button type="button" class="undo">Undo</button>'
        '<button type="button" class="wipe-all">Wipe all</button>'
        '<button type="button" class="show">Draw some for me</button></div></div>'
    )


def problem(text: str) -> str:
    """A message on the page for what cannot be answered."""
    return f'<div class="answer problem" role="alert"><p>{html.escape(text)}</p></div>'


def answer(steps: Sequence[Step], task: Task, count: int | None) -> str:
    """The answer in large letters, then its probabilities, then each frame as the model saw it.

    Args:
        steps: what is known after each frame so far; none before the first one.
        task: what the model was trained for.
        count: frames that the model expects; `None` for any number.
    """
    if not steps:
        what = "Draw a digit" if task.draws_digits else "Drop a clip"
        return f'<div class="answer empty"><p>{what}, and the answer appears here.</p></div>'
    known = steps[-1].answer
    text = f"… waiting for all {count}" if known is None else _sentence(known, task)
    # A model of whole sequences that has not seen all frames.
    whole = task.classifies and not (task.variable_length or task.per_step)
    is_guess = whole and count is not None and len(steps) < count
    cards = "".join(_card(n, step, task) for n, step in enumerate(steps, start=1))
    return (
        '<div class="answer" aria-live="polite">'
        f'<p class="when">{_when(len(steps), count, task, is_guess)}</p>'
        f'<p class="headline{" guess" if is_guess else ""}">{html.escape(text)}</p>'
        f"{_rule(steps, task)}{_bars(_latest(known))}"
        f'<ol class="frames{" many" if len(steps) > 6 else ""}">{cards}</ol></div>'
    )


def _when(done, count, task, is_guess):
    if task.arrangement == "image" or count == 1:
        return "The model's answer"
    if not task.draws_digits:  # a clip may be shorter than the longest one
        return f"After {done} frames"
    of = f" of {count}" if count else ""
    return f"After {done}{of} digits{': a guess, until all are there' if is_guess else ''}"


def _sentence(known, task):
    """The answer for all frames so far, in words."""
    if "label" not in known:
        return plain_text(known)
    text = ("unsure, perhaps " if known.get("unsure") else "") + task.label_text(known["label"])
    return text[:1].upper() + text[1:] if task.draws_digits else text


def _latest(known):
    """The answer at the last step, of a model with one at each."""
    return known["steps"][-1] if known and "steps" in known else known or {}


def _rule(steps, task):
    """What the exact rule says of the digits that were read."""
    if not task.draws_digits or any(step.digit is None for step in steps):
        return ""
    rule = task.rule_text([step.digit[0] for step in steps])
    return f'<p class="hint">read: {html.escape(rule)}</p>' if rule else ""


def _bars(latest):
    """A bar for the probability of each class, in the order of the classes."""
    probabilities = latest.get("probabilities", {})
    ranked = sorted(probabilities, key=lambda name: -probabilities[name])[:_MOST_BARS]
    rows = "".join(
        f'<div class="bar{" best" if name == ranked[0] else ""}"><span>{html.escape(name)}</span>'
        f'<i><b style="width:{100 * share:.1f}%"></b></i><em>{_percent(share)}</em></div>'
        for name, share in probabilities.items()
        if name in ranked
    )
    return f'<div class="bars">{rows}</div>' if rows else ""


def _card(number, step, task):
    """One frame: what the model saw, the digit read in it, and the answer after it."""
    digit, text = "", "…"
    if step.digit is not None:
        number_read, share = step.digit
        digit = f'<p class="read">read as <b>{number_read}</b> <em>{_percent(share)}</em></p>'
    if step.answer is not None:
        latest = _latest(step.answer)
        label = latest.get("label")
        text = html.escape(headline(latest) if label is None else task.label_text(label))
        if label is not None:
            text += f" <em>{_percent(latest['probabilities'][label])}</em>"
    image = data_uri(image_png(step.frame))
    return (
        f'<li><img src="{image}" alt="frame {number} as the model saw it">{digit}'
        f'<p class="then">→ {text}</p></li>'
    )


def _percent(share):
    return f"{share:.0%}" if share < 0.995 else ">99%"
