// The page's side of a worker: one model, loaded once, that continues prompts one after the other.

import { Trouble } from './trouble.js';

export class Client {
  /**
   * @param job what the worker loads
   * @param tell is called with the worker's messages about the loading
   */
  constructor(job, tell) {
    this.tell = tell;
    this.worker = new Worker(new URL('worker.js', import.meta.url), { type: 'module' });
    this.worker.onmessage = ({ data }) => this.heard(data);
    this.worker.onerror = (event) => {
      event.preventDefault();
      const what = 'A script of this page is missing on the server, or the browser cannot run it.';
      this.heard({ type: 'trouble', fatal: true, what, hint: 'Copy all files of the site there, and use a browser of 2023 or later.' });
    };
    this.broken = false;
    this.loaded = this.expect();
    this.worker.postMessage({ type: 'load', ...job });
  }

  expect() {
    return new Promise((resolve, reject) => {
      this.settle = { resolve, reject };
    });
  }

  heard(message) {
    if (message.type === 'trouble') {
      this.broken ||= message.fatal;
      this.settle.reject(new Trouble(message.what, message.hint));
    } else if (message.type === 'ready' || message.type === 'done') this.settle.resolve(message);
    else this.tell(message);
  }

  /** Continue a prompt; `tell` is called with each token. Return what is known at the end. */
  generate(settings, tell) {
    this.tell = tell;
    const ended = this.expect();
    this.worker.postMessage({ type: 'generate', ...settings });
    return ended;
  }

  stop() {
    this.worker.postMessage({ type: 'stop' });
  }

  /** End the worker and free its memory. */
  end() {
    this.worker.terminate();
    this.settle.reject(new Trouble('Stopped.'));
    this.loaded.catch(() => {});
  }
}
