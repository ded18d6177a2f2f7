"""Write a GPTQ artifact layer by layer. A layer is solved for the inputs that the quantized layers before it give."""

from __future__ import annotations

import json
import shutil

import torch
from torch import Tensor

from pythia_quant.core.errors import QuantizationError
from pythia_quant.formats.gptq.packing import pack
from pythia_quant.formats.gptq.reader import QUANTIZE_CONFIG, auto_gptq_fields
from pythia_quant.formats.job import Job, ShardWriter, Written, to_dtype
from pythia_quant.formats.solving.solve import Tables, check_calibration, load_probe, solve_layers
from pythia_quant.formats.solving.solver import Method, SolvedLayer, solve_head
from pythia_quant.formats.solving.work_folder import WorkFolder
from pythia_quant.model.architecture import EMBEDDING, FINAL_NORM, HEAD, LINEARS, layer_name
from pythia_quant.model.forward import Forward
from pythia_quant.quantizers import gptq
from pythia_quant.quantizers.calibration import Calibration
from pythia_quant.quantizers.grid import Quantized
from pythia_quant.quantizers.grid_kind import Stored
from pythia_quant.quantizers.ridge import ROUNDING
from pythia_quant.recipe.variants import GptqSettings


@torch.no_grad()
def write(job: Job[GptqSettings]) -> Written:
    """Quantize the linear layers, and the head if the settings say so, for the calibration windows. The rest is fp16.

    Solved layers are written to ``job.work``. If an interrupted conversion has left some there, they are not solved
    again.

    Returns:
        The logits of the intended weights on the probe, and the notes for the manifest.

    Raises:
        QuantizationError: there is too little calibration text, activations are not finite, or a value does not fit
            fp16.
        SourceError: a tensor of the source is missing or damaged.
    """
    check_calibration(job)
    check_head(job)
    folder = job.work or job.folder / ".work"
    work = WorkFolder(folder)

    def read_tables() -> Tables:
        table = to_dtype(EMBEDDING, job.source.read(EMBEDDING), torch.float16)
        return Tables(table, table)

    solve_layers(job, _method(job.settings), read_tables, work, _packed)
    written = _assemble(job, work)
    if job.work is None:
        shutil.rmtree(folder)
    return written


def check_head(job: Job[GptqSettings]) -> None:
    """Refuse to quantize a head whose zero points do not fill whole words of 32 bits.

    Raises:
        QuantizationError: they do not; the message has the size of the vocabulary.
    """
    vocabulary = job.source.architecture.vocabulary
    if job.settings.head == "quantized" and vocabulary * job.settings.bits % 32:
        raise QuantizationError(
            f"the GPTQ format packs rows of {vocabulary:,} zero points of {job.settings.bits} bits into words of 32",
            where="embed_out",
            hint="say head: fp16, or choose other bits",
        )


def _method(settings: GptqSettings) -> Method:
    options = gptq.Options(
        bits=settings.bits,
        group_size=0 if settings.group_size == "row" else settings.group_size,
        symmetric=settings.symmetric,
        activation_order=settings.activation_order,
        scale_search=settings.scale_search,
        sweeps=settings.sweeps,
        damping=ROUNDING if settings.damping == "auto" else settings.damping,
    )
    return Method(options, settings.correction, decides=settings.damping == "auto", fisher=settings.fisher)


def _packed(solved: SolvedLayer) -> dict[str, Tensor]:
    """Return a layer's tensors as the artifact stores them, by their names within the layer."""
    tensors = dict(solved.floats)
    for name, stored in solved.integers.items():
        tensors |= {f"{name}.{part}": tensor for part, tensor in pack(_integers(stored)).items()}
    return tensors


def _integers(stored: Stored) -> Quantized:
    if not isinstance(stored, Quantized):
        raise TypeError("the GPTQ format stores integers of its own grids")
    return stored


def _assemble(job: Job[GptqSettings], work: WorkFolder) -> Written:
    """Write the artifact: the solved layers, the embeddings, the final norm and the head, which may be solved here."""
    source, architecture = job.source, job.source.architecture
    writer = ShardWriter(job.folder)

    def write_fp16(name: str) -> Tensor:
        tensor = to_dtype(name, source.read(name), torch.float16)
        writer.add(name, tensor)
        return tensor.float()

    write_fp16(EMBEDDING)
    linears: dict[str, object] = {}
    for index in range(architecture.layers):
        for name, tensor in work.tensors(index):
            writer.add(name, tensor)
        linears |= {f"{layer_name(index)}.{name}": note for name, note in work.notes(index).items()}
    before = work.before(architecture.layers)
    forward = Forward(architecture, job.probe)
    forward.hidden = load_probe(job, before)
    norm = {f"final_layer_norm.{part}": write_fp16(f"{FINAL_NORM}.{part}") for part in ("weight", "bias")}
    hidden = forward.finish(*norm.values())
    if job.settings.head == "fp16":
        head = write_fp16(HEAD)
    else:
        job.progress.step("head", 0, 1)
        original = {
            f"final_layer_norm.{part}": source.read(f"{FINAL_NORM}.{part}").float() for part in ("weight", "bias")
        }
        method = _method(job.settings)
        windows = Calibration(architecture, before, before, method.decides)
        quantized, linears["embed_out"] = solve_head(method, windows, source.read(HEAD).float(), original, norm)
        for part, tensor in pack(_integers(quantized)).items():
            writer.add(f"{HEAD.removesuffix('.weight')}.{part}", tensor)
        head = quantized.dequantize()
    writer.close()
    _write_configs(job)
    notes: dict[str, object] = {"calibration_tokens": job.calibration.numel(), "linears": linears}
    return Written(hidden @ head.T, notes)


def _write_configs(job: Job[GptqSettings]) -> None:
    settings = job.settings
    fields: dict[str, object] = {
        "bits": settings.bits,
        "group_size": -1 if settings.group_size == "row" else settings.group_size,
        "sym": settings.symmetric,
        # To readers, this field says that g_idx is not in order. With static groups it is, in any order of solving.
        "desc_act": settings.activation_order == "dynamic",
        "act_group_aware": False,
        "static_groups": settings.activation_order == "static",
        "true_sequential": True,
        "damp_percent": ROUNDING if settings.damping == "auto" else settings.damping,  # a number to readers
        "lm_head": settings.head == "quantized",
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
    }
    # By this field, readers need not guess which layers are quantized. Its nested form is the one that optimum writes.
    fields["modules_in_block_to_quantize"] = [list(LINEARS)]
    config = job.source.architecture.config() | {"quantization_config": fields}
    for name, content in (("config.json", config), (QUANTIZE_CONFIG, auto_gptq_fields(fields))):
        (job.folder / name).write_text(json.dumps(content, indent=2) + "\n")
