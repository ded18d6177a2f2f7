"""Convert a checkpoint into a GGUF artifact, a layer at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pythia_quant.formats.gguf.file_writer import GgufFile
from pythia_quant.formats.gguf.metadata import descriptions, keys
from pythia_quant.formats.gguf.names import file_name, is_mixed, separate
from pythia_quant.formats.gguf.vocabulary import read_vocabulary
from pythia_quant.formats.job import Job, Written
from pythia_quant.formats.solving.solve import Tables, check_calibration, load_probe, solve_layers
from pythia_quant.formats.solving.solver import Method, SolvedLayer, solve_head
from pythia_quant.formats.solving.work_folder import WorkFolder
from pythia_quant.model.architecture import EMBEDDING, FINAL_NORM, HEAD, LINEARS, Architecture, layer_name
from pythia_quant.model.equalize import equalize
from pythia_quant.model.forward import Forward, layer_tensor_names, read_layer
from pythia_quant.model.tokenizer import TOKENIZER
from pythia_quant.quantizers import gptq, token_rows
from pythia_quant.quantizers.calibration import Calibration
from pythia_quant.quantizers.ggml import Packed, from_quantized, quantize
from pythia_quant.quantizers.ggml_kind import kind_of
from pythia_quant.quantizers.grid_kind import Stored
from pythia_quant.quantizers.ridge import ROUNDING
from pythia_quant.recipe.gguf_variant import FLOATS, GgufSettings, GgufType, bits_of

_ROWS_AT_ONCE = 4096


@torch.no_grad()
def write(job: Job[GgufSettings]) -> Written:
    """Write ``model-<TYPE>.gguf`` with weights and tokenizer, and ``config.json``.

    The file is written a tensor at a time. Layers are solved on the calibration windows, and then read from the work
    folder one at a time; or rounded; or taken from `job.codes` with unchanged integers and scales.

    Returns:
        The logits of the intended weights on the probe, and the notes for the manifest.

    Raises:
        QuantizationError: llama.cpp has no such model or tokenizer, or the weights cannot be solved.
        SourceError: a tensor of the source is missing or damaged.
        ArtifactError: the artifact of the codes is damaged.
    """
    shape, settings = job.source.architecture, job.settings
    vocabulary = read_vocabulary(job.folder / TOKENIZER, shape.vocabulary)
    values = keys(shape, vocabulary) | descriptions(settings.weights, job.origin)
    types = tensor_types(settings, shape)
    table = _embeddings(job, types[EMBEDDING])
    work = _solve(job, types, table) if settings.calibrates else None
    tensors = {name: (types[name], dimensions) for name, dimensions in shape.tensor_shapes().items()}
    with closing(GgufFile(job.folder / file_name(settings.weights), values, tensors)) as file:
        file.add(EMBEDDING, table)
        hidden = table.dequantize(job.probe.flatten()).view(*job.probe.shape, -1)
        del table
        written = _Assembly(job, types, file, work).write(hidden)
    (job.folder / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n")
    if work and job.work is None:
        shutil.rmtree(job.folder / ".work")
    return written


def tensor_types(settings: GgufSettings, shape: Architecture) -> dict[str, GgufType]:
    """Return the type that each tensor is stored in, by its name in a checkpoint."""
    types: dict[str, GgufType] = {}
    for name, dimensions in shape.tensor_shapes().items():
        if len(dimensions) == 1:
            types[name] = "f32"
        elif name in (EMBEDDING, HEAD):
            types[name] = (settings.embeddings_type if name == EMBEDDING else settings.head_type)(shape.width)
        else:
            _, _, index, *linear, _ = name.split(".")
            types[name] = settings.linear_type(int(index), ".".join(linear), dimensions[1])
    return types


def method_of(settings: GgufSettings, types: Mapping[str, GgufType]) -> Method:
    """Return how layers and head are solved; `types` are those of all tensors by their names in a checkpoint."""
    options = gptq.Options(
        activation_order=settings.activation_order,
        scale_search=settings.scale_search,
        sweeps=settings.sweeps,
        damping=ROUNDING if settings.damping == "auto" else settings.damping,
    )
    return Method(
        options,
        settings.correction,
        decides=settings.damping == "auto",
        fisher=settings.fisher,
        floats=torch.float32,
        grids=lambda name: kind_of(types[f"{name}.weight"]),
    )


def _solve(job: Job[GgufSettings], types: dict[str, GgufType], table: Packed) -> WorkFolder:
    """Solve all layers into the work folder."""
    check_calibration(job)
    work = WorkFolder(job.work or job.folder / ".work")

    def read_tables() -> Tables:
        return Tables(table.dequantize(), job.source.read(EMBEDDING).float())

    solve_layers(job, method_of(job.settings, types), read_tables, work, _packed)
    return work


def _embeddings(job: Job[GgufSettings], kind: GgufType) -> Packed:
    """Return the embedding matrix as it is stored: solved for the first layer, which needs no text, or rounded."""
    job.progress.step("embeddings", 0, 1)
    table = job.source.read(EMBEDDING).float()
    if job.settings.quantizer == "nearest" or bits_of(kind) >= 8:
        return quantize(table, kind)
    effect = token_rows.effect_of_embeddings(read_layer(job.source, 0))
    return _blocks(token_rows.solve(table, effect, kind_of(kind), EMBEDDING))


def _packed(solved: SolvedLayer) -> dict[str, Tensor]:
    """Return a layer's tensors as they are kept until they are written, by their names within the layer."""
    return solved.floats | {f"{name}.weight": _blocks(stored).data for name, stored in solved.integers.items()}


