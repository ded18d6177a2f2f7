"""Answers that no hub gives: each ends in one of our errors, and nothing outside the cache is written or removed."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hub_user import SOURCE, Client
from loopback import Fault, Hub
from loopback.exchange import Answer

from pythia_quant.core.errors import HubError
from pythia_quant.core.hub_answers import MOST_JSON, byte_count, check_answer, commit_id, sha256_digest, text

NESTED = b"[" * 100_000
STRANGE: list[Any] = [None, 0, -1, True, 1e300, "", "x", "\ud800", [], {}, [[]], [None], [5], ["x"], [{}], {"x": {}}]
"""In place of any value of an answer."""
ASK = """
import json, sys, traceback
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.artifacts.pull import pull
from pythia_quant.core.hub_files import read_tree
from pythia_quant.model.revisions import read_steps
from pythia_quant.core.hub_files import fetch
questions = {
    "tree": lambda repo: read_tree(repo),
    "steps": lambda repo: read_steps(repo, "step1"),
    "fetch": lambda repo: fetch(repo, "config.json", "main"),
    "pull": lambda repo: pull(f"hf://{repo}"),
}
for repo, question in json.load(sys.stdin):
    try:
        questions[question](repo)
        print("understood")
    except PythiaQuantError as error:
        print(json.dumps([type(error).__name__, error.what]))
    except Exception:
        print("foreign", repo, traceback.format_exc().replace("\\n", "|"))
"""


def ask(client: Client, questions: list[tuple[str, str]], tmp_path: Path) -> list[str]:
    """Ask questions of repositories one after the other in a single process; return a line of each outcome."""
    (tmp_path / "questions.json").write_text(json.dumps(questions))
    script = ASK.replace("sys.stdin", f"open({str(tmp_path / 'questions.json')!r})")
    done = client.python("-c", script)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def saying(value: object) -> Callable[[Answer], Answer]:
    """Answer with other JSON, or with bytes as they are."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return lambda answer: Answer(200, body, answer.headers)


def variants(value: Any) -> list[Any]:
    """Return JSON in which each of its values in turn is a strange one, or missing; of a list, the first is changed."""
    found = list(STRANGE)
    if isinstance(value, dict):
        for key, inner in value.items():
            found += [{k: v for k, v in value.items() if k != key}]
            found += [value | {key: other} for other in variants(inner)]
    elif isinstance(value, list) and value:
        found += [[other, *value[1:]] for other in variants(value[0])]
    return found


FILE = {
    "type": "file", "path": "model.safetensors", "size": 5, "oid": "0" * 40,
    "lfs": {"oid": "0" * 64, "size": 5, "pointerSize": 9},
}  # fmt: skip
INFO = {"id": "me/x", "sha": "0" * 40, "private": False, "siblings": [{"rfilename": "a"}]}
REFS = {"branches": [{"name": "step1", "ref": "refs/heads/step1", "targetCommit": "0" * 40}], "tags": []}
FORMS: list[tuple[Any, str, str]] = [
    (INFO, "/revision/main", "tree"),
    ([FILE], "/tree/", "tree"),
    (REFS, "/refs", "steps"),
]


def test_answers_of_any_form_end_in_one_of_our_errors(client: Client, hub: Hub, tmp_path: Path) -> None:
    cases: list[tuple[str, str, Any]] = []
    for form, path, question in (
        (INFO, "/revision/main", "tree"),
        ([FILE], "/tree/", "tree"),
        (REFS, "/refs", "steps"),
    ):
        cases += [(question, path, strange) for strange in [b"", b"{", b"\xff", NESTED, *variants(form)]]
    questions = []
    for index, (question, path, strange) in enumerate(cases):
        repo = f"me/case-{index}"
        hub.put(repo, "step1", {"config.json": b"{}"})
        hub.put(repo, "main", {"config.json": b"{}"})
        hub.faults.append(Fault("GET", f"{repo}{path}", alter=saying(strange)))
        questions.append((repo, question))
    lines = ask(client, questions, tmp_path)
    assert len(lines) == len(cases) > 300
    foreign = [f"{cases[index][2]!r:.200} {line}" for index, line in enumerate(lines) if line.startswith("foreign")]
    assert not foreign, foreign[0]
    refused = [line for line in lines if "cannot be understood" in line]
    assert len(refused) > 150


