"""Manifest and results as they are published: nothing of the publisher's folders, and nothing of other variants."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from pythia_quant.core.errors import RecipeError
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.core.text import printable
from pythia_quant.recipe.recipe import RecipeSettings
from pythia_quant.records.manifest import Manifest, Record, SourceRecord
from pythia_quant.records.results import Results, Row

R = TypeVar("R", bound=Record)


def public_manifest(manifest: Manifest, base: SourceRecord | None = None) -> Manifest:
    """Return a manifest in which local paths are reduced to their last part.

    Args:
        manifest: the artifact's.
        base: the hub's record of a source that was a folder, when it is known to hold the same weights.
    """
    public = _without(manifest, local_paths(manifest))
    if base:
        source = {"model": base.model, "revision": base.commit or base.revision}
        public = public.model_copy(update={"source": base, "recipe": public.recipe | {"source": source}})
    return public


def public_results(results: Results, row: Row, manifest: Manifest, public: Manifest) -> Results:
    """Return the rows that a card shows, the variant's and those of the unquantized source, with the variant's gates.

    Args:
        results: as measured.
        row: the variant's.
        manifest: the artifact's.
        public: what is published of it, to whose bytes the row belongs then.
    """
    digest = hashlib.sha256(serialized(public)).hexdigest()
    rows = [
        other.model_copy(update={"manifest_sha256": digest}) if other is row else other
        for other in results.rows
        if other is row or not other.quantized
    ]
    gates = [gate for gate in results.gates if gate.variant == row.name]
    kept = results.model_copy(update={"rows": rows, "gates": gates})
    measured_on = {results.text.name, results.lambada.file if results.lambada else ""}
    paths = local_paths(manifest) | {name for name in measured_on if _is_local(name)}
    return _without(kept, paths).model_copy(update={"source": public.source})


def public_recipe(manifest: Manifest) -> str:
    """Return the recipe of one published variant as YAML, at the source's very commit.

    Raises:
        RecipeError: this version does not read it.
    """
    recipe, variant = manifest.recipe, manifest.variant
    settings = recipe["variants"][variant]
    names = [name for name in (settings.get("codes"), variant) if name]
    kept = {
        "variants": {name: recipe["variants"][name] for name in names},
        "gates": {name: limits for name, limits in recipe.get("gates", {}).items() if name == variant},
    }
    if manifest.source.commit:
        kept["source"] = {"model": manifest.source.model, "revision": manifest.source.commit}
    # What a setting's value is based on stays with those of the variants that are left out.
    data = {key: value for key, value in (recipe | kept).items() if key != "basis"}
    try:
        RecipeSettings.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RecipeError(
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            where=f"the recipe in {variant}/{MANIFEST}",
            hint="another version of pythia-quant made it; convert again",
        ) from error
    text: str = yaml.dump(data, Dumper=_Quoting, sort_keys=False, allow_unicode=True)
    if printable(text) != text:
        text = yaml.dump(data, Dumper=_Quoting, sort_keys=False)
    return text


class _Quoting(yaml.SafeDumper):
    """Writes text of several lines as one, with escapes."""


_Quoting.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None),
)


def serialized(record: Record) -> bytes:
    """Return a manifest or results as they are written; a manifest in which nothing changed has its old bytes."""
    return (record.model_dump_json(indent=2) + "\n").encode()


def local_paths(manifest: Manifest) -> set[str]:
    """Return the absolute paths that a manifest names: a source folder, and texts."""
    recipe = manifest.recipe
    texts = [part["text"] for name in ("calibration", "evaluation") if (part := recipe.get(name))]
    files = [text.get("file") for text in (*texts, recipe.get("tasks", {}).get("lambada") or {})]
    named = [manifest.source.model, recipe["source"]["model"], *files]
    return {name for name in named if name and _is_local(name)}


def _is_local(name: str) -> bool:
    return PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()


def _without(record: R, paths: set[str]) -> R:
    """Return a record in which each value that is one of `paths` is its last part; names of files are no values."""

    def shortened(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shortened(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [shortened(inner) for inner in value]
        return PureWindowsPath(value).name or "local" if isinstance(value, str) and value in paths else value

    return type(record).model_validate(shortened(record.model_dump(mode="json"))) if paths else record
