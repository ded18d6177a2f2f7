// A model in onnxruntime-web: its logits, and the keys and values of what it has read.

import { Trouble } from './trouble.js';

const AT_ONCE = 128; // tokens of a prompt that are read in one run, so that it can be stopped between runs

export class Model {
  /**
   * @param ort the module of onnxruntime-web
   * @param record the content of model.json
   * @param files the bytes of its files by name
   * @param device `wasm` or `webgpu`
   */
  static async open(ort, record, files, device) {
    const options = {
      executionProviders: [device],
      externalData: [{ path: record.data, data: files[record.data] }],
      logSeverityLevel: 3,
      // Else weights that are made of integers would be made anew for each token.
      extra: { session: { disable_quant_qdq: '1' } },
    };
    if (device === 'webgpu') {
      options.preferredOutputLocation = Object.fromEntries(record.cache.outputs.map((name) => [name, 'gpu-buffer']));
    }
    let session;
    try {
      session = await ort.InferenceSession.create(files[`${device}.onnx`], options);
    } catch (error) {
      throw refused(error);
    }
    return new Model(ort, record, session);
  }

  constructor(ort, record, session) {
    this.ort = ort;
    this.record = record;
    this.session = session;
    this.cache = {};
    this.begin();
  }

  /** Forget what was read. */
  begin() {
    this.dispose();
    const { heads, head_size: size } = this.record.shape;
    const empty = () => new this.ort.Tensor('float32', new Float32Array(0), [1, heads, 0, size]);
    this.cache = Object.fromEntries(this.record.cache.inputs.map((name) => [name, empty()]));
    this.length = 0;
  }

  dispose() {
    for (const tensor of Object.values(this.cache)) tensor.dispose();
  }

  /** Read tokens in pieces; return the logits of the last one. `between` is awaited between pieces. */
  async read(tokens, between) {
    let logits = null;
    for (let at = 0; at < tokens.length; at += AT_ONCE) {
      if (at) await between(at);
      logits = await this.run(tokens.slice(at, at + AT_ONCE));
    }
    return logits;
  }

  async run(tokens) {
    const { Tensor } = this.ort;
    const whole = (values, shape) => new Tensor('int64', BigInt64Array.from(values, BigInt), shape);
    const length = this.length + tokens.length;
    const feeds = {
      input_ids: whole(tokens, [1, tokens.length]),
      attention_mask: new Tensor('int64', new BigInt64Array(length).fill(1n), [1, length]),
      ...this.cache,
    };
    const results = await this.session.run(feeds);
    this.dispose();
    const { inputs, outputs } = this.record.cache;
    this.cache = Object.fromEntries(inputs.map((name, place) => [name, results[outputs[place]]]));
    this.length = length;
    const logits = results.logits.data;
    if (!logits.every(Number.isFinite)) {
      throw new Trouble('The model computes numbers that are not finite.', 'Choose another model, or another device.');
    }
    return logits;
  }
}

function refused(error) {
  const text = String(error?.message ?? error);
  if (/memory|alloc/i.test(text)) return error;
  return new Trouble(`onnxruntime-web refuses the model: ${text.slice(0, 300)}`, 'Choose another device or model.');
}
