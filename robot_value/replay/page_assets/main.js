// What is shown follows the address: #episode=12&step=34.
const shown = { episode: null, step: 0, timeline: null, move: null };
let playing = null;
let remembering = null;

function wanted() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const episode = Number.parseInt(parameters.get('episode'), 10);
  const step = Number.parseInt(parameters.get('step'), 10);
  return episode >= 0 && episode < columns.name.length ? { episode, step: step > 0 ? step : 0 } : null;
}

async function follow() {
  const to = wanted();
  if (!to) return;
  if (to.episode === shown.episode && shown.timeline) return seek(to.step);
  pause();
  Object.assign(shown, { episode: to.episode, step: to.step, timeline: null, move: null });
  describe(to.episode);
  drawRows();
  reveal(to.episode);
  $('viewer').scrollIntoView({ block: 'nearest' });
  try {
    const timeline = await load(to.episode);
    if (shown.episode !== to.episode) return; // somebody was faster
    show(timeline);
  } catch (error) {
    if (shown.episode !== to.episode) return;
    $('trouble').textContent = error.message;
    $('trouble').hidden = false;
    $('loaded').hidden = true;
  }
}

function describe(e) {
  const { name, success, steps, warnings, alarm } = columns;
  $('viewer').hidden = false;
  $('trouble').hidden = true;
  $('name').textContent = name[e];
  $('facts').replaceChildren(element('span', { class: success[e] === null ? 'soft' : success[e] ? 'good' : 'bad' }, outcome(success[e])),
    ` · ${steps[e]} steps, ${seconds(steps[e])}`, index.tasks[columns.task[e]] ? ` · ${index.tasks[columns.task[e]]}` : '',
    alarm[e] >= 0 ? ` · alarm at ${seconds(alarm[e])}` : '');
  $('notes').replaceChildren(...warnings[e].map((w) => element('li', { class: 'warn' }, `⚠ ${index.findings[w].what}: ${index.findings[w].advice}`)));
}

function show(timeline) {
  $('loaded').hidden = false;
  shown.timeline = timeline;
  $('notes').append(...timeline.notes.map((note) => element('li', {}, note)));
  $('step').max = timeline.steps;
  $('traces').open = !timeline.frames.length;
  redraw();
  const next = order[order.indexOf(shown.episode) + 1];
  if (next !== undefined) load(next).catch(() => {}); // j will ask for it
}

function redraw() {
  if (!shown.timeline) return;
  shown.move = drawTimeline(shown.timeline, (step) => { pause(); seek(step); });
  seek(shown.step);
}

function seek(step) {
  if (!shown.timeline) return;
  const t = shown.step = Math.min(Math.max(0, step), shown.timeline.steps);
  shown.move(t);
  $('step').value = t;
  $('step').setAttribute('aria-valuetext', `step ${t} of ${shown.timeline.steps}, ${seconds(t)}`);
  $('now').textContent = `step ${t} of ${shown.timeline.steps} · ${seconds(t)}`;
  clearTimeout(remembering); // browsers allow few changes of the address per second
  remembering = setTimeout(() => history.replaceState(null, '', address(shown.episode, t)), 150);
}

function play() {
  if (!shown.timeline) return;
  const from = shown.step < shown.timeline.steps ? shown.step : 0, began = performance.now();
  const frame = (now) => {
    const step = from + Math.floor(Math.max(0, now - began) / 1000 / index.dt);
    if (step !== shown.step) seek(step);
    if (step >= shown.timeline.steps) pause();
    else playing = requestAnimationFrame(frame);
  };
  playing = requestAnimationFrame(frame);
  $('play').textContent = '❚❚';
  $('play').setAttribute('aria-label', 'pause');
}

function pause() {
  cancelAnimationFrame(playing);
  playing = null;
  $('play').textContent = '▶';
  $('play').setAttribute('aria-label', 'play');
}

const toggle = () => (playing === null ? play() : pause());

function neighbour(by) {
  const at = order.indexOf(shown.episode);
  const e = order[at < 0 ? 0 : at + by];
  if (e !== undefined) location.hash = address(e);
}

function decision(by) {
  const { step } = shown.timeline.decisions;
  const to = by > 0 ? step.find((t) => t > shown.step) : step.findLast((t) => t < shown.step);
  if (to !== undefined) seek(to);
}

const KEYS = {
  ArrowLeft: (e) => (e.shiftKey ? decision(-1) : seek(shown.step - 1)),
  ArrowRight: (e) => (e.shiftKey ? decision(1) : seek(shown.step + 1)),
  Home: () => seek(0),
  End: () => seek(shown.timeline.steps),
  ' ': toggle,
};

document.addEventListener('keydown', (event) => {
  const at = event.target, writing = at.matches('input:not([type=range]):not([type=checkbox]), select');
  if (writing || event.ctrlKey || event.metaKey || event.altKey || $('help').open) return;
  if (event.key === '?') $('help').showModal();
  else if (event.key === 'j' || event.key === 'k') neighbour(event.key === 'j' ? 1 : -1);
  else if (shown.timeline && event.key in KEYS) {
    if (event.key === ' ' && at.matches('button, summary, input[type=checkbox]')) return; // theirs
    if (event.key !== ' ') pause();
    KEYS[event.key](event);
  } else return;
  event.preventDefault();
});

function list(id, items) {
  $(id).hidden = !items.length;
  $(id).querySelector('ul').replaceChildren(...items);
}

const link = (e, step = 0) => element('a', { href: address(e, step) }, columns.name[e]);

function warningItem({ what, advice, episodes }, i) {
  const few = episodes.slice(0, 5).flatMap((e) => [link(e), ' ']);
  const rest = element('button', { onclick: () => { $('filters').reset(); $('warning').value = String(i); arrange(); $('episodes').scrollIntoView(); } },
    `show ${episodes.length === 1 ? 'it' : `all ${episodes.length}`} in the table`);
  return element('li', {}, element('b', {}, what), `: ${advice} `, ...(episodes.length ? [...few, rest] : []));
}

list('warnings', index.findings.map(warningItem));
list('marks', index.marks.slice(0, 20).map(([e, step, what]) => element('li', {}, link(e, step), ` at ${seconds(step)}: ${what}`)));
$('warning').append(...index.findings.map((f, i) => [f, i]).filter(([f]) => f.episodes.length).map(([f, i]) => element('option', { value: i }, f.what)));
$('filters').addEventListener('input', arrange);
$('filters').addEventListener('submit', (event) => event.preventDefault());
$('filters').addEventListener('reset', () => setTimeout(arrange));
$('scroller').addEventListener('scroll', drawRows, { passive: true });
$('step').addEventListener('input', () => { pause(); seek(Number($('step').value)); });
$('play').addEventListener('click', toggle);
$('previous').addEventListener('click', () => neighbour(-1));
$('next').addEventListener('click', () => neighbour(1));
$('keys').addEventListener('click', () => $('help').showModal());
window.addEventListener('hashchange', follow);
window.addEventListener('resize', () => { drawRows(); redraw(); });
arrange();
follow();
