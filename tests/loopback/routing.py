"""Which function answers which request, and what it is given to do so."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from loopback.exchange import Answer, Refusal, Request
from loopback.hub import Hub, User
from loopback.store import Commit, Repo

_PARTS = {
    "kind": "models|datasets|spaces",
    "repo": "[^/]+/[^/]+",
    "name": "(?:(?:datasets|spaces)/)?[^/]+(?:/[^/]+)?",
    "revision": "[^/]+",
    "path": ".+",
    "oid": "[0-9a-f]{64}",
    "number": "[0-9]+",
}


@dataclass(frozen=True)
class Call:
    """A request that found its route: the parts of its path by name, its body, and the hub it is for."""

    hub: Hub
    request: Request
    raw_path: str
    body: bytes
    parts: dict[str, str]

    @property
    def name(self) -> str:
        """The repository's name, with the prefix of a dataset or a Space."""
        if "name" in self.parts:
            return self.parts["name"]
        return ("" if self.parts["kind"] == "models" else f"{self.parts['kind']}/") + self.parts["repo"]

    def json(self) -> Any:
        """Return the body."""
        return json.loads(self.body)

    def user(self) -> User | None:
        """Return who asks."""
        return self.hub.users.get(self.request.headers.get("authorization", "").removeprefix("Bearer "))

    def repo(self) -> Repo:
        """Return the repository that is read; a private one is not there for others."""
        repo, user = self.hub.repos.get(self.name), self.user()
        if repo is None or (repo.private and not (user and user.owns(self.name))):
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return repo

    def own_repo(self) -> Repo:
        """Return the repository that is written."""
        # The client takes any 401 about a repository for this, but over https only: here the code has to say it.
        user = self.writer(code="RepoNotFound")
        repo = self.repo()
        self.allow(user, self.name)
        return repo

    def writer(self, code: str = "Unauthorized") -> User:
        """Return who asks, who has to have a token."""
        user = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.", code)
        return user

    def allow(self, user: User, name: str) -> None:
        """Refuse one who may not write there."""
        if user.role == "read":
            raise Refusal(403, "This token has no write permission", "Forbidden")
        if not user.owns(name):
            raise Refusal(403, f"You don't have the rights to write to {name}", "Forbidden")

    def commit(self, repo: Repo) -> Commit:
        """Return the commit that the revision means, main when there is none."""
        return self.revision(repo, self.parts.get("revision", "main"))

    def revision(self, repo: Repo, revision: str) -> Commit:
        """Return the commit that a revision means."""
        commit = repo.find(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def check_signature(self) -> None:
        """Refuse a storage request that brings a token, as S3 does, or whose address is not one the hub gave out."""
        if "authorization" in self.request.headers:
            raise Refusal(400, "Only one auth mechanism allowed")
        if self.request.query.get("X-Amz-Signature") != _signature(self.request.path):
            raise Refusal(403, "The request signature does not match")


class Route:
    """Requests of a method, to paths of a form like "/api/{kind}/{repo}/refs", and the function that answers them."""

    def __init__(self, method: str, form: str, answer: Callable[[Call], Answer]) -> None:
        pattern = re.sub(r"{(\w+)}", lambda part: f"(?P<{part[1]}>{_PARTS[part[1]]})", form.replace(".", r"\."))
        self.method, self.pattern, self.answer = method, re.compile(pattern), answer

    def match(self, method: str, raw_path: str) -> dict[str, str] | None:
        """Return the parts of a path; it is split before it is unquoted, because a part may hold a slash."""
        found = self.pattern.fullmatch(raw_path) if self.method == method else None
        return {part: unquote(text) for part, text in found.groupdict().items()} if found else None


def presigned(origin: str, path: str) -> str:
    """Return an address that is its own permission."""
    return f"{origin}{quote(path)}?X-Amz-Signature={_signature(path)}"


def _signature(path: str) -> str:
    return "presignedsecret" + hashlib.sha256(path.encode()).hexdigest()[:16]
