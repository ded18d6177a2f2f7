"""The statement of origin beside a signed artifact: what it was made from and how, as in-toto (Statement v1) has it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ValidationError

from pythia_quant.artifacts.artifact import Artifact
from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.file_hashes import sha256
from pythia_quant.core.foreign_files import MANIFEST, STATEMENT, own_file, parse_json, read_ordinary
from pythia_quant.publishing.anonymize import public_manifest, public_recipe, serialized
from pythia_quant.records.manifest import Manifest, Sha256, SourceRecord
from pythia_quant.records.results import RESULTS, Results

RECIPE = "recipe.yaml"
_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://pythia-quant/origin/v1"
_MOST_BYTES = 10_000_000
_AGAIN = "make both again with pythia-quant sign, or download them again"


class Predicate(BaseModel):
    """What a statement says.

    Attributes:
        source: the checkpoint: its repository or the last part of its folder, the commit, the hashes of its weights.
        recipe: the recipe's ``id`` and ``variant``, and the hash of the file ``recipe.yaml`` that is published.
        results: the hash of the file ``results.json`` that is published; None if nothing was measured.
        tool: the version of this program.
        versions: the versions of libraries that the artifact was made with.
    """

    source: SourceRecord
    recipe: dict[str, str]
    results: Sha256 | None
    tool: str
    versions: dict[str, str]

    def sentence(self) -> str:
        """Return what it says of the source, for people."""
        at = f" at commit {self.source.commit}" if self.source.commit else ""
        return f"made from {self.source.model}{at} by recipe {self.recipe.get('id', '')}"


class _Subject(BaseModel):
    name: str
    digest: dict[str, str]


class _Statement(BaseModel):
    predicateType: str  # noqa: N815 - the name of the standard
    subject: list[_Subject]
    predicate: Predicate


def make_statement(public: Manifest, results: Results | None) -> bytes:
    """Return the statement of an artifact as the bytes of its file.

    Args:
        public: the manifest as it is published; see :func:`~pythia_quant.publishing.anonymize.public_manifest`.
        results: the results as they are published; None if nothing was measured.

    Raises:
        RecipeError: this version cannot read the recipe.
    """
    digests = {name: file.sha256 for name, file in public.files.items()} | {MANIFEST: _digest(serialized(public))}
    predicate = Predicate(
        source=public.source,
        recipe={
            "id": public.recipe_id,
            "variant": public.variant,
            "file": RECIPE,
            "sha256": _digest(public_recipe(public).encode()),
        },
        results=_digest(serialized(results)) if results else None,
        tool=public.tool,
        versions=public.versions,
    )
    statement = {
        "_type": _TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(digests.items())],
        "predicateType": _PREDICATE_TYPE,
        "predicate": predicate.model_dump(mode="json"),
    }
    return (json.dumps(statement, indent=2) + "\n").encode()


def check_statement(artifact: Artifact) -> Predicate:
    """Compare an artifact, whose files agree with its manifest, with its statement, and return what that says.

    Raises:
        ArtifactError: the statement is damaged, or is of another manifest, recipe file or result file.
    """
    folder, statement = artifact.folder, _read(artifact.folder)
    stated = {one.name: one.digest.get("sha256") for one in statement.subject}
    manifest, predicate = artifact.manifest, statement.predicate
    base = predicate.source if manifest.source.commit is None and predicate.source.commit else None
    if base and base.sha256 != manifest.source.sha256:
        raise _of_another("weights of the source", folder)
    expected = {name: file.sha256 for name, file in manifest.files.items()}
    expected[MANIFEST] = (_is_stated(artifact, base, stated.get(MANIFEST)) and stated.get(MANIFEST)) or ""
    for name in sorted(stated.keys() | expected.keys()):
        if stated.get(name) != expected.get(name):
            raise _of_another("manifest" if name == MANIFEST else f"file {name}", folder)
    for name, digest in ((RESULTS, predicate.results), (RECIPE, predicate.recipe.get("sha256"))):
        path = own_file(folder, name, ArtifactError)  # only a published artifact has these files in its folder
        if path is not None and sha256(path) != digest:
            raise _of_another(f"file {name}", folder)
    return predicate


def _is_stated(artifact: Artifact, base: SourceRecord | None, digest: str | None) -> bool:
    """Say whether the manifest is the stated one, as it is or as it is published: without the signer's folders."""
    if digest == sha256(artifact.folder / MANIFEST):
        return True
    return digest == _digest(serialized(public_manifest(artifact.manifest, base)))


def _read(folder: Path) -> _Statement:
    path = own_file(folder, STATEMENT, ArtifactError)
    if path is None:
        raise ArtifactError(f"there is no {STATEMENT}, which was signed", where=str(folder), hint=_AGAIN)
    data = parse_json(read_ordinary(path, _MOST_BYTES, ArtifactError, _AGAIN), str(path), ArtifactError, _AGAIN)
    try:
        statement = _Statement.model_validate(data)
    except ValidationError as error:
        raise ArtifactError("is no statement of origin of ours", where=str(path), hint=_AGAIN) from error
    if not isinstance(data, dict) or data.get("_type") != _TYPE or statement.predicateType != _PREDICATE_TYPE:
        raise ArtifactError("is no statement of origin of ours", where=str(path), hint=_AGAIN)
    return statement


def _of_another(what: str, folder: Path) -> ArtifactError:
    return ArtifactError(f"its statement of origin is of another {what}", where=str(folder), hint=_AGAIN)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
