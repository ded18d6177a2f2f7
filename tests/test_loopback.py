"""The loopback hub, seen by the real client in a child process."""

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from http.client import RemoteDisconnected
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from loopback import Fault, Hub, User, client_environment, loopback_hub

TOKEN = "Bearer hf_secretsecretsecret"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with loopback_hub() as hub:
        yield hub


PRELUDE = """
import json, sys
from pathlib import Path
from huggingface_hub import *
from huggingface_hub.errors import *
api, place = HfApi(), Path(sys.argv[1])

def refused(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except Exception as error:
        return [type(error).__name__, error.response.status_code if isinstance(error, HfHubHTTPError) else None]

def add(**files):
    return [CommitOperationAdd(f"{name}.{end}", content) for name, (end, content) in files.items()]
"""


def in_client(hub: Hub, place: Path, script: str, **extra: str | None) -> list[object]:
    """Run a script in a child process, and return the values of its last statement, `told = [...]`."""
    child = subprocess.run(
        [sys.executable, "-c", f"{PRELUDE}{script}\nprint('told', json.dumps(told))", str(place)],
        env=client_environment(hub, place / "home", **extra),
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert "hf_secret" not in child.stdout + child.stderr
    told: list[object] = json.loads(child.stdout.rpartition("told ")[2])
    return told


def write_files(folder: Path) -> dict[str, bytes]:
    files = {
        "README.md": b"---\nlicense: apache-2.0\n---\n# Tiny\n",
        "config.json": b"{}",
        "empty.bin": b"",
        "model.safetensors": bytes(range(256)) * 10,
        "onnx/model.onnx": b"graph",
        "onnx/parts/model.onnx_data": b"weights",
    }
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return files


UPLOAD = """
url = api.create_repo("me/tiny", private=True)
again = api.create_repo("me/tiny", exist_ok=True)
made = api.upload_folder(repo_id="me/tiny", folder_path=place / "files", commit_message="Add", commit_description="All")
repeat = api.upload_folder(repo_id="me/tiny", folder_path=place / "files")
snapshot_download("me/tiny", local_dir=place / "copy")
there = [e.path for e in api.list_repo_tree("me/tiny", recursive=True)]
inside = [e.path for e in api.list_repo_tree("me/tiny", "onnx", expand=True)]
info = api.model_info("me/tiny", files_metadata=True)
large = {s.rfilename: [s.size, s.lfs.sha256] for s in info.siblings if s.lfs}
checked = api.verify_repo_checksums("me/tiny", local_dir=place / "copy").checked_count
told = [url.repo_id, url == again, refused(api.create_repo, "me/tiny"), made.oid, repeat.oid, there, inside,
        info.private, large, api.whoami()["name"], checked]
"""


@pytest.mark.parametrize("chunk", [None, 1000])
def test_a_folder_is_uploaded_and_read_back(hub: Hub, tmp_path: Path, chunk: int | None) -> None:
    files = write_files(tmp_path / "files")
    hub.page_size, hub.multipart_chunk = 2, chunk
    told = in_client(hub, tmp_path, UPLOAD)
    made, first = hub.commits("me/tiny")
    folders = ["onnx", "onnx/parts"]
    weights = made.tree["model.safetensors"]
    assert told[:3] == ["me/tiny", True, ["HfHubHTTPError", 409]]
    assert told[3:5] == [made.oid, made.oid]
    assert told[5:8] == [sorted([*files, ".gitattributes", *folders]), ["onnx/model.onnx", "onnx/parts"], True]
    assert isinstance(told[8], dict)
    assert told[8]["model.safetensors"] == [2560, weights.sha256]
    assert told[9:] == ["me", 7]
    assert (made.title, made.description, made.parent) == ("Add", "All", first.oid)
    assert {path for path, blob in made.tree.items() if blob.lfs} == set(list(files)[3:])
    assert hub.files("me/tiny") == files | hub.files("me/tiny", first.oid)
    assert {path: (tmp_path / "copy" / path).read_bytes() for path in files} == files
    puts = [request for request in hub.log if request.method == "PUT"]
    assert len(puts) == (5 if chunk else 3)
    assert {request.headers.get("authorization") for request in puts} == {None}
    assert sum("/commit/" in line for line in hub.writes) == 1
    assert any("cursor" in request.query for request in hub.log)


WRITES = """
api.create_repo("team/rows", repo_type="dataset")
data = dict(repo_id="team/rows", repo_type="dataset")

def commit(operations, **options):
    return api.create_commit(**data, operations=operations, commit_message="Change", **options).oid

first = commit(add(a=("txt", b"a"), b=("parquet", b"b")))
second = commit(add(c=("txt", b"c")), parent_commit=first)
stale = refused(commit, add(c=("txt", b"d")), parent_commit=first)
api.create_branch(**data, branch="odd/name", revision=first)
api.create_branch(**data, branch="odd/name", exist_ok=True)
api.create_branch(**data, branch="gone")
api.delete_branch(**data, branch="gone")
api.create_tag(**data, tag="v1", revision="odd/name")
third = commit([CommitOperationCopy("b.parquet", "d.parquet"), CommitOperationDelete("a.txt")], revision="odd/name")
files = [("b.parquet", "v1"), ("d.parquet", "odd/name")]
paths = [hf_hub_download(**data, filename=name, revision=revision) for name, revision in files]
refs = api.list_repo_refs(**data)
told = [
    first, second, third, stale,
    refused(api.create_branch, **data, branch="odd/name"),
    refused(api.create_branch, **data, branch="new", revision="absent"),
    refused(commit, add(e=("txt", b"e")), revision="absent"),
    refused(commit, [CommitOperationDelete("absent.txt")]),
    refused(commit, add(README=("md", b"---\\nlicense: [\\n---\\n"))),
    [Path(path).read_text() for path in paths],
    {ref.name: ref.target_commit for ref in refs.branches + refs.tags},
    refused(api.dataset_info, "team/absent"), refused(api.model_info, "team/rows"), api.dataset_info("team/rows").sha,
]
"""


def test_commits_branches_and_tags_of_a_dataset(hub: Hub, tmp_path: Path) -> None:
    first, second, third, *told = in_client(hub, tmp_path, WRITES)
    assert second == hub.head("datasets/team/rows")
    assert [commit.oid for commit in hub.commits("datasets/team/rows", "odd/name")][:2] == [third, first]
    assert set(hub.files("datasets/team/rows", "odd/name")) == {".gitattributes", "b.parquet", "d.parquet"}
    assert told == [
        ["HfHubHTTPError", 412],
        ["HfHubHTTPError", 409],
        ["RevisionNotFoundError", 404],
        ["RevisionNotFoundError", 404],
        ["RemoteEntryNotFoundError", 404],
        ["ValueError", None],
        ["b", "b"],
        {"main": second, "odd/name": third, "v1": first},
        ["RepositoryNotFoundError", 404],
        ["RepositoryNotFoundError", 404],
        second,
    ]


READ = """
told = [refused(hf_hub_download, f"{owner}/{name}", "config.json") for owner in ("me", "other") for name in
        ("private", "gated", "public")]
told += [refused(api.upload_file, repo_id=repo, path_or_fileobj=b"1", path_in_repo="a.txt") for repo in
         ("me/public", "other/public", "other/private")]
told.append(refused(api.create_repo, "other/new"))
"""
HIDDEN, GATED, FORBIDDEN = ["RepositoryNotFoundError", 404], ["GatedRepoError", 403], ["HfHubHTTPError", 403]


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("hf_secretsecretsecret", [None, GATED, None, HIDDEN, GATED, None, None, FORBIDDEN, HIDDEN, FORBIDDEN]),
        ("hf_secretreader", [None, GATED, None, HIDDEN, GATED, None, FORBIDDEN, FORBIDDEN, HIDDEN, FORBIDDEN]),
        (None, [HIDDEN, GATED, None] * 2 + [["RepositoryNotFoundError", 401]] * 3 + [["HfHubHTTPError", 401]]),
    ],
)
def test_who_may_do_what(hub: Hub, tmp_path: Path, token: str | None, expected: list[object]) -> None:
    write_files(tmp_path / "files")
    hub.users["hf_secretreader"] = User("me", "read")
    for owner in ("me", "other"):
        for name in ("private", "gated", "public"):
            hub.add(f"{owner}/{name}", {"main": tmp_path / "files"}, private=name == "private")
        hub.gated.add(f"{owner}/gated")
    assert in_client(hub, tmp_path, READ, HF_TOKEN=token) == expected


