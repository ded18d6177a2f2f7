// What this browser can do.

import { Trouble } from './trouble.js';

// A module whose one function makes a vector and drops it.
const SIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 9, 1, 7, 0, 65, 0, 253, 15, 26, 11,
]);

/** Raise if something is missing without which no model runs. */
export function checkBrowser() {
  const lacks = (what) => new Trouble(`This browser lacks ${what}, which the model needs.`, 'Use a browser of 2023 or later.');
  if (typeof WebAssembly !== 'object') throw lacks('WebAssembly');
  if (!WebAssembly.validate(SIMD)) throw lacks('SIMD in WebAssembly');
  if (typeof BigInt64Array !== 'function') throw lacks('64-bit integers');
  if (typeof Worker !== 'function') throw lacks('workers');
}

/** Return how many threads WebAssembly may use: only one, unless the server isolates the page. */
export function threads() {
  if (!globalThis.crossOriginIsolated || typeof SharedArrayBuffer !== 'function') return 1;
  return Math.max(1, Math.min(4, navigator.hardwareConcurrency || 1));
}

/** Say whether WebGPU works. */
export async function hasWebGpu() {
  try {
    return Boolean(await navigator.gpu?.requestAdapter());
  } catch {
    return false;
  }
}
