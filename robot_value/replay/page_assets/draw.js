// Drawings as SVG: sizes in px, colours from the page's style.
const SVG = 'http://www.w3.org/2000/svg';
const COLOURS = 6; // classes c0 .. c5

function shape(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const scale = ([from, to], [left, right]) => (x) => left + (right - left) * (to > from ? (x - from) / (to - from) : 0.5);

// "M x y L x y ..."; a null begins a new line.
function path(points) {
  let pen = 'M';
  return points.map(([x, y]) => {
    if (y === null || Number.isNaN(y)) { pen = 'M'; return ''; }
    const part = `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = 'L';
    return part;
  }).join('');
}

const dots = (points) => points.filter(([, y]) => y !== null).map(([x, y]) => `M${x.toFixed(1)} ${y.toFixed(1)}h.01`).join('');

function range(values, pad = 0.06) {
  const known = values.filter((v) => v !== null && Number.isFinite(v));
  if (!known.length) return [0, 1];
  const low = known.reduce((a, b) => Math.min(a, b)), high = known.reduce((a, b) => Math.max(a, b));
  const room = (high - low || Math.abs(high) || 1) * pad;
  return [low - room, high + room];
}

// Round numbers inside a range.
function ticks([from, to], about) {
  const raw = (to - from) / about, power = 10 ** Math.floor(Math.log10(raw));
  const unit = power * [1, 2, 5, 10].find((m) => m * power >= raw * 0.999);
  const found = [];
  for (let i = Math.ceil(from / unit); i * unit <= to; i++) found.push(Number((i * unit).toPrecision(12)));
  return found;
}

// A small chart: lines [{ points: [[x, y]], kind }] under a title; `band` is [[x, low, high]].
function mini(title, unit, lines, band, across) {
  const width = 220, height = 84, box = { left: 4, right: 216, top: 6, bottom: 78 };
  const y = range([...lines.flatMap((l) => l.points.map((p) => p[1])), ...band.flatMap((b) => [b[1], b[2]])]);
  const sx = scale(across, [box.left, box.right]), sy = scale(y, [box.bottom, box.top]);
  const drawing = shape('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': title });
  if (band.length) {
    const there = band.map(([x, low]) => [sx(x), sy(low)]), back = band.map(([x, , high]) => [sx(x), sy(high)]).reverse();
    drawing.append(shape('path', { d: `${path(there)}L${path(back).slice(1)}Z`, class: 'envelope' }));
  }
  for (const line of lines) drawing.append(shape('path', { d: path(line.points.map(([x, v]) => [sx(x), sy(v)])), class: line.kind }));
  const cursor = shape('line', { y1: 0, y2: height, class: 'cursor', visibility: 'hidden' });
  drawing.append(cursor);
  const made = element('figure', { class: 'mini' }, element('figcaption', {}, title,
    element('small', {}, `${number(y[0])} to ${number(y[1])}${unit ? ` ${unit}` : ''}`)), drawing);
  made.move = (x) => { for (const k of ['x1', 'x2']) cursor.setAttribute(k, sx(x)); cursor.setAttribute('visibility', 'visible'); };
  return made;
}
