"""Variant + source -> artifact: check first, work in a scratch folder, read it back in a fresh process, rename."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from pythia_quant import environment, isolate, resources
from pythia_quant.artifact import Artifact, hash_files, open_artifact, verify_files
from pythia_quant.callbacks import Report, silent
from pythia_quant.check import check_artifact
from pythia_quant.config_file import read_config
from pythia_quant.errors import ArtifactError
from pythia_quant.folders import recover, scratch_folder, work_folder
from pythia_quant.formats import format_of
from pythia_quant.formats.format import Costs
from pythia_quant.formats.job import Job, Written
from pythia_quant.generation_config import GENERATION_CONFIG, read_model, settings_to_write
from pythia_quant.inputs import Inputs
from pythia_quant.manifest import MANIFEST, CalibrationRecord, CheckRecord, Manifest, SourceRecord
from pythia_quant.settings import VariantSettings
from pythia_quant.source import Source, companions
from pythia_quant.storage import without_links
from pythia_quant.tokenizer import TOKENIZER, open_tokenizer, write_uncut

PROBE_TOKENS = 64
CODES = "codes"
"""The note in a manifest that says of which artifact the integers are."""


def artifact_folder(out: Path, source: Source, variant: str) -> Path:
    """Return where a variant's artifact belongs: ``out/<source>/<revision>/<variant>``."""
    return out / source.slug / source.revision.replace("/", "--") / variant


