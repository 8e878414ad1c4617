"""How the page of `demo` looks: its head, an answer as HTML, and its style sheet.

Strings only; `demo` fills them. Nothing here asks for anything outside of the page: no font, no
script and no image. Whatever comes from a model or a user is escaped.
"""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from keras_cnnlstm.answers import headline

_MOST_BARS = 12  # classes shown, the likeliest ones


class Step(NamedTuple):
    """What is known after one more frame."""

    frame: np.ndarray
    """`(H, W, C)` uint8: what the model saw."""

    told: Mapping[str, Any] | None
    """Its answer for all frames so far, as `answers.as_json` tells it; `None` if it waits for
    more frames."""

    read: tuple[int, float] | None = None
    """The digit that a reader of single images sees in this frame, and its probability."""


_TITLES = {
    "trend": "Draw {count} digits. Which way do they go?",
    "digits": "Draw up to {count} digits. Which are they?",
    "running_sum": "Draw up to {count} digits. What is their sum?",
    "label": "Draw a digit. Which one is it?",
    "text": "Draw up to {count} digits. What do they say?",
    "sentence": "Draw {count} digits. What can be said of them?",
    "clip": "Drop a clip. What does it show?",
}
_HINTS = {
    "clip": "A video, a GIF, or several images in order. The answer appears after each frame.",
    "label": "With mouse, finger or pen, as large as the box. The answer appears when you pause.",
    "": "With mouse, finger or pen, one digit in a box, as large as the box. "
    "The answer appears after each one.",
}


def intro(task: str, count: int, facts: Iterable[str] = ()) -> str:
    """The head of the page: what the model answers, how to ask it, and what it is.

    Args:
        task: the run's task.
        count: digits that it takes at most.
        facts: what else is worth to know, such as how often it is right; told in small.
    """
    hint = _HINTS.get(task, _HINTS[""])
    title = _TITLES.get(task, "Which is it?").format(count=count)
    small = " · ".join(html.escape(fact) for fact in facts)
    return f'<h1>{title}</h1><p class="hint">{hint}</p><p class="facts">{small}</p>'


def answer(steps: Sequence[Step], task: str, count: int | None) -> str:
    """What the model answers, large, then how sure it is, then each frame as it saw it.

    Args:
        steps: what is known after each frame so far; none before the first one.
        task: the run's task.
        count: frames that the model expects; `None` for any number.

    Returns:
        HTML.
    """
    if not steps:
        what = "Drop a clip" if task == "clip" else "Draw a digit"
        return f'<div class="answer empty"><p>{what}, and the answer appears here.</p></div>'
    told, frames = steps[-1].told, "".join(_card(n, s, task) for n, s in enumerate(steps, start=1))
    return (
        f'<div class="answer" aria-live="polite"><p class="when">{_when(len(steps), count, task)}'
        f'</p><p class="told{" guess" if _is_guess(len(steps), count, task) else ""}">'
        f"{_in_full(told, task, count)}</p>{_sum_of_read(steps, task)}"
        f'{_bars(told)}<ol class="frames{" many" if len(steps) > 6 else ""}">{frames}</ol></div>'
    )


def problem(text: str) -> str:
    """A message on the page for what cannot be answered."""
    return f'<div class="answer problem" role="alert"><p>{html.escape(text)}</p></div>'


def in_words(label: str) -> str:
    """A trend as a person says it.

    Example:

    >>> in_words("rising-falling-rising")
    'rising, then falling, then rising'
    """
    return label.replace("-", ", then ")


def _when(done, count, task):
    if task == "label" or count == 1:
        return "The model says"
    if task == "clip":  # which may be shorter than the longest one
        return f"After {done} frames"
    guess = ": a guess, until all are there" if _is_guess(done, count, task) else ""
    return f"After {done} of {count} digits{guess}" if count else f"After {done} digits"


def _is_guess(done, count, task):
    """Whether the model has not seen what it was trained to answer for."""
    return task == "trend" and count is not None and done < count


def _in_full(told, task, count):
    """The answer for all frames so far, in words."""
    if told is None:
        return f"… waiting for all {count}"
    if "steps" in told and "label" in told["steps"][-1]:
        return html.escape(" ".join(step["label"] for step in told["steps"]))
    if "label" not in told:
        return html.escape(headline(_latest(told)))
    words = in_words(told["label"]) if task == "trend" else told["label"]
    unsure = "unsure, perhaps " if told.get("unsure") else ""
    return html.escape(f"{unsure}{words}".capitalize() if task == "trend" else unsure + words)


def _latest(told):
    """The answer at the last step, of a model that has one at each."""
    return told["steps"][-1] if "steps" in told else told


def _sum_of_read(steps, task):
    if task != "running_sum" or any(step.read is None for step in steps):
        return ""
    digits = [step.read[0] for step in steps]
    return f'<p class="hint">read: {" + ".join(map(str, digits))} = {sum(digits)}</p>'


def _bars(told):
    """A bar for the probability of each class, in the order of the classes."""
    shares = _latest(told).get("probabilities", {}) if told else {}
    shown = set(sorted(shares, key=lambda name: -shares[name])[:_MOST_BARS])
    best = max(shares, key=lambda name: shares[name], default=None)
    rows = "".join(
        f'<div class="bar{" best" if name == best else ""}"><span>{html.escape(name)}</span>'
        f'<i><b style="width:{100 * share:.1f}%"></b></i><em>{_percent(share)}</em></div>'
        for name, share in shares.items()
        if name in shown
    )
    return f'<div class="bars">{rows}</div>' if rows else ""