def header(name: str, value: str) -> Callable[[Answer], Answer]:
    """Answer with another header."""
    return lambda answer: Answer(answer.status, answer.body, answer.headers | {name: value})


HEADERS = {
    "ETag": [
        '"../../x"', "/etc/x", "W//etc/x", '""', '"a/b"', '".."', '"a\\b"', '"con:x"', f'"{"a" * 300}"', "WWW", "x y",
    ],
    "X-Linked-ETag": ['"../../x"', '"/x"'],
    "X-Repo-Commit": ["../../x", "main", "0" * 39, "A" * 40, "0" * 41, "/x"],
    "X-Linked-Size": ["-5", "1e9", "x", "9" * 5000],
    "Content-Length": ["9" * 40],
}  # fmt: skip


def test_headers_that_become_paths_or_sizes_are_refused(client: Client, hub: Hub, tmp_path: Path) -> None:
    cases = [(name, value) for name, values in HEADERS.items() for value in values]
    questions = []
    for index, (name, value) in enumerate(cases):
        repo = f"me/case-{index}"
        hub.put(repo, "main", {"config.json": b"{}"})
        hub.faults.append(Fault("HEAD", f"{repo}/resolve", times=9, alter=header(name, value)))
        questions.append((repo, "fetch"))
    before = sorted(tmp_path.rglob("*"))
    lines = ask(client, questions, tmp_path)
    assert len(lines) == len(cases)
    for (name, value), line in zip(cases, lines, strict=True):
        kind, what = json.loads(line)
        assert kind in ("HubError", "SourceError", "NotCachedError"), (name, value)
        assert name in what or "cannot be" in what, (name, value, what)
    written = {path for path in set(tmp_path.rglob("*")) - set(before) if path.is_file()}
    assert {path.name for path in written} <= {"questions.json", "CACHEDIR.TAG", ".gitignore"}


@pytest.fixture
def gptq(artifacts: Path) -> dict[str, bytes]:
    """Return the files of an artifact."""
    return {path.name: path.read_bytes() for path in (artifacts / "gptq-int4").iterdir()}


def test_an_etag_that_is_a_path_neither_writes_nor_removes(
    client: Client, hub: Hub, gptq: dict[str, bytes], tmp_path: Path
) -> None:
    precious, planted = tmp_path / "precious", tmp_path / "planted"
    precious.write_text("mine")
    for name, target in (("config.json", planted), ("tokenizer.json", precious)):
        hub.put(f"me/evil-{name}", "main", gptq)
        climbing = header("ETag", f'"{"../" * 30}{str(target)[1:]}"')
        hub.faults.append(Fault("HEAD", f"evil-{name}/resolve/.*/{name}", times=9, alter=climbing))
    lines = ask(client, [("me/evil-config.json", "pull"), ("me/evil-tokenizer.json", "pull")], tmp_path)
    assert all("which no hub says of a file" in line for line in lines), lines
    assert precious.read_text() == "mine"
    assert not planted.exists()


def test_a_cache_that_links_elsewhere_is_not_read_and_nothing_there_is_removed(
    client: Client, hub: Hub, tmp_path: Path
) -> None:
    """As another program may have left it that did not check."""
    secret = tmp_path / "secret"
    secret.write_text("mine")
    snapshot = client.home / "hub" / "models--someone--tiny" / "snapshots" / hub.head(SOURCE)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to(secret)
    (line,) = ask(client, [(SOURCE, "fetch")], tmp_path)
    assert "leads out of the folder" in line
    assert secret.read_text() == "mine"


def test_a_file_of_another_size_than_the_manifest_says_is_not_kept(
    client: Client, hub: Hub, gptq: dict[str, bytes], tmp_path: Path
) -> None:
    """Nor one that is longer than was announced: such a download need not end."""
    manifest = json.loads(gptq["pythia_quant.json"])
    manifest["files"]["config.json"]["bytes"] -= 1
    hub.put("me/longer", "main", gptq | {"pythia_quant.json": json.dumps(manifest).encode()})
    hub.put("me/packed", "main", gptq)
    bomb = gzip.compress(gptq["config.json"] + bytes(10**6))
    unpacked = {"Content-Encoding": "gzip", "Content-Length": str(len(bomb))}
    swollen = Fault("GET", "packed/resolve/.*/config.json", times=9)
    swollen.alter = lambda answer: Answer(200, bomb, answer.headers | unpacked)
    hub.faults.append(swollen)
    longer, packed = ask(client, [("me/longer", "pull"), ("me/packed", "pull")], tmp_path)
    assert "bytes on the hub" in longer
    assert "more than" in packed
    assert not list(client.home.rglob("config.json"))


