"""What a hub keeps of a repository: its branches and tags, their commits, and the files of each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Kind = Literal["model", "dataset", "space"]
LFS_SUFFIXES = (".safetensors", ".bin", ".onnx", ".onnx_data", ".parquet")
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()


def is_lfs(path: str, size: int, threshold: int) -> bool:
    """Say whether the hub wants a file in LFS; an empty one it never does."""
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > threshold)


@dataclass(frozen=True)
class Blob:
    """The content of a file, and whether git holds it or a pointer to it."""

    content: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def in_git(self) -> bytes:
        """What git itself holds: the content, or its LFS pointer."""
        if not self.lfs:
            return self.content
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return pointer.encode()

    @cached_property
    def oid(self) -> str:
        return _sha1(b"blob %d\0" % len(self.in_git) + self.in_git)

    @property
    def etag(self) -> str:
        """The hash that the hub announces for the file, and that tells a client whether it has changed."""
        return self.sha256 if self.lfs else self.oid


Tree = dict[str, Blob]


@dataclass(frozen=True)
class Commit:
    """A state of all files of a repository, on top of another."""

    parent: str | None
    title: str
    description: str
    tree: Tree

    @cached_property
    def oid(self) -> str:
        lines = [self.parent or "", self.title, self.description, *(f"{p} {b.oid}" for p, b in self.tree.items())]
        return _sha1("\n".join(lines).encode())


@dataclass
class Repo:
    """A repository; a Space has an `sdk`. `objects` are its LFS contents, `parts` those of which only parts have come."""

    kind: Kind = "model"
    private: bool = False
    sdk: str | None = None
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)

    def find(self, revision: str) -> Commit | None:
        """Return the commit that a branch, a tag or an id means."""
        return self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)

    def tree(self, branch: str) -> Tree:
        """Return a copy of the files of a branch, none when there is no such branch."""
        commit = self.commits.get(self.branches.get(branch, ""))
        return dict(commit.tree) if commit else {}

    def commit(self, branch: str, tree: Mapping[str, Blob], title: str, description: str = "") -> Commit:
        """Put a commit with these files on a branch, which is made when it is not there."""
        commit = Commit(self.branches.get(branch), title, description, dict(sorted(tree.items())))
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        self.objects |= {blob.sha256: blob.content for blob in tree.values() if blob.lfs}
        return commit

    def history(self, branch: str) -> Iterable[Commit]:
        """Yield the commits of a branch, newest first."""
        oid: str | None = self.branches[branch]
        while oid:
            yield self.commits[oid]
            oid = self.commits[oid].parent


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