def _blocks(stored: Stored) -> Packed:
    if not isinstance(stored, Packed):
        raise TypeError("the GGUF format stores the types of ggml")
    return stored


@dataclass
class _Assembly:
    """Writes the tensors of a file in its order, and computes the probe with them.

    Attributes:
        job: the conversion.
        types: the type of each tensor, by its name in a checkpoint.
        file: the file.
        work: the solved layers, if layers are solved.
    """

    job: Job[GgufSettings]
    types: dict[str, GgufType]
    file: GgufFile
    work: WorkFolder | None

    def write(self, hidden: Tensor) -> Written:
        """Write all tensors but the embeddings; `hidden` are those of the probe, fp32 [windows, tokens, width]."""
        source, shape, job = self.job.source, self.job.source.architecture, self.job
        forward, notes, linears = Forward(shape, job.probe), dict[str, object](), dict[str, object]()
        forward.hidden = hidden
        for index in range(shape.layers):
            job.progress.step("layer", index, shape.layers)
            if self.work:
                linears |= {f"{layer_name(index)}.{name}": note for name, note in self.work.notes(index).items()}
                self._add_layer(index, dict(self._solved(index)))
            else:
                tensors = dict(self._codes(index) if job.codes else self._rounded(index))
                forward.layer({name: _values(tensor) for name, tensor in tensors.items()})
                self._add_layer(index, {f"{layer_name(index)}.{name}": tensor for name, tensor in tensors.items()})
        if self.work:
            forward.hidden = load_probe(job, self.work.before(shape.layers))
            notes = {"calibration_tokens": job.calibration.numel(), "linears": linears}
        norm = {f"{FINAL_NORM}.{part}": source.read(f"{FINAL_NORM}.{part}").float() for part in ("weight", "bias")}
        for name, tensor in norm.items():
            self.file.add(name, tensor)
        job.progress.step("head", 0, 1)
        head = self._head(linears, *norm.values())
        self.file.add(HEAD, head)
        hidden = forward.finish(*norm.values())
        pieces = torch.arange(shape.vocabulary).split(_ROWS_AT_ONCE)
        return Written(torch.cat([F.linear(hidden, head.dequantize(rows)) for rows in pieces], dim=-1), notes)

    def _solved(self, index: int) -> Iterator[tuple[str, Packed | Tensor]]:
        assert self.work is not None  # noqa: S101 - it is there where layers are solved
        for name, tensor in self.work.tensors(index):
            yield name, Packed(self.types[name], tensor) if tensor.dtype == torch.uint8 else tensor

    def _rounded(self, index: int) -> Iterator[tuple[str, Packed | Tensor]]:
        """Yield the tensors of a layer of the source, equalized if it is quantized, as they are stored."""
        layer = read_layer(self.job.source, index)
        if self.job.settings.quantizes_layers():
            equalize(self.job.source.architecture, layer)
        for name, tensor in layer.items():
            kind = self.types[f"{layer_name(index)}.{name}"]
            yield name, quantize(tensor, kind) if tensor.ndim == 2 else tensor

    def _codes(self, index: int) -> Iterator[tuple[str, Packed | Tensor]]:
        """Yield the tensors of a layer of another artifact, with its integers and scales."""
        codes, prefix = self.job.codes, layer_name(index)
        assert codes is not None  # noqa: S101 - the caller looked
        for name in layer_tensor_names(codes.architecture):
            if name.removesuffix(".weight") in LINEARS:
                yield name, from_quantized(codes.quantized(f"{prefix}.{name}"), self.types[f"{prefix}.{name}"])
            else:
                yield name, codes.read(f"{prefix}.{name}").float()

    def _add_layer(self, index: int, tensors: dict[str, Packed | Tensor]) -> None:
        shape = self.job.source.architecture
        for name in (f"{layer_name(index)}.{name}" for name in layer_tensor_names(shape)):
            tensor = tensors[name]
            if is_mixed(name):
                if isinstance(tensor, Packed):
                    tensor = tensor.arranged(lambda rows: separate(rows, shape))
                else:
                    tensor = separate(tensor, shape)
            self.file.add(name, tensor)

    def _head(self, linears: dict[str, object], gain: Tensor, bias: Tensor) -> Packed:
        """Return the head, solved with the layers or rounded."""
        weight, kind = self.job.source.read(HEAD).float(), self.types[HEAD]
        if self.work is None or kind in FLOATS:
            return quantize(weight, kind)
        before = self.work.before(self.job.source.architecture.layers)
        norm = {"final_layer_norm.weight": gain, "final_layer_norm.bias": bias}
        method = method_of(self.job.settings, self.types)
        windows = Calibration(self.job.source.architecture, before, before, method.decides)
        stored, linears["embed_out"] = solve_head(method, windows, weight, norm, norm)
        return _blocks(stored)


def _values(tensor: Packed | Tensor) -> Tensor:
    return tensor.dequantize() if isinstance(tensor, Packed) else tensor
