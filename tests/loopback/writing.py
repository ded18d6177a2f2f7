"""The routes that change a repository, except those that take large files."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import yaml

from loopback.exchange import Answer, Refusal, in_json
from loopback.routing import Call, Route
from loopback.store import GITATTRIBUTES, Blob, Kind, Repo, Tree, is_lfs


def create_repo(call: Call) -> Answer:
    """Make a repository with a first commit."""
    wanted, user = call.json(), call.writer()
    kind: Kind = wanted.get("type", "model")
    prefix = "" if kind == "model" else f"{kind}s/"
    if kind == "space" and wanted.get("sdk") not in ("gradio", "docker", "static"):
        raise Refusal(400, "A Space needs an sdk")
    name = f"{prefix}{wanted.get('organization') or user.name}/{wanted['name']}"
    call.allow(user, name)
    url = {"url": f"{call.hub.endpoint}/{name}"}
    if name in call.hub.repos:
        return in_json({"error": f"You already created this {kind} repo"} | url, 409)
    repo = call.hub.repos[name] = Repo(kind, wanted.get("visibility") == "private", wanted.get("sdk"))
    repo.commit("main", {".gitattributes": Blob(GITATTRIBUTES)}, "initial commit")
    return in_json(url)


def validate_yaml(call: Call) -> Answer:
    """Check the front matter of a card. The client asks without a token as well."""
    front_matter = re.match(r"---\s*\n(.*?)\n---\s*(\n|\Z)", call.json()["content"], re.DOTALL)
    if front_matter is None:
        return in_json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    try:
        metadata = yaml.safe_load(front_matter[1])
    except yaml.YAMLError as error:
        return _invalid(str(error))
    return in_json({"errors": [], "warnings": []}) if isinstance(metadata, dict) else _invalid("must be an object")


def preupload(call: Call) -> Answer:
    """Tell how each file is to be sent, and the hash of the one that is there."""
    there = call.commit(call.own_repo()).tree
    files = [
        {
            "path": file["path"],
            "uploadMode": "lfs" if is_lfs(file["path"], file["size"], call.hub.lfs_threshold) else "regular",
            "shouldIgnore": False,
            "oid": there[file["path"]].etag if file["path"] in there else None,
        }
        for file in call.json()["files"]
    ]
    return in_json({"files": files})


def commit(call: Call) -> Answer:
    """Put a commit on a branch, all of it or nothing."""
    repo, branch = call.own_repo(), call.parts["revision"]
    if branch not in repo.branches:
        raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    header, *operations = [json.loads(line) for line in call.body.splitlines()]
    message = header["value"]
    if message.get("parentCommit", repo.branches[branch]) != repo.branches[branch]:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = repo.tree(branch)
    for operation in operations:
        _OPERATIONS[operation["key"]](repo, files, operation["value"])
    made = repo.commit(branch, files, message["summary"], message.get("description", ""))
    url = f"{call.hub.endpoint}/{call.name}/commit/{made.oid}"
    return in_json({"success": True, "commitOid": made.oid, "commitUrl": url})


def create_branch(call: Call) -> Answer:
    """Let a branch begin at a revision."""
    repo = call.own_repo()
    start = call.revision(repo, call.json().get("startingPoint", "main"))
    return _set_reference(repo.branches, call.parts["revision"], start.oid)


def create_tag(call: Call) -> Answer:
    """Give a revision another name."""
    repo = call.own_repo()
    return _set_reference(repo.tags, call.json()["tag"], call.commit(repo).oid)


def delete_branch(call: Call) -> Answer:
    """Forget a branch; its commits stay."""
    branches = call.own_repo().branches
    if branches.pop(call.parts["revision"], None) is None:
        raise Refusal(404, "Reference does not exist", "RevisionNotFound")
    return Answer()


def _set_reference(references: dict[str, str], name: str, oid: str) -> Answer:
    if name in references:
        raise Refusal(409, "Reference already exists")
    references[name] = oid
    return Answer()


def _invalid(message: str) -> Answer:
    return in_json({"errors": [{"message": message}], "warnings": []}, 400)


def _file(_: Repo, files: Tree, value: dict[str, Any]) -> None:
    files[value["path"]] = Blob(base64.b64decode(value["content"]))


def _lfs_file(repo: Repo, files: Tree, value: dict[str, Any]) -> None:
    if value["oid"] not in repo.objects:
        raise Refusal(400, f"LFS pointer of {value['path']} points to a file that does not exist")
    files[value["path"]] = Blob(repo.objects[value["oid"]], lfs=True)


def _deleted_file(_: Repo, files: Tree, value: dict[str, Any]) -> None:
    if files.pop(value["path"], None) is None:
        raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")


def _deleted_folder(_: Repo, files: Tree, value: dict[str, Any]) -> None:
    inside = [path for path in files if path.startswith(f"{value['path'].rstrip('/')}/")]
    if not inside:
        raise Refusal(404, "A folder with this name doesn't exist", "EntryNotFound")
    for path in inside:
        del files[path]


_OPERATIONS: dict[str, Callable[[Repo, Tree, dict[str, Any]], None]] = {
    "file": _file,
    "lfsFile": _lfs_file,
    "deletedFile": _deleted_file,
    "deletedFolder": _deleted_folder,
}

ROUTES = (
    Route("POST", "/api/repos/create", create_repo),
    Route("POST", "/api/validate-yaml", validate_yaml),
    Route("POST", "/api/{kind}/{repo}/preupload/{revision}", preupload),
    Route("POST", "/api/{kind}/{repo}/commit/{revision}", commit),
    Route("POST", "/api/{kind}/{repo}/branch/{revision}", create_branch),
    Route("DELETE", "/api/{kind}/{repo}/branch/{revision}", delete_branch),
    Route("POST", "/api/{kind}/{repo}/tag/{revision}", create_tag),
)
