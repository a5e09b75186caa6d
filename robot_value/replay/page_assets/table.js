// The table of episodes: filtered, sorted, and only the rows in sight are elements, so that 10,000 are no burden.
const ROW = 36; // px, also in page.css
const HEADS = [['name', 'episode'], ['success', 'outcome'], ['steps', 'steps', 'number'], ['value', 'lowest value', 'number'],
  ['detour', 'largest detour', 'number optional'], ['alarm', 'alarm', 'number optional'], ['warnings', 'warnings', 'number']];
const sorted = { by: 'name', down: false };
let order = []; // episode numbers in the order of the table

function key(by, e) {
  const x = columns[by][e];
  if (by === 'warnings') return x.length;
  if (by === 'alarm') return x < 0 ? null : x;
  return by === 'name' ? e : x;
}

function kept() {
  const text = $('text').value.trim().toLowerCase(), outcome = $('outcome').value, warning = $('warning').value;
  const within = (x, name) => [['from', 1], ['to', -1]].every(([end, sign]) => {
    const bound = $(`${name}-${end}`).value;
    return bound === '' || (x !== null && sign * x >= sign * Number(bound));
  });
  return columns.name.map((_, e) => e).filter((e) =>
    (!text || `${columns.name[e]} ${index.tasks[columns.task[e]]}`.toLowerCase().includes(text))
    && (!outcome || String(columns.success[e]) === outcome)
    && within(columns.steps[e], 'steps') && within(columns.value[e], 'value')
    && (!$('alarmed').checked || columns.alarm[e] >= 0)
    && (!warning || (warning === 'some' ? columns.warnings[e].length > 0 : columns.warnings[e].includes(Number(warning)))));
}

function arrange() {
  const sign = sorted.down ? -1 : 1;
  const compare = (a, b) => { // the unknown is last either way
    const [x, y] = [key(sorted.by, a), key(sorted.by, b)];
    return x === y ? a - b : x === null ? 1 : y === null ? -1 : sign * (x - y);
  };
  order = kept().sort(compare);
  const all = columns.name.length;
  $('count').textContent = order.length === all ? `${all} episodes` : `${order.length} of ${all} episodes`;
  $('scroller').scrollTop = 0;
  drawHead();
  drawRows();
}

function drawHead() {
  $('table').querySelector('thead tr').replaceChildren(...HEADS.map(([by, title, kind = '']) => element('th',
    { class: kind, scope: 'col', 'aria-sort': sorted.by !== by ? 'none' : sorted.down ? 'descending' : 'ascending' },
    element('button', { onclick: () => { sorted.down = sorted.by === by && !sorted.down; sorted.by = by; arrange(); } }, title))));
}

function drawRows() {
  const scroller = $('scroller');
  const first = Math.max(0, Math.floor(scroller.scrollTop / ROW) - 8);
  const last = Math.min(order.length, first + Math.ceil(scroller.clientHeight / ROW) + 16);
  const gap = (rows) => element('tr', { 'aria-hidden': true, class: 'gap', style: `height:${rows * ROW}px` });
  const focused = document.activeElement?.closest?.('#table tbody a')?.getAttribute('href');
  const rows = order.slice(first, last).map((e, i) => row(e, first + i));
  $('table').setAttribute('aria-rowcount', order.length + 1);
  $('table').querySelector('tbody').replaceChildren(gap(first), ...rows, gap(order.length - last));
  if (focused) $('table').querySelector(`a[href="${focused}"]`)?.focus({ preventScroll: true });
}

function row(e, at) {
  const { name, success, steps, value, detour, alarm, warnings } = columns;
  const task = index.tasks.length > 1 ? [element('small', {}, index.tasks[columns.task[e]])] : [];
  const kind = success[e] === null ? 'soft' : success[e] ? 'good' : 'bad';
  return element('tr', { 'aria-rowindex': at + 2, 'aria-current': shown.episode === e ? 'true' : null, onclick: () => { location.hash = address(e); } },
    element('td', {}, element('a', { href: address(e), title: name[e] }, name[e]), ...task),
    element('td', { class: kind }, outcome(success[e])),
    element('td', { class: 'number' }, String(steps[e])),
    element('td', { class: 'number' }, number(value[e], 2)),
    element('td', { class: 'number optional' }, detour[e] === null ? '–' : `${number(100 * detour[e], 2)} %`),
    element('td', { class: 'number optional' }, alarm[e] < 0 ? '–' : seconds(alarm[e])),
    element('td', { class: 'number', title: warnings[e].map((w) => index.findings[w].what).join('\n') }, warnings[e].length ? `⚠ ${warnings[e].length}` : '–'));
}

// Into sight, without moving the page.
function reveal(e) {
  const at = order.indexOf(e), scroller = $('scroller');
  if (at < 0) return;
  const top = at * ROW, bottom = top + ROW, room = scroller.clientHeight - ROW; // the head covers one row
  if (top < scroller.scrollTop) scroller.scrollTop = top;
  else if (bottom > scroller.scrollTop + room) scroller.scrollTop = bottom - room;
}
