// Makes the boxes of the page drawable. Gradio gives `element` and `trigger`. The strokes are sent
// when the pen rests: for each box its strokes, each a list of points [x, y] from 0 to 1.
const root = element.querySelector('.pad');
const glyphs = JSON.parse(root.dataset.glyphs);
const boxes = [...root.querySelectorAll('canvas')];
let strokes = [], waiting, showing = 0;  // strokes: {box, points}, in the order of drawing

const drawnIn = box => strokes.filter(stroke => stroke.box === box).map(stroke => stroke.points);

function paint(box) {
  const side = box.width, pen = box.getContext('2d'), drawn = drawnIn(box);
  pen.clearRect(0, 0, side, side);
  pen.lineWidth = side * 0.08;
  pen.lineCap = pen.lineJoin = 'round';
  pen.strokeStyle = '#16162a';
  for (const points of drawn) {
    pen.beginPath();
    pen.moveTo(points[0][0] * side, points[0][1] * side);
    for (const [x, y] of points) pen.lineTo(x * side, y * side);
    pen.stroke();
  }
  box.parentElement.classList.toggle('drawn', drawn.length > 0);
}

function ask(delay) {
  clearTimeout(waiting);
  waiting = setTimeout(() => trigger('drawn', {boxes: boxes.map(drawnIn)}), delay);
}

function keep(fits) {
  strokes = strokes.filter(fits);
  boxes.forEach(paint);
  ask(0);
}

function onClick(button, action) {
  button.addEventListener('click', () => { showing++; action(); });
}

for (const box of boxes) {
  let points = null;
  const add = event => {
    const {left, top, width, height} = box.getBoundingClientRect();
    points.push([(event.clientX - left) / width, (event.clientY - top) / height]
      .map(share => Math.round(share * 1000) / 1000));
  };
  box.addEventListener('pointerdown', event => {
    if (event.button || points) return;
    event.preventDefault();
    showing++;
    clearTimeout(waiting);
    box.setPointerCapture(event.pointerId);
    points = [];
    add(event);
    strokes.push({box, points});
    paint(box);
  });
  box.addEventListener('pointermove', event => {
    if (!points) return;
    const events = event.getCoalescedEvents?.() ?? [];
    (events.length ? events : [event]).forEach(add);
    paint(box);
  });
  for (const end of ['pointerup', 'pointercancel']) {
    box.addEventListener(end, () => { if (points) { points = null; ask(350); } });
  }
  const wipe = box.parentElement.querySelector('.wipe');
  onClick(wipe, () => keep(stroke => stroke.box !== box));
}

onClick(root.querySelector('.undo'), () => keep(stroke => stroke !== strokes.at(-1)));
onClick(root.querySelector('.wipe-all'), () => keep(() => false));
onClick(root.querySelector('.show'), async () => {
  const mine = showing;
  keep(() => false);
  for (const box of boxes) {
    const digit = glyphs[Math.floor(Math.random() * glyphs.length)];
    strokes.push(...digit.map(points => ({box, points})));
    paint(box);
    ask(0);
    await new Promise(resolve => setTimeout(resolve, 900));
    if (mine !== showing) return;
  }
});
