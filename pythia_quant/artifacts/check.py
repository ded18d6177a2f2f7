"""Read an artifact back in a fresh process, run it, and compare both with what was intended."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.artifacts.needs import PROBE_TOKENS, WHOLE_MODEL_BYTES
from pythia_quant.core import process
from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.settings import VariantSettings
from pythia_quant.formats.table import format_of
from pythia_quant.model.forward import final_hidden_states, head_weight
from pythia_quant.model.generation_config import read_model
from pythia_quant.model.tokenizer import TOKENIZER, open_tokenizer
from pythia_quant.recipe.variants import parse_variant
from pythia_quant.records.manifest import CheckRecord
from pythia_quant.runtimes.protocol import Layered, Runtime, generate, logits

GENERATED = 8
_POSITIONS_AT_ONCE = 16  # so few that temporaries in fp64 are small beside a model
MAX_WEIGHT_ERROR = 1e-3
"""The largest difference of logits in fp32 arithmetic, relative to the largest logit: rounding makes about 1e-5, a
wrong tensor more than 1e-1."""
MAX_RUN_ERROR = 0.1
"""The relative root-mean-square difference of logits as run: bf16 and int8 activations stay below 0.03, a random head
gives 1.4."""


def check(
    worker: process.Worker | process.Here,
    folder: Path,
    settings: VariantSettings,
    probe: list[list[int]],
    intended: Path | None = None,
) -> CheckRecord:
    """Read an artifact back and run it, usually in a process that has done nothing else; see :func:`check_artifact`."""
    arguments = {
        "folder": str(folder),
        "settings": settings.model_dump(mode="json"),
        "probe": probe,
        "threads": worker.threads,
        "intended": str(intended) if intended else None,
    }
    return CheckRecord.model_validate(worker.call(check_artifact, arguments))


def check_again(artifact: Artifact) -> CheckRecord:
    """Check a finished artifact: its runtime must compute what its weights say.

    Raises:
        ArtifactError: the artifact does not load, has the tokenizer of another model, or computes other logits.
        SourceError: its configuration is damaged.
    """
    architecture = read_model(artifact.folder, quantized=True)
    open_tokenizer(artifact.folder / TOKENIZER, architecture.vocabulary, ArtifactError)
    size = (2, min(PROBE_TOKENS, architecture.context))
    probe = np.random.default_rng(0).integers(architecture.vocabulary, size=size).tolist()
    with process.Worker() as worker:
        return check(worker, artifact.folder, artifact.settings, probe)


def import_check(settings: dict[str, Any]) -> None:
    """Import what :func:`check_artifact` will need for a variant with these settings."""
    format_of(parse_variant(settings)).import_runtime()


@torch.no_grad()
def check_artifact(
    folder: str,
    settings: dict[str, Any],
    probe: list[list[int]],
    threads: int,
    intended: str | None = None,
    whole_model_bytes: int = WHOLE_MODEL_BYTES,
) -> dict[str, Any]:
    """Compare the logits of an artifact's weights, and those of its runtime, with the intended logits.

    Args:
        folder: the artifact.
        settings: the variant's settings.
        probe: token ids, [windows, tokens].
        threads: the threads of the runtime.
        intended: a .npy file with the intended logits, fp32 [windows, tokens, vocabulary]; without it, those of the
            weights on disk are the intended ones.
        whole_model_bytes: if the folder's files are larger than this, and the format can, the model is run layer by
            layer.

    Returns:
        A :class:`CheckRecord` as data.

    Raises:
        ArtifactError: the logits differ too much; the message says by how much.
    """
    torch.set_num_threads(threads)
    entry = format_of(parse_variant(settings))
    ids = torch.tensor(probe)
    reader = entry.open_weights(Path(folder))
    from_disk = final_hidden_states(reader, ids) @ head_weight(reader).T
    expected = from_disk if intended is None else torch.from_numpy(np.load(intended))
    weight_error = float((from_disk - expected).abs().max() / expected.abs().max())
    if not weight_error <= MAX_WEIGHT_ERROR:
        raise ArtifactError(
            f"the weights read back give logits that differ from those intended by {weight_error:.2g} of the largest",
            hint="this is a fault of the format's writer or reader; please report it",
        )
    del reader
    size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    in_layers = entry.in_layers and size > whole_model_bytes
    whole = None if in_layers else entry.open_runtime(Path(folder), threads)
    description, as_run = _run(whole or entry.open_layers(Path(folder), threads), ids)
    run_error = _relative_rms(as_run, expected)
    if not run_error <= MAX_RUN_ERROR:
        raise ArtifactError(
            f"{description} gives logits that differ from the intended ones by {run_error:.2g} (relative, rms)",
            hint="the runtime does not compute what the file says; try another version of it",
        )
    return CheckRecord(
        method=f"{'whole model' if whole else 'layer by layer'} on the probe tokens, weights read back and as run",
        max_weight_error=weight_error,
        runtime=description,
        run_error=run_error,
        kl_as_run=mean_kl(expected, as_run),
        generated=generate(whole, ids[0, : ids.shape[1] // 2], GENERATED, ends=()) if whole else [],
    ).model_dump()


def _run(model: Runtime | Layered, ids: Tensor) -> tuple[str, Tensor]:
    """Return how a model is run, and its logits, fp32 [windows, tokens, vocabulary]."""
    return model.description, logits(model, ids) if isinstance(model, Layered) else model.logits(ids)


def mean_kl(reference: Tensor, other: Tensor) -> float:
    """Return the mean KL divergence of `other` from `reference` over all positions, nats a token."""
    total, positions = 0.0, reference.shape[:-1].numel()
    pieces = (logits.flatten(0, -2).split(_POSITIONS_AT_ONCE) for logits in (reference, other))
    for reference_piece, other_piece in zip(*pieces, strict=True):
        p, q = reference_piece.double().log_softmax(-1), other_piece.double().log_softmax(-1)
        total += float((p.exp() * (p - q)).sum())
    return total / positions


def _relative_rms(logits: Tensor, expected: Tensor) -> float:
    """Return the root-mean-square of the difference over that of `expected`; infinite where it is not finite.

    The mean of each position is removed before: softmax ignores it.
    """
    logits, expected = (x - x.mean(-1, keepdim=True) for x in (logits, expected))
    error = float((logits - expected).norm() / expected.norm())
    return error if math.isfinite(error) else math.inf
