// What a visitor can be told when something does not work.

export class Trouble extends Error {
  /** what: what is wrong, in one sentence; hint: what to do. */
  constructor(what, hint = '') {
    super(what);
    this.hint = hint;
  }
}

/** Return an error as data that a worker can send. */
export function described(error) {
  if (error instanceof Trouble) return { what: error.message, hint: error.hint };
  const memory = error instanceof RangeError || /memory|allocat/i.test(String(error?.message ?? error));
  if (memory) return { what: 'The memory of this page is not enough.', hint: 'Close other pages, or choose a smaller model.' };
  return { what: `The model cannot run here: ${String(error?.message ?? error).slice(0, 300)}`, hint: 'Load the page again.' };
}
