"""Compare the tokens that llama.cpp finds in a text with those of ``tokenizers``, for a tokenizer stored by us.

``python benchmarks/gguf_tokenizer.py [tokenizer.json] [--pre NAME]``

The lines are made by code: every alphabet, numbers, punctuation, code, blanks, emoji, combining marks, special tokens.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

import pythia_quant
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.formats.gguf.file_writer import GgufFile
from pythia_quant.formats.gguf.loaded import Model
from pythia_quant.formats.gguf.metadata import keys
from pythia_quant.formats.gguf.vocabulary import read_vocabulary
from pythia_quant.model.architecture import Architecture
from pythia_quant.quantizers.ggml import TYPES, Packed

DEMO = Path(pythia_quant.__file__).parent / "model/demo/tokenizer.json"
LINE, BLOCK = 40, 128
BLANKS = "\u0009\u000a\u000b\u000c\u000d\u0020\u0085\u00a0\u1680\u2003\u2009\u200b\u2028\u2029\u202f\u205f\u3000\ufeff"
_EMOJI = (
    "👩‍👩‍👧‍👦 👨🏽‍💻", "🏳️‍🌈🏴‍☠️ ❤️‍🔥", "🇩🇪🇫🇷 🇯🇵", "1️⃣ #️⃣", "👍🏿👍🏻 ok", "a👩‍🚀b 😀😀", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "☺︎ ☺️",
)  # fmt: skip
_CONTRACTIONS = ("I'm you're he's", "IT'S DON'T", "they’ll we’ve", "'tis 'll'd's", "don 't  's", "x'sy'rez")


def lines(specials: list[str], seed: int = 0, blocks: int | None = None) -> Iterator[tuple[str, str]]:
    """Yield a class and a line of it, always the same ones.

    Args:
        specials: the texts of special tokens.
        seed: of the choice of characters.
        blocks: the blocks of code points of which a line is made; all if None.
    """
    source = random.Random(seed)
    starts = [start for start in range(0, 0x32000, BLOCK) if _letters(start)]
    for start in starts if blocks is None else source.sample(starts, min(blocks, len(starts))):
        letters = _letters(start)
        line = "".join(" " if source.random() < 0.15 else source.choice(letters) for _ in range(LINE))
        yield from _with_forms("alphabets", line)
    for _ in range(60):
        digits = [source.choice("0123456789٣४௫๙①½Ⅷ²") for _ in range(20)]
        yield from _with_forms("numbers", f"{source.randrange(10**9)} {source.random()} {''.join(digits)}")
        marks = [source.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¿¡«»“”…—€§ ") for _ in range(LINE)]
        yield from _with_forms("punctuation", "".join(marks))
        yield "blanks", _mixture(source, " ")
        yield "blanks", _mixture(source, " \t\n")
        yield "blanks", _mixture(source, "\r\n ")
        yield "blanks of Unicode", _mixture(source, BLANKS)
    for length in range(1, 61):
        for blank in (" ", "\t", "\n", "\r\n", "\u00a0", "\u3000"):
            for line in (blank * length, f"{blank * length}x", f"x{blank * length}", f"x{blank * length}1 "):
                yield ("runs of blanks" if blank.isascii() else "runs of Unicode's blanks"), line
    for module in (random, tempfile, argparse):
        for line in Path(str(module.__file__)).read_text().split("\n\n")[:200]:
            yield "code", line
    yield from (("emoji", line) for line in _EMOJI)
    yield from (("contractions", line) for line in _CONTRACTIONS)
    for text in ("Ünïcödé é ñ", "Việt Nam ế ộ", "が ぱ", "한국어", "ǆ ẛ̣"):
        yield from _with_forms("combining marks", unicodedata.normalize("NFD", text))
    for special in specials:
        for line in (special, f"a{special}b", f" {special} ", f"{special}{special}", f"  {special}\n", special[:-1]):
            yield "special tokens", line


def compare(model: Model, tokenizer: Tokenizer, found: Iterator[tuple[str, str]]) -> dict[str, tuple[int, list[str]]]:
    """Return, for each class of lines, their number and those in which llama.cpp finds other tokens."""
    result: dict[str, tuple[int, list[str]]] = {}
    for kind, line in found:
        count, others = result.get(kind, (0, []))
        same = model.tokenize(line, parse_special=True) == tokenizer.encode(line, add_special_tokens=False).ids
        result[kind] = count + 1, others if same else [*others, line]
    return result


def stored(tokenizer: Path, folder: Path, pre: str | None = None) -> Model:
    """Return a tokenizer in llama.cpp, in a file of ours with a model of one small layer.

    Args:
        tokenizer: the ``tokenizer.json``.
        folder: for the file; it must exist while the model is used.
        pre: llama.cpp's name of the rule by which a text is split; ours if None.
    """
    size = max(Tokenizer.from_file(str(tokenizer)).get_vocab().values()) + 1
    shape = Architecture(
        layers=1, width=32, heads=1, mlp_width=32, vocabulary=size, context=256, rotary_size=32, rotary_base=10000.0,
        norm_epsilon=1e-5,
    )  # fmt: skip
    values = keys(shape, read_vocabulary(tokenizer, size)) | ({"tokenizer.ggml.pre": pre} if pre else {})
    shapes = {name: ("q4_0" if len(form) == 2 else "f32", form) for name, form in shape.tensor_shapes().items()}
    file = folder / "vocabulary.gguf"
    with closing(GgufFile(file, values, shapes)) as writer:
        for name, (kind, form) in shapes.items():
            row = form[-1] // TYPES[kind].block * TYPES[kind].size
            empty = torch.zeros(form[0], row, dtype=torch.uint8) if len(form) == 2 else None
            writer.add(name, torch.zeros(form) if empty is None else Packed(kind, empty))
    return Model(file)


def special_tokens(tokenizer: Tokenizer) -> list[str]:
    """Return the texts of a tokenizer's special tokens."""
    return [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]


