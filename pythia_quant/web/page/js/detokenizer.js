// Text of tokens as they come, without half characters, as pythia_quant/model/text_stream.py makes it.

const UNKNOWN = '\ufffd'; // what bytes are decoded to that are no character, or not yet one

export class Detokenizer {
  /** decode: a function from a list of tokens to text. */
  constructor(decode) {
    this.decode = decode;
    // Tokens are decoded together with those of the part before: some tokenizers drop a blank at the beginning.
    this.tokens = [];
    this.given = 0;
    this.read = 0;
  }

  /** Append a token; return the text that is complete now, which may be empty. */
  feed(token) {
    this.tokens.push(token);
    const text = this.decode(this.tokens);
    const complete = !text.endsWith(UNKNOWN);
    const ready = complete ? text : text.slice(0, -1);
    const part = ready.slice(this.given);
    this.given = Math.max(this.given, ready.length);
    if (complete && this.tokens.length > this.read) {
      this.tokens = this.tokens.slice(this.read);
      this.given = this.decode(this.tokens).length;
      this.read = this.tokens.length;
    }
    return part;
  }

  /** Return what is left at the end: a sign for bytes that never became a character. */
  finish() {
    const text = this.decode(this.tokens);
    const part = text.slice(this.given);
    this.given = text.length;
    return part;
  }
}
