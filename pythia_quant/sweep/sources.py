"""The checkpoints of a study: which they are, the hashes of their weights, and which of them are the same."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pythia_quant.core.errors import PythiaQuantError, StudyError
from pythia_quant.core.file_hashes import sha256_if_changed
from pythia_quant.core.hub_files import git_hash
from pythia_quant.core.progress import SILENT, Progress
from pythia_quant.model import suite
from pythia_quant.model.place import locate
from pythia_quant.model.revisions import branch_steps, read_revisions
from pythia_quant.model.schedule import learning_rate, tokens_seen
from pythia_quant.model.source_name import Repository, parse_model
from pythia_quant.model.tokenizer import TOKENIZER
from pythia_quant.sweep.study import FAMILIES, PLACE, SourceSettings, Study


@dataclass(frozen=True)
class StudySource:
    """One checkpoint of a study.

    Attributes:
        model: the name that opens it, see :func:`pythia_quant.model.place.locate`.
        revision: the revision of a repository; ``main`` for what has none.
        title: the model as the study names it, without its revision.
        label: the revision as the study names it.
        size: the size as the table calls it.
        family: the family as the table calls it.
        seed: the training seed; None if it is not known.
        step: the training step; None if the revision names none.
        tokens: the tokens seen until that step; None if that is not known.
        learning_rate: the learning rate at that step, by the published schedule; None for models outside the suite.
    """

    model: str
    revision: str
    title: str
    label: str
    size: str
    family: str
    seed: int | None
    step: int | None
    tokens: int | None
    learning_rate: float | None

    @property
    def place(self) -> str:
        """The name of the folder that its artifacts are in: folders of the same name differ by those above them."""
        return "" if not os.path.isabs(self.model) else "--".join(Path(self.model).parent.parts[-2:])  # noqa: PTH117

    @property
    def name(self) -> str:
        """The source in one line for people."""
        return self.title if self.label == "main" else f"{self.title}@{self.label}"


@dataclass(frozen=True)
class Identity:
    """What a source's numbers depend on, known without its weights.

    Attributes:
        weights: the hex SHA-256 of each weight file by name; empty if `problem` says why.
        files: hashes of config.json and the tokenizer, by name.
        problem: why the source cannot be used; empty if it can.
        missing: whether the problem is that there is no such revision or folder.
    """

    weights: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    problem: str = ""
    missing: bool = False


def study_sources(study: Study) -> list[StudySource]:
    """Return all checkpoints of a study, in the order of the file, each once.

    Raises:
        StudyError: a model or a revision is not of the suite, or a range cannot be understood.
    """
    sources: dict[tuple[str, str], StudySource] = {}
    for index, settings in enumerate(study.settings.sources):
        keys = ("sources", index)
        try:
            for source in _expand(settings, study.path.parent):
                sources.setdefault((source.model, source.revision), source)
        except PythiaQuantError as error:
            message = f"{error.what}; {error.hint}" if error.hint else error.what
            key = () if isinstance(error, StudyError) else ("revisions",)
            raise study.error((*keys, *key), message) from error
    if not sources:
        raise study.error(("sources",), "nothing is left to do")
    return list(sources.values())


def _expand(settings: SourceSettings, folder: Path) -> Iterator[StudySource]:
    if settings.model is not None:
        yield from _of_model(settings, settings.model, folder)
        return
    for size in settings.sizes:
        for family in settings.families:
            for seed in settings.seeds:
                member = _member(size, family, seed, settings.seeds_of)
                for revision in _thinned(suite.parse_revisions(settings.revisions, member.steps), settings.log_spaced):
                    step = suite.LAST_STEP if revision == "main" else suite.step_of(revision)
                    tokens = None if step is None else tokens_seen(step)
                    rate = None if step is None else learning_rate(member.size, step)
                    yield StudySource(
                        member.repo_id, revision, member.repo_id, revision, size, family, seed, step, tokens, rate
                    )


def _member(size: str, family: str, seed: int, kind: suite.SeedKind) -> suite.Member:
    wanted = (size, FAMILIES[family], *((seed, kind) if seed else (None, None)))
    for member in suite.members():
        if (member.size.name, member.family, member.seed, member.seed_kind) == wanted:
            return member
    what = f"{size} {family}" + (f" with the {kind} seed {seed}" if seed else "")
    raise StudyError(f"the suite has no {what}", hint="pythia-quant suite lists what there is")


def _of_model(settings: SourceSettings, model: str, folder: Path) -> Iterator[StudySource]:
    here = model.startswith(("./", "../"))
    name = os.path.normpath(folder / model) if here else os.path.expanduser(model)  # noqa: PTH111 - may hold a brace
    published: Sequence[int] | None = None
    if any(word in settings.revisions for word in ("..", "all")):
        published = _steps_below(Path(name)) if PLACE in name else _published(name)
        if not published:
            raise StudyError(f"there are no steps of {model}", hint="name the revisions: step1000,step2000")
    title = model.replace(f"/{PLACE}", "").replace(PLACE, "")
    for label in _thinned(suite.parse_revisions(settings.revisions, published), settings.log_spaced):
        step = suite.step_of(label)
        tokens = None if step is None or settings.tokens_per_step is None else step * settings.tokens_per_step
        yield StudySource(
            name.replace(PLACE, label), "main" if PLACE in name else label, title, label,
            settings.size or Path(title).name, settings.family or "", settings.seed, step, tokens, None,
        )  # fmt: skip


def _published(model: str) -> Sequence[int] | None:
    place = parse_model(model)
    if not isinstance(place, Repository):
        return None
    member = suite.find(place.repo_id)
    return member.steps if member else branch_steps(place.repo_id)


def _steps_below(pattern: Path) -> list[int]:
    """Return the steps whose folders there are."""
    before, _, after = str(pattern).partition(PLACE)
    folder, prefix = os.path.split(before)
    suffix = after.partition("/")[0]
    names = [path.name for path in Path(folder).glob(f"{prefix}*{suffix}")]
    steps = (suite.step_of(name.removeprefix(prefix).removesuffix(suffix)) for name in names)
    return sorted({step for step in steps if step is not None})


def _thinned(revisions: list[str], count: int | None) -> list[str]:
    """Return `count` of the revisions at about equal distances of log(step + 1), first and last included."""
    steps = [step for revision in revisions if (step := suite.step_of(revision)) is not None]
    if count is None or count >= len(revisions) or len(steps) < len(revisions):
        return revisions
    places = [math.log(step + 1) for step in steps]
    wanted = [places[0] + (places[-1] - places[0]) * index / (count - 1) for index in range(count)]
    nearest = {min(range(len(places)), key=lambda index, at=at: abs(places[index] - at)) for at in wanted}  # type: ignore[misc]
    return [revisions[index] for index in sorted(nearest)]


def identify(sources: Sequence[StudySource], progress: Progress = SILENT) -> list[Identity]:
    """Return what identifies each source; a hub is asked for lists of files, and no weights are downloaded.

    A source that cannot be used has its problem there, and raises nothing.
    """
    identities: dict[tuple[str, str], Identity] = {}
    by_repository: dict[str, list[str]] = {}
    for source in sources:
        progress.step("source", len(identities), len(sources))
        key = (source.model, source.revision)
        try:
            place = parse_model(source.model, source.revision)
            if isinstance(place, Repository):
                by_repository.setdefault(source.model, []).append(source.revision)
            else:
                identities[key] = _of_folder(source)
        except PythiaQuantError as error:
            identities[key] = Identity(problem=error.what, missing=not Path(source.model).exists())
    for model, revisions in by_repository.items():
        for revision, identity in _of_repository(model, revisions, progress).items():
            identities[(model, revision)] = identity
    return [identities[(source.model, source.revision)] for source in sources]


def _of_folder(source: StudySource) -> Identity:
    place = locate(source.model, source.revision)
    weights = {name: sha256_if_changed(place.folder / name) for name in place.weight_names()}
    paths = {name: place.folder / name for name in ("config.json", TOKENIZER)}
    files = {name: git_hash(path.read_bytes()) for name, path in paths.items() if path.exists()}
    return Identity(weights, files)


def _of_repository(model: str, revisions: list[str], progress: Progress) -> dict[str, Identity]:
    named = parse_model(model)
    repo_id = suite.resolve(named.repo_id)[0] if isinstance(named, Repository) else model
    try:
        read = read_revisions(repo_id, revisions, progress)
    except PythiaQuantError as error:
        return dict.fromkeys(revisions, Identity(problem=error.what))
    identities = {}
    for revision in revisions:
        one = read.get(revision)
        if one is None:
            identities[revision] = Identity(problem="there is no such revision", missing=True)
        elif one.problem or not one.models():
            identities[revision] = Identity(problem=one.problem or "it has no complete weights")
        else:
            models = one.models()
            identities[revision] = Identity(models.get("safetensors") or models["pickle"], dict(one.others))
    return identities


def same_weights(sources: Sequence[StudySource], identities: Sequence[Identity]) -> dict[int, int]:
    """Return the index of the source that each duplicate repeats, by the duplicate's index.

    Of several sources with the same weights the last step counts: the known faults of the suite serve later weights at
    earlier steps, see :mod:`pythia_quant.model.revision_faults`.
    """
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for index, identity in enumerate(identities):
        if identity.weights:
            # Files of another name may hold the same bytes, and do.
            groups.setdefault(tuple(sorted(identity.weights.items())), []).append(index)
    duplicates: dict[int, int] = {}
    for group in groups.values():
        counted = max(group, key=lambda index: (sources[index].step if sources[index].step is not None else -1, -index))
        duplicates |= {index: counted for index in group if index != counted}
    return duplicates
