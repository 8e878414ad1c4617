"""The boxes to draw in, on the page of `demo`: their HTML, and what a browser runs for them."""

import html
import json
from collections.abc import Sequence
from typing import Any


def pad(count: int, glyphs: Sequence[Any]) -> str:
    """The boxes to draw in, and their buttons; `PAD_SCRIPT` makes them work.

    Args:
        count: how many boxes.
        glyphs: strokes of examples, as `drawings.GLYPHS`.
    """
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


PAD_SCRIPT = """
const root = element.querySelector('.pad');
const glyphs = JSON.parse(root.dataset.glyphs);
const boxes = [...root.querySelectorAll('canvas')].map(canvas => ({canvas, strokes: []}));
let order = [], waiting, showing = 0;

function paint(box) {
  const side = box.canvas.width, pen = box.canvas.getContext('2d');
  pen.clearRect(0, 0, side, side);
  pen.lineWidth = side * 0.08;
  pen.lineCap = pen.lineJoin = 'round';
  pen.strokeStyle = '#16162a';
  for (const stroke of box.strokes) {
    pen.beginPath();
    pen.moveTo(stroke[0][0] * side, stroke[0][1] * side);
    for (const [x, y] of stroke) pen.lineTo(x * side, y * side);
    pen.stroke();
  }
  box.canvas.parentElement.classList.toggle('drawn', box.strokes.length > 0);
}

function ask(delay) {
  clearTimeout(waiting);
  waiting = setTimeout(() => trigger('drawn', {boxes: boxes.map(box => box.strokes)}), delay);
}

function wipe(box) {
  box.strokes = [];
  order = order.filter(other => other !== box);
  paint(box);
}

for (const box of boxes) {
  const {canvas} = box;
  let stroke = null;
  const point = event => {
    const {left, top, width, height} = canvas.getBoundingClientRect();
    return [(event.clientX - left) / width, (event.clientY - top) / height]
      .map(share => Math.round(share * 1000) / 1000);
  };
  canvas.addEventListener('pointerdown', event => {
    if (event.button || stroke) return;
    event.preventDefault();
    showing++;
    clearTimeout(waiting);
    canvas.setPointerCapture(event.pointerId);
    stroke = [point(event)];
    box.strokes.push(stroke);
    order.push(box);
    paint(box);
  });
  canvas.addEventListener('pointermove', event => {
    if (!stroke) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const part of events.length ? events : [event]) stroke.push(point(part));
    paint(box);
  });
  for (const end of ['pointerup', 'pointercancel']) {
    canvas.addEventListener(end, () => { if (stroke) { stroke = null; ask(350); } });
  }
  canvas.parentElement.querySelector('.wipe').addEventListener('click', () => {
    showing++;
    wipe(box);
    ask(0);
  });
}

root.querySelector('.undo').addEventListener('click', () => {
  showing++;
  const box = order.pop();
  if (!box) return;
  box.strokes.pop();
  paint(box);
  ask(0);
});

root.querySelector('.wipe-all').addEventListener('click', () => {
  showing++;
  boxes.forEach(wipe);
  ask(0);
});

root.querySelector('.show').addEventListener('click', async () => {
  const mine = ++showing;
  boxes.forEach(wipe);
  for (const box of boxes) {
    const digit = glyphs[Math.floor(Math.random() * glyphs.length)];
    for (const stroke of digit) {
      box.strokes.push(stroke);
      order.push(box);
      paint(box);
    }
    ask(0);
    await new Promise(resolve => setTimeout(resolve, 900));
    if (mine !== showing) return;
  }
});
"""
"""What a browser runs for `pad`: strokes as points from 0 to 1, sent when the pen rests."""
