"""Verify an artifact against its source: compare tokenizers and weights, and decide whether rounding explains a change.

:func:`pythia_quant.artifacts.artifact.verify_files` compares the artifact's files with its manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub.errors import HFValidationError
from torch import Tensor

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.core.errors import ArtifactError, PythiaQuantError
from pythia_quant.core.file_hashes import sha256
from pythia_quant.core.foreign_files import own_file
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.core.settings import VariantSettings
from pythia_quant.formats.table import format_of
from pythia_quant.model.architecture import EMBEDDING, FINAL_NORM, HEAD, LINEARS, NORM_OF, layer_name
from pythia_quant.model.equalize import equalize
from pythia_quant.model.forward import read_layer
from pythia_quant.model.source import open_source, open_weights
from pythia_quant.model.source_name import DEMO, repository_of
from pythia_quant.model.tokenizer import TOKENIZER, content_without_limits
from pythia_quant.model.weights import WeightReader


@dataclass(frozen=True)
class Limits:
    """The largest differences from the source that rounding can explain.

    Rounding replaces a weight matrix w by q; correcting mean errors replaces its bias b by c.

    Attributes:
        gain: the least and the largest value of <q, w> / <w, w>.
        error: the largest value of ‖q - w‖ / ‖w‖ for a matrix.
        row_error: the largest value of ‖q - w‖ / ‖w‖ for a row of a matrix.
        bias: the largest value of ‖c - b‖ / ‖w'‖. Here w' is w with each column multiplied by the gain that the
            normalization before the layer has for that input.
    """

    gain: tuple[float, float]
    error: float
    row_error: float
    bias: float


BF16_LIMITS = Limits((0.999, 1.001), 0.004, 0.008, 0.004)
"""The limits for tensors stored in bf16; they are at least twice what rounding to bf16 does."""

LIMITS = {
    2: Limits((0.77, 1.05), 2.0, 3.0, 1.0),
    3: Limits((0.91, 1.04), 1.1, 1.8, 0.4),
    4: Limits((0.96, 1.03), 0.55, 0.9, 0.2),
    5: Limits((0.99, 1.005), 0.22, 0.3, 0.06),
    6: Limits((0.996, 1.004), 0.07, 0.09, 0.02),
    7: Limits((0.997, 1.003), 0.05, 0.08, 0.02),
    8: Limits((0.997, 1.003), 0.04, 0.06, 0.02),
    16: BF16_LIMITS,
    32: BF16_LIMITS,
}
"""The limits by the bits of a code.

