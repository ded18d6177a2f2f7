"""Make an artifact in three steps: write it into a scratch folder, check it in a fresh process, record it."""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager, ExitStack, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError

from pythia_quant.artifacts.artifact import Artifact, hash_files
from pythia_quant.artifacts.check import check, import_check
from pythia_quant.artifacts.plan import Plan, caveats
from pythia_quant.artifacts.reuse import CODES, calibration_record, codes_record, fingerprint
from pythia_quant.core import machine, process
from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.file_hashes import sha256_if_changed
from pythia_quant.core.files import scratch_folder, work_folder
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.core.progress import Progress
from pythia_quant.formats.job import Job, Written
from pythia_quant.formats.table import format_of
from pythia_quant.model.generation_config import GENERATION_CONFIG, settings_to_write
from pythia_quant.model.source import Source, companions
from pythia_quant.model.tokenizer import TOKENIZER, copy_without_limits
from pythia_quant.records.manifest import CheckRecord, Manifest


def make(
    plan: Plan, solved: Artifact | None, progress: Progress, checker: process.Worker | process.Here | None = None
) -> None:
    """Make the artifact that a plan describes, in its target folder.

    Args:
        plan: the plan.
        solved: the artifact whose integers this one takes; None if it takes none.
        progress: receives how far the work is.
        checker: reads the artifact back and runs it; a fresh process by default.

    Raises:
        PythiaQuantError: the conversion failed; the target folder is as it was before.
    """
    machine.bound_torch()
    try:
        with _work(plan) as work, scratch_folder(plan.target) as folder, ExitStack() as resources:
            checker = checker or resources.enter_context(process.Worker())
            if not plan.settings.calibrates:  # which takes so long that a process that waits would only hold memory
                checker.prepare(import_check, {"settings": plan.settings.model_dump(mode="json")})
            written = _write(plan, folder, work, solved, progress)
            progress.step("checking", 0, 1)
            checked = _check(plan, folder, written, checker)
            _record(plan, folder, written, solved, checked)
    except (OSError, SafetensorError) as error:
        hint = "nothing was left behind; choose another --out"
        raise ArtifactError(f"cannot be written ({error})", where=str(plan.target), hint=hint) from error


def _work(plan: Plan) -> AbstractContextManager[Path | None]:
    """Return the work folder of a variant that calibrates; other variants convert fast, and have none."""
    if not plan.settings.calibrates:
        return nullcontext()
    return work_folder(plan.target, fingerprint(plan.inputs, plan.settings, plan.probe))


def _write(plan: Plan, folder: Path, work: Path | None, solved: Artifact | None, progress: Progress) -> Written:
    """Write all files of the artifact but its manifest into a scratch folder."""
    source = plan.inputs.source
    generation = settings_to_write(source.generation, source.architecture)
    _add_tokenizer(source, folder)
    written = plan.format.write(
        Job(
            source=source.weights,
            settings=plan.settings,
            folder=folder,
            probe=torch.from_numpy(plan.probe),
            calibration=torch.from_numpy(plan.inputs.calibration),
            progress=progress,
            work=work,
            codes=None if solved is None else format_of(solved.settings).open_codes(solved.folder),
            generation=generation,
            origin=plan.inputs.source_record.model if plan.inputs.source_record.commit else "",
        )
    )
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


def _check(plan: Plan, folder: Path, written: Written, checker: process.Worker | process.Here) -> CheckRecord:
    """Read the artifact back in a fresh process, and compare what it computes with what was intended."""
    intended = folder / ".intended.npy"
    np.save(intended, written.logits.numpy())
    try:
        return check(checker, folder, plan.settings, plan.probe.tolist(), intended)
    finally:
        intended.unlink()


def _record(plan: Plan, folder: Path, written: Written, solved: Artifact | None, checked: CheckRecord) -> None:
    """Write the manifest, which makes the folder an artifact."""
    codes = {} if solved is None else {CODES: codes_record(solved)}
    manifest = _manifest(plan, written.notes | codes, checked, folder)
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")


def _manifest(plan: Plan, notes: dict[str, object], checked: CheckRecord, folder: Path) -> Manifest:
    recipe, source = plan.inputs.recipe, plan.inputs.source
    noted = {"caveats": caveats(plan.inputs, plan.settings), "unknown_config_fields": source.unknown_fields}
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
