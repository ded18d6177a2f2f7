"""GPTQ against what defines it: the least-squares optimum after each column, and the textbook's unblocked update."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pythia_quant.errors import QuantizationError
from pythia_quant.quantizers import gptq, rtn
from pythia_quant.quantizers.gptq import Hessian

F64 = NDArray[np.float64]
DAMPING = 0.01


def random_case(seed: int, out: int = 24, width: int = 128, tokens: int = 512) -> tuple[Tensor, Hessian]:
    """Return a weight and the Hessian of inputs that are correlated, as activations are."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) * torch.rand(width, 1, generator=generator) ** 4
    hessian = Hessian(width)
    hessian.add(torch.randn(tokens, width, generator=generator) @ mixing)
    return torch.randn(out, width, generator=generator) * 0.05, hessian


def damped(hessian: Hessian, damping: float = DAMPING) -> F64:
    matrix: F64 = hessian.matrix.double().numpy()
    damped_matrix: F64 = matrix + damping * matrix.diagonal().mean() * np.eye(len(matrix))
    return damped_matrix


def textbook(weight: Tensor, matrix: F64, group_size: int) -> tuple[F64, F64]:
    """Optimal Brain Quantization in a fixed order, as in the paper's (2) and (3): invert H anew for each column.

    Returns:
        Codes, [out, in], and how far each was from a tie, in steps.
    """
    remaining = weight.double().numpy().copy()
    codes, margin = np.zeros_like(remaining), np.zeros_like(remaining)
    for i in range(remaining.shape[1]):
        if i % group_size == 0:
            scale = np.float16(2 * np.abs(remaining[:, i : i + group_size]).max(axis=1) / 15).astype(np.float64)
        exact = remaining[:, i] / scale + 8
        codes[:, i] = np.clip(np.round(exact), 0, 15)
        margin[:, i] = 0.5 - np.abs(exact - np.round(exact))
        inverse = np.linalg.inv(matrix[i:, i:])
        error = remaining[:, i] - scale * (codes[:, i] - 8)
        remaining[:, i:] -= np.outer(error, inverse[0] / inverse[0, 0])
    return codes, margin


def assert_same_codes(ours: Tensor, expected: F64, margin: F64) -> None:
    """Compare row by row until a row meets a tie, which fp32 and fp64 may break differently."""
    for row, wanted, distance in zip(ours.numpy(), expected, margin, strict=True):
        tie = int(np.argmax(distance < 1e-3)) if (distance < 1e-3).any() else len(row)
        assert np.array_equal(row[:tie], wanted[:tie])


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_one_block_equals_the_textbook(group_size: int) -> None:
    weight, hessian = random_case(0)
    solution = gptq.quantize(weight, hessian, 4, group_size, DAMPING)
    assert_same_codes(solution.quantized.codes, *textbook(weight, damped(hessian), group_size))


@pytest.mark.parametrize("group_size", [32, 128])
def test_blocks_equal_the_textbook(group_size: int) -> None:
    weight, hessian = random_case(1, out=8, width=384, tokens=1024)
    solution = gptq.quantize(weight, hessian, 4, group_size, DAMPING, block_size=128)
    assert_same_codes(solution.quantized.codes, *textbook(weight, damped(hessian), group_size))


def test_the_block_size_changes_nothing() -> None:
    weight, hessian = random_case(2, width=256)
    whole, blocked = (gptq.quantize(weight, hessian, 4, 64, DAMPING, block_size=size).quantized for size in (256, 1))
    torch.testing.assert_close(whole.scales, blocked.scales, rtol=2e-3, atol=0)
    assert (whole.codes != blocked.codes).float().mean() < 0.01  # ties


