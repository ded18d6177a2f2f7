"""The routes that take large files: the hub tells where to put them, the storage there asks for no token."""

from __future__ import annotations

import hashlib
from typing import Any

from loopback.exchange import Answer, Refusal, in_json
from loopback.routing import Call, Route, presigned


def batch(call: Call) -> Answer:
    """Tell where each object is to be put, or nothing of one that is there."""
    repo = call.own_repo()
    objects = [
        wanted if wanted["oid"] in repo.objects else wanted | {"actions": _actions(call, **wanted)}
        for wanted in call.json()["objects"]
    ]
    return in_json({"transfer": "basic", "objects": objects})


def put(call: Call) -> Answer:
    """Take a whole object."""
    call.check_signature()
    return _store(call, call.body)


def put_part(call: Call) -> Answer:
    """Take a part of an object."""
    call.check_signature()
    parts = call.hub.repos[call.name].parts.setdefault(call.parts["oid"], {})
    parts[int(call.parts["number"])] = call.body
    return Answer(headers={"ETag": _part_tag(call.body)})


def complete(call: Call) -> Answer:
    """Put an object together from the parts that the client names."""
    call.check_signature()
    parts = call.hub.repos[call.name].parts.get(call.parts["oid"], {})
    named = {part["partNumber"]: part["etag"] for part in call.json()["parts"]}
    if named != {number: _part_tag(part) for number, part in parts.items()}:
        raise Refusal(400, "These are not the parts that were uploaded")
    stored = _store(call, b"".join(parts[number] for number in sorted(parts)))
    parts.clear()
    return stored


def verify(call: Call) -> Answer:
    """Say whether an object has arrived."""
    content = call.own_repo().objects.get(call.json()["oid"])
    if content is None or len(content) != call.json()["size"]:
        raise Refusal(404, "The object was not uploaded", "ObjectNotFound")
    return Answer()


def _actions(call: Call, oid: str, size: int) -> dict[str, Any]:
    endpoint, chunk = call.hub.endpoint, call.hub.multipart_chunk
    target = f"/lfs/{call.name}/{oid}"
    verification = {"href": f"{endpoint}/{call.name}.git/info/lfs/objects/verify"}
    if chunk is None or size <= chunk:
        return {"upload": {"href": presigned(endpoint, target)}, "verify": verification}
    numbers = range(1, -(-size // chunk) + 1)
    parts = {str(number): presigned(endpoint, f"{target}/parts/{number}") for number in numbers}
    upload = {"href": presigned(endpoint, f"{target}/complete"), "header": {"chunk_size": str(chunk)} | parts}
    return {"upload": upload, "verify": verification}


def _store(call: Call, content: bytes) -> Answer:
    if hashlib.sha256(content).hexdigest() != call.parts["oid"]:
        raise Refusal(400, "The content does not have the hash that was announced")
    call.hub.repos[call.name].objects[call.parts["oid"]] = content
    return Answer()


def _part_tag(part: bytes) -> str:
    return f'"{hashlib.sha256(part).hexdigest()[:32]}"'


ROUTES = (
    Route("POST", "/{name}.git/info/lfs/objects/batch", batch),
    Route("POST", "/{name}.git/info/lfs/objects/verify", verify),
    Route("PUT", "/lfs/{name}/{oid}", put),
    Route("PUT", "/lfs/{name}/{oid}/parts/{number}", put_part),
    Route("POST", "/lfs/{name}/{oid}/complete", complete),
)
