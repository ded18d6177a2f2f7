"""Kernels that cut sums off are noticed, and others are not."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pythia_quant.core import machine
from pythia_quant.formats.onnx.kernel_check import exact_session_entries, overflows, saturates
from pythia_quant.recipe.onnx_variant import OnnxSettings

Array = npt.NDArray[Any]

# The flags under which this machine has instructions that add four products in 32 bits; ARM has them in every kernel.
_IN_32_BITS = {"avx_vnni", "avx512_vnni", "amx_int8"}


def settings(**given: Any) -> OnnxSettings:
    return OnnxSettings.model_validate({"format": "onnx", **given})


def in_pairs(codes: int, weights: tuple[int, int], count: int) -> tuple[Array, Array]:
    """Return what 16 bits for each pair of products give, and what they should."""
    pair = codes * (weights[0] + weights[1])
    return np.array([count * max(-32768, min(32767, pair))], np.float32), np.array([count * pair])


@pytest.mark.parametrize(
    ("weights", "cut_off", "whole"),
    [
        # 255 * 127 + 255 * 127 = 64,770, for which 16 bits have 32,767. Downwards there is room for one more.
        ((127, 127), 1_048_544, 2_072_640),
        ((-127, -127), -1_048_576, -2_072_640),
        ((65, 64), 1_048_544, 1_052_640),
    ],
)
def test_hand_computed_overflow_is_noticed(weights: tuple[int, int], cut_off: int, whole: int) -> None:
    computed, exact = in_pairs(255, weights, count=32)
    assert (computed.item(), exact.item()) == (cut_off, whole)
    assert overflows(computed, exact)


@pytest.mark.parametrize("weights", [(127, -127), (63, 63), (-63, -63), (64, 64), (-64, -64)])
def test_what_fits_16_bits_is_exact(weights: tuple[int, int]) -> None:
    assert not overflows(*in_pairs(255, weights, count=32))


def test_one_wrong_sum_is_enough() -> None:
    exact = np.arange(12).reshape(3, 4) * 127 * 255
    computed = exact.astype(np.float32)
    assert not overflows(computed, exact)
    computed[2, 3] -= 1
    assert overflows(computed, exact)


def test_this_machine_multiplies_exactly_as_it_is() -> None:
    if saturates():
        pytest.skip(f"this CPU's kernels add products in 16 bits: {machine.cpu()}")
    assert exact_session_entries(settings(weights="int8-channel"), Path("model.onnx")) == {}


def test_with_vnni_nothing_is_cut_off() -> None:
    if not any(name in machine.cpu() for name in _IN_32_BITS):
        pytest.skip(f"this CPU has no instruction that adds in 32 bits: {machine.cpu()}")
    assert not saturates()


def test_the_option_that_is_given_makes_products_exact() -> None:
    given = exact_session_entries(settings(head="int8-channel"), Path("model.onnx"))
    assert not saturates(tuple(given.items()))


@pytest.mark.parametrize("given", [{}, {"weights": "int7-channel"}, {"weights": "int4", "block_size": 32}])
def test_what_cannot_overflow_is_left_as_it_is(given: dict[str, Any]) -> None:
    assert exact_session_entries(settings(**given), Path("model.onnx")) == {}


# Run where CPUID is intercepted, so that ONNX Runtime takes the kernels of another CPU.
PROBE = """
from pathlib import Path
from pythia_quant.recipe.onnx_variant import OnnxSettings
from pythia_quant.formats.onnx.kernel_check import exact_session_entries, saturates

assert saturates()
given = exact_session_entries(OnnxSettings(format="onnx", weights="int8-channel"), Path("model.onnx"))
assert given
assert not saturates(tuple(given.items()))
assert not exact_session_entries(OnnxSettings(format="onnx", weights="int7-channel"), Path("model.onnx"))
"""


@pytest.mark.parametrize("begins", ["AVX2 (", "AVX-512 without VNNI"])
def test_cpus_without_vnni_are_found_out(begins: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks/portability")
    import cpus

    (cpu,) = (cpu for cpu in cpus.CPUS if cpu.name.startswith(begins))
    if reason := cpu.missing():
        pytest.skip(f"cannot be another CPU: {reason}")
    script = tmp_path / "probe.py"
    script.write_text(PROBE)
    try:
        cpus.run(cpu, script, tmp_path, tmp_path)
    except subprocess.CalledProcessError as error:
        if "cannot intercept CPUID" in error.stderr:
            pytest.skip(f"cannot be another CPU: {error.stderr.strip()}")
        raise AssertionError(error.stderr) from error
