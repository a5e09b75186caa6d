// One episode over time: charts that share an axis of steps, and what was decided at the step that is looked at.
const MARGIN = { left: 58, right: 10 };
const LEGEND = [['logged', 'executed chunk ± spread'], ['candidate', 'candidates'], ['chosen', 'chosen'],
  ['realised', 'realised return'], ['limit', 'alarm below']];

// Draws the timeline into the viewer; returns move(step), which shows a step.
function drawTimeline(timeline, seek) {
  const charts = $('charts'), { decisions } = timeline;
  const width = Math.max(280, charts.clientWidth);
  const sx = scale([0, timeline.steps], [MARGIN.left, width - MARGIN.right]);
  const panels = index.critics.map((name) => criticPanel(name, decisions, timeline.steps, sx, width));
  const strip = stripPanel(timeline, sx, width);
  charts.replaceChildren(legend(timeline), ...panels, strip);
  const cursors = [...panels, strip].map((panel) => {
    const cursor = shape('line', { y1: 0, y2: 400, class: 'cursor' });
    panel.querySelector('svg').append(cursor);
    return cursor;
  });
  const left = sx(0), right = sx(timeline.steps);
  charts.onpointerdown = (event) => { if (!event.target.closest('svg')) return; charts.setPointerCapture(event.pointerId); follow(event); };
  charts.onpointermove = (event) => { if (charts.hasPointerCapture(event.pointerId)) follow(event); };
  const follow = (event) => {
    const x = event.clientX - charts.getBoundingClientRect().left;
    seek(Math.round((x - left) / (right - left) * timeline.steps));
  };
  const minis = drawTraces(timeline);
  const pictures = drawCameras(timeline, seek);
  let decided = null;
  return (step) => {
    for (const cursor of cursors) for (const k of ['x1', 'x2']) cursor.setAttribute(k, sx(step));
    for (const made of minis) made.move(step);
    pictures(step);
    const d = decisions.step.findLastIndex((t) => t <= step);
    if (d !== decided) drawDecision(timeline, d);
    decided = d;
  };
}

function criticPanel(name, decisions, steps, sx, width) {
  const { value, logged_value: logged, logged_spread: spread, chosen_value: chosen, limit } = decisions.critics[name];
  const height = 168, at = decisions.step.map((t) => sx(t));
  const zip = (values) => values.map((v, d) => [at[d], v === null ? null : sy(v)]);
  const low = logged.map((v, d) => (v === null ? null : v - (spread[d] || 0)));
  const high = logged.map((v, d) => (v === null ? null : v + (spread[d] || 0)));
  const y = range([...value.flat(), ...low, ...high, ...chosen, ...decisions.returns, ...(limit || [])]);
  const sy = scale(y, [height - 8, 8]);
  const drawing = shape('svg', { width, height, role: 'img', 'aria-label': `value of critic ${name} over the episode` });
  for (const tick of ticks(y, 4)) drawing.append(...gridline(tick, sy(tick), width));
  const rang = limit ? logged.findIndex((v, d) => v !== null && limit[d] !== null && v < limit[d]) : -1;
  if (rang >= 0) drawing.append(shape('rect', { x: at[rang], y: 0, width: sx(steps) - at[rang], height, class: 'alarm' }));
  const known = at.map((x, d) => d).filter((d) => low[d] !== null);
  if (known.length) {
    const there = path(known.map((d) => [at[d], sy(high[d])])), back = path(known.map((d) => [at[d], sy(low[d])]).reverse());
    drawing.append(shape('path', { d: `${there}L${back.slice(1)}Z`, class: 'band' }));
  }
  drawing.append(
    shape('path', { d: path(zip(decisions.returns)), class: 'realised' }),
    shape('path', { d: dots(value.flatMap((row, d) => row.map((v) => [at[d], v === null ? null : sy(v)]))), class: 'candidate' }),
    shape('path', { d: path(zip(logged)), class: 'logged' }),
    shape('path', { d: dots(zip(logged)), class: 'logged point' }),
    shape('path', { d: dots(zip(chosen)), class: 'chosen' }));
  if (limit) drawing.append(shape('path', { d: path(zip(limit)), class: 'limit' }));
  return element('figure', { class: 'panel' }, element('figcaption', {}, `value of ${name}`,
    ...(rang >= 0 ? [element('span', { class: 'bad' }, `alarm at ${seconds(decisions.step[rang])}`)] : [])), drawing);
}

function gridline(tick, y, width) {
  return [shape('line', { x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y, class: 'grid' }),
    shape('text', { x: MARGIN.left - 6, y: y + 4, 'text-anchor': 'end' }, number(tick))];
}

