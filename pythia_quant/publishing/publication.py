"""Prepare a publication: an artifact's files, its manifest, results and recipe as they are published, and its card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from huggingface_hub import constants

from pythia_quant.artifacts.artifact import Artifact, open_artifact, verify_files
from pythia_quant.artifacts.listing import newest_result
from pythia_quant.bench.gates import describe_gate
from pythia_quant.core.errors import HubError
from pythia_quant.core.file_hashes import sha256
from pythia_quant.core.foreign_files import ADDED, MANIFEST, SBOM, SIGNATURE, STATEMENT, own_file
from pythia_quant.core.hub_client import NoAnswerError
from pythia_quant.core.hub_files import Content, NotCachedError, Tree, fetch
from pythia_quant.publishing.anonymize import public_manifest, public_recipe, public_results, serialized
from pythia_quant.publishing.base_model import CARD, base_model, original_card
from pythia_quant.publishing.card import Sister, render_card, results_url
from pythia_quant.publishing.metadata import benchmark_task, eval_results_yaml
from pythia_quant.publishing.sample import sample_output
from pythia_quant.publishing.signature import signed_files
from pythia_quant.publishing.statement import RECIPE, make_statement
from pythia_quant.records.manifest import Manifest, read_manifest
from pythia_quant.records.results import RESULTS, Results, Row, load_results

T = TypeVar("T")

EVAL_RESULTS = ".eval_results/lambada.yaml"
RECORDS = (CARD, MANIFEST, RESULTS, RECIPE, EVAL_RESULTS, *ADDED)
"""The files that are published beside those that the manifest lists."""
HARMLESS = (".gitattributes", ".gitignore", CARD, "LICENSE", "LICENSE.md")
"""The files that a repository may have before we publish to it the first time."""


@dataclass(frozen=True)
class Target:
    """Where an artifact is published.

    Both names may contain ``{model}``, ``{revision}`` and ``{variant}``, which stand for names of the artifact.

    Attributes:
        repo_id: the repository, ``owner/name``.
        revision: the branch.
    """

    repo_id: str
    revision: str = "main"

    def fill_in(self, artifact: Artifact) -> Target:
        """Return the target with the artifact's names in place of the words in braces."""
        source = artifact.manifest.source
        names = {
            "{model}": Path(source.model).name.replace(":", "-"),
            "{revision}": source.revision,
            "{variant}": artifact.manifest.variant,
        }
        repo_id, revision = self.repo_id, self.revision
        for word, name in names.items():
            repo_id, revision = repo_id.replace(word, name), revision.replace(word, name)
        return Target(repo_id, revision)


@dataclass(frozen=True)
class Publication:
    """The content that a repository will have.

    Attributes:
        artifact: the artifact that is published.
        target: the repository and the branch, with all names filled in.
        files: the content of each file, by its path in the repository.
        despite: a sentence for each gate that did not pass.
        unknown: a sentence for each thing that the hub was to be asked for and could not be asked; it is left out.
    """

    artifact: Artifact
    target: Target
    files: dict[str, Content]
    despite: list[str]
    unknown: list[str] = field(default_factory=list)

    @property
    def card(self) -> str:
        """The model card: Markdown with YAML front matter."""
        return bytes(self.files[CARD].data).decode()

    @property
    def repo_type(self) -> Literal["model", "space"]:
        """The kind of repository that it goes to."""
        return "model"

    @property
    def folder(self) -> Path:
        """The artifact's folder."""
        return self.artifact.folder

    @property
    def title(self) -> str:
        """The title of the commit."""
        return f"Publish {self.artifact.manifest.variant}"

    def earlier_files(self, tree: Tree) -> set[str]:
        """Return the files of the artifact that is in a repository now.

        Raises:
            HubError: the repository holds something else, or its manifest is damaged.
        """
        repo_id = self.target.repo_id
        if MANIFEST not in tree.files:
            refuse_others(repo_id, tree)
            return set()
        path = fetch(repo_id, MANIFEST, tree.commit)
        listed = set(read_manifest(path, HubError, f"{repo_id}/{MANIFEST}").files) if path else set()
        return listed | set(RECORDS)


