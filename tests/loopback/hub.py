"""The state of a hub, and what a test sets, does and reads on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event, RLock
from typing import Literal

from loopback.exchange import Request
from loopback.faults import Fault
from loopback.store import Blob, Commit, Kind, Repo, Tree, is_lfs


@dataclass(frozen=True)
class User:
    """Whom a token stands for, and what it allows."""

    name: str
    role: Literal["read", "write"] = "write"
    orgs: Iterable[str] = ()

    def owns(self, name: str) -> bool:
        """Say whether a repository lies in one of the user's namespaces."""
        return name.removeprefix("datasets/").removeprefix("spaces/").split("/")[0] in (self.name, *self.orgs)


class Hub:
    """Repositories by name ("datasets/owner/name", "spaces/owner/name"), users by token, settings and records.

    `damage` names files served with their last bit flipped, `gated` repositories whose files nobody may have.
    `page_size` pages the tree, `multipart_chunk` uploads larger files in parts, `cdn` serves LFS files from another
    origin. `requests` and `writes` are "METHOD /path", all of them and those that are not GET or HEAD.
    """

    def __init__(self) -> None:
        self.endpoint = ""
        self.repos: dict[str, Repo] = {}
        self.users = {"hf_secretsecretsecret": User("me", "write", ["team"])}
        self.lfs_threshold = 10 << 20
        self.page_size: int | None = None
        self.multipart_chunk: int | None = None
        self.cdn = False
        self.damage: set[str] = set()
        self.gated: set[str] = set()
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.writes: list[str] = []
        self.authorizations: set[str | None] = set()
        self.log: list[Request] = []
        self.lock = RLock()
        self.stopping = Event()
        self.crashes: list[BaseException] = []

    def add(self, repo_id: str, folders: Mapping[str, Path], kind: Kind = "model", private: bool = False) -> None:
        """Commit whole folders to branches of a repository, which is made when it is not there."""
        with self.lock:
            name = repo_id if kind == "model" else f"datasets/{repo_id}"
            repo = self.repos.setdefault(name, Repo(kind, private))
            for branch, folder in folders.items():
                files = [path for path in folder.rglob("*") if path.is_file()]
                tree = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
                repo.commit(branch, self._blobs(tree), f"Add {branch}")

    def put(self, name: str, branch: str, files: Mapping[str, bytes], delete: Iterable[str] = ()) -> Commit:
        """Commit files to a branch, as if someone else had; the repository is made when it is not there."""
        with self.lock:
            repo = self.repos.setdefault(name, Repo("dataset" if name.startswith("datasets/") else "model"))
            tree = repo.tree(branch)
            for path in delete:
                del tree[path]
            return repo.commit(branch, tree | self._blobs(files), "Put files")

    def head(self, name: str, branch: str = "main") -> str:
        """Return the id of a branch's last commit."""
        with self.lock:
            return self.repos[name].branches[branch]

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """Return the files of a branch, a tag or a commit."""
        with self.lock:
            commit = self.repos[name].find(revision)
            if commit is None:
                raise KeyError(revision)
            return {path: blob.content for path, blob in commit.tree.items()}

    def commits(self, name: str, branch: str = "main") -> list[Commit]:
        """Return the commits of a branch, newest first."""
        with self.lock:
            return list(self.repos[name].history(branch))

    def record(self, request: Request) -> None:
        """Note a request."""
        line = f"{request.method} {request.path}"
        with self.lock:
            self.log.append(request)
            self.requests.append(line)
            self.authorizations.add(request.headers.get("authorization"))
            if request.method not in ("GET", "HEAD"):
                self.writes.append(line)

    def next_fault(self, method: str, path: str) -> Fault | None:
        """Return the first fault that strikes a request."""
        with self.lock:
            return next((fault for fault in self.faults if fault.strikes(method, path)), None)

    def _blobs(self, files: Mapping[str, bytes]) -> Tree:
        return {path: Blob(content, is_lfs(path, len(content), self.lfs_threshold)) for path, content in files.items()}
