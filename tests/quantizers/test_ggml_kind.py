"""GPTQ on the grids of ggml: what is stored is what was solved, and no step raises the error."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gptq import random_case
from torch import Tensor

from pythia_quant.core.errors import QuantizationError
from pythia_quant.quantizers import ggml, ggml_refine, gptq, refine
from pythia_quant.quantizers.ggml import TYPES, Packed
from pythia_quant.quantizers.ggml_bytes import FLOATS
from pythia_quant.quantizers.ggml_fit import fit
from pythia_quant.quantizers.ggml_kind import kind_of
from pythia_quant.quantizers.gptq import Options
from pythia_quant.quantizers.grid import Quantized
from pythia_quant.quantizers.grid_kind import IntegerKind

BLOCKS = sorted(set(TYPES) - set(FLOATS))


def error(weight: Tensor, target: Tensor, hessian: Tensor) -> Tensor:
    """Return the squared error of each output for weights [out, in]."""
    difference = (weight - target).double()
    squared: Tensor = (difference @ hessian.double()) * difference
    return squared.sum(1)


@pytest.mark.parametrize("order", ["none", "static"])
@pytest.mark.parametrize("name", TYPES)
def test_what_is_stored_leaves_the_error_that_is_said(name: str, order: gptq.ActivationOrder) -> None:
    weight, hessian = random_case(0, width=512, tokens=1024)
    options = Options(activation_order=order, scale_search=True, sweeps=2)
    solution = gptq.quantize(weight, hessian, options, kinds=[kind_of(name)])
    (packed,) = solution.parts
    assert isinstance(packed, Packed)
    assert packed.type == name
    truth = error(packed.dequantize(), weight, hessian)
    torch.testing.assert_close(solution.error.double(), truth, rtol=1e-3, atol=1e-9 * float(solution.outputs.max()))
    rounded = error(ggml.quantize(weight, name).dequantize(), weight, hessian)
    assert truth.sum() <= rounded.sum() * (0.35 if name in BLOCKS else 1)
    torch.testing.assert_close(solution.rounding_error.sum().double(), rounded.sum(), rtol=0.02, atol=1e-9)


@pytest.mark.parametrize("name", BLOCKS)
@settings(deadline=None, max_examples=4)
@given(st.integers(0, 2**32))
def test_no_refinement_raises_the_error(name: str, seed: int) -> None:
    weight, hessian = random_case(seed, out=6, width=512, tokens=1024)
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    target = weight.T.contiguous()
    grid = fit(name, target)
    values = grid.round(target)
    errors = [error(values.T, weight, hessian)]
    for _ in range(3):
        grid = ggml_refine.fit_blocks(target, hessian, None, values, grid)
        assert torch.equal(grid.round(values), values)  # they are its values
        errors.append(error(values.T, weight, hessian))
        refine.move_codes(target, hessian, values, grid)
        errors.append(error(values.T, weight, hessian))
    for before, after in pairwise(errors):
        assert (after <= before * (1 + 1e-4)).all()
    assert errors[-1].sum() < 0.6 * errors[0].sum()
    assert torch.equal(ggml.from_grid(name, grid, values).dequantize(), values.T)


@pytest.mark.parametrize("name", ["q4_0", "q4_1"])
def test_fitted_scales_and_minimums_are_those_of_least_squares(name: str) -> None:
    weight, hessian = random_case(1, out=4, width=128, tokens=512)
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    target = weight.T.contiguous()
    grid = fit(name, target)
    values = grid.round(target)
    codes = grid.encode(values).double() - (TYPES[name].zero or 0)
    groups = torch.arange(4).repeat_interleave(32)
    root = torch.linalg.cholesky(hessian.double()).T
    found = ggml_refine.fit_blocks(target, hessian, None, values, grid)
    for output in range(4):
        design = torch.stack([torch.where(groups == group, codes[:, output], 0.0) for group in range(4)], 1)
        if TYPES[name].zero is None:
            design = torch.cat((design, torch.nn.functional.one_hot(groups).double()), 1)
        best = torch.linalg.lstsq(root @ design, root @ weight[output].double()[:, None]).solution[:, 0]
        ours = found.step[:, output] if found.lowest is None else torch.cat((found.step, found.lowest))[:, output]
        torch.testing.assert_close(ours.double(), best, rtol=2e-3, atol=1e-5)


def test_parts_are_fitted_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = random_case(2, out=40, width=512, tokens=1024)
    target = weight.T.contiguous()
    grid = fit("q4_k", target)
    monkeypatch.setattr(ggml_refine, "_INPUTS_AT_ONCE", 256)
    monkeypatch.setattr(ggml_refine, "_OUTPUTS_AT_ONCE", 16)
    values = grid.round(target)
    before = error(values.T, weight, hessian)
    ggml_refine.fit_blocks(target, hessian, None, values, grid)
    after = error(values.T, weight, hessian)
    assert (after <= before * (1 + 1e-4)).all()
    assert after.sum() < 0.95 * before.sum()


def test_matrices_side_by_side_have_their_own_types() -> None:
    weight, hessian = random_case(3, width=512, tokens=1024)
    options = Options(bits=4, group_size=32, activation_order="static", scale_search=True, sweeps=2)
    kinds = [kind_of("q6_k"), IntegerKind(4, 32, symmetric=True), kind_of("f16")]
    solution = gptq.quantize(weight, hessian, options, parts=(256, 128, 128), kinds=kinds)
    first, second, third = solution.parts
    assert isinstance(first, Packed)
    assert isinstance(second, Quantized)
    assert isinstance(third, Packed)
    assert (first.type, third.type) == ("q6_k", "f16")
    stored = torch.cat([part.dequantize() for part in solution.parts], 1)
    assert torch.equal(stored, solution.dequantize())
    torch.testing.assert_close(solution.error.double(), error(stored, weight, hessian), rtol=1e-3, atol=0)
    apart = gptq.quantize(weight[:, 256:384], hessian[256:384, 256:384], options).quantized.dequantize()
    alone = weight.clone()
    alone[:, 256:384] = apart
    assert solution.error.sum() < 0.9 * error(alone, weight, hessian).sum()  # the others make up for it
    with pytest.raises(TypeError, match="not all matrices"):
        _ = solution.quantized


def test_symmetric_integers_of_gptq_are_no_better_than_the_blocks_they_fit() -> None:
    """A block's scale may be negative, which gives the larger magnitudes the side with one code more."""
    weight, hessian = random_case(4, width=256, tokens=1024)
    options = Options(group_size=32, activation_order="static", scale_search=True, sweeps=3)
    integers = gptq.quantize(weight, hessian, options)
    assert torch.equal(ggml.from_quantized(integers.quantized, "q4_0").dequantize(), integers.dequantize())
    assert gptq.quantize(weight, hessian, options, kinds=[kind_of("q4_0")]).error.sum() < integers.error.sum()


def test_dead_inputs_and_outputs_of_zeros_are_solved() -> None:
    weight, hessian = random_case(5, width=256)
    hessian[:, 32:64] = hessian[32:64] = 0
    weight[3] = 0
    for name in BLOCKS:
        solution = gptq.quantize(weight, hessian, Options(scale_search=True, sweeps=1), kinds=[kind_of(name)])
        assert solution.dequantize().isfinite().all()
        assert not solution.dequantize()[3].any()
        difference = (solution.dequantize() - weight)[:, 32:64]
        assert difference.square().sum() < 0.02 * weight[:, 32:64].square().sum()


def test_what_a_type_cannot_hold_is_refused() -> None:
    weight, hessian = random_case(6, width=128)
    with pytest.raises(QuantizationError, match=r"blocks of 256 \(q4_k\) do not divide 128 columns"):
        gptq.quantize(weight, hessian, Options(), kinds=[kind_of("q4_k")])
    with pytest.raises(QuantizationError, match="a dynamic activation order"):
        gptq.quantize(weight, hessian, Options(activation_order="dynamic"), kinds=[kind_of("q4_0")])
