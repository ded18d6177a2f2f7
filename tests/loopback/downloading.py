"""The routes that hand out files, from the hub itself or from an origin that knows no token."""

from __future__ import annotations

import re

from loopback.exchange import Answer, Refusal
from loopback.routing import Call, Route, presigned
from loopback.store import Blob, Commit


def resolve(call: Call) -> Answer:
    """Hand out a file, or tell where it lies."""
    repo = call.repo()
    if call.name in call.hub.gated:
        raise Refusal(403, f"Access to {call.name} is restricted", "GatedRepo")
    commit = call.commit(repo)
    blob = _blob(call, commit)
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"'}
    if blob.lfs:
        headers |= {"X-Linked-ETag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
    if blob.lfs and call.hub.cdn:
        # To a client this name is another origin, to which it must not send its token.
        origin = call.hub.endpoint.replace("127.0.0.1", "localhost")
        location = presigned(origin, f"/cdn/{call.name}/{commit.oid}/{call.parts['path']}")
        return Answer(302, headers=headers | {"Location": location})
    return _content(call, blob, headers)


def cdn(call: Call) -> Answer:
    """Hand out a file whose address the hub gave out."""
    call.check_signature()
    blob = _blob(call, call.commit(call.hub.repos[call.name]))
    return _content(call, blob, {"ETag": f'"{blob.etag}"'})


def _blob(call: Call, commit: Commit) -> Blob:
    path = call.parts["path"]
    if path not in commit.tree:
        raise Refusal(404, f"{path} does not exist", "EntryNotFound", {"X-Repo-Commit": commit.oid})
    return commit.tree[path]


def _content(call: Call, blob: Blob, headers: dict[str, str]) -> Answer:
    """Return the content, or the range of it that is asked for."""
    content, size = blob.content, len(blob.content)
    if content and call.parts["path"] in call.hub.damage:
        content = content[:-1] + bytes([content[-1] ^ 1])
    headers = headers | {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", call.request.headers.get("range", ""))
    if wanted is None:
        return Answer(200, content, headers)
    first, last = int(wanted[1]), min(int(wanted[2] or size), size - 1)
    if first > last:
        raise Refusal(416, "The range lies outside the file", headers={"Content-Range": f"bytes */{size}"})
    return Answer(206, content[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{size}"})


ROUTES = (
    Route("GET", "/{name}/resolve/{revision}/{path}", resolve),
    Route("GET", "/cdn/{name}/{revision}/{path}", cdn),
)
