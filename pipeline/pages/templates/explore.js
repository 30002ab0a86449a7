// The explorer: filters, a grid of galaxies, labels by keyboard. All that is shown is written as text.
'use strict';

const PAGE = 60, DIGITS = 9;
const SIMILAR = 'similar';
const NAMES = { uncertain: 'least confident first', disagreement: 'stages or views disagree', unlike: 'most unlike the training first',
  random: 'at random', chosen: 'as in the table', catalog: 'as in the catalog' };
const $ = id => document.getElementById(id);
const state = { facts: null, asked: {}, start: 0, listed: 0, rows: [], current: 0, planes: {}, waiting: {} };

function make(tag, text, properties = {}) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  return Object.assign(element, properties);
}

const whole = number => number.toLocaleString('en');
const share = number => number === null || number === undefined ? '–' : number.toFixed(3);

// One request of a kind at a time: a newer one ends the one before, on the server too.
async function get(kind, path, parameters = {}) {
  state.waiting[kind]?.abort();
  const control = state.waiting[kind] = new AbortController();
  const response = await fetch(`${path}?${new URLSearchParams(parameters)}`, { signal: control.signal });
  return answered(response);
}

async function post(path, content) {
  return answered(await fetch(path, { method: 'POST', body: JSON.stringify(content), headers: { 'Content-Type': 'application/json' } }));
}

async function answered(response) {
  let answer;
  try { answer = await response.json(); } catch (_) { throw new Error('the server does not answer: is it still running?'); }
  if (!response.ok) throw new Error(answer.error || response.statusText);
  return answer;
}

async function tried(work) {
  try {
    const result = await work();
    $('error').hidden = true;
    return result;
  } catch (error) {
    if (error.name === 'AbortError') return undefined;
    $('error').textContent = error.name === 'TypeError' ? 'the server is gone: start hiwl explore again' : error.message;
    $('error').hidden = false;
    return undefined;
  }
}

function asked() {
  const chosen = [...$('classes').querySelectorAll('input:checked')].map(box => box.value);
  const flag = $('flag').value, number = id => $(id).value === '' ? null : Number($(id).value);
  return {
    order: $('order').value, descending: $('descending').checked, labeled: $('labeled').value,
    classes: chosen.length ? chosen : null, low: number('low'), high: number('high'),
    flags: flag && flag !== 'none' ? [flag] : [], unflagged: flag === 'none', where: $('where').value,
    boxes: Object.values(state.planes).map(plane => plane.box).filter(Boolean),
    // The first list is made before it is asked for; each further one is a new one.
    drawn: state.asked.order ? Date.now() : 0,
    ...($('order').value === SIMILAR ? { like: state.like } : {}),
  };
}

async function apply() {
  state.asked = asked();
  state.start = 0;
  showBoxes();
  // In turn, as the server asks: what is looked at first comes first.
  if (!await loadRows()) return;
  await loadCounts();
  for (const plane of Object.values(state.planes)) await loadPlane(plane);
}

async function loadRows(at = 0) {
  $('grid').classList.add('busy');
  const answer = await tried(() => get('rows', 'api/rows', { asked: JSON.stringify(state.asked), start: state.start, count: PAGE }));
  $('grid').classList.remove('busy');
  if (!answer) return false;
  state.rows = answer.rows; state.listed = answer.listed;
  drawGrid();
  select(at < 0 ? state.rows.length - 1 : at, false);
  return true;
}

async function loadCounts() {
  const answer = await tried(() => get('counts', 'api/counts', { asked: JSON.stringify(state.asked) }));
  if (!answer) return;
  const checked = new Set(state.asked.classes || []);
  const names = [...new Set([...state.facts.classes, ...Object.keys(answer.classes)])];
  $('classes').replaceChildren(...names.map(name => {
    const line = make('label');
    line.append(make('input', null, { type: 'checkbox', value: name, checked: checked.has(name) }),
      make('span', name || 'not classified'), make('span', whole(answer.classes[name] || 0)));
    return line;
  }));
  const all = names.filter(name => !checked.size || checked.has(name)).reduce((sum, name) => sum + (answer.classes[name] || 0), 0);
  $('listed').dataset.matching = whole(all);
  sayListed();
}

async function loadPlane(plane) {
  if (!plane.x || !$('planes').open) return;
  const ends = plane.ends ? { x_ends: plane.ends.x.join(), y_ends: plane.ends.y.join() } : {};
  // A plane shows what the others leave: its own rectangle only marks.
  const others = { ...state.asked, boxes: (state.asked.boxes || []).filter(box => box !== plane.box) };
  const answer = await tried(() => get(plane.figure.id, 'api/plane', { asked: JSON.stringify(others), x: plane.x, y: plane.y, ...ends }));
  if (answer) plane.show(answer);
}

