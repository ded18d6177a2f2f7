"""Write a random GPT-NeoX in the real shape of a Pythia size, laid out as the hub serves it.

``python benchmarks/random_checkpoint.py 1.4b /tmp/pythia-1.4b --tokenizer tokenizer.json``

It is for speed, memory and conversion time, which do not depend on the values of the weights. At most a few million
values are in memory at once, so a small machine can write 12b.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from pythia_quant.core.files import scratch_folder
from pythia_quant.model.architecture import Architecture
from pythia_quant.model.suite import CONTEXT, SIZES

SHARD_BYTES = 5_000_000_000
VALUES_AT_ONCE = 4_000_000
INT8_BITS = 9
"""Bits of an int8 weight with its share of the fp32 scale of a block of 32."""

Shapes = dict[str, tuple[int, ...]]


def architecture_of(size: str, layers: int | None = None) -> Architecture:
    """Return the architecture of a size of the suite, with `layers` layers if that is given."""
    shape = SIZES[size]
    architecture = Architecture(
        layers=shape.layers, width=shape.width, heads=shape.heads, mlp_width=4 * shape.width,
        vocabulary=shape.vocabulary, context=CONTEXT, rotary_size=shape.width // shape.heads // 4,
        rotary_base=10000.0, norm_epsilon=1e-5,
    )  # fmt: skip
    return replace(architecture, layers=layers or shape.layers)


def shards(shapes: Shapes, limit: int = SHARD_BYTES) -> list[Shapes]:
    """Split tensors, in order, into files of at most `limit` bytes."""
    files: list[Shapes] = [{}]
    filled = 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        if filled + size > limit and files[-1]:
            files.append({})
            filled = 0
        files[-1][name] = shape
        filled += size
    return files


def write_checkpoint(
    architecture: Architecture,
    folder: Path,
    tokenizer: Path | None = None,
    wrote: Callable[[int], object] = lambda _: None,
) -> None:
    """Write the checkpoint; nothing is left in `folder` unless all of it was written.

    Args:
        architecture: its shape.
        folder: where to; must not exist.
        tokenizer: a tokenizer.json to put beside the weights.
        wrote: called with the bytes of every piece.
    """
    random = np.random.default_rng(0)
    with scratch_folder(folder) as scratch:
        files = shards(architecture.tensor_shapes())
        names = [_file_name(i, len(files)) for i in range(len(files))]
        for name, shapes in zip(names, files, strict=True):
            _write_shard(scratch / name, shapes, architecture.layers, random, wrote)
        if len(files) > 1:
            index = {
                "metadata": {"total_size": 2 * architecture.parameters},
                "weight_map": {tensor: name for name, shapes in zip(names, files, strict=True) for tensor in shapes},
            }
            _write_json(scratch / "model.safetensors.index.json", index)
        _write_json(scratch / "config.json", architecture.config())
        if tokenizer:
            shutil.copyfile(tokenizer, scratch / "tokenizer.json")
            end = "<|endoftext|>"
            settings = {"tokenizer_class": "GPTNeoXTokenizer", "bos_token": end, "eos_token": end, "unk_token": end}
            _write_json(scratch / "tokenizer_config.json", settings)


def _file_name(index: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{index + 1:05}-of-{count:05}.safetensors"


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_shard(
    path: Path, shapes: Shapes, layers: int, random: np.random.Generator, wrote: Callable[[int], object]
) -> None:
    """Write one safetensors file: the length of a header, the header as JSON, then the tensors end to end."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, shape in shapes.items():
        after = place + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [place, after]}
        place = after
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            for piece in _values(name, math.prod(shape), layers, random):
                file.write(piece.tobytes())
                wrote(piece.nbytes)


def _values(name: str, count: int, layers: int, random: np.random.Generator) -> Iterator[NDArray[np.float16]]:
    """Yield a tensor's values in pieces, such that activations stay near 1 and fp16 never overflows."""
    mean, spread = 0.0, 0.02
    if "layernorm.weight" in name or "layer_norm.weight" in name:
        mean = 1.0
    elif name.endswith(".bias"):
        spread = 0.01
    elif name.endswith(("attention.dense.weight", "dense_4h_to_h.weight")):
        spread /= math.sqrt(2 * layers)  # what is added to the residual, twice a layer
    for start in range(0, count, VALUES_AT_ONCE):
        piece = random.standard_normal(min(VALUES_AT_ONCE, count - start), dtype=np.float32)
        piece *= spread
        piece += mean
        yield piece.astype(np.float16)


def space_needed(architecture: Architecture) -> tuple[int, int]:
    """Return the bytes of the checkpoint in fp16, and about how many a conversion to int8 adds."""
    return 2 * architecture.parameters + 10_000_000, architecture.parameters * INT8_BITS // 8 + 10_000_000


def _main() -> int:
    parser = argparse.ArgumentParser(description="Write a random GPT-NeoX in the shape of a Pythia size.")
    parser.add_argument("size", choices=SIZES, metavar="SIZE", help=", ".join(SIZES))
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    parser.add_argument("--layers", type=int, metavar="N", help="instead of the size's number of layers")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.json to put beside the weights")
    given = parser.parse_args()
    console = Console(stderr=True)
    if given.out.exists():
        print(f"{given.out}: exists already; remove it, or choose another folder", file=sys.stderr)
        return 2
    architecture = architecture_of(given.size, given.layers)
    checkpoint, converted = space_needed(architecture)
    free = shutil.disk_usage(next(parent for parent in given.out.resolve().parents if parent.exists())).free
    print(
        f"{checkpoint / 1e9:.2f} GB for the checkpoint, {converted / 1e9:.2f} GB more for a conversion to int8;", end=""
    )
    print(f" {free / 1e9:.2f} GB are free")
    if checkpoint > free:
        print(f"{given.out}: the checkpoint does not fit; free some space, or choose another folder", file=sys.stderr)
        return 2
    columns = TextColumn("writing"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=2 * architecture.parameters)
        write_checkpoint(architecture, given.out, given.tokenizer, lambda count: progress.advance(task, count))
    print(f"{architecture.parameters:,} parameters in {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
