"""The routes that describe: who asks, repositories, their references and files."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import parse_qs, urlencode

from loopback.exchange import Answer, Refusal, in_json
from loopback.routing import Call, Route
from loopback.store import Blob, Tree


def whoami(call: Call) -> Answer:
    """Tell whom the token stands for."""
    user = call.writer()
    return in_json(
        {
            "type": "user",
            "name": user.name,
            "fullname": user.name,
            "orgs": [{"type": "org", "name": name} for name in user.orgs],
            "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": user.role}},
        }
    )


def info(call: Call) -> Answer:
    """Describe a repository at a revision."""
    repo = call.repo()
    commit = call.commit(repo)
    blobs = call.request.query.get("blobs", "").lower() == "true"
    return in_json(
        {
            "id": call.parts["repo"],
            "author": call.parts["repo"].split("/")[0],
            "sha": commit.oid,
            "private": repo.private,
            "gated": "auto" if call.name in call.hub.gated else False,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "siblings": [{"rfilename": path} | (_sibling(blob) if blobs else {}) for path, blob in commit.tree.items()],
        }
    )


def refs(call: Call) -> Answer:
    """List branches and tags."""
    repo = call.repo()
    branches = [_ref(name, f"refs/heads/{name}", oid) for name, oid in repo.branches.items()]
    tags = [_ref(name, f"refs/tags/{name}", oid) for name, oid in repo.tags.items()]
    return in_json({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


def tree(call: Call) -> Answer:
    """List the files and folders of a folder, or of all folders in it, page by page."""
    commit = call.commit(call.repo())
    folder = call.parts.get("path", "").rstrip("/")
    prefix = f"{folder}/" if folder else ""
    inside = {path: entry for path, entry in _entries(commit.tree).items() if path.startswith(prefix)}
    if folder and not inside:
        raise Refusal(404, f"{folder} does not exist", "EntryNotFound", {"X-Repo-Commit": commit.oid})
    query = call.request.query
    if query.get("recursive", "").lower() != "true":
        inside = {path: entry for path, entry in inside.items() if "/" not in path[len(prefix) :]}
    entries, start, size = list(inside.values()), int(query.get("cursor", "0")), call.hub.page_size or len(inside)
    headers = {}
    if start + size < len(entries):
        following = urlencode(query | {"cursor": str(start + size)})
        headers = {"Link": f'<{call.hub.endpoint}{call.raw_path}?{following}>; rel="next"'}
    return in_json(entries[start : start + size], headers=headers)


def paths_info(call: Call) -> Answer:
    """Describe those of some paths that are there."""
    entries = _entries(call.commit(call.repo()).tree)
    return in_json([entries[path] for path in parse_qs(call.body.decode()).get("paths", []) if path in entries])


def _ref(name: str, ref: str, oid: str) -> dict[str, str]:
    return {"name": name, "ref": ref, "targetCommit": oid}


def _sibling(blob: Blob) -> dict[str, Any]:
    return {"size": len(blob.content), "blobId": blob.oid} | _lfs(blob, "sha256")


def _lfs(blob: Blob, digest: str) -> dict[str, Any]:
    """Return what is said of an LFS file; its hash goes by another name in each place."""
    if not blob.lfs:
        return {}
    return {"lfs": {digest: blob.sha256, "size": len(blob.content), "pointerSize": len(blob.in_git)}}


def _entries(files: Tree) -> dict[str, dict[str, Any]]:
    """Return what a listing says of every file and folder, by path."""
    entries: dict[str, dict[str, Any]] = {}
    for path, blob in files.items():
        file = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.oid}
        entries[path] = file | _lfs(blob, "oid")
        for end in (i for i, letter in enumerate(path) if letter == "/"):
            folder = path[:end]
            content = [f"{p} {b.oid}" for p, b in files.items() if p.startswith(f"{folder}/")]
            oid = hashlib.sha1("\n".join(content).encode(), usedforsecurity=False).hexdigest()
            entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": oid}
    return dict(sorted(entries.items()))


ROUTES = (
    Route("GET", "/api/whoami-v2", whoami),
    Route("GET", "/api/{kind}/{repo}", info),
    Route("GET", "/api/{kind}/{repo}/revision/{revision}", info),
    Route("GET", "/api/{kind}/{repo}/refs", refs),
    Route("GET", "/api/{kind}/{repo}/tree/{revision}", tree),
    Route("GET", "/api/{kind}/{repo}/tree/{revision}/{path}", tree),
    Route("POST", "/api/{kind}/{repo}/paths-info/{revision}", paths_info),
)
