"""About how long each step of a conversion and of a measurement takes, for the estimate of the time left.

The seconds are those of two processors of 2020. The estimate corrects them as steps end, so that their proportions
count: between kinds of steps, between runtimes, and between models of different sizes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.bench.speed_plan import PATIENCE, WAITING, latency_protocol, rounds_of
from pythia_quant.core.settings import VariantSettings
from pythia_quant.core.time_left import ExpectedStep
from pythia_quant.model.architecture import Architecture
from pythia_quant.recipe.measurement import DECODED, LatencySettings

REFERENCE = "reference in fp32"
"""The name of the step that computes the reference."""

_START, _START_OTHERS = 8.5, 3.5
"""Seconds until a fresh process has imported a runtime: one of torch, and any other."""
_OPERATIONS, _NARROW, _WIDE = 60e9, 256, 640
"""Products and sums a second in fp32, of a narrow model; of a wider one more in proportion, up to a wide one."""
_LOGITS, _TOKEN = 2e8, 8000
"""Logits a second that are computed from states, or compared with the reference's; a token's other work in logits."""
_READ = 5e9
"""Bytes a second that decoding reads of the weights."""
_SLOWER = {
    "torch-fp16": 5.0, "torch-bf16": 2.0, "torch-fp32": 1.0, "bnb": 2.5, "gptq": 1.5, "onnx": 1.0, "gguf": 1.5,
    "compressed-tensors": 1.5,
}  # fmt: skip
"""How much longer than in fp32 a runtime multiplies matrices, by the row of the source or the format."""
_PASSAGE = 90
"""Tokens of a passage of LAMBADA."""
_SOLVING_PASSES, _SOLVING_SECONDS = 3, 2e-3
"""The passes of GPTQ over the calibration text, and its seconds for a column of weights beside them."""


@dataclass(frozen=True)
class Work:
    """What the steps work on.

    Attributes:
        shape: the model's.
        evaluation: the windows of evaluation and the tokens of each.
        calibration: the windows of calibration and the tokens of each.
        latency: the lengths and rounds of speed.
    """

    shape: Architecture
    evaluation: tuple[int, int]
    calibration: tuple[int, int]
    latency: LatencySettings


def work_of(inputs: Inputs) -> Work:
    """Return what a recipe with these inputs works on."""
    windows, context = inputs.evaluation.shape
    return Work(
        inputs.source.architecture, (windows, context), inputs.calibration.shape, inputs.recipe.settings.latency
    )


def conversion_steps(work: Work, variants: Mapping[str, VariantSettings], there: Collection[str]) -> list[ExpectedStep]:
    """Return the steps that convert variants; those in `there` have their artifact, which is only hashed."""
    shape, (windows, context) = work.shape, work.calibration
    steps = []
    for name, settings in variants.items():
        kind = "solve" if settings.calibrates else "convert"
        seconds = _start(settings) + 8 * shape.parameters / 1e8
        if settings.calibrates:
            seconds += _SOLVING_PASSES * _pass(shape, windows * context, context)
            seconds += 6 * shape.width * shape.layers * _SOLVING_SECONDS * max(1.0, shape.width / 1024) ** 2
        if name in there:
            kind, seconds = "check", 0.2 + 8 * shape.parameters / 1e9
        steps.append(ExpectedStep(conversion_name(name, is_there=name in there), seconds, kind))
    return steps


def conversion_name(variant: str, *, is_there: bool) -> str:
    """Return the name of the step that converts a variant, or checks the artifact that is there."""
    return f"{'checking' if is_there else 'converting'} {variant}"


def measurement_steps(
    work: Work,
    rows: Mapping[str, VariantSettings | str | None],
    whole: Collection[str],
    passages: int | None,
    threads: list[int],
) -> list[ExpectedStep]:
    """Return the steps of :func:`pythia_quant.bench.benchmark.benchmark`.

    Args:
        work: the model, the windows, and the lengths of speed.
        rows: the settings of each row; None for the source in a dtype; for what others made, the name of the format of
            ours, or of the row of the source, that takes about as long.
        whole: the rows that fit in memory whole; of others neither LAMBADA nor speed is measured.
        passages: the passages of LAMBADA; None if it is left out.
        threads: numbers of threads that speed is measured with.
    """
    shape, (windows, context) = work.shape, work.evaluation
    tokens = windows * context
    one_pass, compared = _pass(shape, tokens, context), tokens * (shape.vocabulary + _TOKEN) / _LOGITS
    steps = [ExpectedStep(REFERENCE, one_pass + compared, "drift")]
    slower = {name: _SLOWER[_runtime(name, settings)] for name, settings in rows.items()}
    for name, settings in rows.items():
        of_weights = 0.0 if settings is None else one_pass + compared
        seconds = slower[name] * (one_pass + compared / 2) + 1.5 * compared + of_weights
        steps.append(ExpectedStep(f"drift of {name}", seconds, "drift"))
    if passages is not None:
        for name in (name for name in rows if name in whole):
            seconds = slower[name] * _pass(shape, passages * _PASSAGE, _PASSAGE)
            steps.append(ExpectedStep(f"LAMBADA of {name}", seconds, "LAMBADA"))
    if work.latency.rounds:
        steps.append(ExpectedStep(WAITING, PATIENCE / 2, "wait"))
        lengths = latency_protocol(work.latency, shape.context)
        for what, count in rounds_of(lengths.rounds, threads):
            for name in (name for name in rows if name in whole):
                seconds = _START_OTHERS if _runtime(name, rows[name]) in ("onnx", "gguf") else _START
                seconds += _speed(shape, slower[name], lengths.prompts, lengths.contexts)
                steps.append(ExpectedStep(f"speed of {name}, {what}", seconds, "speed", f"{name}, {count}"))
    return steps


def _pass(shape: Architecture, tokens: int, context: int) -> float:
    """Return the seconds of a pass in fp32 over so many tokens, without the head."""
    attention = 4 * context * shape.width * shape.layers
    operations = _OPERATIONS * min(max(shape.width, _NARROW), _WIDE) / _NARROW
    return tokens * (2 * shape.non_embedding_parameters + attention) / operations


def _start(settings: VariantSettings) -> float:
    return _START_OTHERS if settings.format in ("onnx", "gguf") else _START


def _runtime(name: str, settings: VariantSettings | str | None) -> str:
    """Return the key of a row's runtime in the table of how fast they are."""
    return settings if isinstance(settings, str) else settings.format if settings else name


def _speed(shape: Architecture, slower: float, prompts: list[int], contexts: list[int]) -> float:
    """Return the seconds of measuring speed in one process: what is brief is repeated more often than what is long."""
    prefills = (slower * _pass(shape, tokens, tokens) for tokens in prompts)
    token = 2 * shape.parameters / _READ + 3e-4 * shape.layers
    decodes = (DECODED * token for _ in contexts)
    return sum(max(0.6, min(12 * one, 12.0 + 2 * one)) for one in prefills) + sum(max(0.6, one) for one in decodes)