def test_large_files_come_from_another_origin_that_sees_no_token(hub: Hub, tmp_path: Path) -> None:
    files = write_files(tmp_path / "files")
    hub.add("me/tiny", {"main": tmp_path / "files"})
    hub.cdn = True
    in_client(hub, tmp_path, 'snapshot_download("me/tiny", local_dir=place / "copy")\ntold = []')
    assert {path: (tmp_path / "copy" / path).read_bytes() for path in files} == files
    elsewhere = [request for request in hub.log if request.path.startswith("/cdn/")]
    assert {request.method for request in elsewhere} == {"GET"}
    assert {request.path.split("/", 5)[5] for request in elsewhere} == set(list(files)[3:])
    assert {request.headers.get("authorization") for request in elsewhere} == {None}
    assert hub.authorizations == {None, TOKEN}


TROUBLE = """
def commit(path, content, **options):
    operations = [CommitOperationAdd(path, content)]
    return api.create_commit("me/tiny", operations, commit_message="Change", **options).oid

told = [
    commit("a.safetensors", b"a" * 100_000),
    refused(commit, "b.txt", b"b"),
    commit("b.txt", b"b"),
    refused(commit, "c.txt", b"c", parent_commit=api.model_info("me/tiny").sha),
    refused(api.model_info, "me/tiny"),
    Path(hf_hub_download("me/tiny", "large.bin")).stat().st_size,
]
"""


