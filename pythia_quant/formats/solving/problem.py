"""What is solved: linear layers with the same inputs, and how their weights are to be rounded."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from pythia_quant.core.errors import QuantizationError
from pythia_quant.quantizers import gptq, ridge
from pythia_quant.quantizers.calibration import Moments
from pythia_quant.quantizers.grid_kind import GridKind


@dataclass(frozen=True)
class Problem:
    """A Hessian, and how weights are rounded for it.

    Attributes:
        where: the names of the linear layers, for errors.
        hessian: Σ x xᵀ of their inputs, fp32 [in, in].
        options: how to round.
    """

    where: str
    hessian: Tensor
    options: gptq.Options

    def solve(
        self,
        weight: Tensor,
        cross: Tensor | None,
        parts: tuple[int, ...] = (),
        kinds: tuple[GridKind, ...] = (),
        outputs: Tensor | None = None,
    ) -> gptq.Solution:
        """Quantize a weight; for the arguments see :func:`pythia_quant.quantizers.gptq.quantize`.

        Raises:
            QuantizationError: see there.
        """
        try:
            return gptq.quantize(weight, self.hessian, self.options, cross, parts, kinds=kinds, outputs=outputs)
        except QuantizationError as error:
            raise QuantizationError(error.what, where=self.where, hint=error.hint) from error


def pose(where: str, moments: Moments, options: gptq.Options, weight: Tensor | None, outputs: int) -> Problem:
    """Return the problem of some moments, to which nothing can be added afterwards.

    Where windows are held out, they decide the ridge.

    Args:
        where: the names of the linear layers, for errors.
        moments: the moments of their inputs.
        options: how to round.
        weight: fp32 [outputs, errors]; see :func:`pythia_quant.quantizers.ridge.choose`.
        outputs: the number of outputs.

    Raises:
        QuantizationError: inputs are not finite; the message says for how many tokens.
    """
    options = replace(options, ridge=ridge.choose(moments, weight, outputs))
    moments.release()
    if moments.bad:
        raise QuantizationError(
            f"{moments.bad:,} of {moments.count:,} calibration tokens give inputs of this layer that are not finite",
            where=where,
            hint="the checkpoint does not compute within fp16's range; use another revision",
        )
    return Problem(where, moments.hessian(), options)
