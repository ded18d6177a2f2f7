"""What is published of an artifact: its files, the records of what it is and what it cost, and the card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from pythia_quant.artifacts.artifact import Artifact, open_artifact, verify_files
from pythia_quant.bench.gates import describe_gate
from pythia_quant.core.errors import BenchmarkError, HubError
from pythia_quant.core.file_hashes import sha256
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.core.hub_files import Content, fetch
from pythia_quant.publishing.anonymize import public_manifest, public_recipe, public_results, serialized
from pythia_quant.publishing.base_model import CARD, base_model, original_card
from pythia_quant.publishing.card import render_card, results_url
from pythia_quant.publishing.metadata import benchmark_task, eval_results_yaml
from pythia_quant.records.results import RESULTS, Results, Row, load_results

RECIPE = "recipe.yaml"
EVAL_RESULTS = ".eval_results/lambada.yaml"
OURS = (CARD, MANIFEST, RESULTS, RECIPE, EVAL_RESULTS)
"""What is published beside the files that the manifest lists."""


@dataclass(frozen=True)
class Target:
    """Where an artifact is published; both may hold ``{model}``, ``{revision}`` and ``{variant}``."""

    repo_id: str
    revision: str = "main"

    def of(self, artifact: Artifact) -> Target:
        """Return the target with the artifact's own names filled in."""
        source = artifact.manifest.source
        names = {
            "{model}": Path(source.model).name.replace(":", "-"),
            "{revision}": source.revision,
            "{variant}": artifact.manifest.variant,
        }
        repo_id, revision = self.repo_id, self.revision
        for brace, name in names.items():
            repo_id, revision = repo_id.replace(brace, name), revision.replace(brace, name)
        return Target(repo_id, revision)


@dataclass(frozen=True)
class Publication:
    """The content of a repository to be.

    Attributes:
        artifact: what is published.
        target: where, without braces.
        files: what each is to hold, by path in the repository.
        despite: the gates that did not pass, as sentences; empty when all passed.
    """

    artifact: Artifact
    target: Target
    files: dict[str, Content]
    despite: list[str]

    @property
    def card(self) -> str:
        """The card, Markdown with YAML front matter."""
        return bytes(self.files[CARD].data).decode()


def prepare_publication(
    folder: Path,
    target: Target,
    *,
    results: Path | None = None,
    base: str | None = None,
    despite_gate: str = "",
) -> Publication:
    """Check an artifact and render what is published of it. The hub is asked for the source's card only.

    Args:
        folder: the artifact's.
        target: where it is to go.
        results: the result file; the latest beside the artifact that has it unless given.
        base: see :func:`~pythia_quant.publishing.base_model.base_model`.
        despite_gate: why it is published though a gate did not pass.

    Raises:
        ArtifactError: it does not verify, or its recipe cannot be read.
        HubError: it has no result for exactly these bytes, a gate did not pass, or the source is not known.
    """
    artifact = open_artifact(folder)
    verify_files(artifact)
    artifact.recipe()  # which is published, too
    measured, row = find_result(artifact, results)
    despite = _check_gates(measured, row, despite_gate)
    target = target.of(artifact)
    manifest = public_manifest(artifact.manifest, base_model(artifact.manifest, base))
    public = public_results(measured, row, artifact.manifest, manifest)
    card = render_card(
        manifest,
        public,
        repo_id=target.repo_id,
        revision=target.revision,
        original=original_card(manifest.source),
        despite_gate=despite_gate if despite else "",
    )
    written = {
        CARD: card.encode(),
        MANIFEST: serialized(manifest),
        RESULTS: serialized(public),
        RECIPE: public_recipe(manifest).encode(),
    }
    if benchmark := _eval_results(public, row.name, target):
        written[EVAL_RESULTS] = benchmark.encode()
    files = {name: Content(folder / name, file.bytes, file.sha256) for name, file in manifest.files.items()}
    files |= {name: Content.from_bytes(data) for name, data in written.items()}
    return Publication(artifact, target, files, despite)


def find_result(artifact: Artifact, given: Path | None = None) -> tuple[Results, Row]:
    """Return the latest results that have a row for exactly these bytes, and the row.

    Raises:
        HubError: there are none.
        BenchmarkError: the file that was given cannot be read.
    """
    digest = sha256(artifact.folder / MANIFEST)
    found = []
    for path in [given] if given else sorted(artifact.folder.parent.glob(f"{Path(RESULTS).stem}*.json")):
        try:
            results = load_results(path)
        except BenchmarkError:
            if given:
                raise
            continue
        found += [(results, row) for row in results.rows if row.manifest_sha256 == digest]
    if not found:
        raise HubError(
            f"there is no result for exactly these bytes {f'in {given}' if given else 'beside it'}",
            where=str(artifact.folder),
            hint=f"measure it: pythia-quant bench {artifact.folder}",
        )
    return max(found, key=lambda pair: pair[0].created)


def _check_gates(results: Results, row: Row, despite_gate: str) -> list[str]:
    """Return the gates that did not pass, as sentences; refuse when no reason is given."""
    missed = [describe_gate(gate) for gate in results.gates if gate.variant == row.name and gate.outcome != "passed"]
    if missed and not despite_gate.strip():
        raise HubError(
            " ".join(missed),
            where=row.name,
            hint='measure more windows or rounds, or publish it with --despite-gate "reason"; the card shows that',
        )
    return missed


def _eval_results(results: Results, variant: str, target: Target) -> str | None:
    """Return the hub's own form of LAMBADA's accuracy, where the hub knows the dataset as a benchmark."""
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
    """Refuse artifacts that would be published over one another.

    Raises:
        HubError: naming two of them.
    """
    taken: dict[Target, Publication] = {}
    for publication in publications:
        other = taken.setdefault(publication.target, publication)
        if other is not publication:
            raise HubError(
                f"{other.artifact.folder} and {publication.artifact.folder} would both be there",
                where=f"{publication.target.repo_id}@{publication.target.revision}",
                hint="put {model}, {revision} or {variant} into --repo-id or --revision",
            )
