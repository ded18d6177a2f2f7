// The page: choose models, continue a prompt with one or two of them, and show what they wrote.

import { chart } from './chart.js';
import { Client } from './client.js';
import { byId, make, megabytes, visible } from './dom.js';
import { fetchJson } from './fetching.js';
import { showNotices } from './notices.js';
import { firstDifference, Pane } from './pane.js';
import { checkBrowser, hasWebGpu, threads } from './support.js';
import { Trouble, described } from './trouble.js';

const base = new URL('..', import.meta.url).href;
const KEPT = 2; // models in memory at once

let site = null;
let records = [];
let panes = [];
let working = null; // the client at work
let halted = false;
let frame = 0; // of what is drawn soon
const clients = new Map();

function say(text) {
  byId('status').textContent = text;
}

function showTrouble({ what, hint }) {
  const box = byId('trouble');
  box.replaceChildren(make('p', {}, make('strong', {}, what)), ...(hint ? [make('p', {}, hint)] : []));
  box.hidden = false;
}

function chosenRecords() {
  const one = records[Number(byId('model').value)];
  const other = byId('other').value;
  return other === '' ? [one] : [one, records[Number(other)]];
}

function keyOf(record) {
  return `${record.name} on ${byId('device').value}`;
}

function describeChoice() {
  const chosen = chosenRecords();
  const parts = chosen.map((record) => `${record.title}: ${record.bits_per_weight.toFixed(2)} bits a weight, ${megabytes(record.bytes)}, ${record.shape.layers} layers, context of ${record.shape.context.toLocaleString('en')} tokens.`);
  const unloaded = chosen.filter((record) => !clients.has(keyOf(record)));
  const device = site.vendor.devices[byId('device').value];
  const bytes = unloaded.reduce((sum, record) => sum + Object.values(record.files).reduce((all, file) => all + file.bytes, site.vendor.files[device.wasm].bytes), 0);
  byId('facts').replaceChildren(...parts.flatMap((part) => [part, make('br')]), bytes ? `The first text loads ${megabytes(bytes)}.` : 'Loaded.');
  byId('count').max = Math.min(...chosen.map((record) => record.shape.context - 1));
}

function fillChoices(webGpu) {
  records.forEach((record, place) => {
    byId('model').append(make('option', { value: place }, record.title));
    byId('other').append(make('option', { value: place }, record.title));
  });
  byId('other').prepend(make('option', { value: '', selected: true }, 'no other'));
  byId('other-label').hidden = records.length < 2;
  const count = threads();
  const name = { wasm: `the processor, ${count} ${count === 1 ? 'thread' : 'threads'}`, webgpu: 'the graphics card (WebGPU)' };
  for (const device of Object.keys(site.vendor.devices)) {
    if (device !== 'webgpu' || webGpu) byId('device').append(make('option', { value: device }, name[device]));
  }
  byId('prompt').value = records[0].example;
  for (const id of ['model', 'other', 'device']) byId(id).addEventListener('change', describeChoice);
  describeChoice();
}

/** Return the client of a model, which is loaded if it is not yet. */
async function loadedClient(record) {
  const key = keyOf(record);
  let client = clients.get(key);
  if (!client) {
    for (const [old, other] of clients) {
      if (clients.size < KEPT) break;
      if (chosenRecords().some((one) => keyOf(one) === old)) continue;
      other.end();
      clients.delete(old);
    }
    client = new Client({ base, vendor: site.vendor, record, device: byId('device').value, threads: threads() }, showLoading(record));
    clients.set(key, client);
  }
  working = client;
  try {
    const { memory } = await client.loaded;
    client.memory = memory;
  } catch (error) {
    clients.delete(key);
    client.end();
    throw error;
  } finally {
    byId('loading').hidden = true;
  }
  return client;
}

function showLoading(record) {
  say(`Loading ${record.title} …`);
  return (message) => {
    const bar = byId('bar');
    if (message.type === 'preparing') {
      bar.removeAttribute('value');
      byId('bytes').textContent = 'preparing the model';
      return;
    }
    byId('loading').hidden = false;
    bar.max = message.total;
    bar.value = message.done;
    byId('bytes').textContent = `${megabytes(message.done)} of ${megabytes(message.total)}`;
  };
}

function settings() {
  const number = (id) => Number(byId(id).value);
  return { prompt: byId('prompt').value, count: number('count'), temperature: number('temperature'), topK: number('top-k'), seed: number('seed') };
}

