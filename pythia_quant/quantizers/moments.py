"""What a quantizer needs to know of a linear layer's inputs: their mean, and their second moments."""

from __future__ import annotations

import torch
from torch import Tensor

_COLUMNS_AT_ONCE = 512


class Moments:
    """Sums over the inputs of a linear layer, and over errors that it is to make up for.

    Moments about the mean suit a layer whose bias may change: that makes up for a constant error of the outputs at no
    cost. Their sums are taken about the mean of the first inputs added: about 0, a mean far larger than the spread
    would cost fp32 its digits. fp32 is enough: fp64 gave the same drift on a trained model of the 14m shape.

    Args:
        width: inputs of the layer.
        errors: numbers a token of what the errors are of.
        device: of the sums.
        centered: whether moments are about the mean, or about 0.

    Attributes:
        count: tokens added.
        bad: tokens of which an input or an error was not finite.
    """

    def __init__(
        self, width: int, errors: int = 0, device: torch.device | str = "cpu", *, centered: bool = True
    ) -> None:
        self.count = self.bad = 0
        self._centered = centered
        self._shift = torch.zeros(width, device=device)
        self._sum = torch.zeros(width, device=device)
        self._squares = torch.zeros(width, width, device=device)
        self._error_sum = torch.zeros(errors, device=device)
        self._products = torch.zeros(errors, width, device=device)

    def add(self, inputs: Tensor, errors: Tensor | None = None) -> None:
        """Add inputs, fp32 [..., width], and the errors at those tokens, fp32 [..., errors]."""
        rows = inputs.flatten(0, -2)
        finite = rows.sum(1).isfinite()
        if self._centered and not self.count:
            self._shift = rows.mean(0)
        rows = rows - self._shift
        self.count += len(rows)
        self._sum += rows.sum(0)
        for start in range(0, rows.shape[1], _COLUMNS_AT_ONCE):  # the upper triangle of a symmetric matrix
            stop = start + _COLUMNS_AT_ONCE
            self._squares[start:stop, start:].addmm_(rows[:, start:stop].T, rows[:, start:])
        if errors is not None:
            wrong = errors.flatten(0, -2)
            finite &= wrong.sum(1).isfinite()
            self._error_sum += wrong.sum(0)
            self._products.addmm_(wrong.T, rows)
        self.bad += len(finite) - int(finite.sum())

    @property
    def mean(self) -> Tensor:
        """The mean of the inputs, fp32 [width]."""
        return self._shift + self._sum / max(self.count, 1)

    @property
    def mean_error(self) -> Tensor:
        """The mean of the errors, fp32 [errors]."""
        return self._error_sum / max(self.count, 1)

    def hessian(self) -> Tensor:
        """Return Σ x xᵀ, up to a factor the second derivative of the output error, fp32 [width, width].

        It is made of the sums themselves, in place, so nothing can be added afterwards.
        """
        for start in range(0, len(self._squares), _COLUMNS_AT_ONCE):
            stop = start + _COLUMNS_AT_ONCE
            self._squares[stop:, start:stop] = self._squares[start:stop, stop:].T
        self._squares.addr_(self._sum, self._sum, alpha=self._minus)
        hessian, self._squares = self._squares, torch.empty(0)
        return hessian

    def cross(self) -> Tensor:
        """Return Σ e xᵀ, the errors about their mean where the inputs are, fp32 [errors, width]."""
        return torch.addr(self._products, self._error_sum, self._sum, alpha=self._minus)

    @property
    def _minus(self) -> float:
        return -1 / max(self.count, 1) if self._centered else 0.0
