// What one model writes: its text, token by token, and how fast it is.

import { make, megabytes } from './dom.js';

const NUMBERS = { speed: 'tokens a second', first: 'to the first token', count: 'new tokens', memory: 'memory' };

export class Pane {
  /**
   * @param record the content of model.json
   * @param chosen is called with the number of a token that was clicked
   */
  constructor(record, prompt, chosen) {
    this.record = record;
    this.tokens = [];
    this.values = Object.fromEntries(Object.keys(NUMBERS).map((key) => [key, make('dd', {}, '–')]));
    const numbers = Object.entries(NUMBERS).map(([key, label]) => make('div', {}, make('dt', {}, label), this.values[key]));
    this.text = make('div', { class: 'text', tabindex: 0, role: 'region', 'aria-label': `Text of ${record.title}` });
    this.text.append(make('span', { class: 'given' }, prompt));
    this.text.addEventListener('click', ({ target }) => {
      const place = target.closest('.token')?.dataset.place;
      if (place) chosen(Number(place));
    });
    this.ending = make('p', { class: 'ending' });
    const title = make('h3', {}, record.title);
    this.element = make('article', { class: 'pane' }, title, make('dl', { class: 'numbers' }, ...numbers), this.text, this.ending);
  }

  /** Show a token. A token whose bytes are not yet a character is shown with the next ones. */
  add(message) {
    this.tokens.push(message);
    const last = this.span;
    if (last && this.half) {
      last.textContent = message.text;
      last.dataset.tokens += ` ${message.token}`;
    } else {
      this.span = make('span', { class: 'token', 'data-place': this.tokens.length, 'data-tokens': message.token }, message.text);
      this.text.append(this.span);
    }
    this.half = message.text === '';
    this.time(message.times, this.tokens.length);
  }

  /** Scroll to the newest token. */
  follow() {
    this.text.scrollTop = this.text.scrollHeight;
  }

  time({ first, elapsed }, made) {
    const after = elapsed - first;
    this.values.count.textContent = made.toLocaleString('en');
    if (made) this.values.first.textContent = first < 1000 ? `${first.toFixed(0)} ms` : `${(first / 1000).toFixed(1)} s`;
    if (made > 1 && after > 0) this.values.speed.textContent = ((made - 1) / (after / 1000)).toFixed(1);
  }

  finish(message) {
    if (message.text) {
      if (this.half && this.span) this.span.textContent += message.text;
      else this.text.append(message.text);
    }
    this.time(message.times, message.made);
    if (message.memory) this.values.memory.textContent = megabytes(message.memory);
    this.ending.textContent = { length: '', end: 'The model ended the text here.', stopped: 'Stopped.' }[message.finish];
    this.element.dataset.finish = message.finish;
  }

  spanOf(place) {
    const spans = [...this.text.querySelectorAll('.token')];
    return spans.findLast((span) => Number(span.dataset.place) <= place);
  }

  /** Mark the token whose probabilities are shown. */
  point(place) {
    this.text.querySelector('.shown')?.classList.remove('shown');
    if (place <= this.tokens.length) this.spanOf(place)?.classList.add('shown');
  }

  /** Mark the first token that differs from the other text's. */
  mark(place) {
    const span = this.spanOf(place);
    if (!span) return;
    span.classList.add('differs');
    span.title = 'the first token that differs';
  }
}

/** Return the number, from 1, of the first token that two panes do not share; 0 if there is none. */
export function firstDifference(one, other) {
  const length = Math.max(one.tokens.length, other.tokens.length);
  for (let place = 0; place < length; place++) {
    if (one.tokens[place]?.token !== other.tokens[place]?.token) return place + 1;
  }
  return 0;
}