def test_faults_strike_the_client(hub: Hub, tmp_path: Path) -> None:
    large = b"0123456789abcdef" * 750_000
    hub.put("me/tiny", "main", {"large.bin": large, "old.txt": b""})
    hub.put("me/tiny", "main", {}, delete=["old.txt"])
    hub.faults = [
        Fault("POST", "/preupload/", status=429, headers={"Retry-After": "0"}),
        Fault("PUT", "^/lfs/me/tiny/", cut=1000),
        Fault("POST", "/commit/main$", skip=1, lose_answer=True),
        Fault("POST", "/commit/", skip=1, before=lambda hub: hub.put("me/tiny", "main", {"theirs.txt": b"1"})),
        Fault("GET", "/api/models/me/tiny$", skip=1, status=503, body={"error": "down"}, stall=0.1),
        Fault("GET", "/resolve/", cut=(10 << 20) + 1000),
    ]
    first, lost, repeat, *told = in_client(hub, tmp_path, TROUBLE)
    assert all(fault.times == 0 for fault in hub.faults)
    theirs, change, other, _, _ = hub.commits("me/tiny")
    assert (first, lost, repeat) == (other.oid, ["RemoteProtocolError", None], change.oid)
    assert told == [["HfHubHTTPError", 412], ["HfHubHTTPError", 503], len(large)]
    assert set(theirs.tree) == {"a.safetensors", "b.txt", "large.bin", "theirs.txt"}
    assert [request.body_size for request in hub.log if request.method == "PUT"] == [1000, 100_000]
    ranges = [request.headers.get("range") for request in hub.log if "/resolve/" in request.path]
    assert ranges == [None, None, f"bytes={10 << 20}-"]


