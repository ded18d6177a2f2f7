// What the card of a source says that the model is not for, quoted.

import { byId, make } from './dom.js';

export function showNotices(records) {
  const byText = new Map();
  for (const record of records) {
    const key = JSON.stringify(record.notice);
    byText.set(key, [...(byText.get(key) ?? []), record]);
  }
  for (const group of byText.values()) {
    const { notice } = group[0];
    const names = group.map((record) => record.title).join(', ');
    if (notice.parts.length) byId('notice-list').append(quotation(notice, names));
    else byId('notice-list').append(make('p', {}, `${names}: ${notice.missing}`));
  }
  byId('notices').hidden = false;
}

function quotation({ parts, origin }, names) {
  const quote = make('blockquote');
  let list = null;
  for (const { kind, text } of parts) {
    if (kind === 'item') {
      if (!list) quote.append((list = make('ul')));
      list.append(make('li', {}, text));
    } else {
      list = null;
      quote.append(make('p', {}, text));
    }
  }
  const caption = make('figcaption', {}, `${names}: out-of-scope use, as ${origin} says.`);
  return make('figure', {}, caption, quote);
}