function sayListed() {
  const last = state.start + state.rows.length, most = state.facts.most_listed;
  const matching = $('listed').dataset.matching, of = state.listed >= most ? `the first ${whole(most)}` : whole(state.listed);
  $('listed').textContent = state.rows.length
    ? `${whole(state.start + 1)}–${whole(last)} of ${of}${matching ? `; ${matching} galaxies match the filters` : ''}`
    : 'no galaxy matches the filters';
  $('before').disabled = state.start === 0;
  $('next').disabled = last >= state.listed;
}

function picture(row, holder) {
  const words = text => { const place = make('div', text, { className: 'placeholder' }); holder.querySelector('img')?.replaceWith(place); };
  if (state.facts.no_pictures) { holder.append(make('div', 'no picture', { className: 'placeholder' })); return; }
  const source = `api/image?${new URLSearchParams({ part: row.part, id: row.id })}`;
  const image = make('img', null, { alt: `galaxy ${row.id}`, src: source, draggable: false });
  image.onerror = async () => words(await fetch(source).then(response => response.text(), () => 'no picture'));
  image.onload = () => drawBar(row, image);
  const frame = make('div', null, { className: 'frame' });
  frame.append(image); holder.append(frame);
}

// The pixel scale is known when the picture is read.
async function drawBar(row, image) {
  if (row.bar === undefined) {
    const source = `api/scale?${new URLSearchParams({ part: row.part, id: row.id })}`;
    row.bar = await fetch(source).then(response => response.json(), () => ({})).then(answer => answer.bar || null);
  }
  if (!row.bar || !image.isConnected) return;
  image.alt += `, with a bar of ${row.bar.words}`;
  const bar = make('span', row.bar.words, { className: 'bar', ariaHidden: 'true' });
  // The share is of the longer side, which fills a square that shows all, and less than it of one that is cut.
  const sides = [image.naturalWidth, image.naturalHeight], whole = image.closest('#large') !== null;
  const shown = row.bar.share * (whole ? 1 : Math.max(...sides) / Math.min(...sides));
  bar.style.width = `${(100 * shown).toFixed(2)}%`;
  if (shown < 0.9) image.parentElement.append(bar);
}

function drawGrid() {
  $('grid').replaceChildren(...state.rows.map((row, index) => {
    const item = make('li', null, { onclick: () => select(index) });
    picture(row, item);
    item.append(make('p'));
    return item;
  }));
  state.rows.forEach((_, index) => drawWords(index));
  sayListed();
}

function drawWords(index) {
  const row = state.rows[index], line = $('grid').children[index].querySelector('p');
  const model = $('shown').checked ? `${row.class || row.status} ${share(row.probabilities[row.class] ?? row.confidence)}` : '';
  line.replaceChildren(make('span', model, { className: 'soft' }), make('span', row.mine || '', { className: 'mine' }));
}

function select(index, scroll = true) {
  [...$('grid').children].forEach((item, place) => item.setAttribute('aria-current', String(place === index)));
  state.current = index;
  if (scroll) $('grid').children[index]?.scrollIntoView({ block: 'nearest' });
  drawCurrent();
}

function drawCurrent() {
  const row = state.rows[state.current];
  $('large').replaceChildren(); $('facts').replaceChildren();
  for (const button of $('answers').children) {
    button.disabled = !row && button.value !== 'undo';
    $('similar').disabled = !row;
    if (button.value !== 'undo') button.setAttribute('aria-pressed', String(Boolean(row) && row.mine === button.value));
  }
  if (!row) { $('large').append(make('div', 'no galaxy', { className: 'placeholder' })); return; }
  picture(row, $('large'));
  const id = make('p'); id.append(make('b', row.id));
  $('facts').append(id);
  if (row.ra !== null && row.dec !== null) $('facts').append(make('p', `${row.ra.toFixed(5)}° ${row.dec >= 0 ? '+' : '−'}${Math.abs(row.dec).toFixed(5)}°`));
  const viewers = make('p', null, { className: 'viewers' });
  viewers.append(...row.viewers.map(one => make('a', one.name, { href: one.url, title: one.title, target: '_blank', rel: 'noopener noreferrer' })));
  if (row.viewers.length) $('facts').append(viewers);
  if ($('shown').checked) {
    const bars = make('dl');
    for (const [name, value] of Object.entries(row.probabilities)) {
      const chosen = name === row.class ? ' chosen' : '', track = make('dd', null, { className: `track${chosen}` });
      track.append(make('progress', null, { max: 1, value: value ?? 0, ariaLabel: `probability of ${name}` }));
      bars.append(make('dt', name, { className: chosen }), track, make('dd', share(value), { className: `share${chosen}` }));
    }
    const odd = [row.status === 'ok' ? '' : row.status, ...row.flags].filter(Boolean).join(', ');
    const routed = row.label && row.label !== row.class ? `routed to ${row.label}` : '';
    const unlike = row.ood_score === null ? '' : `ood_score ${row.ood_score.toFixed(2)}`;
    $('facts').append(bars, make('p', [routed, unlike, odd].filter(Boolean).join(' · ')));
  }
  const more = Object.entries(row.more).filter(([name]) => !name.startsWith('p_stage') && name !== 'views_used' && !name.startsWith('_'));
  if (more.length) $('facts').append(make('p', more.map(([name, value]) => `${name} ${value ?? '–'}`).join(' · ')));
}

