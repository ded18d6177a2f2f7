"""Plan a publication: compare it with its repository, and say what publishing would change. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

from huggingface_hub import constants

from pythia_quant.core.errors import HubError
from pythia_quant.core.hub_client import NoAnswerError, NoRepositoryError, NoRevisionError, api, ask, check_name
from pythia_quant.core.hub_files import Content, Tree, read_tree
from pythia_quant.publishing.publication import Target

State = Literal["new", "changed", "same", "not compared"]
RepoType = Literal["model", "space"]


class Shipment(Protocol):
    """What is published: an artifact's :class:`~pythia_quant.publishing.publication.Publication`, or a site."""

    @property
    def repo_type(self) -> RepoType:
        """The kind of repository that it goes to."""
        ...

    @property
    def target(self) -> Target:
        """The repository and the branch."""
        ...

    @property
    def files(self) -> dict[str, Content]:
        """The content of each file, by its path in the repository."""
        ...

    @property
    def folder(self) -> Path:
        """The folder that it comes from."""
        ...

    @property
    def card(self) -> str:
        """The repository's README.md: Markdown with YAML front matter."""
        ...

    @property
    def title(self) -> str:
        """The title of the commit."""
        ...

    @property
    def despite(self) -> list[str]:
        """A sentence for each gate that did not pass."""
        ...

    @property
    def unknown(self) -> list[str]:
        """A sentence for each thing that the hub could not be asked for."""
        ...

    def earlier_files(self, tree: Tree) -> set[str]:
        """Return the files that an earlier publication left; refuse a repository with something else in it."""
        ...


S = TypeVar("S", bound=Shipment)
S_co = TypeVar("S_co", bound=Shipment, covariant=True)


@dataclass(frozen=True)
class PlannedFile:
    """One file of a publication, and how it compares with the repository's."""

    path: str
    content: Content
    state: State


@dataclass(frozen=True)
class Plan(Generic[S_co]):
    """The difference between a publication and what its repository holds.

    Attributes:
        publication: the content that the repository will have.
        private: whether the repository is private, if it has to be created.
        create_repo: whether the repository has to be created.
        create_branch: whether the branch has to be created, from `main`.
        head: the commit that the new one follows; None if there is no repository yet, or if the hub was not asked.
        files: the files of the publication.
        deleted: the paths of files that an earlier artifact left in the repository and that this one does not have.
        kept: the paths of files in the repository that are not ours; they stay.
    """

    publication: S_co
    private: bool
    create_repo: bool
    create_branch: bool
    head: str | None
    files: list[PlannedFile]
    deleted: list[str]
    kept: list[str]

    @property
    def uploads(self) -> list[PlannedFile]:
        """The files that the repository lacks, or has with other content."""
        return [file for file in self.files if file.state != "same"]

    @property
    def nothing_to_do(self) -> bool:
        """Whether the repository already has exactly this content."""
        return not (self.uploads or self.deleted or self.create_branch)

    @property
    def where(self) -> str:
        """The repository and the branch, for messages."""
        return f"{self.publication.target.repo_id}@{self.publication.target.revision}"


def make_plan(publication: S, *, private: bool = False, without_hub: bool = False) -> Plan[S]:
    """Compare a publication with its repository. If ``HF_HUB_OFFLINE`` is set, the hub is not asked.

    Args:
        publication: the publication.
        private: whether the repository must be private.
        without_hub: whether to compare nothing if the hub cannot be asked.

    Raises:
        HubError: the repository's name is not valid, the hub cannot be asked, the repository has something else in it,
            or it is public although `private` is true.
    """
    target, kind = publication.target, publication.repo_type
    check_name(target.repo_id, "--repo-id")
    if constants.HF_HUB_OFFLINE:
        return _plan(publication, None, private=private)
    try:
        tree, missing = read_tree(target.repo_id, target.revision, kind), False
    except NoRevisionError:
        tree, missing = read_tree(target.repo_id, repo_type=kind), True  # the new branch begins at the commit of main
    except NoAnswerError:
        if not without_hub:
            raise
        return _plan(publication, None, private=private)
    except NoRepositoryError:
        missing = target.revision != "main"
        return _plan(publication, None, private=private, create_repo=True, create_branch=missing)
    if private and ask(lambda: api().repo_info(target.repo_id, repo_type=kind).private, target.repo_id) is not True:
        raise HubError(
            "is there and is public",
            where=target.repo_id,
            hint="choose another --repo-id, or " + ("say --public" if kind == "space" else "leave out --private"),
        )
    return _plan(publication, tree, private=private, create_branch=missing)


def _plan(
    publication: S,
    tree: Tree | None,
    *,
    private: bool,
    create_repo: bool = False,
    create_branch: bool = False,
) -> Plan[S]:
    there = tree.files if tree else {}

    def state(path: str, content: Content) -> State:
        if tree is None and not create_repo:
            return "not compared"
        if path not in there:
            return "new"
        return "same" if there[path].holds(content) else "changed"

    others = [path for path in there if path not in publication.files]
    earlier: set[str] = publication.earlier_files(tree) if tree else set()
    return Plan(
        publication,
        private,
        create_repo,
        create_branch,
        tree.commit if tree else None,
        [PlannedFile(path, content, state(path, content)) for path, content in publication.files.items()],
        [path for path in others if path in earlier],
        [path for path in others if path not in earlier],
    )
