"""What publishing would change in a repository, found out by reading only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from huggingface_hub import constants

from pythia_quant.core.errors import HubError
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.core.hub_client import NoRepositoryError, NoRevisionError, api, ask, check_name
from pythia_quant.core.hub_files import Content, Tree, fetch, read_tree
from pythia_quant.publishing.base_model import CARD
from pythia_quant.publishing.publication import OURS, Publication
from pythia_quant.records.manifest import read_manifest

State = Literal["new", "changed", "same", "not compared"]
_NOT_OF_A_MODEL = (".gitattributes", ".gitignore", CARD, "LICENSE", "LICENSE.md")
"""What a repository may hold before anything of ours is there."""


@dataclass(frozen=True)
class PlannedFile:
    """One file and what publishing does to it."""

    path: str
    content: Content
    state: State


@dataclass(frozen=True)
class Plan:
    """The difference between a publication and what its repository holds.

    Attributes:
        publication: what is to be there.
        private: make the repository a private one, if it is to be made.
        create_repo: the repository is not there yet.
        create_branch: the revision is not there yet; it begins as `main`.
        head: the commit that the new one follows; None while there is no repository, or when the hub was not asked.
        files: of the publication.
        deleted: files of an earlier artifact there that this one does not have.
        kept: files there that are not ours.
    """

    publication: Publication
    private: bool
    create_repo: bool
    create_branch: bool
    head: str | None
    files: list[PlannedFile]
    deleted: list[str]
    kept: list[str]

    @property
    def uploads(self) -> list[PlannedFile]:
        """The files that are not there yet as they should be."""
        return [file for file in self.files if file.state != "same"]

    @property
    def nothing_to_do(self) -> bool:
        """Whether the repository holds exactly this."""
        return not (self.uploads or self.deleted or self.create_branch)

    @property
    def where(self) -> str:
        """Repository and revision."""
        return f"{self.publication.target.repo_id}@{self.publication.target.revision}"


def make_plan(publication: Publication, *, private: bool = False) -> Plan:
    """Compare a publication with its repository.

    Raises:
        HubError: the name is none, the hub cannot be asked, the repository holds something else, or it is public and a
            private one is wanted.
    """
    target = publication.target
    check_name(target.repo_id, "--repo-id")
    if constants.HF_HUB_OFFLINE:
        return _plan(publication, None, private=private)
    try:
        tree, missing = read_tree(target.repo_id, target.revision), False
    except NoRevisionError:
        tree, missing = read_tree(target.repo_id), True  # a new branch begins as main does
    except NoRepositoryError:
        missing = target.revision != "main"
        return _plan(publication, None, private=private, create_repo=True, create_branch=missing)
    if private and ask(lambda: api().repo_info(target.repo_id).private, target.repo_id) is not True:
        raise HubError(
            "is there and is public", where=target.repo_id, hint="choose another --repo-id, or leave out --private"
        )
    return _plan(publication, tree, private=private, create_branch=missing)


def _plan(
    publication: Publication,
    tree: Tree | None,
    *,
    private: bool,
    create_repo: bool = False,
    create_branch: bool = False,
) -> Plan:
    there = tree.files if tree else {}

    def state(path: str, content: Content) -> State:
        if tree is None and not create_repo:
            return "not compared"
        if path not in there:
            return "new"
        return "same" if there[path].holds(content) else "changed"

    others = [path for path in there if path not in publication.files]
    former = _former(publication, tree) if tree else set()
    return Plan(
        publication,
        private,
        create_repo,
        create_branch,
        tree.commit if tree else None,
        [PlannedFile(path, content, state(path, content)) for path, content in publication.files.items()],
        [path for path in others if path in former],
        [path for path in others if path not in former],
    )


def _former(publication: Publication, tree: Tree) -> set[str]:
    """Return the files of the artifact that is in a repository now; refuse one that holds something else."""
    repo_id = publication.target.repo_id
    if MANIFEST not in tree.files:
        foreign = sorted(path for path in tree.files if path not in _NOT_OF_A_MODEL)
        if foreign:
            named = f"{', '.join(foreign[:3])}{' and more' if len(foreign) > 3 else ''}"
            raise HubError(f"holds something else: {named}", where=repo_id, hint="choose another --repo-id")
        return set()
    path = fetch(repo_id, MANIFEST, tree.commit)
    listed = set(read_manifest(path, HubError, f"{repo_id}/{MANIFEST}").files) if path else set()
    return listed | set(OURS)