def _letters(start: int) -> str:
    found = (chr(number) for number in range(start, start + BLOCK))
    return "".join(letter for letter in found if unicodedata.category(letter) not in ("Cn", "Cs", "Co", "Cc"))


def _with_forms(kind: str, line: str) -> Iterator[tuple[str, str]]:
    composed = unicodedata.normalize("NFC", line)
    yield kind, composed
    if composed != line:
        yield f"{kind}, not in NFC", line


def _mixture(source: random.Random, blanks: str) -> str:
    return "".join(
        source.choice(blanks) * source.randrange(1, 6) + source.choice(["", "a", "é", "1", "."]) for _ in range(12)
    )


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python benchmarks/gguf_tokenizer.py", description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", type=Path, nargs="?", default=DEMO, help="tokenizer.json; default: the demo's")
    parser.add_argument("--pre", metavar="NAME", help="another of llama.cpp's rules to split a text by")
    parser.add_argument("--show", type=int, default=3, metavar="N", help="differing lines to show of each class")
    given = parser.parse_args()
    console = Console(width=max(120, Console().width))
    tokenizer = Tokenizer.from_file(str(given.tokenizer))
    try:
        with tempfile.TemporaryDirectory() as folder:
            model = stored(given.tokenizer, Path(folder), given.pre)
            found = compare(model, tokenizer, lines(special_tokens(tokenizer)))
    except PythiaQuantError as error:
        console.print(str(error), style="red", markup=False)
        return 2
    table = Table("lines", "number", "other tokens", box=None)
    for kind, (count, others) in found.items():
        table.add_row(kind, f"{count:,}", f"{len(others):,}")
    console.print(table)
    for kind, (_, others) in found.items():
        for line in others[: given.show]:
            console.print(f"{kind}: {line[:60]!r}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