// Rows under the charts: why it was decided, who decided, rewards, marks, the way to each subgoal, and the axis of time.
function stripPanel(timeline, sx, width) {
  const { decisions, rewards, sources, marks, subgoals, steps } = timeline;
  const until = (d) => (d + 1 < decisions.step.length ? decisions.step[d + 1] : steps);
  const rows = [['decision', decisions.step.map((t, d) => [t, until(d), `c${decisions.reason[d] % COLOURS}`, decisions.reasons[decisions.reason[d]]])]];
  if (sources.length) rows.push(['driver', sources.map(([a, b, who]) => [a, b, who, who])]);
  if (rewards.length) {
    rows.push(['reward', rewards.map(([t, r]) => [t, t + 1, r > 0 ? 'gain' : 'loss', `reward ${r} at step ${t}`])]);
  }
  if (marks.length) rows.push(['look', marks.map(([t, what]) => [t, t + 1, 'mark', what])]);
  if (subgoals.length > 1) {
    const from = (i) => (i ? subgoals[i - 1] : 0);
    rows.push(['subgoal', subgoals.map((t, i) => [from(i), t, `part${i % 2}`, `to subgoal ${i + 1}, reached at ${seconds(t)}`])]);
  }
  const height = rows.length * 22 + 26;
  const drawing = shape('svg', { width, height, role: 'img', 'aria-label': 'decisions, rewards and marks over the episode' });
  rows.forEach(([title, spans], i) => {
    drawing.append(shape('text', { x: MARGIN.left - 6, y: 22 * i + 14, 'text-anchor': 'end' }, title));
    for (const [a, b, kind, what] of spans) {
      const box = { x: sx(a), y: 22 * i + 3, width: Math.max(2, sx(b) - sx(a) - 1), height: 15, rx: 2, class: `span ${kind}` };
      drawing.append(shape('rect', box, shape('title', {}, what)));
    }
  });
  for (const t of ticks([0, steps * index.dt], Math.max(3, width / 110))) {
    const x = sx(t / index.dt);
    drawing.append(shape('line', { x1: x, x2: x, y1: height - 24, y2: height - 18, class: 'axis' }),
      shape('text', { x, y: height - 5, 'text-anchor': 'middle' }, `${t} s`));
  }
  return element('figure', { class: 'panel' }, drawing);
}

function legend(timeline) {
  const limits = Object.values(timeline.decisions.critics).some((critic) => critic.limit);
  const shown = index.critics.length ? LEGEND.filter(([kind]) => kind !== 'limit' || limits) : [];
  const reasons = timeline.decisions.reasons.map((reason, i) => [`span c${i % COLOURS}`, `decided: ${reason}`]);
  const who = [...new Set(timeline.sources.map(([, , name]) => name))].map((name) => [`span ${name}`, `driven by ${name}`]);
  const key = (kind) => shape('svg', { width: 22, height: 12, 'aria-hidden': true },
    kind.startsWith('span') ? shape('rect', { x: 3, y: 1, width: 14, height: 10, rx: 2, class: kind })
      : shape('path', { d: kind === 'candidate' || kind === 'chosen' ? 'M11 6h.01' : 'M1 6h20', class: kind }));
  return element('p', { class: 'legend' }, ...[...shown, ...reasons, ...who].map(([kind, text]) => element('span', {}, key(kind), text)));
}

function drawTraces({ at, states, actions, steps }) {
  const trace = (read, kind) => ([name, unit], dim) =>
    mini(name, unit === '1' ? '' : unit, [{ points: at.map((t, i) => [t, read(i, dim)]), kind }], [], [0, steps]);
  const made = [...index.actions.map(trace(actions, 'chosen line')), ...index.states.map(trace(states, 'logged'))];
  $('traces').querySelector('.minis').replaceChildren(...made);
  return made;
}

// Large pictures of the step and, under each, a strip of thumbnails that lead to their steps.
function drawCameras({ frames, cameras }, seek) {
  const large = Object.entries(cameras).map(([name, pictures]) => {
    const picture = element('img', { alt: `camera ${name}` });
    const every = Math.ceil(frames.length / 12);
    const strip = pictures.map((data, i) => [data, frames[i]]).filter((_, i) => i % every === 0).map(([data, step]) =>
      element('img', { src: `data:image/jpeg;base64,${data}`, alt: '', title: seconds(step), onclick: () => seek(step) }));
    return { picture, pictures, box: element('figure', { class: 'camera' }, picture, element('figcaption', {}, name), element('div', { class: 'strip' }, ...strip)) };
  });
  $('cameras').replaceChildren(...large.map(({ box }) => box));
  return (step) => {
    const i = Math.max(0, frames.findLastIndex((t) => t <= step));
    for (const { picture, pictures } of large) picture.src = `data:image/jpeg;base64,${pictures[i]}`;
  };
}

function drawDecision({ decisions }, d) {
  $('decision').hidden = d < 0;
  if (d < 0) return;
  const candidate = decisions.index[d] < 0 ? 'a new chunk' : `candidate ${decisions.index[d]}`;
  const said = index.critics.map((name) => {
    const { value, logged_value: logged, logged_spread: spread, chosen_value: chosen } = decisions.critics[name];
    const known = value[d].filter((v) => v !== null);
    const better = known.filter((v) => v > logged[d]).length;
    const rank = logged[d] === null ? 'was not scored' : `${number(logged[d])} ± ${number(spread[d], 2)}, ${better} of ${known.length} candidates are better`;
    return element('span', {}, element('b', {}, name), `: executed ${rank}; chosen ${number(chosen[d])}`);
  });
  $('reading').replaceChildren(element('span', {}, element('b', {}, decisions.reasons[decisions.reason[d]]),
    ` at step ${decisions.step[d]}: ${candidate}, ${number(100 * decisions.detour[d], 2)} % of the action range from what was executed`), ...said);
  const horizon = [...Array(decisions.horizon).keys()];
  const plan = (dim, which, upTo) => horizon.slice(0, upTo).map((h) => [h, decisions.plans(d, h, dim, which)]);
  $('plans').replaceChildren(...index.actions.map(([name, unit], dim) => mini(name, unit === '1' ? '' : unit, [
    { points: plan(dim, 0, decisions.length[d]), kind: 'logged' }, { points: plan(dim, 1), kind: 'chosen line' },
  ], horizon.map((h) => [h, decisions.plans(d, h, dim, 2), decisions.plans(d, h, dim, 3)]), [0, decisions.horizon - 1])));
}