def refuse_others(repo_id: str, tree: Tree) -> None:
    """Refuse a repository that we have not published to and that holds more than a new one does.

    Raises:
        HubError: it does.
    """
    foreign = sorted(path for path in tree.files if path not in HARMLESS)
    if foreign:
        named = f"{', '.join(foreign[:3])}{' and more' if len(foreign) > 3 else ''}"
        raise HubError(f"holds something else: {named}", where=repo_id, hint="choose another --repo-id")


def prepare_publication(
    artifact: str | Path | Artifact,
    target: str | Target,
    *,
    results: str | Path | None = None,
    base: str | None = None,
    despite_gate: str = "",
    together: Sequence[Artifact] = (),
    without_hub: bool = False,
) -> Publication:
    """Check an artifact, and render all that is published of it. Nothing is uploaded.

    The hub is asked for the source's card, for the repository `base`, and for the definition of a benchmark.

    Args:
        artifact: the artifact, or its folder.
        target: the repository, ``owner/name``, or a :class:`Target`, which also names a branch.
        results: the result file; by default, the latest one beside the artifact that has a row for it.
        base: the repository with the source's weights; see :func:`~pythia_quant.publishing.base_model.base_model`.
        despite_gate: the reason to publish although a gate did not pass.
        together: the artifacts that are published at the same time. The card names those of the same source.
        without_hub: leave out what a hub would say; such a publication is only to be looked at.

    Raises:
        ArtifactError: a file is not as the manifest says.
        BenchmarkError: the result file cannot be read.
        HubError: there is no result for exactly these bytes, a gate did not pass and no reason is given, `base` is
            missing or wrong, or the hub cannot be asked.
        RecipeError: this version cannot read the artifact's recipe.
    """
    artifact = artifact if isinstance(artifact, Artifact) else open_artifact(artifact)
    target = Target(target) if isinstance(target, str) else target
    verify_files(artifact)
    artifact.recipe()  # raises if the recipe, which is published, too, cannot be read
    measured, row = find_result(artifact, None if results is None else Path(results))
    despite = _check_gates(measured, row, despite_gate)
    asked, target = target, target.fill_in(artifact)
    hub = _Hub(required=not without_hub)
    base_record = hub.ask(f"whether {base} has the source's weights", lambda: base_model(artifact.manifest, base))
    manifest = public_manifest(artifact.manifest, base_record)
    public = public_results(measured, row, artifact.manifest, manifest)
    added = _added(artifact.folder, make_statement(manifest, public))
    card = render_card(
        manifest,
        public,
        repo_id=target.repo_id,
        revision=target.revision,
        original=hub.ask(
            f"the card of {manifest.source.model}, with its license and its limitations",
            lambda: original_card(manifest.source),
        ),
        despite_gate=despite_gate if despite else "",
        sample=sample_output(artifact),
        sisters=_sisters(artifact, together, asked),
        signed=SIGNATURE in added,
    )
    files = _files(artifact.folder, manifest, public, card) | added
    benchmark = hub.ask("whether LAMBADA's dataset is a benchmark", lambda: _eval_results(public, row.name, target))
    files |= {EVAL_RESULTS: Content.from_bytes(benchmark.encode())} if benchmark else {}
    return Publication(artifact, target, files, despite, hub.unknown)


def _files(folder: Path, manifest: Manifest, results: Results, card: str) -> dict[str, Content]:
    """Return the artifact's files, and the records that are published beside them."""
    records = {
        CARD: card.encode(),
        MANIFEST: serialized(manifest),
        RESULTS: serialized(results),
        RECIPE: public_recipe(manifest).encode(),
    }
    files = {name: Content(folder / name, file.bytes, file.sha256) for name, file in manifest.files.items()}
    return files | {name: Content.from_bytes(data) for name, data in records.items()}


