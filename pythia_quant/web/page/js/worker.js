// A worker that holds one model, so that the page stays responsive. It takes `load`, `generate` and `stop`.

import { Detokenizer } from './detokenizer.js';
import { fetchChecked } from './fetching.js';
import { Model } from './model.js';
import { largest, logProbabilities, Sampler } from './sampling.js';
import { Trouble, described } from './trouble.js';

const LIKELIEST = 10;
let memory = null;
let model = null;
let tokenizer = null;
let stopped = false;

// onnxruntime-web makes the memory of its WebAssembly itself, and tells nobody how large it is.
WebAssembly.Memory = class extends WebAssembly.Memory {
  constructor(descriptor) {
    super(descriptor);
    memory = this;
  }
};

/** Let messages come in; a timer would wait for 4 ms. */
function breathe() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

async function fetchAll(sources) {
  const total = sources.reduce((sum, { record }) => sum + record.bytes, 0);
  let done = 0;
  const files = {};
  for (const { name, url, record } of sources) {
    files[name] = await fetchChecked(url, name, record, (bytes) => {
      done += bytes;
      postMessage({ type: 'progress', done, total });
    });
  }
  return files;
}

function filesFor(record, device) {
  return Object.entries(record.files).filter(([name]) => !name.endsWith('.onnx') || name === `${device}.onnx`);
}

async function load({ base, vendor, record, device, threads }) {
  const runtime = vendor.devices[device];
  const at = (path) => new URL(path, base).href;
  const sources = [
    { name: runtime.wasm, url: at(`vendor/${runtime.wasm}`), record: vendor.files[runtime.wasm] },
    ...filesFor(record, device).map(([name, entry]) => ({ name, url: at(`models/${record.name}/${name}`), record: entry })),
  ];
  const files = await fetchAll(sources);
  postMessage({ type: 'preparing' });
  const [ort, { Tokenizer }] = await Promise.all([module(at(`vendor/${runtime.module}`)), module(at(`vendor/${vendor.tokenizer}`))]);
  Object.assign(ort.env.wasm, { numThreads: threads, proxy: false, wasmBinary: files[runtime.wasm].buffer });
  ort.env.wasm.wasmPaths = { mjs: at(`vendor/${runtime.glue}`), wasm: at(`vendor/${runtime.wasm}`) };
  ort.env.logLevel = 'error';
  const text = new TextDecoder().decode(files['tokenizer.json']);
  tokenizer = new Tokenizer(JSON.parse(text), { clean_up_tokenization_spaces: false });
  model = await Model.open(ort, record, files, device);
  postMessage({ type: 'ready', memory: used() });
}

async function module(url) {
  try {
    return await import(url);
  } catch {
    throw new Trouble(`${url.split('/').at(-1)} is missing on the server, or damaged.`, 'Copy all files of the site there.');
  }
}

function used() {
  return memory?.buffer.byteLength ?? 0;
}

function encode(prompt) {
  const { ids } = tokenizer.encode(prompt, { add_special_tokens: false });
  if (ids.length) return ids;
  const { begin } = model.record.tokens;
  if (begin === null) throw new Trouble('The prompt is empty, and this model has no token that begins a text.', 'Type something.');
  return [begin];
}

function checkRoom(ids, count) {
  const { context } = model.record.shape;
  if (ids.length + count <= context) return;
  throw new Trouble(
    `The prompt's ${ids.length.toLocaleString('en')} tokens and ${count.toLocaleString('en')} new ones exceed the model's context of ${context.toLocaleString('en')}.`,
    'Shorten the prompt, or ask for fewer tokens.',
  );
}

async function generate({ prompt, count, temperature, topK, seed }) {
  stopped = false;
  const ids = encode(prompt);
  checkRoom(ids, count);
  const sampler = new Sampler({ temperature, topK, seed });
  const decode = (tokens) => tokenizer.decode(tokens, { skip_special_tokens: true });
  const texts = new Detokenizer(decode);
  const ends = new Set(model.record.tokens.ends);
  model.begin();
  const started = performance.now();
  let first = 0;
  let made = 0;
  let finish = 'length';
  const between = async (read) => {
    postMessage({ type: 'reading', read, of: ids.length });
    await breathe();
    if (stopped) throw new Stopped();
  };
  try {
    let logits = await model.read(ids, between);
    for (;;) {
      const token = sampler.choose(logits);
      if (ends.has(token)) {
        finish = 'end';
        break;
      }
      made += 1;
      first ||= performance.now() - started;
      const values = logProbabilities(logits);
      const likeliest = largest(values, LIKELIEST).map((one) => ({ token: one, probability: Math.exp(values[one]), text: decode([one]) }));
      const times = { first, elapsed: performance.now() - started };
      postMessage({ type: 'token', token, text: texts.feed(token), alone: decode([token]), probability: Math.exp(values[token]), likeliest, times });
      await breathe();
      if (stopped) throw new Stopped();
      if (made === count) break;
      logits = await model.run([token]);
    }
  } catch (error) {
    if (!(error instanceof Stopped)) throw error;
    finish = 'stopped';
  }
  const elapsed = performance.now() - started;
  postMessage({ type: 'done', finish, text: texts.finish(), prompt: ids, times: { first, elapsed }, made, memory: used() });
}

class Stopped extends Error {}

onmessage = async ({ data }) => {
  try {
    if (data.type === 'load') await load(data);
    else if (data.type === 'generate') await generate(data);
    else if (data.type === 'stop') stopped = true;
  } catch (error) {
    postMessage({ type: 'trouble', fatal: !model, ...described(error) });
  }
};
