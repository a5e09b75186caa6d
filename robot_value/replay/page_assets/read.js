// What the page knows, and how a timeline is loaded: a script element, because file:// pages may not fetch.
const index = JSON.parse(document.getElementById('index').textContent);
const columns = index.columns;
const loaded = new Map(); // episode number -> timeline, the latest few
const waiting = new Map(); // episode number -> { resolve }
const KEPT = 12;

const $ = (id) => document.getElementById(id);
const outcome = (success) => (success === null ? 'unknown' : success ? 'success' : 'failure');
const number = (x, digits = 3) => (x === null || x === undefined ? '–' : Number(x.toPrecision(digits)).toString());
const seconds = (step) => `${(step * index.dt).toFixed(2)} s`;

// An element with attributes and children; texts become text nodes, never markup.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function address(episode, step = 0) {
  return `#episode=${episode}&step=${step}`;
}

window.robot_value_episode = (episode, timeline) => {
  for (const key of ['states', 'actions']) timeline[key] = unpack(timeline[key], 1);
  timeline.decisions.horizon = timeline.decisions.plans.shape[1];
  timeline.decisions.plans = unpack(timeline.decisions.plans, 2);
  loaded.delete(episode);
  loaded.set(episode, timeline);
  if (loaded.size > KEPT) loaded.delete(loaded.keys().next().value);
  waiting.get(episode)?.resolve(timeline);
};

function load(episode) {
  if (loaded.has(episode)) return Promise.resolve(loaded.get(episode));
  if (!waiting.has(episode)) {
    const entry = {};
    entry.promise = new Promise((resolve, reject) => {
      const name = `data/episode_${String(episode).padStart(6, '0')}.js`;
      const script = element('script', { src: name });
      const settle = (done) => (value) => { waiting.delete(episode); script.remove(); done(value); };
      entry.resolve = settle(resolve);
      script.onerror = settle(() => reject(new Error(
        `expected ${name} beside this page, got nothing that can be read; keep report.html and its folder data together`)));
      document.head.append(script);
    });
    waiting.set(episode, entry);
  }
  return waiting.get(episode).promise;
}

// uint16 between each column's low and high -> a function of the indices; `axis` holds the columns.
function unpack(packed, axis) {
  const bytes = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0));
  const levels = new DataView(bytes.buffer);
  const { shape, low, high } = packed;
  return (...at) => {
    const flat = at.reduce((sum, i, k) => sum * shape[k] + i, 0);
    return low[at[axis]] + (high[at[axis]] - low[at[axis]]) * levels.getUint16(2 * flat, true) / 65535;
  };
}
