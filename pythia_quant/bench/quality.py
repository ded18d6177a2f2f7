"""Measure one row's drift, as run and of its weights, and the error of each layer. It runs in a process of its own."""

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
"""The errors of single layers are measured on the first windows, which have about so many tokens."""

WindowLogits = Callable[[int], Callable[[slice], Tensor]]
"""A function from a window's index to a function from positions of that window to their logits.

The inner function returns [positions, vocabulary]; the window is computed when the outer one is called."""


def measure_drift(
    subject: dict[str, Any], source: str, reference: str, scratch: str, threads: int, *, whole: bool
) -> dict[str, Any]:
    """Measure the drift of one row.

    Args:
        subject: the row's model, a :class:`~pythia_quant.bench.subject.Subject` as data.
        source: the source's folder.
        reference: the folder of a :class:`~pythia_quant.bench.reference.Reference`.
        scratch: the path of a folder for hidden states. If a call is killed, the next one continues with them.
        threads: the number of threads of the runtime.
        whole: whether the model fits in memory. If not, it is run layer by layer, or not at all if its format cannot
            do that.

    Returns:
        The fields ``runtime``, ``as_run``, ``weights`` and ``layers`` of a :class:`~pythia_quant.records.results.Row`.

    Raises:
        ArtifactError: the artifact cannot be loaded.
        BenchmarkError: the model cannot run on its device, or the reference is damaged.
        SourceError: the source cannot be read.
    """
    model, expected = Subject.model_validate(subject), Reference(Path(reference))
    torch.set_num_threads(threads)
    reader = model.open_weights()
    weights = run_in_layers(Fp32Layers(reader), expected.ids, Path(scratch) / "weights", "weights") if reader else None
    description, as_run = "not run", None
    if whole:
        runtime = model.open_runtime(threads)
        description, as_run = runtime.description, run_whole(runtime.logits, expected.ids)
    elif model.in_layers:
        layers = model.open_layers(threads)
        description = layers.description
        as_run = run_in_layers(layers, expected.ids, Path(scratch) / "as_run", "as run")
    logits = {name: each for name, each in (("as_run", as_run), ("weights", weights)) if each}
    drifts = {name: drift.model_dump() for name, drift in compare_logits(expected, logits).items()}
    errors = layer_errors(open_weights(Path(source)), reader, expected.ids) if reader else []
    return {
        "runtime": description,
        "as_run": drifts.get("as_run"),
        "weights": drifts.get("weights"),
        "layers": [error.model_dump() for error in errors],
    }


def measure_as_run(subject: dict[str, Any], reference: str, threads: int) -> dict[str, Any]:
    """Measure the drift of one row as run, and nothing else: half the work of :func:`measure_drift`.

    For the arguments and errors see there. The model must fit in memory.

    Returns:
        The fields ``runtime`` and ``as_run`` of a :class:`~pythia_quant.records.results.Row`.
    """
    model, expected = Subject.model_validate(subject), Reference(Path(reference))
    torch.set_num_threads(threads)
    runtime = model.open_runtime(threads)
    drift = compare_logits(expected, {"as_run": run_whole(runtime.logits, expected.ids)})["as_run"]
    return {"runtime": runtime.description, "as_run": drift.model_dump()}


def compare_logits(expected: Reference, logits: Mapping[str, WindowLogits]) -> dict[str, Drift]:
    """Return the drift of each set of logits, by its name. The reference's logits are computed once for all sets."""
    tallies = {name: Tally() for name in logits}
    for window in range(len(expected.ids)):
        CALLER.step("window", window, len(expected.ids))
        comparisons = expected.compare(window, [compute(window) for compute in logits.values()])
        for tally, comparison in zip(tallies.values(), comparisons, strict=True):
            tally.add(comparison)
    return {name: tally.drift(expected.confidence) for name, tally in tallies.items()}


def run_whole(logits: Callable[[Tensor], Tensor], ids: Tensor) -> WindowLogits:
    """Compute the logits of whole windows with a function from ids, [1, tokens], to [1, tokens, vocabulary].

    Args:
        logits: the function.
        ids: the windows, int64 [windows, tokens].
    """

    def run_window(window: int) -> Callable[[slice], Tensor]:
        computed = logits(ids[window : window + 1])[0]
        return lambda positions: computed[positions]

    return run_window


def run_in_layers(model: Layered, ids: Tensor, scratch: Path, what: str) -> WindowLogits:
    """Run all windows through a model layer by layer; its head is applied later, to single windows.

    Args:
        model: the model in layers.
        ids: the windows, int64 [windows, tokens].
        scratch: the folder for hidden states, which is made if it is missing.
        what: the words that progress names the work by.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    states = final_states(model, ids, scratch, CALLER, f"{what}, layer")
    head = model.head()

    def run_window(window: int) -> Callable[[slice], Tensor]:
        hidden = states.read(slice(window, window + 1))[0]
        return lambda positions: head(hidden[positions])

    return run_window


@torch.inference_mode()
def layer_errors(source: WeightReader, weights: WeightReader, ids: Tensor) -> list[LayerError]:
    """Return the error that each layer's quantized weights make in hidden states, all in fp32 arithmetic.

    Args:
        source: the source's weights.
        weights: the artifact's dequantized weights.
        ids: the windows, int64 [windows, tokens]; only the first ones, of about :data:`LAYER_TOKENS` tokens, are used.
    """
    ids = ids[: max(1, LAYER_TOKENS // ids.shape[1])]
    original, quantized = Fp32Layers(source), Fp32Layers(weights)
    before, drifted = original.embedding()(ids), quantized.embedding()(ids)
    errors = []
    for index in range(source.architecture.layers):
        CALLER.step("error of layer", index, source.architecture.layers)
        exact, rounded = original.stage(index), quantized.stage(index)
        after, alone, drifted = exact(before), rounded(before), rounded(drifted)
        errors.append(
            LayerError(alone=_relative(alone - after, after - before), after=_relative(drifted - after, after))
        )
        before = after
    return errors


def _relative(error: Tensor, expected: Tensor) -> float:
    """Return the norm of the error over the norm of the expected states; if that is 0, 0 or infinity."""
    size, reference = _norm(error), _norm(expected)
    return size / reference if reference else math.inf if size else 0.0


def _norm(states: Tensor) -> float:
    return float(torch.linalg.vector_norm(states, dtype=torch.float64))