def fetch(hub: Hub, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, Message]:
    """Ask without the client, for what it takes care not to send."""
    try:
        with urlopen(Request(hub.endpoint + path, body, headers, method=method), timeout=10) as reply:
            return reply.status, reply.read(), reply.headers
    except HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def test_ranges_and_damage(hub: Hub, tmp_path: Path) -> None:
    write_files(tmp_path / "files")
    hub.add("me/tiny", {"main": tmp_path / "files"})
    path = "/me/tiny/resolve/main/onnx/model.onnx"
    assert fetch(hub, "GET", path, Range="bytes=1-2")[:2] == (206, b"ra")
    status, content, headers = fetch(hub, "GET", path, Range="bytes=2-")
    assert (status, content, headers["Content-Range"]) == (206, b"aph", "bytes 2-4/5")
    status, _, headers = fetch(hub, "GET", path, Range="bytes=5-")
    assert (status, headers["Content-Range"]) == (416, "bytes */5")
    hub.damage.add("onnx/model.onnx")
    _, content, headers = fetch(hub, "GET", path)
    assert (content, headers["ETag"]) == (b"grapi", f'"{hub.commits("me/tiny")[0].tree["onnx/model.onnx"].sha256}"')
    status, content, headers = fetch(hub, "HEAD", path)
    assert (status, content, headers["Content-Length"], headers["X-Linked-Size"]) == (200, b"", "5", "5")


def test_the_storage_takes_signed_requests_without_a_token_only(hub: Hub, tmp_path: Path) -> None:
    hub.add("me/tiny", {"main": tmp_path})
    content, oid = b"weights", hashlib.sha256(b"weights").hexdigest()
    wanted = json.dumps({"objects": [{"oid": oid, "size": 7}]}).encode()
    batch = "/me/tiny.git/info/lfs/objects/batch"
    told = json.loads(fetch(hub, "POST", batch, wanted, Authorization=TOKEN)[1])
    path = told["objects"][0]["actions"]["upload"]["href"].removeprefix(hub.endpoint)
    assert re.search(r"\?X-Amz-Signature=presignedsecret\w+$", path)
    header = {"key": "header", "value": {"summary": "Add"}}
    operation = {"key": "lfsFile", "value": {"path": "x.bin", "algo": "sha256", "oid": oid, "size": 7}}
    lines = f"{json.dumps(header)}\n{json.dumps(operation)}".encode()
    commit = "/api/models/me/tiny/commit/main"
    assert fetch(hub, "PUT", path, content, Authorization=TOKEN)[0] == 400
    assert fetch(hub, "PUT", path.partition("?")[0], content)[0] == 403
    assert fetch(hub, "PUT", path, content[1:])[0] == 400
    assert fetch(hub, "POST", commit, lines, Authorization=TOKEN)[0] == 400
    assert fetch(hub, "PUT", path, content)[0] == 200
    assert (
        json.loads(fetch(hub, "POST", batch, wanted, Authorization=TOKEN)[1])["objects"]
        == json.loads(wanted)["objects"]
    )
    assert fetch(hub, "POST", commit, lines, Authorization=TOKEN)[0] == 200
    assert hub.files("me/tiny") == {"x.bin": content}


def test_there_is_no_xet(hub: Hub, tmp_path: Path) -> None:
    hub.add("me/tiny", {"main": tmp_path})
    for kind in ("read", "write"):
        status, _, headers = fetch(hub, "GET", f"/api/models/me/tiny/xet-{kind}-token/main")
        assert (status, headers["X-Error-Code"]) == (404, "RouteNotFound")


def test_a_stall_ends_with_the_hub() -> None:
    with loopback_hub() as hub, ThreadPoolExecutor() as pool:
        hub.faults.append(Fault("GET", "^/stalled$", stall=60))
        asked = pool.submit(fetch, hub, "GET", "/stalled")
        while not hub.requests:
            time.sleep(0.01)
        hub.stopping.set()
        assert asked.result(timeout=5)[0] == 404


def test_an_error_in_the_hub_ends_the_test() -> None:
    with pytest.raises(json.JSONDecodeError), loopback_hub() as hub, pytest.raises(RemoteDisconnected):
        fetch(hub, "POST", "/api/validate-yaml", b"{")
