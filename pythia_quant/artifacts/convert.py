"""Variant + source -> artifact: plan, write into a scratch folder, check it in a fresh process, record and rename."""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from pythia_quant.artifacts.artifact import Artifact, hash_files, open_artifact
from pythia_quant.artifacts.check import PROBE_TOKENS, check
from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.artifacts.reuse import CODES, calibration_record, codes_record, fingerprint, is_stale, reuse
from pythia_quant.core import machine
from pythia_quant.core.errors import ArtifactError, without_links
from pythia_quant.core.file_hashes import sha256_if_changed
from pythia_quant.core.files import recover, scratch_folder, work_folder
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.core.progress import SILENT, PartOf, Progress
from pythia_quant.core.settings import VariantSettings
from pythia_quant.formats.format import Costs, Format
from pythia_quant.formats.job import Job, Written
from pythia_quant.formats.table import format_of
from pythia_quant.model.generation_config import GENERATION_CONFIG, settings_to_write
from pythia_quant.model.source import Source, companions
from pythia_quant.model.tokenizer import TOKENIZER, copy_without_limits
from pythia_quant.records.manifest import CheckRecord, Manifest


@dataclass(frozen=True)
class _Plan:
    """What a conversion needs.

    Attributes:
        inputs: the recipe with its source and texts.
        variant: the variant's name in the recipe.
        settings: the variant's settings.
        format: the variant's format.
        target: the target folder.
        probe: int64 [windows, tokens], the tokens that the check runs.
    """

    inputs: Inputs
    variant: str
    settings: VariantSettings
    format: Format[Any]
    target: Path
    probe: Tensor


def artifact_folder(out: Path, source: Source, variant: str) -> Path:
    """Return where a variant's artifact belongs: ``out/<source>/<revision>/<variant>``."""
    return out / source.slug / source.revision.replace("/", "--") / variant


