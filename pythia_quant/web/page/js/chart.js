// The likeliest next tokens at one place of a text, as bars. It is a table: a screen reader reads it as one.

import { make, visible } from './dom.js';

const percent = (probability) => `${(100 * probability).toFixed(probability < 0.0995 ? 2 : 1)} %`;

/** Return the bars of a token that was chosen, among the likeliest ones; `message` is undefined where the text is shorter. */
export function chart(title, message) {
  const caption = make('caption', {}, title);
  if (!message) return make('table', { class: 'chart' }, caption, make('tbody', {}, make('tr', {}, make('td', {}, 'The text ended before.'))));
  const rows = message.likeliest.map((one) => ({ ...one, chosen: one.token === message.token }));
  if (!rows.some((row) => row.chosen)) {
    rows.push({ token: message.token, text: message.alone, probability: message.probability, chosen: true });
  }
  const most = Math.max(...rows.map((row) => row.probability));
  const head = make('thead', { class: 'unseen' }, make('tr', {}, ...['Token', 'Bar', 'Probability'].map((text) => make('th', { scope: 'col' }, text))));
  return make('table', { class: 'chart' }, caption, head, make('tbody', {}, ...rows.map((row) => line(row, most))));
}

function line(row, most) {
  const bar = make('div', { class: 'bar' });
  bar.style.inlineSize = `${Math.max(0.5, (100 * row.probability) / most)}%`;
  const name = make('th', { scope: 'row', title: `token ${row.token}` }, make('code', {}, visible(row.text)));
  if (row.chosen) name.append(make('span', { class: 'unseen' }, ' (chosen)'));
  return make('tr', { class: row.chosen ? 'chosen' : null }, name, make('td', { class: 'bars', 'aria-hidden': 'true' }, bar), make('td', {}, percent(row.probability)));
}
