"""What hubs answer, and the texts that they keep, damaged at random: understood, or refused in one message."""

import string
from collections.abc import Iterator
from typing import Any

import httpx2
import huggingface_hub
import pytest
from hub_user import ORIGINAL
from huggingface_hub.utils._http import default_client_factory
from mutations import COUNT, as_json, byte_mutations, damaged, generator, json_mutations, outcomes

from pythia_quant.core.hub_answers import check_answer
from pythia_quant.core.hub_client import prepare, retry_after
from pythia_quant.core.hub_files import read_tree
from pythia_quant.model.revisions import read_steps
from pythia_quant.publishing.foreign_markdown import metadata, sections, split
from pythia_quant.publishing.metadata import benchmark_task

COMMIT = "0" * 40
FILE = {
    "type": "file", "path": "model.safetensors", "size": 5, "oid": COMMIT,
    "lfs": {"oid": "0" * 64, "size": 5, "pointerSize": 9},
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "revision": {"id": "me/x", "sha": COMMIT, "private": False, "siblings": [{"rfilename": "a"}]},
    "tree": [FILE, FILE | {"path": "onnx/a"}, {"type": "directory", "path": "onnx", "oid": COMMIT}],
    "refs": {
        "branches": [{"name": "step1", "ref": "refs/heads/step1", "targetCommit": COMMIT}],
        "tags": [],
        "converts": [],
    },
}


class Hub:
    """Answers every question as it should, but one."""

    def __init__(self) -> None:
        self.damaged, self.answer = "", b""

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        question = next(name for name in ANSWERS if f"/{name}" in request.url.path)
        if question == self.damaged:
            return httpx2.Response(200, content=self.answer, headers={"Content-Type": "application/json"})
        return httpx2.Response(200, json=ANSWERS[question])


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Make huggingface_hub in this process ask a hub without a network."""
    hub = Hub()
    prepare()
    hooks = huggingface_hub.get_session().event_hooks
    huggingface_hub.set_client_factory(
        lambda: httpx2.Client(event_hooks=hooks, transport=httpx2.MockTransport(hub), follow_redirects=True)
    )
    yield hub
    huggingface_hub.set_client_factory(default_client_factory)
    prepare.cache_clear()


def test_damaged_answers_are_understood_or_refused(hub: Hub) -> None:
    """Fewer: huggingface_hub takes milliseconds for a question."""

    def ask(answer: bytes) -> None:
        hub.answer = answer
        if hub.damaged == "refs":
            read_steps("me/x", "step1")
        else:
            read_tree("me/x")

    for question, whole in ANSWERS.items():
        hub.damaged = question
        ask(as_json(whole))
        counts = outcomes(ask, json_mutations(whole, COUNT // 10))
        assert min(counts["read"], counts["refused"]) > COUNT // 200, question


HEADERS = {
    "ETag": '"0a1b2c"', "X-Linked-ETag": f'"{"0" * 64}"', "X-Repo-Commit": COMMIT, "X-Linked-Size": "12",
    "Content-Length": "12", "Content-Range": "bytes 0-11/12", "Location": "https://h/x?y=z", "Retry-After": "5",
}  # fmt: skip
_SAFE = set(f"{string.ascii_letters}{string.digits}._+=-")


def test_damaged_headers_are_taken_or_refused() -> None:
    """What is taken of those that become a path, huggingface_hub makes none of that leads elsewhere."""
    random_ = generator()
    request = httpx2.Request("HEAD", "https://hub.example/me/x/resolve/main/config.json")

    def check(headers: dict[str, bytes]) -> None:
        response = httpx2.Response(
            200, headers=[(name.encode(), value) for name, value in headers.items()], request=request
        )
        assert 0 <= (retry_after(huggingface_hub.errors.HfHubHTTPError("x", response=response)) or 0) <= 600
        check_answer(response)
        tag = response.headers.get("X-Linked-ETag") or response.headers.get("ETag") or ""
        name = tag.removeprefix("W/").strip('"')
        assert name not in (".", "..")
        assert set(name) <= _SAFE

    def mutations() -> Iterator[dict[str, bytes]]:
        for _ in range(COUNT):
            headers = {name: value.encode() for name, value in HEADERS.items()}
            name = random_.choice(list(headers))
            headers[name] = damaged(headers[name], random_)
            yield headers

    counts = outcomes(check, mutations())
    assert min(counts["read"], counts["refused"]) > COUNT // 20


def test_damaged_texts_of_hubs_are_read() -> None:
    """A source's card and a dataset's eval.yaml. Fewer: PyYAML and the reader of Markdown take milliseconds."""

    def read(content: bytes) -> None:
        card = split(content.decode(errors="replace"))
        assert all(isinstance(word, str) for words in metadata(card.front).values() for word in words)
        sections(card.body)
        benchmark_task(content.decode(errors="replace"))

    counts = outcomes(read, byte_mutations(ORIGINAL.encode(), COUNT // 20))
    assert counts == {"read": COUNT // 20}


def test_few_lines_of_yaml_do_not_become_more_than_memory_holds() -> None:
    lines = (f"m{number + 1}: &m{number + 1} {{<<: [{f'*m{number}, ' * 9}]}}" for number in range(30))
    bomb = "\n".join(("license: mit", "m0: &m0 {x: y}", *lines, "tasks: [{id: x}]"))
    assert metadata("license: mit") == {"license": ["mit"]}
    assert metadata(bomb) == {}
    assert benchmark_task(bomb) is None
    assert len(split("a" * 10**6).body) < 10**6


@pytest.mark.parametrize(("said", "seconds"), [("7", 7), ("99999", 600), ("²", None), ("-1", None), ("9" * 5000, None)])
def test_a_hub_that_asks_to_wait_is_taken_at_its_word_within_reason(said: str, seconds: float | None) -> None:
    response = httpx2.Response(
        503, headers=[(b"Retry-After", said.encode("latin-1"))], request=httpx2.Request("GET", "https://h/x")
    )
    assert retry_after(huggingface_hub.errors.HfHubHTTPError("busy", response=response)) == seconds