def convert(
    inputs: Inputs,
    variant: str,
    out: Path,
    *,
    overwrite: bool = False,
    report: Report = silent,
) -> Artifact:
    """Quantize one variant of a recipe, or return the artifact when it is already there and verifies.

    A variant that stores another one's integers has that one converted first, into an artifact of its own, unless it is
    there and verifies. An artifact of a folder whose checkpoint has changed since is made anew.

    Args:
        inputs: the recipe with its source and texts.
        variant: the name of one of its variants.
        out: the folder that holds all artifacts.
        overwrite: make it anew even where one stands; of another's integers, only what is made of them.
        report: told of progress.

    Raises:
        PythiaQuantError: nothing was written, and what stood there before stands there still.
    """
    resources.bound_torch()
    settings = inputs.recipe.variants([variant])[variant]
    entry = format_of(settings)
    target = artifact_folder(out, inputs.source, variant)
    recover(target)
    if target.exists() and not overwrite and not _is_stale(target, inputs):
        return _reuse(target, inputs, settings)
    if inputs.calibration_record is None and inputs.recipe.calibrates([variant]):
        hint = f"load_inputs(recipe, only=[{variant!r}])"
        raise ArtifactError("needs calibration text, and the inputs were loaded without", where=variant, hint=hint)
    check_space(inputs, settings, target)
    solved = _convert_codes(inputs, settings, out, report)
    try:
        with _work(target, inputs, settings) as work, scratch_folder(target) as folder:
            written = entry.write(
                Job(
                    source=inputs.source.weights,
                    settings=settings,
                    folder=folder,
                    probe=_probe(inputs),
                    calibration=torch.from_numpy(inputs.calibration),
                    report=report,
                    work=work,
                    codes=None if solved is None else format_of(solved.settings).open_codes(solved.folder),
                    generation=settings_to_write(inputs.source.generation, inputs.source.architecture),
                )
            )
            _add_tokenizer(inputs.source, folder)
            report("checking", 0, 1)
            check = _check(folder, settings, _probe(inputs), written)
            if solved is not None:
                written = replace(written, notes=written.notes | {CODES: _codes_record(solved)})
            manifest = _manifest(inputs, variant, settings, written, check, folder)
            (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        hint = "nothing was left behind; choose another --out"
        raise ArtifactError(f"cannot be written ({error})", where=str(target), hint=hint) from error
    return open_artifact(target)


def check_space(inputs: Inputs, settings: VariantSettings, target: Path) -> None:
    """Refuse a conversion that will not fit on the disk.

    Raises:
        ArtifactError: with the bytes needed and free.
    """
    architecture = inputs.source.architecture
    body = architecture.non_embedding_parameters
    linear, rest = settings.stored_bits()
    outside = 2 * architecture.vocabulary * architecture.width  # an artifact has both, also where they are tied
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
    """Return about how much memory, and how much disk beside the artifact, a conversion takes while it runs, bytes."""
    return format_of(settings).costs(inputs.source.architecture, inputs.calibration.size)


def _work(target: Path, inputs: Inputs, settings: VariantSettings) -> AbstractContextManager[Path | None]:
    """Return the folder in which a long conversion keeps what it has solved; other formats have none."""
    if not settings.calibrates:
        return nullcontext()
    return work_folder(target, _fingerprint(inputs, settings))


def _fingerprint(inputs: Inputs, settings: VariantSettings) -> str:
    """Return what must be the same for a conversion to go on where another was killed, and end with the same bytes."""
    parts = {
        "source": inputs.source.sha256,
        "config": _config(inputs.source),
        "settings": settings.model_dump(mode="json"),
        "calibration": hashlib.sha256(inputs.calibration.tobytes()).hexdigest(),
        "probe": _probe(inputs).tolist(),
        "versions": environment.library_versions() | {"pythia-quant": environment.tool_version()},
        "machine": [environment.cpu(), torch.get_num_threads(), torch.cuda.is_available()],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _convert_codes(inputs: Inputs, settings: VariantSettings, out: Path, report: Report) -> Artifact | None:
    """Convert the variant whose integers are taken, or verify what is there; None for settings that take none."""
    name = settings.takes_codes_of()
    if name is None:
        return None
    return convert(inputs, name, out, report=lambda what, done, total: report(f"{name}: {what}", done, total))


def _codes_record(solved: Artifact) -> dict[str, object]:
    """Return what a manifest notes of the artifact whose integers were taken: its variant, the hash of its weights."""
    weights = {name: file.sha256 for name, file in solved.manifest.files.items() if name.endswith(".safetensors")}
    return {"variant": solved.manifest.variant, "sha256": weights}


def _same_codes(artifact: Artifact, inputs: Inputs, settings: VariantSettings) -> bool:
    """Say whether an artifact's integers are those it would be given now: of the same settings, and of what is beside.

    That may be gone: an artifact does not need the one that its integers are from.
    """
    name, recorded = settings.takes_codes_of(), artifact.manifest.notes.get(CODES)
    if name is None or recorded is None:
        return name is None and recorded is None
    then, now = (recipe.variants.get(name) for recipe in (artifact.recipe(), inputs.recipe.settings))
    beside = artifact.folder.parent / name
    return then == now and (not beside.exists() or recorded == _codes_record(open_artifact(beside)))


def _calibration(inputs: Inputs, settings: VariantSettings) -> CalibrationRecord | None:
    """Return what an artifact was calibrated on, itself or where its integers are from."""
    return inputs.calibration_record if settings.calibrates or settings.takes_codes_of() else None


def _content(calibration: CalibrationRecord | None) -> dict[str, Any] | None:
    """Return what decides a calibration: its windows, and the text's hash, wherever the text is."""
    return calibration.model_dump(exclude={"text": {"name"}}) if calibration else None


def _is_stale(target: Path, inputs: Inputs) -> bool:
    """Say whether an artifact is of the very same folder, which has held another checkpoint since.

    That is like a file older than what it is made from. Another folder of that name is another model.
    """
    manifest, source = open_artifact(target).manifest, inputs.source
    same = manifest.source.sha256 == source.sha256 and _made_for(target) == _config(source)
    return source.commit is None and manifest.source.model == source.model and not same


def _made_for(target: Path) -> dict[str, Any]:
    return read_config(target / "config.json", quantized=True).config()


def _reuse(target: Path, inputs: Inputs, settings: VariantSettings) -> Artifact:
    artifact = open_artifact(target)
    manifest = artifact.manifest
    changed = [
        what
        for what, same in (
            ("settings", artifact.settings == settings),
            ("source weights", manifest.source.sha256 == inputs.source.sha256),
            ("config.json", _made_for(target) == _config(inputs.source)),
            ("calibration", _content(manifest.calibration) == _content(_calibration(inputs, settings))),
            (settings.takes_codes_of() or "codes", _same_codes(artifact, inputs, settings)),
            ("tool", manifest.tool == environment.tool_version()),
        )
        if not same
    ]
    if changed:
        raise ArtifactError(
            f"holds an artifact made with a different {' and '.join(changed)}",
            where=str(target),
            hint=f"convert {target.name} with --overwrite to replace it, or use another --out",
        )
    verify_files(artifact)
    return artifact


def _config(source: Source) -> dict[str, Any]:
    """Return what an artifact's config.json says of the model, whatever its format adds."""
    return replace(source.architecture, tokens=source.weights.architecture.tokens).config()


def _probe(inputs: Inputs) -> torch.Tensor:
    return torch.from_numpy(inputs.evaluation[:2, :PROBE_TOKENS].copy())


def _add_tokenizer(source: Source, folder: Path) -> None:
    """Copy all that belongs to the tokenizer, and write how to generate; nothing of it is executed."""
    for name in companions(source.folder):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source.folder / name, folder / name)
    write_uncut(source.folder / TOKENIZER, folder / TOKENIZER)
    configuration = folder / "tokenizer_config.json"
    if not configuration.exists():  # without one, onnxruntime-genai and transformers.js find no tokenizer
        configuration.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}) + "\n")
    generation = settings_to_write(source.generation, source.architecture)
    (folder / GENERATION_CONFIG).write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