def test_every_column_is_rounded_from_the_least_squares_optimum() -> None:
    """Given the columns quantized so far, the next one's value must be the optimum over all the remaining ones."""
    weight, hessian = random_case(3, out=6, width=64)
    quantized = gptq.quantize(weight, hessian, 4, 64, DAMPING).quantized
    values, original = quantized.dequantize().double().numpy(), weight.double().numpy()
    root = np.linalg.cholesky(damped(hessian)).T  # ‖root · (w - q)‖² is the damped output error
    scale = quantized.scales.double().numpy()[:, 0]
    for i in range(1, 64):
        target = (original - np.pad(values[:, :i], ((0, 0), (0, 64 - i)))) @ root.T
        optimum = np.linalg.lstsq(root[:, i:], target.T, rcond=None)[0][0]
        exact = np.clip(optimum / scale + 8, 0, 15)
        assert np.abs(quantized.codes[:, i].numpy() - exact).max() < 0.501


def test_a_diagonal_hessian_gives_round_to_nearest() -> None:
    weight, hessian = random_case(4)
    hessian.matrix = torch.diag(torch.rand(128) + 0.1)
    solution = gptq.quantize(weight, hessian, 4, 32, DAMPING)
    rounded = rtn.quantize(weight, 4, 32)
    assert torch.equal(solution.quantized.codes, rounded.codes)
    assert torch.equal(solution.quantized.scales, rounded.scales)
    assert solution.error == solution.rounding_error > 0


def test_the_output_error_is_far_below_that_of_rounding() -> None:
    solutions = [gptq.quantize(*random_case(seed), 4, 32, DAMPING) for seed in range(9)]
    assert np.median([solution.error / solution.rounding_error for solution in solutions]) < 0.5
    assert all(solution.error < solution.rounding_error for solution in solutions)


def test_the_error_is_the_relative_error_of_the_outputs() -> None:
    inputs, weight = torch.randn(300, 64), torch.randn(5, 64)
    hessian = Hessian(64)
    hessian.add(inputs[:100].view(4, 25, 64))
    hessian.add(inputs[100:])
    solution = gptq.quantize(weight, hessian, 4, 32, DAMPING)
    wanted, got = inputs @ weight.T, inputs @ solution.quantized.dequantize().T
    assert hessian.count == 300
    assert solution.error == pytest.approx(float((wanted - got).square().sum() / wanted.square().sum()), rel=1e-3)


def test_dead_inputs_are_rounded_and_leave_the_others_alone() -> None:
    weight, hessian = random_case(5)
    dead = torch.zeros(128, dtype=torch.bool)
    dead[::7] = True
    hessian.matrix[dead] = 0
    hessian.matrix[:, dead] = 0
    weight[:, 1] = 1.0  # its group's largest in every row: one scale, whatever the updates
    quantized = gptq.quantize(weight, hessian, 4, 128, DAMPING).quantized
    assert torch.equal(quantized.codes[:, dead], rtn.quantize(weight, 4, 128).codes[:, dead])
    changed = weight.clone()
    changed[:, dead] = 0
    assert torch.equal(
        gptq.quantize(changed, hessian, 4, 128, DAMPING).quantized.codes[:, ~dead], quantized.codes[:, ~dead]
    )


def test_inputs_that_are_all_zero_give_round_to_nearest() -> None:
    weight, _ = random_case(6)
    solution = gptq.quantize(weight, Hessian(128), 4, 32, DAMPING)
    assert torch.equal(solution.quantized.codes, rtn.quantize(weight, 4, 32).codes)
    assert solution.error == 0


def test_damping_grows_until_a_singular_hessian_can_be_factored() -> None:
    hessian = Hessian(128)
    hessian.add(torch.randn(3, 128, generator=torch.Generator().manual_seed(0)))
    solution = gptq.quantize(random_case(7)[0], hessian, 4, 32, damping=1e-9)
    assert 1e-9 < solution.damping <= 1e-2
    assert solution.error <= solution.rounding_error


def test_what_no_damping_helps_is_refused() -> None:
    hessian = Hessian(64)
    hessian.matrix = torch.full((64, 64), 5.0) - 4 * torch.eye(64)
    hessian.matrix[0, 1] = hessian.matrix[1, 0] = -900.0
    with pytest.raises(QuantizationError, match=r"not positive definite, with damping from 0.01 to 1\b"):
        gptq.quantize(torch.ones(4, 64), hessian, 4, 32, DAMPING)
