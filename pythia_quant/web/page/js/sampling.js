// Choose the next token from logits, as pythia_quant/runtimes/sampling.py does.

import { Random } from './random.js';

/** Return the natural logarithms of the softmax of `values` divided by a temperature, as 64-bit numbers. */
export function logProbabilities(values, temperature = 1) {
  let most = -Infinity;
  for (const value of values) if (value > most) most = value;
  const shifted = new Float64Array(values.length);
  let sum = 0;
  for (let token = 0; token < values.length; token++) {
    shifted[token] = (values[token] - most) / temperature;
    sum += Math.exp(shifted[token]);
  }
  const logSum = Math.log(sum);
  for (let token = 0; token < shifted.length; token++) shifted[token] -= logSum;
  return shifted;
}

/** Return the `count` tokens with the largest values, the largest first; of equal ones the first. */
export function largest(values, count) {
  const heap = []; // places, the least of the chosen at the root
  const below = (a, b) => values[a] < values[b] || (values[a] === values[b] && a > b);
  const sink = (at, end) => {
    for (;;) {
      let least = at;
      for (const child of [2 * at + 1, 2 * at + 2]) if (child < end && below(heap[child], heap[least])) least = child;
      if (least === at) return;
      [heap[at], heap[least]] = [heap[least], heap[at]];
      at = least;
    }
  };
  const size = Math.min(count, values.length);
  for (let place = 0; place < size; place++) heap.push(place);
  for (let at = (size >> 1) - 1; at >= 0; at--) sink(at, size);
  for (let place = size; size && place < values.length; place++) {
    if (!below(heap[0], place)) continue;
    heap[0] = place;
    sink(0, size);
  }
  return heap.sort((a, b) => values[b] - values[a] || a - b);
}

export class Sampler {
  constructor({ temperature, topK, seed }) {
    this.temperature = temperature;
    this.topK = topK;
    this.random = new Random(seed);
  }

  /** Return a token; `logits` has one number a token of the vocabulary, all finite. */
  choose(logits) {
    if (this.temperature === 0) return largest(logits, 1)[0];
    const scaled = logProbabilities(logits, this.temperature);
    if (!this.topK) return this.draw(scaled.map(Math.exp));
    const order = largest(scaled, this.topK);
    return order[this.draw(Float64Array.from(order, (token) => Math.exp(scaled[token])))];
  }

  draw(weights) {
    const sums = new Float64Array(weights.length);
    let sum = 0;
    let last = 0;
    for (let place = 0; place < weights.length; place++) {
      sums[place] = sum += weights[place];
      if (weights[place] > 0) last = place;
    }
    const drawn = this.random.next() * sum;
    let low = 0;
    let high = sums.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sums[middle] <= drawn) low = middle + 1;
      else high = middle;
    }
    return Math.min(low, last);
  }
}