def _check(folder: Path, settings: VariantSettings, probe: torch.Tensor, written: Written) -> CheckRecord:
    intended = folder / ".intended.npy"
    np.save(intended, written.logits.numpy())
    try:
        return check(folder, settings, probe.tolist(), intended)
    finally:
        intended.unlink()


def check(folder: Path, settings: VariantSettings, probe: list[list[int]], intended: Path | None = None) -> CheckRecord:
    """Read an artifact back and run it in a fresh process; see :func:`pythia_quant.check.check_artifact`."""
    arguments = {
        "folder": str(folder),
        "settings": settings.model_dump(mode="json"),
        "probe": probe,
        "threads": resources.cores(),
        "intended": str(intended) if intended else None,
    }
    return CheckRecord.model_validate(isolate.call(check_artifact, arguments))


def check_again(artifact: Artifact) -> CheckRecord:
    """Load and run a finished artifact: its runtime must compute what its weights say.

    Raises:
        ArtifactError: it does not load, its tokenizer is another model's, or by how much its logits differ.
        SourceError: its configuration is damaged.
    """
    architecture = read_model(artifact.folder, quantized=True)
    open_tokenizer(artifact.folder / TOKENIZER, architecture.vocabulary, ArtifactError)
    size = (2, min(PROBE_TOKENS, architecture.context))
    probe = np.random.default_rng(0).integers(architecture.vocabulary, size=size).tolist()
    return check(artifact.folder, artifact.settings, probe)


def _manifest(
    inputs: Inputs, variant: str, settings: VariantSettings, written: Written, check: CheckRecord, folder: Path
) -> Manifest:
    files = hash_files(folder)
    source, parameters = inputs.source, inputs.source.architecture.parameters
    noted = {"caveats": settings.caveats(), "unknown_config_fields": source.unknown_fields}
    return Manifest(
        tool=environment.tool_version(),
        created=datetime.now(UTC),
        variant=variant,
        settings=settings.model_dump(mode="json"),
        recipe_name=inputs.recipe.name,
        recipe_id=inputs.recipe.id,
        recipe=inputs.recipe.canonical(),
        source=SourceRecord(
            model=source.model,
            revision=source.revision,
            commit=source.commit,
            sha256=source.sha256,
            parameters=parameters,
        ),
        calibration=_calibration(inputs, settings),
        versions=environment.library_versions(),
        cpu=environment.cpu(),
        notes=written.notes | {name: note for name, note in noted.items() if note},
        check=check,
        files=files,
    )