@pytest.mark.parametrize("strange", [b'{"commitUrl": "https://h/x/y/commit/0", "commitOid": "x"}', NESTED])
def test_a_commit_whose_answer_makes_no_sense_is_one_message(
    client: Client, hub: Hub, artifacts: Path, strange: bytes
) -> None:
    hub.faults.append(Fault("POST", "/commit/", times=9, alter=lambda _: Answer(200, strange)))
    message = client.refuse("publish", artifacts / "gptq-int4", "--repo-id", "me/tiny", "--yes")
    assert "cannot be understood" in message


def response(headers: dict[str, str], method: str = "HEAD", status: int = 200) -> httpx2.Response:
    request = httpx2.Request(method, "https://hub.example/me/x/resolve/main/config.json?X-Amz-Signature=secret")
    return httpx2.Response(status, headers=headers, request=request)


@pytest.mark.parametrize(
    "tag", ['"0a1b"', 'W/"0a1b-2"', "0a1b2c", '"686897696a7c876b7e-4"', '"Abc_d.e+f="', f'"{"0" * 64}"']
)
def test_tags_as_hubs_and_their_storage_give_them_are_taken(tag: str) -> None:
    check_answer(response({"ETag": tag, "X-Repo-Commit": "0" * 40, "X-Linked-Size": "12"}))


def test_only_the_tag_that_the_client_uses_is_checked() -> None:
    odd = 'W/"5d-ab/cd+e="'  # web servers give pages, listings and redirections such tags
    check_answer(response({"ETag": odd}, method="GET"))
    check_answer(response({"ETag": odd}, status=404))
    check_answer(response({"ETag": odd, "X-Linked-ETag": '"0a"'}))
    moved = response({"ETag": odd, "Location": "/elsewhere"}, status=307)
    check_answer(moved)
    assert "ETag" not in moved.headers
    with pytest.raises(
        HubError, match=r"hub.example/me/x/resolve/main/config.json: the hub's answer says ETag"
    ) as error:
        check_answer(response({"ETag": odd}))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("place", "good"), [("/a/b?c", True), ("https://h/x", True), ("file:///x", False), ("a b", False)]
)
def test_redirections_lead_to_the_web_only(place: str, good: bool) -> None:
    moved = response({"Location": place}, status=302)
    if good:
        check_answer(moved)
    else:
        with pytest.raises(HubError, match="Location"):
            check_answer(moved)


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(1_000_000)


BOMB = gzip.compress(bytes(2 * MOST_JSON), 1)


@pytest.mark.parametrize(
    ("content", "headers"),
    [(endless, {}), (lambda: iter([BOMB]), {"Content-Encoding": "gzip"})],
    ids=["long", "packed"],
)
@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("GET", "https://hub.example/api/models/me/x", 200),
        ("POST", "https://hub.example/me/x.git/info/lfs/objects/batch", 200),
        ("GET", "https://hub.example/me/x/resolve/main/config.json", 404),
    ],
)
def test_an_answer_without_end_is_not_read_to_its_end(
    content: Callable[[], Iterator[bytes]], headers: dict[str, str], method: str, url: str, status: int
) -> None:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(status, headers=headers, content=content()))
    client = httpx2.Client(transport=transport, event_hooks={"response": [check_answer]})
    with client, pytest.raises(HubError, match=f"^{url[8:]}: the hub's answer has more than 50 MB"):
        client.request(method, url)


def test_what_a_hub_tells_in_json_is_checked() -> None:
    assert commit_id("0" * 40) == "0" * 40
    assert byte_count(0) == 0
    for check in (commit_id, sha256_digest, text):
        for strange in STRANGE:
            if strange == "x" and check is text:
                continue
            with pytest.raises(ValueError, match=r"is no|surrogates"):
                check(strange)
    for size in (None, True, -1, 1.0, 10**15, "1"):
        with pytest.raises(ValueError, match="is no size"):
            byte_count(size)