def _added(folder: Path, statement: bytes) -> dict[str, Content]:
    """Return what was added to an artifact: its signature with the statement of origin, a bill of materials.

    Args:
        folder: the artifact's folder.
        statement: what the statement has to be, for it to be true of what is published.

    Raises:
        ArtifactError: the signature is damaged.
        HubError: it is of another statement.
    """
    signed = signed_files(folder)
    present = {name: own_file(folder, name, HubError) for name in (ADDED if signed else (SBOM,))}
    contents = {name: Content.from_bytes(path.read_bytes()) for name, path in present.items() if path}
    digest = Content.from_bytes(statement).sha256
    if signed and not (STATEMENT in contents and contents[STATEMENT].sha256 == signed.get(STATEMENT) == digest):
        raise HubError(
            f"its {STATEMENT} is not of what would be published: other results, another --base-model, or none",
            where=str(folder),
            hint=f"sign it again, after it was measured: pythia-quant sign {folder}; or remove its {SIGNATURE}",
        )
    return contents


class _Hub:
    """Asks the hub; if it is not required, notes what could not be asked and goes on."""

    def __init__(self, *, required: bool) -> None:
        self._required = required
        self.unknown: list[str] = []

    def ask(self, what: str, call: Callable[[], T | None]) -> T | None:
        try:
            return call()
        except (NoAnswerError, NotCachedError) as error:
            if self._required:
                raise
            self.unknown.append(f"{what}: {error.what}")
            return None


def _sisters(artifact: Artifact, together: Sequence[Artifact], target: Target) -> list[Sister]:
    """Return the other artifacts of the same source and revision, as they will be published."""
    source = artifact.manifest.source
    sisters = []
    for other in together:
        same = (other.manifest.source.sha256, other.manifest.source.revision) == (source.sha256, source.revision)
        if same and other.manifest.variant != artifact.manifest.variant:
            place = target.fill_in(other)
            sisters.append(Sister(place.repo_id, place.revision, other.manifest))
    return sisters


def find_result(artifact: Artifact, file: Path | None = None) -> tuple[Results, Row]:
    """Return the latest results that have a row for exactly the bytes of an artifact, and that row.

    Args:
        artifact: the artifact.
        file: the result file; by default, all result files beside the artifact are read.

    Raises:
        BenchmarkError: `file` cannot be read.
        HubError: no result has such a row.
    """
    if file is None:
        match = newest_result(artifact)
    else:
        results, digest = load_results(file), sha256(artifact.folder / MANIFEST)
        match = next(((results, row) for row in results.rows if row.manifest_sha256 == digest), None)
    if match is None:
        raise HubError(
            f"there is no result for exactly these bytes {f'in {file}' if file else 'beside it'}",
            where=str(artifact.folder),
            hint=f"measure it: pythia-quant bench {artifact.folder}",
        )
    return match


def _check_gates(results: Results, row: Row, despite_gate: str) -> list[str]:
    """Return a sentence for each gate that did not pass; refuse if there is one and no reason is given."""
    missed = [describe_gate(gate) for gate in results.gates if gate.variant == row.name and gate.outcome != "passed"]
    if missed and not despite_gate.strip():
        raise HubError(
            " ".join(missed),
            where=row.name,
            hint='measure more windows or rounds, or publish it with --despite-gate "reason"; the card shows that',
        )
    return missed


def _eval_results(results: Results, variant: str, target: Target) -> str | None:
    """Return LAMBADA's accuracy as the hub reads it; None if the hub does not list the dataset as a benchmark."""
    dataset, _, file = (results.lambada.file if results.lambada else "").partition(" ")
    if not file or dataset.count("/") != 1 or constants.HF_HUB_OFFLINE:
        return None
    definition = fetch(dataset, "eval.yaml", "main", "dataset")
    task = benchmark_task(definition.read_text(encoding="utf-8", errors="replace")) if definition else None
    if task is None:
        return None
    url = results_url(target.repo_id, target.revision)
    return eval_results_yaml(results, variant, dataset_id=dataset, task_id=task, source_url=url)


def check_distinct(publications: list[Publication]) -> None:
    """Refuse artifacts that would be published to the same repository and branch.

    Raises:
        HubError: two of them would; the message names them.
    """
    by_target: dict[Target, Publication] = {}
    for publication in publications:
        other = by_target.setdefault(publication.target, publication)
        if other is not publication:
            raise HubError(
                f"{other.artifact.folder} and {publication.artifact.folder} would both be there",
                where=f"{publication.target.repo_id}@{publication.target.revision}",
                hint="put {model}, {revision} or {variant} into --repo-id or --revision",
            )
