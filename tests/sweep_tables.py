"""A study's table made by a formula, with a duplicate, a missing revision and a failure."""

import json
import math
from collections.abc import Sequence
from typing import Any

from pythia_quant.model import suite
from pythia_quant.model.schedule import learning_rate, tokens_seen
from pythia_quant.sweep.table import SCHEMA

STEPS = (0, 1, 64, 512, 4000, 16000, 64000, 143000)
SIZES = ("70m", "160m")
SEEDS = (1, 2, 3)
VARIANTS = {"torch-fp16": 16.0, "bnb-int8": 8.0, "onnx-int4": 4.0, "gptq-int3": 3.0}
_SCALE = {"torch-fp16": 0.01, "bnb-int8": 0.9, "onnx-int4": 6.0, "gptq-int3": 21.0}
VERSIONS = json.dumps({"python": "3.12.4", "torch": "2.9.1", "transformers": "5.23.0"}, sort_keys=True)


def kl(variant: str, size: str, seed: int, step: int) -> float:
    """Return the divergence, mnat: a power of the tokens over one of the parameters, and a little of each seed."""
    own = 1 + 0.08 * math.sin(7 * seed + 3 * math.log1p(step) + len(variant))
    late = math.pow(step + 30, 0.33 if variant != "torch-fp16" else 0.12)
    return _SCALE[variant] * late / math.pow(suite.SIZES[size].non_embedding_parameters / 1e7, 0.31) * own / 9


def line(size: str, seed: int, step: int, variant: str, /, **changed: Any) -> dict[str, Any]:
    """Return a measured line."""
    shape = suite.SIZES[size]
    value = kl(variant, size, seed, step)
    shown: dict[str, Any] = dict.fromkeys(SCHEMA.names)
    shown |= {
        "model": f"EleutherAI/pythia-{size}-seed{seed}", "revision": f"step{step}", "family": "plain", "size": size,
        "seed": seed, "step": step, "tokens": tokens_seen(step), "learning_rate": learning_rate(shape, step),
        "parameters": shape.parameters, "non_embedding_parameters": shape.non_embedding_parameters,
        "variant": variant, "format": variant.partition("-")[0], "bits": VARIANTS.get(variant, 4.0), "status": "done",
        "windows": 64, "context": 512, "text_sha256": "5e" * 32, "weights_sha256": f"model.safetensors:{seed:064x}",
        "key": f"{size}-{seed}-{step}-{variant}", "runtime": "transformers", "cpu": "AMD EPYC 9R45 (avx512f)",
        "versions": VERSIONS, "tool": "pythia-quant 0.1.0", "created": "2026-11-27T09:40:00+00:00",
        "convert_seconds": 2.0, "measure_seconds": 4.0, "reference_seconds": 3.0,
    }  # fmt: skip
    drift = value / 30 - 0.012 * math.cos(seed + step)
    for name, number, margin in (
        ("kl", value, 0.05 * value), ("kl_p99", 12 * value, 0.0), ("ppl_drift", drift, 0.1 * abs(value / 30) + 0.01),
        ("top1", 100 - 0.9 * value**0.5, 0.2), ("perplexity", 40 + 5e4 / (1 + step), 0.4),
        ("disk", 2e-6 * shape.parameters, 0),
    ):  # fmt: skip
        shown |= {name: number, f"{name}_low": number - margin, f"{name}_high": number + margin}
    return shown | changed


def apart(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines with a perplexity of the reference that is 1 % higher with each seed."""
    for one in lines:
        if one["perplexity"] is not None:
            one["perplexity"] = 30 * 1.01 ** one["seed"] * (1 + one["ppl_drift"] / 100)
    return lines


def unmeasured(size: str, seed: int, step: int, variant: str, /, **changed: Any) -> dict[str, Any]:
    """Return a line without values."""
    whole = line(size, seed, step, variant)
    kept = [*SCHEMA.names[: SCHEMA.names.index("status")], "key"]
    return dict.fromkeys(SCHEMA.names) | {name: whole[name] for name in kept} | {"status": "open"} | changed


def study(
    sizes: Sequence[str] = SIZES, seeds: Sequence[int] = SEEDS, steps: Sequence[int] = STEPS
) -> list[dict[str, Any]]:
    """Return the lines of a study; with the default arguments it has a duplicate, a missing revision and a failure."""
    lines = []
    for size in sizes:
        for seed in seeds:
            for step in steps:
                for variant in VARIANTS:
                    one = line(size, seed, step, variant)
                    if (size, step) == ("160m", 1):
                        one["duplicate_of"] = f"EleutherAI/pythia-160m-seed{seed}@step64"
                    elif (size, seed, step) == ("70m", 2, 512):
                        one = unmeasured(
                            size, seed, step, variant, status="missing", problem="there is no such revision"
                        )
                    elif (size, seed, step, variant) == ("160m", 3, 64000, "gptq-int3"):
                        one = unmeasured(
                            size, seed, step, variant, status="failed", problem="layer 3: a matrix is singular"
                        )
                    lines.append(one)
    return lines
