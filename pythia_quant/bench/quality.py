"""What a row's logits cost: drift as run and of the weights, layer by layer errors. Runs in a process of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pythia_quant.bench.drift import Tally
from pythia_quant.bench.reference import Reference
from pythia_quant.bench.subject import Subject
from pythia_quant.core.process import CALLER
from pythia_quant.model.forward import Fp32Layers
from pythia_quant.model.source import open_weights
from pythia_quant.model.weights import WeightReader
from pythia_quant.records.results import Drift, LayerError
from pythia_quant.runtimes.protocol import Layered, final_states

LAYER_TOKENS = 2048
"""Errors of single layers are of the first windows, of about so many tokens."""

OfWindow = Callable[[int], Callable[[slice], Tensor]]
"""Gives, for a window, what gives the logits of some of its positions."""


def measure(
    subject: dict[str, Any], source: str, reference: str, scratch: str, threads: int, *, whole: bool
) -> dict[str, Any]:
    """Measure one row.

    Args:
        subject: what to run.
        source: the source's folder.
        reference: the folder of a :class:`~pythia_quant.bench.reference.Reference`.
        scratch: a folder for hidden states; of a call that was killed, the next goes on with them.
        threads: for the runtime.
        whole: whether it fits in memory; if not, it is run layer by layer, or not at all where nothing can.

    Returns:
        The fields ``runtime``, ``as_run``, ``weights`` and ``layers`` of a :class:`~pythia_quant.records.results.Row`.
    """
    target, expected = Subject.model_validate(subject), Reference(Path(reference))
    torch.set_num_threads(threads)
    reader = target.open_weights()
    weights = in_layers(Fp32Layers(reader), expected.ids, Path(scratch) / "weights", "weights") if reader else None
    description, as_run = "not run", None
    if whole:
        runtime = target.open_runtime(threads)
        description, as_run = runtime.description, whole_windows(runtime.logits, expected.ids)
    elif target.in_layers:
        layers = target.open_layers(threads)
        description = layers.description
        as_run = in_layers(layers, expected.ids, Path(scratch) / "as_run", "as run")
    compared = {name: of for name, of in (("as_run", as_run), ("weights", weights)) if of}
    drifts = {name: drift.model_dump() for name, drift in measure_drifts(expected, compared).items()}
    errors = layer_errors(open_weights(Path(source)), reader, expected.ids) if reader else []
    return {
        "runtime": description,
        "as_run": drifts.get("as_run"),
        "weights": drifts.get("weights"),
        "layers": [error.model_dump() for error in errors],
    }


def measure_drifts(expected: Reference, compared: Mapping[str, OfWindow]) -> dict[str, Drift]:
    """Return the drift of several sets of logits; the reference's are computed once for all."""
    tallies = {name: Tally() for name in compared}
    for window in range(len(expected.ids)):
        CALLER.step("window", window, len(expected.ids))
        parts = expected.compare(window, [of(window) for of in compared.values()])
        for tally, of_window in zip(tallies.values(), parts, strict=True):
            tally.add(of_window)
    return {name: tally.drift(expected.confidence) for name, tally in tallies.items()}


def whole_windows(logits: Callable[[Tensor], Tensor], ids: Tensor) -> OfWindow:
    """Take the logits of whole windows from ``(ids [1, tokens]) -> [1, tokens, vocabulary]``."""

    def of_window(window: int) -> Callable[[slice], Tensor]:
        found = logits(ids[window : window + 1])[0]
        return lambda rows: found[rows]

    return of_window


def in_layers(model: Layered, ids: Tensor, scratch: Path, what: str) -> OfWindow:
    """Run all windows through a model layer by layer, its states in `scratch`; `what` is said of the progress."""
    scratch.mkdir(parents=True, exist_ok=True)
    states = final_states(model, ids, scratch, CALLER, f"{what}, layer")
    head = model.head()

    def of_window(window: int) -> Callable[[slice], Tensor]:
        hidden = states.read(slice(window, window + 1))[0]
        return lambda rows: head(hidden[rows])

    return of_window


@torch.inference_mode()
def layer_errors(source: WeightReader, weights: WeightReader, ids: Tensor) -> list[LayerError]:
    """Return what each layer's weights do to the hidden states of the first windows, all in fp32 arithmetic.

    Args:
        source: the original weights.
        weights: the quantized ones.
        ids: int64 [windows, tokens], of which the first are taken.
    """
    ids = ids[: max(1, LAYER_TOKENS // ids.shape[1])]
    original, quantized = Fp32Layers(source), Fp32Layers(weights)
    before, drifted = original.embedding()(ids), quantized.embedding()(ids)
    errors = []
    for index in range(source.architecture.layers):
        CALLER.step("error of layer", index, source.architecture.layers)
        right, other = original.stage(index), quantized.stage(index)
        after, alone, drifted = right(before), other(before), other(drifted)
        errors.append(
            LayerError(alone=_relative(alone - after, after - before), after=_relative(drifted - after, after))
        )
        before = after
    return errors


def _relative(error: Tensor, expected: Tensor) -> float:
    """Return the error's share of what was expected; of nothing expected, 0 without an error, else infinite."""
    size, reference = _norm(error), _norm(expected)
    return size / reference if reference else math.inf if size else 0.0


def _norm(states: Tensor) -> float:
    return float(torch.linalg.vector_norm(states, dtype=torch.float64))
