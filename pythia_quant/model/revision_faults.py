"""What is wrong with published steps: gaps, missing weights, and revisions that hold the bytes of another."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from pythia_quant.model import suite
from pythia_quant.model.revisions import MAIN, Listing
from pythia_quant.model.suite import printed_steps

Model = tuple[str, ...]
"""The hashes of all files of one model, in the order of the shards."""


def same_models(by_revision: Mapping[str, Iterable[Model]]) -> list[tuple[str, ...]]:
    """Partition revisions into groups that hold the same models, in the order given.

    Two revisions are in one group when they have a model in common, or when both are in one with a third: one may hold
    its weights as safetensors, another as a pickle, the third as both.

    Args:
        by_revision: the models of each revision; each is the same weights in another form.
    """
    parent = {revision: revision for revision in by_revision}

    def root(revision: str) -> str:
        while parent[revision] != revision:
            revision = parent[revision]
        return revision

    first: dict[Model, str] = {}
    for revision, models in by_revision.items():
        for model in models:
            parent[root(revision)] = root(first.setdefault(model, revision))
    groups: dict[str, list[str]] = {}
    for revision in by_revision:
        groups.setdefault(root(revision), []).append(revision)
    return [tuple(group) for group in groups.values()]


def shared_files(
    by_revision: Mapping[str, Collection[str]], groups: Sequence[Collection[str]]
) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return files that revisions share though their models differ: by revisions, the hashes of what they share.

    Args:
        by_revision: the hashes of all files of each revision.
        groups: the revisions whose models are the same; see :func:`same_models`.
    """
    group_of = {revision: index for index, group in enumerate(groups) for revision in group}
    holders: dict[str, list[str]] = {}
    for revision, files in by_revision.items():
        for file in dict.fromkeys(files):
            holders.setdefault(file, []).append(revision)
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    for file, revisions in holders.items():
        if len({group_of[revision] for revision in revisions}) > 1:
            key = tuple(revisions)
            shared[key] = (*shared.get(key, ()), file)
    return shared


Kind = Literal["no branch", "cannot be read", "no complete weights", "the same weights", "the same file"]


@dataclass(frozen=True)
class Finding:
    """A fault in some revisions that their users should know.

    Attributes:
        kind: the kind of fault.
        revisions: the revisions with the fault.
        files: the identical files, when only single files are the same.
        differing: the kinds of weights (`safetensors`, `pickle`) that differ, when another kind is the same.
        why: the reason why the revisions cannot be read.
        known: the threads on GitHub that report the fault.
        unknown: the revisions that none of these threads names.
    """

    kind: Kind
    revisions: tuple[str, ...]
    files: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    why: str = ""
    known: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def find_faults(listing: Listing) -> list[Finding]:
    """Return what there is to say of a listing. That main has the weights of the last step is as it should be."""
    return [*_absent(listing), *_duplicates(listing)]


def described(finding: Finding, listing: Listing) -> str:
    """Return a finding as one or two lines for people."""
    what: str = finding.kind
    if finding.files:
        what = f"the same {', '.join(finding.files)}, the other files differ"
    text = f"{what}: {_named(finding.revisions, listing)}"
    if finding.why:
        return f"{text}: {finding.why}"
    if finding.differing:
        text += f" (their {' and '.join(finding.differing)} files differ)"
    if not finding.known:
        return f"{text}\n  not known to us"
    unknown = f"; not known to us: {_named(finding.unknown, listing)}" if finding.unknown else ""
    return f"{text}\n  known: {', '.join(finding.known)}{unknown}"


def _named(revisions: tuple[str, ...], listing: Listing) -> str:
    steps = [step for name in revisions if (step := suite.step_of(name)) is not None]
    parts = [MAIN] if MAIN in revisions else []
    if steps:
        parts.append(f"step{'s' if len(steps) > 1 else ''} {printed_steps(steps, listing.published)}")
    return ", ".join(parts)


def _absent(listing: Listing) -> list[Finding]:
    findings = [_without("no branch", listing.missing, listing)] if listing.missing else []
    problems: dict[str, list[str]] = {}
    for revision in listing.revisions:
        if revision.problem:
            problems.setdefault(revision.problem, []).append(revision.name)
    findings += [Finding("cannot be read", tuple(names), why=why) for why, names in problems.items()]
    empty = tuple(one.name for one in listing.revisions if not (one.problem or one.models()))
    return findings + ([_without("no complete weights", empty, listing)] if empty else [])


def _without(kind: Kind, revisions: tuple[str, ...], listing: Listing) -> Finding:
    faults = {name: suite.known_fault(listing.model, name) for name in revisions}
    known = {name: fault.issue for name, fault in faults.items() if fault and fault.serves is None}
    unknown = tuple(name for name in revisions if name not in known)
    return Finding(kind, revisions, known=tuple(dict.fromkeys(known.values())), unknown=unknown)


def _duplicates(listing: Listing) -> list[Finding]:
    models = {one.name: one.models() for one in listing.revisions if one.models()}
    hashes_of = {name: {kind: tuple(files.values()) for kind, files in kinds.items()} for name, kinds in models.items()}
    groups = same_models({name: kinds.values() for name, kinds in hashes_of.items()})
    findings = []
    for group in groups:
        if len(group) == 1 or set(group) == {MAIN, listing.last}:
            continue
        kinds = sorted({kind for name in group for kind in hashes_of[name]})
        differing = tuple(k for k in kinds if len({hashes_of[name][k] for name in group if k in hashes_of[name]}) > 1)
        known, unknown = _known(listing, group, frozenset(hashes_of), None)
        findings.append(Finding("the same weights", group, differing=differing, known=known, unknown=unknown))
    files = {name: list(chain.from_iterable(kinds.values())) for name, kinds in hashes_of.items()}
    for revisions, hashes in shared_files(files, groups).items():
        first = {digest: name for kind in models[revisions[0]].values() for name, digest in kind.items()}
        names = tuple(sorted(first[digest] for digest in hashes))
        shard = re.search(r"-(\d+)-of-", names[0]) if len(names) == 1 else None
        known, unknown = _known(listing, revisions, frozenset(hashes_of), int(shard[1]) if shard else 0)
        findings.append(Finding("the same file", revisions, files=names, known=known, unknown=unknown))
    return findings


def _known(
    listing: Listing, revisions: tuple[str, ...], read: frozenset[str], shard: int | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the threads that report these revisions to be the same, and the revisions that none of them names."""
    issues: list[str] = []
    explained: set[str] = set()
    for fault in suite.KNOWN_FAULTS:
        if listing.model not in fault.repositories or fault.shard != shard or fault.serves is None:
            continue
        named = {name for name in revisions if suite.step_of(name) in fault.steps} - explained
        # What they are to equal has to be among them, unless it was not asked for.
        if named and (fault.serves in revisions or fault.serves not in read):
            issues.append(fault.issue)
            explained |= {*named, fault.serves}
    if explained & {MAIN, listing.last}:
        explained |= {MAIN, listing.last}
    if len(explained.intersection(revisions)) < 2:
        return (), revisions
    return tuple(dict.fromkeys(issues)), tuple(name for name in revisions if name not in explained)
