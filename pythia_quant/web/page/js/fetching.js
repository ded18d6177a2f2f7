// Fetch the files of this site, and check that they are complete and unchanged.

import { Trouble } from './trouble.js';

/** Return the SHA-256 of bytes in hex; null where the browser computes none, which is so on pages without TLS. */
async function sha256(bytes) {
  if (!globalThis.crypto?.subtle) return null;
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

async function respond(url, name) {
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw new Trouble(`${name} cannot be fetched.`, 'Is the server still running? Then load the page again.');
  }
  if (response.status === 404) {
    throw new Trouble(`${name} is missing on the server.`, 'Copy all files of the site there, and load the page again.');
  }
  if (!response.ok) throw new Trouble(`The server answers ${response.status} for ${name}.`, 'Load the page again.');
  return response;
}

/** Return the content of a small JSON file. */
export async function fetchJson(url, name) {
  const response = await respond(url, name);
  try {
    return await response.json();
  } catch {
    throw new Trouble(`${name} is damaged.`, 'Copy the site to the server again.');
  }
}

/**
 * Return the bytes of a file.
 * @param {{bytes: number, sha256: string}} record what the file must be
 * @param {(bytes: number) => void} arrived is told how many more bytes have arrived
 */
export async function fetchChecked(url, name, record, arrived) {
  const response = await respond(url, name);
  const bytes = allocate(record.bytes, name);
  const reader = response.body.getReader();
  let filled = 0;
  const wrong = (what) => new Trouble(`${name} ${what}.`, 'It was changed or cut off: copy the site to the server again.');
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch {
      throw new Trouble(`${name} arrived only in part.`, 'The connection broke: load the page again.');
    }
    if (part.done) break;
    if (filled + part.value.length > record.bytes) {
      reader.cancel();
      throw wrong(`has more than its ${record.bytes.toLocaleString('en')} bytes`);
    }
    bytes.set(part.value, filled);
    filled += part.value.length;
    arrived(part.value.length);
  }
  if (filled < record.bytes) {
    throw wrong(`has ${filled.toLocaleString('en')} bytes instead of ${record.bytes.toLocaleString('en')}`);
  }
  const digest = await sha256(bytes);
  if (digest !== null && digest !== record.sha256) throw wrong('has other content than when the site was made');
  return bytes;
}

function allocate(count, name) {
  try {
    return new Uint8Array(count);
  } catch {
    throw new Trouble(`There is no memory for ${name}.`, 'Close other pages, or choose a smaller model.');
  }
}
