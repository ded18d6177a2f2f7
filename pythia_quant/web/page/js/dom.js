// Elements of the page.

export const byId = (id) => document.getElementById(id);

/** Make an element with attributes and children; a text is shown as text, whatever it holds. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(key, '');
    else if (value !== false && value !== null) element.setAttribute(key, String(value));
  }
  element.append(...children);
  return element;
}

/** Return a number of bytes as people read it. */
export function megabytes(bytes) {
  const value = bytes / 1e6;
  return `${value.toLocaleString('en', { maximumFractionDigits: value < 100 ? 1 : 0 })} MB`;
}

/** Return a token's text so that blanks and line breaks can be seen. */
export function visible(text) {
  if (text === '') return '(no text)';
  return text.replaceAll(' ', '␣').replaceAll('\n', '⏎').replaceAll('\t', '⇥').replace(/[\u0000-\u001f\u007f]/g, '·');
}