def _card(number, step, task):
    """One frame: what the model saw, the digit read in it, and the answer after it."""
    read = ""
    if step.read is not None:
        digit, share = step.read
        read = f'<p class="read">read as <b>{digit}</b> <em>{_percent(share)}</em></p>'
    then = "…"
    if step.told is not None:
        latest = _latest(step.told)
        share = latest.get("probabilities", {}).get(latest.get("label"))
        then = html.escape(_short(latest, task))
        then += f" <em>{_percent(share)}</em>" if share is not None else ""
    return (
        f'<li><img src="{_as_png(step.frame)}" alt="frame {number} as the model saw it">'
        f'{read}<p class="then">→ {then}</p></li>'
    )


def _short(told, task):
    if "label" not in told:
        return headline(told)
    return in_words(told["label"]) if task == "trend" else told["label"]


def _percent(share):
    return f"{share:.0%}" if share < 0.995 else ">99%"


def _as_png(frame):
    """A frame as an image that lies within the page."""
    pixels = frame[..., 0] if frame.shape[-1] == 1 else frame
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


STYLE = """
.gradio-container { max-width: 900px !important; margin: 0 auto !important; }
.gradio-container .fillable { padding: 0 !important; width: 100% !important; }
.gradio-container main { padding: 24px 20px !important; }
.gradio-container .html-container { padding: 0 !important; }
footer { display: none !important; }
.intro h1 { font-size: clamp(1.45rem, 5vw, 2.1rem); line-height: 1.2; margin: 0 0 .3rem;
  font-weight: 700; }
.hint, .facts { color: var(--body-text-color-subdued); margin: 0 0 .35rem; }
.facts { font-size: .82rem; }
.pad .boxes { display: grid; gap: 12px; justify-content: center; }
.pad .boxes { grid-template-columns: repeat(var(--columns), minmax(0, 260px)); }
@media (max-width: 640px) {
  .gradio-container main { padding: 14px 12px !important; }
  .pad .boxes { grid-template-columns: repeat(var(--narrow), minmax(0, 260px)); }
}
.pad .box { position: relative; aspect-ratio: 1; }
.pad canvas { width: 100%; height: 100%; display: block; background: #fffdf7; cursor: crosshair;
  border: 2px solid var(--border-color-primary); border-radius: 14px; touch-action: none; }
.pad .drawn canvas { border-color: var(--color-accent); }
.pad .box span { position: absolute; left: 12px; top: 6px; color: #a8a290; pointer-events: none;
  font-size: .85rem; }
.pad button { font: inherit; cursor: pointer; color: var(--body-text-color);
  background: var(--background-fill-primary); border: 1px solid var(--border-color-primary);
  border-radius: 999px; padding: .45rem 1rem; min-height: 40px; }
.pad button:hover, .pad button:focus-visible { border-color: var(--color-accent); }
.pad .box .wipe { position: absolute; right: 4px; top: 4px; width: 36px; min-height: 36px;
  padding: 0; font-size: 1.2rem; line-height: 1; color: #77705d; background: none; border: none;
  visibility: hidden; }
.pad .drawn .wipe { visibility: visible; }
.pad .tools { display: flex; flex-wrap: wrap; gap: 10px; justify-content: center;
  margin-top: 12px; }
.answer { border: 1px solid var(--border-color-primary); border-radius: 14px;
  padding: 16px clamp(12px, 4vw, 20px); background: var(--background-fill-primary);
  color: var(--body-text-color); }
.answer p { margin: 0; }
.answer.empty { color: var(--body-text-color-subdued); text-align: center; padding: 28px 16px; }
.answer.problem { border-color: #c2410c; border-left-width: 6px; overflow-wrap: anywhere; }
.answer .hint { margin: -.3rem 0 .7rem; }
.answer .when { color: var(--body-text-color-subdued); font-size: .9rem; }
.answer .told { font-size: clamp(1.5rem, 5.5vw, 2.2rem); font-weight: 700; line-height: 1.2;
  margin: .1rem 0 .6rem; color: var(--color-accent); overflow-wrap: anywhere; }
.answer .told.guess { opacity: .6; }
.answer em { font-style: normal; color: var(--body-text-color-subdued); font-size: .85em; }
.bars { display: grid; gap: 5px; margin: 0 0 16px; }
.bar { display: grid; grid-template-columns: minmax(90px, 11.5rem) 1fr 3rem; gap: 10px;
  align-items: center; font-size: .88rem; }
.bar span { overflow-wrap: anywhere; line-height: 1.15; }
.bar i { display: block; height: 14px; border-radius: 7px; overflow: hidden;
  background: var(--background-fill-secondary); }
.bar b { display: block; height: 100%; border-radius: 7px; background: var(--color-accent);
  opacity: .45; }
.bar.best b { opacity: 1; }
.bar.best span { font-weight: 700; }
.bar em { text-align: right; }
@media (max-width: 640px) {
  .bar { grid-template-columns: 1fr 3rem; gap: 1px 10px; }
  .bar span { grid-column: 1 / -1; }
}
.answer ol.frames { display: grid; gap: 12px; list-style: none; margin: 0; padding: 0;
  grid-template-columns: repeat(auto-fill, minmax(min(150px, 40%), 1fr)); }
.answer ol.frames.many { grid-template-columns: repeat(auto-fill, minmax(86px, 1fr)); }
.answer ol.frames li { margin: 0; font-size: .88rem; line-height: 1.25; min-width: 0;
  overflow-wrap: anywhere; }
.answer ol.frames img { width: 100%; max-width: 150px; aspect-ratio: 1; object-fit: contain;
  image-rendering: pixelated; background: #000; border-radius: 8px; margin: 0 0 4px; }
.answer .read { font-weight: 600; }
"""
"""Style sheet of the page; colours are those of Gradio's theme, light and dark."""
