"""Read the weights that another program left; gptqmodel's are unpacked with code of neither it nor the package.

A layer is saved as words of 32 bits: codes along the inputs, zero points along the outputs, the first one in the
lowest bits. If 32 is not a multiple of the bits of a code, a code continues in the next word, so that 32 codes take
as many words as a code has bits. `scales` are fp16 [groups, out], `g_idx` the group of each input.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

LESS_ONE = {"gptq": 1, "gptq_v2": 0}
"""What each format subtracts from a zero point before it stores it."""


LinearArrays = Callable[[str], NDArray[np.float32]]
"""Gives the weight, fp32 [out, in], of a linear layer by its name."""


class UnreadableError(Exception):
    """The model was saved in a format that this module does not read."""


def plain_weights(folder: Path) -> LinearArrays:
    """Open weights that a driver wrote in fp32, and return a function as :func:`linear_weights` does."""

    def weight(name: str) -> NDArray[np.float32]:
        with safe_open(folder / "weights.safetensors", framework="np") as opened:
            found: NDArray[np.float32] = opened.get_tensor(name)
        return found

    return weight


def linear_weights(folder: Path) -> LinearArrays:
    """Open a saved model and return a function that gives the weight, fp32 [out, in], of a linear layer by its name.

    Raises:
        UnreadableError: the zero points of the format are ambiguous.
    """
    settings = json.loads((folder / "quantize_config.json").read_text())
    less_one = LESS_ONE.get(settings["checkpoint_format"])
    if less_one is None or (less_one and not settings["sym"]):
        raise UnreadableError(f"format {settings['checkpoint_format']} with sym={settings['sym']}")
    place: dict[str, Path] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="np") as opened:
            place |= dict.fromkeys(opened.keys(), file)

    def part(name: str) -> NDArray[np.generic]:
        with safe_open(place[name], framework="np") as opened:
            tensor: NDArray[np.generic] = opened.get_tensor(name)
        return tensor

    def weight(name: str) -> NDArray[np.float32]:
        bits = settings["bits"]
        codes = unpack(part(f"{name}.qweight"), bits)
        zeros = unpack(part(f"{name}.qzeros").T, bits).T + less_one
        scales, groups = part(f"{name}.scales").astype(np.float32), part(f"{name}.g_idx")
        return np.ascontiguousarray((scales[groups] * (codes - zeros[groups])).T)

    return weight


def unpack(words: NDArray[np.generic], bits: int) -> NDArray[np.int32]:
    """Unpack int32 [words, columns] into [words * 32 / bits, columns], numbers of 0 … 2**bits - 1."""
    stream = np.ascontiguousarray(words.T).view(np.uint8)  # [columns, bytes], little-endian as the words are
    binary = np.unpackbits(stream, axis=1, bitorder="little").reshape(len(stream), -1, bits)
    numbers: NDArray[np.int32] = (binary << np.arange(bits)).sum(axis=2).astype(np.int32).T
    return numbers
