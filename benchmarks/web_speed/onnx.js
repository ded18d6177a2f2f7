// A worker that loads one model as the site's own worker does, and times the site's own `Model`.

import { Model } from './js/model.js';
import { largest } from './js/sampling.js';

async function bytesOf(url) {
  return new Uint8Array(await (await fetch(url)).arrayBuffer());
}

onmessage = async ({ data: { base, name, threads, ids, tokens } }) => {
  try {
    const at = (path) => new URL(path, base).href;
    const { vendor } = await (await fetch(at('site.json'))).json();
    const record = await (await fetch(at(`models/${name}/model.json`))).json();
    const runtime = vendor.devices.wasm;
    const ort = await import(at(`vendor/${runtime.module}`));
    Object.assign(ort.env.wasm, { numThreads: threads, proxy: false });
    ort.env.wasm.wasmPaths = { mjs: at(`vendor/${runtime.glue}`), wasm: at(`vendor/${runtime.wasm}`) };
    ort.env.logLevel = 'error';
    const files = {};
    for (const file of [record.data, 'wasm.onnx']) files[file] = await bytesOf(at(`models/${name}/${file}`));
    const before = performance.now();
    const model = await Model.open(ort, record, files, 'wasm');
    const load = performance.now() - before;
    let result = null;
    for (let round = 0; round < 2; round++) { // the first one warms up
      model.begin();
      let started = performance.now();
      let logits = await model.read(ids, () => {});
      const first = performance.now() - started;
      const times = [];
      const likeliest = [];
      for (const token of tokens) {
        started = performance.now();
        likeliest.push(largest(logits, 1)[0]);
        logits = await model.run([token]);
        times.push(performance.now() - started);
      }
      times.sort((a, b) => a - b);
      result = { load, first, token: times[times.length >> 1], likeliest, logits: Array.from(logits) };
    }
    postMessage(result);
  } catch (error) {
    postMessage({ error: `${error?.message ?? error}` });
  }
};
