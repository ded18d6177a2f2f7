"""GGUF files of other makers, such as llama.cpp's converter and quantizer: their kind in the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.foreign import Encode, Finding, ForeignKind, check_shape
from pythia_quant.model.architecture import EMBEDDING, Architecture

if TYPE_CHECKING:
    from pythia_quant.formats.gguf.reader import GgufWeights
    from pythia_quant.runtimes.protocol import Runtime

# ruff: noqa: PLC0415 - the table of kinds is read without torch: what needs it is imported when it is needed

_ENDING, _ARCHITECTURE = ".gguf", "gptneox"
_OWN_TOKENIZER = (
    "its own tokenizer, which llama.cpp runs, was compared; it does not bring a text into Unicode's form NFC"
)


class ForeignGgufKind(ForeignKind):
    """One file with weights and tokenizer; llama.cpp runs it."""

    name: ClassVar[str] = "gguf"
    like: ClassVar[str] = "gguf"
    needs = ("xllamacpp",)
    extra = "gguf"
    on_gpu = False
    normalizes = False

    def recognizes(self, path: Path) -> bool:
        return _file_of(path) is not None

    def inspect(self, path: Path, source: Architecture) -> Finding:
        file = _file(path)
        weights = _open(file, source)
        kinds = {place.kind for name, place in weights.places.items() if len(place.shape) > 1}
        return Finding(
            stored=f"GGUF, {', '.join(sorted(kinds)).upper()}",
            quantized=not kinds <= {"f32", "f16", "bf16"},
            files=[file.name],
            memory_bytes=file.stat().st_size,
            notes=[_OWN_TOKENIZER],
        )

    def open_weights(self, folder: Path) -> GgufWeights | None:
        from pythia_quant.quantizers.ggml import TYPES

        weights = _open(_file(folder))
        return weights if all(place.kind in TYPES for place in weights.places.values()) else None

    def streamed_bytes(self, folder: Path) -> int:
        places = _open(_file(folder)).places
        return sum(place.size for name, place in places.items() if name != EMBEDDING)

    def import_runtime(self) -> Callable[[Path, int, str], Runtime]:
        from pythia_quant.formats.gguf.llama_cpp import library
        from pythia_quant.formats.gguf.runtime import open_file, types_in_words

        library()

        def open_foreign(path: Path, threads: int, _: str) -> Runtime:
            weights = _open(_file(path))
            return open_file(weights.path, weights.architecture, threads, types_in_words(weights.places))

        return open_foreign

    def encoder(self, path: Path, vocabulary: int) -> Encode | None:
        from pythia_quant.formats.gguf.loaded import Model

        model = Model(_file(path))
        if model.vocabulary != vocabulary:
            what = f"its tokenizer has {model.vocabulary:,} tokens, the source {vocabulary:,}"
            raise ArtifactError(what, where=str(model.file), hint="name with --source the model that it was made from")
        return lambda text: model.tokenize(text, parse_special=True)


def _file_of(path: Path) -> Path | None:
    """Return the file that a path names: itself, or the only one in a folder.

    Raises:
        ArtifactError: a folder holds several.
    """
    if path.is_file():
        return path if path.suffix == _ENDING else None
    files = sorted(path.glob(f"*{_ENDING}"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:8])
        raise ArtifactError("holds several GGUF files", where=str(path), hint=f"give one of the files: {names}")
    return files[0] if files else None


def _file(path: Path) -> Path:
    if (file := _file_of(path)) is None:
        raise ArtifactError("holds no GGUF file", where=str(path), hint="download it again")
    return file


def _open(file: Path, source: Architecture | None = None) -> GgufWeights:
    """Open a file by what its own keys say, and compare them with those of the source if that is given.

    Raises:
        ArtifactError: the file is damaged, holds another kind of model, or has another shape than the source.
    """
    from pythia_quant.formats.gguf.header import read_header
    from pythia_quant.formats.gguf.reader import GgufWeights

    header = read_header(file)
    architecture = _architecture(header.values, file)
    if source is not None:
        check_shape(architecture, _as_llama_cpp_computes(source), str(file))
    return GgufWeights(file, architecture, header)


def _as_llama_cpp_computes(source: Architecture) -> Architecture:
    """Return the source's shape with what a file does not say as llama.cpp takes it: GELU, without stretching."""
    return replace(source, activation="gelu") if source.activation.startswith("gelu") else source


def _architecture(values: dict[str, Any], file: Path) -> Architecture:
    """Return the shape that a file's keys describe.

    Raises:
        ArtifactError: a key is missing or of another kind, or the model is no GPT-NeoX.
    """
    if (kind := values.get("general.architecture")) != _ARCHITECTURE:
        raise ArtifactError(f"holds a model of the kind {kind!r:.40}, not {_ARCHITECTURE}", where=str(file))

    def number(key: str, least: float = 1, *, default: float | None = None) -> Any:
        value = values.get(f"{_ARCHITECTURE}.{key}", default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= 2**31:
            raise ArtifactError(f"{_ARCHITECTURE}.{key} is {value!r:.40}", where=str(file), hint="download it again")
        return value

    tokens, heads = values.get("tokenizer.ggml.tokens"), number("attention.head_count")
    width = number("embedding_length")
    if not isinstance(tokens, list) or not tokens or width % heads:
        raise ArtifactError("has no tokens, or heads that do not divide its width", where=str(file))
    scaling = values.get(f"{_ARCHITECTURE}.rope.scaling.type", "none")
    if scaling != "none":
        raise ArtifactError(f"stretches positions ({scaling!r:.40}), which is not compared", where=str(file))
    return Architecture(
        layers=number("block_count"),
        width=width,
        heads=heads,
        mlp_width=number("feed_forward_length"),
        vocabulary=len(tokens),
        context=number("context_length"),
        rotary_size=number("rope.dimension_count"),
        rotary_base=float(number("rope.freq_base", default=10000.0)),
        norm_epsilon=float(f"{number('attention.layer_norm_epsilon', 0):.6g}"),  # from fp32
        parallel_residual=values.get(f"{_ARCHITECTURE}.use_parallel_residual", True) is True,
    )
