"""Which revisions hold the same bytes, from the hashes of their files alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

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
