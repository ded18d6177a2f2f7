// The random numbers of numpy.random.default_rng(seed).random(): PCG64 (O'Neill, "PCG", 2014), whose state comes from the
// seed as numpy's SeedSequence hashes it. So the page samples what the command line samples with the same seed.

const POOL = 4;
const XSHIFT = 16;
const mask64 = (1n << 64n) - 1n;
const mask128 = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;

function hasher(constant, multiplier) {
  return (value) => {
    let mixed = (value ^ constant) >>> 0;
    constant = Math.imul(constant, multiplier) >>> 0;
    mixed = Math.imul(mixed, constant) >>> 0;
    return (mixed ^ (mixed >>> XSHIFT)) >>> 0;
  };
}

function mix(x, y) {
  const mixed = (Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y)) >>> 0;
  return (mixed ^ (mixed >>> XSHIFT)) >>> 0;
}

function words(seed) {
  const list = [];
  for (let rest = BigInt(seed); rest > 0n || list.length === 0; rest >>= 32n) list.push(Number(rest & 0xffffffffn));
  return list;
}

/** Return four 64-bit integers that depend on every bit of the seed. */
function spread(seed) {
  const entropy = words(seed);
  const hash = hasher(0x43b0d7e5, 0x931e8875);
  const pool = Array.from({ length: POOL }, (_, place) => hash(entropy[place] ?? 0));
  for (let from = 0; from < POOL; from++) {
    for (let to = 0; to < POOL; to++) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
  }
  const last = hasher(0x8b51f9dd, 0x58f38ded);
  const halves = Array.from({ length: 2 * POOL }, (_, place) => BigInt(last(pool[place % POOL])));
  return Array.from({ length: POOL }, (_, place) => halves[2 * place] | (halves[2 * place + 1] << 32n));
}

export class Random {
  /** seed: a whole number from 0 to 2^53 - 1. */
  constructor(seed) {
    const [a, b, c, d] = spread(seed);
    this.increment = ((((c << 64n) | d) << 1n) | 1n) & mask128;
    this.state = 0n;
    this.step();
    this.state = (this.state + ((a << 64n) | b)) & mask128;
    this.step();
  }

  step() {
    this.state = (this.state * MULTIPLIER + this.increment) & mask128;
  }

  /** Return a number from 0 to below 1. */
  next() {
    this.step();
    const folded = (this.state >> 64n) ^ (this.state & mask64);
    const turn = this.state >> 122n;
    const turned = ((folded >> turn) | (folded << (64n - turn))) & mask64;
    return Number(turned >> 11n) * 2 ** -53;
  }
}
