"""Manifest, results and recipe as they are published, without the publisher's folders and without other variants."""

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
        manifest: the artifact's manifest.
        base: the record of a repository with the source's weights, if the source was a folder.
    """
    public = _shorten(manifest, local_paths(manifest))
    if base:
        source = {"model": base.model, "revision": base.commit or base.revision}
        public = public.model_copy(update={"source": base, "recipe": public.recipe | {"source": source}})
    return public


def public_results(results: Results, row: Row, manifest: Manifest, public: Manifest) -> Results:
    """Return results with only the rows that a card shows, and only the gates of the variant.

    These rows are the variant's and those of the unquantized source. The variant's row refers to the manifest as it is
    published.

    Args:
        results: the results as measured.
        row: the variant's row.
        manifest: the artifact's manifest.
        public: the manifest as it is published.
    """
    digest = hashlib.sha256(serialized(public)).hexdigest()
    rows = [
        other.model_copy(update={"manifest_sha256": digest}) if other is row else other
        for other in results.rows
        if other is row or not (other.quantized or other.foreign)
    ]
    gates = [gate for gate in results.gates if gate.variant == row.name]
    of_variant = results.model_copy(update={"rows": rows, "gates": gates})
    measured_on = {results.text.name, results.lambada.file if results.lambada else ""}
    paths = local_paths(manifest) | {name for name in measured_on if _is_local(name)}
    return _shorten(of_variant, paths).model_copy(update={"source": public.source})


def public_recipe(manifest: Manifest) -> str:
    """Return the recipe of one published variant as YAML, with the commit of the source.

    Raises:
        RecipeError: this version cannot read the recipe.
    """
    recipe, variant = manifest.recipe, manifest.variant
    settings = recipe["variants"][variant]
    names = [name for name in (settings.get("codes"), variant) if name]
    changes = {
        "variants": {name: recipe["variants"][name] for name in names},
        "gates": {name: limits for name, limits in recipe.get("gates", {}).items() if name == variant},
    }
    if manifest.source.commit:
        changes["source"] = {"model": manifest.source.model, "revision": manifest.source.commit}
    # `basis` explains settings of all variants, so it is left out together with the other variants.
    data = {key: value for key, value in (recipe | changes).items() if key != "basis"}
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
    """Writes a text of several lines as one line with escapes."""


_Quoting.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None),
)


def serialized(record: Record) -> bytes:
    """Return a record as the bytes of its file. An unchanged manifest has the bytes that the artifact has."""
    return (record.model_dump_json(indent=2) + "\n").encode()


def local_paths(manifest: Manifest) -> set[str]:
    """Return the absolute paths that a manifest has as values: of a source folder, and of texts."""
    recipe = manifest.recipe
    texts = [part["text"] for name in ("calibration", "evaluation") if (part := recipe.get(name))]
    files = [text.get("file") for text in (*texts, recipe.get("tasks", {}).get("lambada") or {})]
    named = [manifest.source.model, recipe["source"]["model"], *files]
    return {name for name in named if name and _is_local(name)}


def _is_local(name: str) -> bool:
    return PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()


def _shorten(record: R, paths: set[str]) -> R:
    """Return a record in which each value that is one of `paths` is reduced to its last part. Keys stay."""

    def shorten(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shorten(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [shorten(inner) for inner in value]
        return PureWindowsPath(value).name or "local" if isinstance(value, str) and value in paths else value

    return type(record).model_validate(shorten(record.model_dump(mode="json"))) if paths else record
