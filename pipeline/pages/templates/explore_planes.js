// A plane of two columns: counts of rows as shades, and a rectangle that filters by it.
'use strict';

class Plane {
  // `flipped`: the values along grow to the left, as right ascension on the sky.
  constructor(figure, flipped, load, brushed) {
    this.figure = figure; this.flipped = flipped; this.load = load; this.brushed = brushed;
    this.canvas = figure.querySelector('canvas'); this.stage = figure.querySelector('.stage');
    this.mark = figure.querySelector('.brush'); this.ends = null; this.data = null; this.box = null;
    this.margin = { left: 52, right: 12, top: 8, bottom: 34 };
    this.zoomButton = figure.querySelector('.zoom'); this.wholeButton = figure.querySelector('.whole');
    this.zoomButton.onclick = () => { const b = this.box;
      this.ends = { x: [b.x0, b.x1], y: [b.y0, b.y1] }; this.wholeButton.hidden = false; this.load(this); };
    this.wholeButton.onclick = () => { this.ends = null; this.wholeButton.hidden = true; this.load(this); };
    this.stage.addEventListener('pointerdown', event => this.begin(event));
    new ResizeObserver(() => this.draw()).observe(this.stage);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.draw());
  }

  names(x, y) {
    if (this.x !== x || this.y !== y) { this.ends = null; this.box = null; this.wholeButton.hidden = true; }
    this.x = x; this.y = y;
  }

  show(data) { this.data = data; this.draw(); }

  keep(box) { this.box = box; this.zoomButton.hidden = !box; this.drawBrush(); }

  scales() {
    const m = this.margin, width = this.stage.clientWidth - m.left - m.right;
    const height = this.stage.clientHeight - m.top - m.bottom, { x, y } = this.data;
    const share = value => { const s = (value - x[0]) / (x[1] - x[0]); return this.flipped ? 1 - s : s; };
    return {
      width, height,
      toX: value => m.left + width * share(value),
      toY: value => m.top + height * (1 - (value - y[0]) / (y[1] - y[0])),
      ofX: place => { const s = (place - m.left) / width;
        return x[0] + (x[1] - x[0]) * Math.min(1, Math.max(0, this.flipped ? 1 - s : s)); },
      ofY: place => y[0] + (y[1] - y[0]) * Math.min(1, Math.max(0, 1 - (place - m.top) / height)),
    };
  }

  draw() {
    if (!this.data || !this.stage.clientWidth) return;
    const sharp = devicePixelRatio || 1, context = this.canvas.getContext('2d');
    this.canvas.width = this.stage.clientWidth * sharp; this.canvas.height = this.stage.clientHeight * sharp;
    context.scale(sharp, sharp);
    const s = this.scales(), m = this.margin, { bins, cells, x, y } = this.data;
    const style = getComputedStyle(document.documentElement), color = name => style.getPropertyValue(name).trim();
    const wide = s.width / bins[0], high = s.height / bins[1];
    const most = Math.log1p(Math.max(1, ...cells.map(cell => cell[2])));
    context.fillStyle = color('--accent');
    for (const [i, j, count] of cells) {
      context.globalAlpha = .25 + .75 * Math.log1p(count) / most;
      const place = this.flipped ? bins[0] - 1 - i : i;
      // A cell of its own is to be seen: at least two pixels.
      context.fillRect(m.left + place * wide, m.top + (bins[1] - 1 - j) * high, Math.max(2, wide), Math.max(2, high));
    }
    context.globalAlpha = 1; context.strokeStyle = color('--line'); context.fillStyle = color('--soft');
    context.font = '11px system-ui, sans-serif'; context.strokeRect(m.left, m.top, s.width, s.height);
    context.textBaseline = 'top'; context.textAlign = 'center';
    for (const tick of ticks(x, Math.max(2, s.width / 80))) context.fillText(said(tick), s.toX(tick), m.top + s.height + 4);
    context.fillText(this.x, m.left + s.width / 2, m.top + s.height + 19);
    context.textBaseline = 'middle'; context.textAlign = 'right';
    for (const tick of ticks(y, Math.max(2, s.height / 32))) context.fillText(said(tick), m.left - 5, s.toY(tick));
    context.save(); context.translate(9, m.top + s.height / 2); context.rotate(-Math.PI / 2);
    context.textAlign = 'center'; context.fillText(this.y, 0, 0); context.restore();
    const rows = cells.reduce((sum, cell) => sum + cell[2], 0);
    this.canvas.setAttribute('role', 'img');
    this.canvas.setAttribute('aria-label', `${rows.toLocaleString('en')} galaxies by ${this.x} and ${this.y}`);
    this.drawBrush();
  }

  drawBrush() {
    this.mark.hidden = !this.box || !this.data;
    if (this.mark.hidden) return;
    const s = this.scales(), b = this.box, m = this.margin;
    const inX = value => Math.min(m.left + s.width, Math.max(m.left, value));
    const inY = value => Math.min(m.top + s.height, Math.max(m.top, value));
    const xs = [s.toX(b.x0), s.toX(b.x1)].map(inX), ys = [s.toY(b.y0), s.toY(b.y1)].map(inY);
    Object.assign(this.mark.style, { left: `${Math.min(...xs)}px`, width: `${Math.abs(xs[1] - xs[0])}px`,
      top: `${Math.min(...ys)}px`, height: `${Math.abs(ys[1] - ys[0])}px` });
  }

  begin(down) {
    if (!this.data || down.button) return;
    const bounds = this.stage.getBoundingClientRect(), s = this.scales();
    const at = event => [event.clientX - bounds.left, event.clientY - bounds.top];
    const first = at(down);
    this.stage.setPointerCapture(down.pointerId);
    const move = event => {
      const [x, y] = at(event), xs = [s.ofX(first[0]), s.ofX(x)].sort((a, b) => a - b);
      const ys = [s.ofY(first[1]), s.ofY(y)].sort((a, b) => a - b);
      this.keep({ x: this.x, y: this.y, x0: xs[0], x1: xs[1], y0: ys[0], y1: ys[1] });
    };
    const end = event => {
      this.stage.removeEventListener('pointermove', move);
      const [x, y] = at(event);
      // A click takes the rectangle away.
      if (Math.abs(x - first[0]) < 4 || Math.abs(y - first[1]) < 4) this.keep(null);
      this.brushed(this);
    };
    const stop = () => { this.stage.removeEventListener('pointermove', move); this.stage.removeEventListener('pointerup', end); };
    this.stage.addEventListener('pointermove', move);
    this.stage.addEventListener('pointerup', end, { once: true });
    this.stage.addEventListener('pointercancel', stop, { once: true });
  }
}

function ticks([low, high], most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(value => value >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step); tick * step <= high; tick++) found.push(tick * step);
  return found;
}

function said(value) {
  return Math.abs(value) >= 1e5 ? value.toExponential(1) : String(Number(value.toPrecision(6)));
}
