// The page of the benchmark: `measure` is called over the DevTools protocol, and leaves its result in `window.result`.

const finish = (result) => {
  window.result = result;
};

/** A model of a site, in a worker of its own. */
window.measureOnnx = (job) => {
  window.result = null;
  const worker = new Worker('onnx.js', { type: 'module' });
  worker.onmessage = ({ data }) => {
    worker.terminate();
    finish(data);
  };
  worker.onerror = (event) => finish({ error: `worker: ${event.message}` });
  worker.postMessage({ base: new URL('.', location.href).href, ...job });
};

/** A GGUF file in wllama, which has a worker of its own. */
window.measureGguf = async ({ path, threads, prompt, count, context }) => {
  window.result = null;
  try {
    const { Wllama, LoggerWithoutDebug } = await import('./wllama/index.js');
    const wllama = new Wllama({ default: './wllama/wasm/wllama.wasm' }, { logger: LoggerWithoutDebug, suppressNativeLog: true });
    const blob = await (await fetch(path)).blob();
    const started = performance.now();
    await wllama.loadModel([blob], { n_threads: threads, n_ctx: context, n_gpu_layers: 0, warmup: true, cache_idle_slots: false });
    const load = performance.now() - started;
    const samples = [];
    for (let round = 0; round < 2; round++) {
      const { timings } = await wllama.createCompletion({ prompt, max_tokens: count, temperature: 0, ignore_eos: true, cache_prompt: false });
      samples.push({ first: timings.prompt_ms, token: timings.predicted_per_token_ms, prompt: timings.prompt_n, made: timings.predicted_n });
    }
    const last = samples.at(-1);
    finish({ load, ...last, threads: wllama.getNumThreads() });
    await wllama.exit();
  } catch (error) {
    finish({ error: `${error?.message ?? error}` });
  }
};
window.loaded = true;
