"""How products of fp32 matrices are computed. On a CPU, torch has faster ways than its default, exact and not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pythia_quant.core import compat


@contextmanager
def rounded_products() -> Iterator[None]:
    """Let factors be rounded to bf16 where that is faster: on CPUs with matrix units for it, and on GPUs.

    The sums stay fp32. It is as if each input were off by up to 0.2 %, each by itself, which averages out over tokens.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def exact_products() -> Iterator[None]:
    """Keep fp32's precision, with the faster library.

    On a CPU without matrix units, allowing bf16 rounds nothing (torch 2.13, AVX512-BF16: equal to 2e-7), but hands the
    product to oneDNN instead of MKL, which on AMD's is twice as fast.
    """
    if torch.cuda.is_available() or compat.has_amx_tiles():
        yield
        return
    with rounded_products():
        yield