Of all quantizers GPTQ changes weights the most. It was measured on the demo model and on one of the 14m shape, with
groups of 32 up to a whole row, symmetric and not. With 2, 3, 4 and 8 bits, gains were 0.84 to 1.02, 0.95 to 1.01, 0.975
to 1.006 and 0.9997 to 1.0002; errors were at most 1.15, 0.64, 0.32 and 0.02, errors of a row 1.80, 1.05, 0.54 and 0.03,
and changes of biases 0.50, 0.18, 0.08 and 0.004. The types of GGUF with 5 and 6 bits were measured on the demo model
alone, with all its matrices as q5_0, q5_1 and q6_k (which fits those of 512 inputs; the others were q8_0), solved on 64
windows and rounded: gains were 0.997 to 1.0013 and 0.9993 to 1.0001; errors at most 0.118 and 0.029, errors of a row
0.154 and 0.034, and changes of biases 0.031 and 0.005."""


@dataclass
class Closeness:
    """The gain and the error of each tensor that is stored as integers, by its name; see :class:`Limits`."""

    gains: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.gains:
            return "none in integers"
        gains, errors = self.gains.values(), self.errors.values()
        return (
            f"{len(gains)} matrices in integers are {min(gains):.3f} to {max(gains):.3f} times as large, and differ by "
            f"{min(errors):.2g} to {max(errors):.2g} of their norm"
        )


@torch.no_grad()
def compare(
    artifact: WeightReader,
    source: WeightReader,
    settings: VariantSettings,
    *,
    equalized: bool,
    corrected: bool,
    progress: Progress = SILENT,
) -> Closeness:
    """Compare an artifact's weights, dequantized, with the source's, a layer at a time.

    A change within LIMITS cannot be told from rounding, and is not reported.

    Args:
        artifact: the artifact's weights.
        source: the checkpoint's weights.
        settings: the variant's settings, which say to how many bits each tensor is rounded.
        equalized: whether the format equalizes layers before it rounds them.
        corrected: whether the format's quantizer may change biases.
        progress: receives how far the work is.

    Raises:
        ArtifactError: the shapes differ, or rounding does not explain a tensor; the message names the first one.
        SourceError: a tensor of the source is damaged.
    """
    shape, closeness = source.architecture, Closeness()
    _compare_shapes(artifact, source)
    for name in (EMBEDDING, HEAD):
        bits = settings.code_bits(name)
        _compare_matrix(name, artifact.read(name).float(), source.read(name).float(), bits, closeness)
    for index in range(shape.layers):
        progress.step("comparing layers with the source", index, shape.layers)
        actual, expected = read_layer(artifact, index), read_layer(source, index)
        if equalized:
            equalize(shape, expected)
        for linear in LINEARS:
            name, weight, bias = (f"{layer_name(index)}.{linear}.weight", f"{linear}.weight", f"{linear}.bias")
            bits = settings.code_bits(name)
            _compare_matrix(name, actual[weight], expected[weight], bits, closeness)
            reach = expected[weight] * expected[f"{NORM_OF[linear]}.weight"] if linear in NORM_OF else expected[weight]
            limit = (LIMITS[bits] if corrected else BF16_LIMITS).bias
            moved, scale = actual[bias] - expected[bias], torch.linalg.vector_norm(reach)
            _require(f"{layer_name(index)}.{bias}", moved, scale, limit)
        for norm in NORM_OF.values():
            _compare_norm(f"{layer_name(index)}.{norm}", actual, expected, norm)
    final = FINAL_NORM.rpartition(".")[2]
    actual, expected = (
        {f"{final}.{part}": reader.read(f"{FINAL_NORM}.{part}").float() for part in ("weight", "bias")}
        for reader in (artifact, source)
    )
    _compare_norm(FINAL_NORM, actual, expected, final)
    return closeness


def _compare_shapes(artifact: WeightReader, source: WeightReader) -> None:
    # Special tokens may differ: a user may choose them.
    actual, expected = (
        {key: value for key, value in reader.architecture.config().items() if not key.endswith("_token_id")}
        for reader in (artifact, source)
    )
    for key in sorted(actual.keys() | expected.keys()):
        if actual.get(key) != expected.get(key):
            raise _other("config.json", f"its {key} is {actual.get(key)!r}, there {expected.get(key)!r}")


def _compare_matrix(name: str, actual: Tensor, expected: Tensor, bits: int, closeness: Closeness) -> None:
    limits, is_float = LIMITS[bits], LIMITS[bits] is BF16_LIMITS
    difference, power = actual - expected, expected.square().sum()
    error = _require(name, difference, power.sqrt(), limits.error)
    gain = 1 + float((difference * expected).sum() / power) if power else 1.0
    least, largest = limits.gain
    if not least <= gain <= largest:
        rounded = "" if is_float else f"; rounding to {bits} bits leaves {least:g} to {largest:g}"
        raise _other(name, f"it is {gain:.3f} times as large{rounded}")
    sizes, errors = torch.linalg.vector_norm(expected, dim=1), torch.linalg.vector_norm(difference, dim=1)
    worst = int((errors / sizes).nan_to_num(0).argmax())
    _require(f"{name}, row {worst},", errors[worst], sizes[worst], limits.row_error)
    if not is_float:
        closeness.gains[name], closeness.errors[name] = gain, error


def _compare_norm(name: str, actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], norm: str) -> None:
    scale = torch.linalg.vector_norm(expected[f"{norm}.weight"])  # of the bias, too: it is added to what gains scale
    for part in ("weight", "bias"):
        _require(f"{name}.{part}", actual[f"{norm}.{part}"] - expected[f"{norm}.{part}"], scale, BF16_LIMITS.error)


def _require(name: str, difference: Tensor, scale: Tensor, limit: float) -> float:
    """Return the norm of a difference over a scale.

    Raises:
        ArtifactError: it is above the limit.
    """
    size = float(torch.linalg.vector_norm(difference))
    if not size <= limit * float(scale):
        relative = f"{size / float(scale):.2g} of its size" if scale else "what is 0 there"
        raise _other(name, f"it differs by {relative}; rounding leaves at most {limit:g}")
    return size / float(scale) if scale else 0.0


def _other(name: str, how: str) -> ArtifactError:
    return ArtifactError(f"{name} is not the source's: {how}", hint="it was changed, or made from other weights")


@dataclass(frozen=True)
class Original:
    """The source of an artifact: its weights, and the folder that holds them and the tokenizer."""

    weights: WeightReader
    folder: Path


def find_local_source(artifact: Artifact) -> Original | None:
    """Return the source that an artifact's manifest names, or None if it is not on this machine. No network is used.

    The source may be the demo model, the folder that was converted, or a snapshot in the hub's cache. If it cannot be
    read, or has other weights now, the result is None, too.
    """
    recorded = artifact.manifest.source
    if recorded.model == DEMO:
        source = open_source(DEMO)
        return Original(source.weights, source.folder) if source.sha256 == recorded.sha256 else None
    folder = Path(recorded.model) if recorded.commit is None else _cached(recorded.model, recorded.commit)
    if folder is None:
        return None
    try:
        files = {name: own_file(folder, name, ArtifactError) for name in recorded.sha256}
        if any(path is None or sha256(path) != recorded.sha256[name] for name, path in files.items()):
            return None
        return Original(open_weights(folder), folder)
    except (PythiaQuantError, OSError):
        return None


def open_named_source(artifact: Artifact, model: str) -> Original:
    """Open the model that the user names as the source of an artifact.

    Raises:
        ArtifactError: the manifest names other weights.
        SourceError: the model cannot be opened.
    """
    recorded = artifact.manifest.source
    same = recorded.commit is not None and repository_of(model) == recorded.model
    source = open_source(model, recorded.commit if same and recorded.commit else "main")
    if source.sha256 != recorded.sha256:
        raise ArtifactError(
            f"was made from other weights than those of {model}, its manifest says: "
            f"{recorded.model} at {recorded.commit or recorded.revision}",
            where=str(artifact.folder),
            hint="give with --model the checkpoint that it was made from",
        )
    return Original(source.weights, source.folder)


def compare_with(artifact: Artifact, source: Original, progress: Progress = SILENT) -> Closeness:
    """Compare an artifact's tokenizer and weights with a source's; see :func:`pythia_quant.artifacts.verify.compare`.

    Raises:
        ArtifactError: the tokenizer or weights are not the source's, or cannot be read.
        SourceError: the source cannot be read.
    """
    entry = format_of(artifact.settings)
    if content_without_limits(artifact.folder / TOKENIZER) != content_without_limits(source.folder / TOKENIZER):
        raise ArtifactError(
            f"{TOKENIZER} is not the source's",
            where=str(artifact.folder),
            hint="it was changed, or made from another model",
        )
    try:
        return compare(
            entry.open_weights(artifact.folder),
            source.weights,
            artifact.settings,
            equalized=entry.equalizes(artifact.settings),
            corrected=artifact.settings.calibrates or artifact.settings.takes_codes_of() is not None,
            progress=progress,
        )
    except ArtifactError as error:
        raise ArtifactError(error.what, where=error.where or str(artifact.folder), hint=error.hint) from error


def _cached(repo_id: str, commit: str) -> Path | None:
    try:
        path = huggingface_hub.try_to_load_from_cache(repo_id, "config.json", revision=commit)
    except HFValidationError:
        return None
    return Path(path).parent if isinstance(path, str) else None