/** Continue the prompt with one model. */
async function continueWith(record, pane, wanted) {
  const client = await loadedClient(record);
  if (halted) return;
  say(`${record.title} reads the prompt …`);
  const ended = client.generate(wanted, (message) => {
    if (message.type === 'reading') say(`${record.title} has read ${message.read} of ${message.of} tokens …`);
    if (message.type !== 'token') return;
    if (!pane.tokens.length) say(`${record.title} writes …`);
    pane.add(message);
    showSoon(pane);
  });
  pane.finish(await ended);
  pane.follow();
}

async function run(event) {
  event.preventDefault();
  if (working) return;
  byId('trouble').hidden = true;
  const wanted = settings();
  const chosen = chosenRecords();
  panes = chosen.map((record) => new Pane(record, wanted.prompt, (place) => showPlace(place)));
  byId('panes').replaceChildren(...panes.map((pane) => pane.element));
  byId('charts').replaceChildren();
  byId('verdict').hidden = true;
  byId('position').hidden = true;
  byId('results').hidden = false;
  setBusy(true);
  try {
    // One after the other, so that neither slows the other.
    for (const [place, record] of chosen.entries()) if (!halted) await continueWith(record, panes[place], wanted);
    compare();
    say(halted ? 'Stopped.' : 'Done.');
  } catch (error) {
    say(halted ? 'Stopped.' : '');
    if (!halted) showTrouble(described(error));
  } finally {
    setBusy(false);
    describeChoice();
  }
}

function setBusy(busy) {
  if (busy) halted = false;
  else working = null;
  byId('go').disabled = busy;
  byId('stop').disabled = !busy;
  for (const id of ['model', 'other', 'device']) byId(id).disabled = busy;
  document.body.classList.toggle('busy', busy);
  if (!busy && document.activeElement === document.body) byId('go').focus();
}

function stop() {
  halted = true;
  if (byId('loading').hidden) working?.stop();
  else working?.end();
}

/** Say where two texts part, and show the probabilities there. */
function compare() {
  const made = Math.max(...panes.map((pane) => pane.tokens.length));
  if (!made) return;
  if (panes.length === 1 || panes.some((pane) => !pane.tokens.length)) {
    showPlace(made);
    return;
  }
  const place = firstDifference(...panes);
  const verdict = byId('verdict');
  verdict.hidden = false;
  if (!place) {
    verdict.textContent = `All ${made.toLocaleString('en')} tokens agree.`;
    showPlace(made);
    return;
  }
  const names = panes.map((pane) => pane.tokens[place - 1]).map((token) => (token ? make('code', {}, visible(token.alone)) : 'nothing'));
  const before = place === 1 ? 'The first token differs: ' : `${place - 1} ${place === 2 ? 'token agrees' : 'tokens agree'}; token ${place} differs: `;
  verdict.replaceChildren(before, names[0], ' and ', names[1], '.');
  for (const pane of panes) pane.mark(place);
  showPlace(place);
}

/** Show the newest token's probabilities at the next frame, as tokens may come faster than a screen shows them. */
function showSoon(pane) {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(() => {
    showPlace(pane.tokens.length);
    pane.follow();
  });
}

/** Show the probabilities before a new token. */
function showPlace(place) {
  cancelAnimationFrame(frame);
  const slider = byId('place');
  slider.max = Math.max(1, ...panes.map((pane) => pane.tokens.length));
  slider.value = place;
  byId('place-number').textContent = slider.value;
  byId('position').hidden = false;
  byId('charts').replaceChildren(...panes.map((pane) => chart(pane.record.title, pane.tokens[place - 1])));
  for (const pane of panes) pane.point(place);
}

async function start() {
  checkBrowser();
  site = await fetchJson(new URL('site.json', base), 'site.json');
  records = await Promise.all(site.models.map((name) => fetchJson(new URL(`models/${name}/model.json`, base), `models/${name}/model.json`)));
  fillChoices(site.vendor.devices.webgpu && (await hasWebGpu()));
  byId('tool').textContent = site.tool;
  showNotices(records);
  byId('form').addEventListener('submit', run);
  byId('stop').addEventListener('click', stop);
  byId('place').addEventListener('input', ({ target }) => showPlace(Number(target.value)));
  byId('prompt').addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) byId('form').requestSubmit();
  });
  byId('trouble').hidden = true;
  byId('form').hidden = false;
  document.body.dataset.state = 'ready';
}

start().catch((error) => {
  showTrouble(error instanceof Trouble ? described(error) : { what: 'The page cannot start.', hint: String(error?.message ?? error) });
  document.body.dataset.state = 'failed';
});