function sayLabels(counts) {
  const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const each = Object.entries(counts).map(([name, count]) => `${name} ${whole(count)}`).join(', ');
  $('labels').textContent = `${whole(all)} labels of ${state.facts.who}${each ? `: ${each}` : ''}`;
  $('labels').title = state.facts.labels_file;
}

async function label(answer) {
  const index = state.current, row = state.rows[index];
  if (!row) return;
  const given = { part: row.part, id: row.id, answer, place: state.start + index, answer_shown: $('shown').checked, asked: state.asked };
  const told = await tried(() => post('api/label', given));
  if (!told) return;
  row.mine = told.mine;
  sayLabels(told.labels);
  if (state.rows[index] !== row) return;
  drawWords(index);
  const next = state.rows.findIndex((one, place) => place > index && !one.mine);
  if (next >= 0) select(next); else if (!await turn(1)) drawCurrent();
}

async function undo() {
  const told = await tried(() => post('api/undo', {}));
  if (!told) return;
  sayLabels(told.labels);
  const index = state.rows.findIndex(row => row.id === told.id);
  if (index < 0) return;
  state.rows[index].mine = told.mine;
  drawWords(index);
  select(index);
}

async function turn(pages) {
  const start = state.start + pages * PAGE;
  if (start < 0 || start >= state.listed) return false;
  state.start = start;
  await loadRows(0);
  $('grid').children[0]?.scrollIntoView({ block: 'nearest' });
  return true;
}

async function move(steps) {
  const index = state.current + steps;
  if (index >= 0 && index < state.rows.length) select(index);
  else if (steps === 1) await turn(1);
  else if (steps === -1 && state.start > 0) { state.start -= PAGE; await loadRows(-1); }
}

function keys(event) {
  const writing = event.target.closest('textarea, select, input:not([type="checkbox"])');
  if (event.altKey || event.metaKey || writing) return;
  const columns = getComputedStyle($('grid')).gridTemplateColumns.split(' ').length;
  const classes = state.facts.classes.slice(0, DIGITS);
  const doing = event.ctrlKey ? (event.key === 'z' ? undo : null) : {
    u: () => label('unsure'), s: () => label('skip'), z: undo,
    l: similar,
    m: () => { $('shown').checked = !$('shown').checked; redraw(); },
    ArrowLeft: () => move(-1), ArrowRight: () => move(1), ArrowUp: () => move(-columns), ArrowDown: () => move(columns),
    PageUp: () => turn(-1), PageDown: () => turn(1),
    ...Object.fromEntries(classes.map((name, place) => [String(place + 1), () => label(name)])),
  }[event.key];
  if (!doing) return;
  event.preventDefault();
  // One after the other, however fast they are struck.
  state.doing = (state.doing || Promise.resolve()).catch(() => {}).then(doing);
}

// The list of those that are most like the galaxy that is shown, with the other filters as they are.
async function similar() {
  const row = state.rows[state.current];
  if (!row) return;
  if (!state.facts.similar) {
    $('error').textContent = 'This catalog does not say what galaxies look like: hiwl classify --features keeps that.';
    $('error').hidden = false;
    return;
  }
  state.like = { part: row.part, id: row.id };
  $('order').querySelector(`[value=${SIMILAR}]`)?.remove();
  $('order').append(make('option', `most like ${row.id}`, { value: SIMILAR }));
  $('order').value = SIMILAR;
  $('order').onchange();
}

function redraw() { state.rows.forEach((_, index) => drawWords(index)); drawCurrent(); }

function showBoxes() {
  $('boxes').replaceChildren(...Object.values(state.planes).filter(plane => plane.box).map(plane => {
    const { x, y, x0, x1, y0, y1 } = plane.box, short = value => Number(value.toPrecision(4));
    return make('button', `${x} ${short(x0)} to ${short(x1)}, ${y} ${short(y0)} to ${short(y1)} ×`,
      { type: 'button', title: 'Take this area away', onclick: () => { plane.keep(null); apply(); } });
  }));
}