def convert(
    inputs: Inputs,
    variant: str,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Artifact:
    """Convert one variant of a recipe, or return its artifact if that exists already and verifies.

    If the variant stores the integers of another variant, that variant is converted first, or its artifact verified. If
    the source is a folder and holds another checkpoint now, the artifact is replaced.

    Args:
        inputs: the recipe with its source and texts.
        variant: the name of the variant in the recipe.
        out: the folder that holds all artifacts.
        overwrite: replace this variant's artifact. The artifact that its integers are taken from is not replaced.
        progress: receives how far the work is.

    Raises:
        PythiaQuantError: the conversion failed; the target folder is as it was before.
    """
    machine.bound_torch()
    plan = _plan(inputs, variant, out)
    recover(plan.target)
    if plan.target.exists() and not overwrite and not is_stale(plan.target, inputs):
        return reuse(plan.target, inputs, plan.settings)
    _check_plan(plan)
    solved = _convert_codes(plan, out, progress)
    try:
        with _work(plan) as work, scratch_folder(plan.target) as folder:
            written = _write(plan, folder, work, solved, progress)
            progress.step("checking", 0, 1)
            checked = _check(plan, folder, written)
            _record(plan, folder, written, solved, checked)
    except (OSError, SafetensorError) as error:
        hint = "nothing was left behind; choose another --out"
        raise ArtifactError(f"cannot be written ({error})", where=str(plan.target), hint=hint) from error
    return open_artifact(plan.target)


def check_space(inputs: Inputs, settings: VariantSettings, target: Path) -> None:
    """Refuse a conversion that needs more disk than is free.

    Raises:
        ArtifactError: the disk is too small; the message has the bytes needed and the bytes free.
    """
    architecture = inputs.source.architecture
    body = architecture.non_embedding_parameters
    linear, rest = settings.stored_bits()
    outside = 2 * architecture.vocabulary * architecture.width  # an artifact has head and embeddings, even tied ones
    needed = int((body * linear + outside * rest) / 8 * 1.05) + 10_000_000
    needed += costs(inputs, settings).disk
    existing = next(folder for folder in without_links(target).parents if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise ArtifactError(
            f"needs about {needed / 1e6:,.0f} MB of disk, {free / 1e6:,.0f} MB are free",
            where=str(target),
            hint="free some, or choose another --out",
        )


def costs(inputs: Inputs, settings: VariantSettings) -> Costs:
    """Estimate the memory, and the disk beside the artifact, that a conversion takes while it runs, in bytes."""
    return format_of(settings).costs(inputs.source.architecture, inputs.calibration.size)


def _plan(inputs: Inputs, variant: str, out: Path) -> _Plan:
    settings = inputs.recipe.variants([variant])[variant]
    return _Plan(
        inputs,
        variant,
        settings,
        format=format_of(settings),
        target=artifact_folder(out, inputs.source, variant),
        probe=torch.from_numpy(inputs.evaluation[:2, :PROBE_TOKENS].copy()),
    )


def _check_plan(plan: _Plan) -> None:
    """Refuse a conversion without its calibration text, or without room on the disk."""
    if plan.inputs.calibration_record is None and plan.inputs.recipe.calibrates([plan.variant]):
        hint = f"load_inputs(recipe, only=[{plan.variant!r}])"
        raise ArtifactError("needs calibration text, and the inputs were loaded without", where=plan.variant, hint=hint)
    check_space(plan.inputs, plan.settings, plan.target)


def _convert_codes(plan: _Plan, out: Path, progress: Progress) -> Artifact | None:
    """Convert or verify the variant whose integers this one takes; return its artifact, or None if it takes none."""
    name = plan.settings.takes_codes_of()
    if name is None:
        return None
    return convert(plan.inputs, name, out, progress=PartOf(name, progress))


def _work(plan: _Plan) -> AbstractContextManager[Path | None]:
    """Return the work folder of a variant that calibrates; other variants convert fast, and have none."""
    if not plan.settings.calibrates:
        return nullcontext()
    return work_folder(plan.target, fingerprint(plan.inputs, plan.settings, plan.probe))


def _write(plan: _Plan, folder: Path, work: Path | None, solved: Artifact | None, progress: Progress) -> Written:
    """Write all files of the artifact but its manifest into a scratch folder."""
    source = plan.inputs.source
    generation = settings_to_write(source.generation, source.architecture)
    written = plan.format.write(
        Job(
            source=source.weights,
            settings=plan.settings,
            folder=folder,
            probe=plan.probe,
            calibration=torch.from_numpy(plan.inputs.calibration),
            progress=progress,
            work=work,
            codes=None if solved is None else format_of(solved.settings).open_codes(solved.folder),
            generation=generation,
        )
    )
    _add_tokenizer(source, folder)
    (folder / GENERATION_CONFIG).write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    return written


def _add_tokenizer(source: Source, folder: Path) -> None:
    """Copy the tokenizer's files and chat templates; nothing in them is executed."""
    for name in companions(source.folder):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source.folder / name, folder / name)
    copy_without_limits(source.folder / TOKENIZER, folder / TOKENIZER)
    configuration = folder / "tokenizer_config.json"
    if not configuration.exists():  # without one, onnxruntime-genai and transformers.js find no tokenizer
        configuration.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}) + "\n")


def _check(plan: _Plan, folder: Path, written: Written) -> CheckRecord:
    """Read the artifact back in a fresh process, and compare what it computes with what was intended."""
    intended = folder / ".intended.npy"
    np.save(intended, written.logits.numpy())
    try:
        return check(folder, plan.settings, plan.probe.tolist(), intended)
    finally:
        intended.unlink()


def _record(plan: _Plan, folder: Path, written: Written, solved: Artifact | None, checked: CheckRecord) -> None:
    """Write the manifest, which makes the folder an artifact."""
    codes = {} if solved is None else {CODES: codes_record(solved)}
    manifest = _manifest(plan, written.notes | codes, checked, folder)
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")


def _manifest(plan: _Plan, notes: dict[str, object], checked: CheckRecord, folder: Path) -> Manifest:
    recipe, source = plan.inputs.recipe, plan.inputs.source
    noted = {"caveats": plan.settings.caveats(), "unknown_config_fields": source.unknown_fields}
    return Manifest(
        tool=machine.tool_version(),
        created=datetime.now(UTC),
        variant=plan.variant,
        settings=plan.settings.model_dump(mode="json"),
        recipe_name=recipe.name,
        recipe_id=recipe.id,
        recipe=recipe.canonical(),
        source=plan.inputs.source_record,
        calibration=calibration_record(plan.inputs, plan.settings),
        versions=machine.library_versions(),
        cpu=machine.cpu(),
        notes=notes | {name: note for name, note in noted.items() if note},
        check=checked,
        files=hash_files(folder, sha256_if_changed),
    )