async function askSql(event) {
  event.preventDefault();
  const answer = await tried(() => get('sql', 'api/sql', { sql: $('sql').querySelector('textarea').value }));
  if (!answer) return;
  const table = make('table'), head = make('tr'), body = make('tbody');
  head.append(...answer.columns.map(name => make('th', name, { scope: 'col' })));
  body.append(...answer.rows.map(row => { const line = make('tr'); line.append(...row.map(cell => make('td', typeof cell === 'number' && !Number.isInteger(cell) ? String(Number(cell.toPrecision(7))) : cell ?? '–'))); return line; }));
  const top = make('thead'); top.append(head); table.append(top, body);
  $('answer').replaceChildren(table, ...(answer.more ? [make('p', `the first ${answer.rows.length} rows`, { className: 'note' })] : []));
}

function buildAnswers() {
  const button = (value, key, title, act) => {
    const made = make('button', `${value} `, { type: 'button', value, title, onclick: act });
    if (key) made.append(make('kbd', key));
    return made;
  };
  const described = name => state.facts.columns.find(column => column.description.includes(` of ${name}: `))?.description.split(`${name}: `)[1] || name;
  $('answers').append(...state.facts.classes.map((name, place) =>
    button(name, place < DIGITS ? String(place + 1) : '', described(name), () => label(name))),
  button('unsure', 'u', 'It may be several', () => label('unsure')), button('skip', 's', 'Leave it out', () => label('skip')),
  button('undo', 'z', 'Take the last label back', undo));
  $('similar').onclick = similar;
  $('similar').title = state.facts.similar ? 'Those whose features are nearest in direction'
    : 'hiwl classify --features keeps what galaxies look like; this catalog was made without';
}

function buildPlanes() {
  const numbers = state.facts.columns.filter(column => column.number).map(column => column.name);
  const brushed = () => apply();
  if (numbers.includes('ra') && numbers.includes('dec')) {
    state.planes.sky = new Plane($('sky'), true, loadPlane, brushed);
    state.planes.sky.names('ra', 'dec');
  } else $('sky').hidden = true;
  const plane = state.planes.scatter = new Plane($('scatter'), false, loadPlane, brushed);
  const [x, y] = ['x', 'y'].map(axis => $('scatter').querySelector(`.${axis}`));
  for (const select of [x, y]) select.append(...numbers.map(name => make('option', name, { value: name })));
  const first = ['confidence', 'ood_score', ...numbers].filter(name => numbers.includes(name));
  if (first.length < 2) { $('scatter').hidden = true; return; }
  [x.value, y.value] = first;
  plane.names(x.value, y.value);
  x.onchange = y.onchange = () => { const had = plane.box; plane.names(x.value, y.value); plane.keep(plane.box); if (had) apply(); else loadPlane(plane); };
}

async function begin() {
  state.facts = await tried(() => get('facts', 'api/facts'));
  if (!state.facts) return;
  const { name, orders, columns, flags, no_pictures: none, labels } = state.facts;
  document.title = `${name} – hiwl explore`; $('name').textContent = name;
  sayLabels(labels);
  $('no-pictures').hidden = !none; $('no-pictures').textContent = `No pictures: ${none}`;
  $('order').append(...orders.map(order => make('option', NAMES[order], { value: order })),
    ...columns.filter(column => column.number).map(column => make('option', `by ${column.name}`, { value: column.name })));
  if (orders.includes('chosen')) $('order').value = 'chosen';
  $('flag').append(...flags.map(flag => make('option', flag.replaceAll('_', ' '), { value: flag })));
  buildAnswers(); buildPlanes();
  const ordered = () => { $('descending-line').hidden = [SIMILAR, ...orders].includes($('order').value); };
  ordered();
  $('filters').onsubmit = event => { event.preventDefault(); apply(); };
  for (const id of ['order', 'labeled', 'flag', 'descending', 'low', 'high']) $(id).onchange = () => { ordered(); apply(); };
  $('classes').onchange = apply;
  $('clear').onclick = () => { $('filters').reset(); $('order').querySelector(`[value=${SIMILAR}]`)?.remove(); $('classes').querySelectorAll('input').forEach(box => { box.checked = false; });
    Object.values(state.planes).forEach(plane => plane.keep(null)); ordered(); apply(); };
  $('before').onclick = () => turn(-1); $('next').onclick = () => turn(1);
  $('shown').onchange = redraw; $('sql').onsubmit = askSql;
  $('planes').ontoggle = () => Object.values(state.planes).forEach(plane => { if (!plane.data) loadPlane(plane); });
  document.addEventListener('keydown', keys);
  await apply();
}

begin();
