"""Publishing to a hub on loopback that refuses, fails or is silent: what is waited for, and what is left in the end."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import program
import pytest
from hub_user import SOURCE, Client
from huggingface_hub.utils._http import default_client_factory
from loopback import Fault, Hub, User

from pythia_quant.core.hub_client import prepare

ONNX = ("publish", "--repo-id", "me/tiny-onnx", "--yes")
COMMITS = "POST /api/models/me/tiny-onnx/commit/main"


class Debugging(Client):
    """Runs the program with --debug, in this process all the same."""

    def run(self, *arguments: str | Path, **extra: str | None) -> subprocess.CompletedProcess[str]:
        """Run the program."""
        with new_loggers():
            return self._checked(program.run("--debug", *arguments, environment=self._environment(extra)))


@contextmanager
def new_loggers() -> Iterator[None]:
    """Take from the loggers what was set, as in a new process, and put it back."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith(("huggingface_hub", "http"))]
    before = [(logger, logger.level, logger.handlers) for logger in (logging.root, *map(logging.getLogger, names))]
    logging.root.handlers = []
    for name in names:
        logging.getLogger(name).setLevel(logging.NOTSET)
    try:
        yield
    finally:
        for logger, level, handlers in before:
            logger.setLevel(level)
            logger.handlers = handlers


@pytest.fixture(autouse=True)
def _new_hub_client() -> Iterator[None]:
    """Have the program set huggingface_hub up anew, with the limits that the test gives."""
    prepare.cache_clear()
    yield
    huggingface_hub.set_client_factory(default_client_factory)
    prepare.cache_clear()


@pytest.fixture
def debugging(client: Client) -> Client:
    """Return a user who sees every call logged."""
    return Debugging(client.hub, client.home)


@pytest.fixture
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a fiftieth of the time before a call is repeated; the hub does not sleep, and stalls as long as ever."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / 50))


@pytest.mark.parametrize(
    ("token", "repo_id", "message"),
    [
        ("hf_unknownunknown", "me/tiny-onnx", "does not accept the token (401)"),
        (None, "me/tiny-onnx", "the hub needs a token"),
        ("hf_readreadread", "me/tiny-onnx", "does not permit this (403)"),
        ("hf_secretsecretsecret", "someone/else", "does not permit this (403)"),
        ("hf_secretsecretsecret", "tiny-onnx", "is no name of a repository"),
        ("hf_secretsecretsecret", "me/two/slashes", "is no name of a repository"),
    ],
)
def test_who_may_not_publish_is_told_so(
    client: Client, debugging: Client, hub: Hub, artifacts: Path, token: str | None, repo_id: str, message: str
) -> None:
    hub.users["hf_readreadread"] = User("me", "read")
    command = ("publish", artifacts / "onnx-int8", "--repo-id", repo_id, "--yes")
    assert message in client.refuse(*command, HF_TOKEN=token)
    assert message in debugging.run(*command, HF_TOKEN=token, HF_DEBUG="1").stderr
    assert set(hub.repos) == {SOURCE}


QUICK = {"PYTHIA_QUANT_HUB_TIMEOUT": "1", "HF_DEBUG": "1"}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "/preupload/", status=429, headers={"Retry-After": "1"}),
        Fault("GET", "/whoami", status=429, headers={"Retry-After": "1"}),
        Fault("POST", "/repos/create", status=503),
        Fault("POST", "/repos/create", lose_answer=True),
        Fault("PUT", "/lfs/", cut=1000),
        Fault("PUT", "/lfs/", status=500, times=2),
        Fault("PUT", "/lfs/", stall=2.5),
        Fault("POST", "/lfs/objects/batch", lose_answer=True),
        Fault("GET", "/tree/", status=502),
        Fault("POST", "/commit/", status=500),
        Fault("POST", "/commit/", status=423),
        Fault("POST", "/commit/", lose_answer=True),
        Fault("POST", "/commit/", stall=2.5),
        Fault("POST", "/validate-yaml", cut=0),
    ],
    ids=lambda fault: (
        f"{fault.path_regex} {fault.status or ''}{'cut' * (fault.cut is not None)}"
        f"{'stall' * bool(fault.stall)}{'lost' * fault.lose_answer}"
    ),
)
@pytest.mark.usefixtures("_hurried")
def test_what_passes_is_waited_for_and_one_commit_is_made(
    debugging: Client, hub: Hub, artifacts: Path, fault: Fault
) -> None:
    hub.faults.append(fault)
    printed = debugging.succeed(*ONNX, artifacts / "onnx-int8", **QUICK)
    assert fault.times == 0
    assert "read back and compared" in printed
    assert [commit.title for commit in hub.commits("me/tiny-onnx")][:-1] == ["Publish onnx-int8"]


def test_a_commit_whose_answer_was_lost_is_not_repeated(client: Client, hub: Hub, artifacts: Path) -> None:
    hub.faults.append(Fault("POST", "/commit/", lose_answer=True))
    client.succeed(*ONNX, artifacts / "onnx-int8")
    assert hub.writes.count(COMMITS) == 1


def test_a_conflict_in_making_the_repository_is_none(client: Client, hub: Hub, artifacts: Path, origin: Path) -> None:
    empty = origin.parent / "empty"
    empty.mkdir(exist_ok=True)
    hub.faults.append(Fault("POST", "/repos/create", before=lambda hub: hub.add("me/tiny-onnx", {"main": empty})))
    client.succeed(*ONNX, artifacts / "onnx-int8")


def test_somebody_elses_commit_is_not_overwritten(client: Client, hub: Hub, artifacts: Path) -> None:
    client.succeed(*ONNX, artifacts / "onnx-int8")
    theirs = {"other.txt": b"theirs"}
    hub.faults.append(Fault("POST", "/commit/", before=lambda hub: hub.put("me/tiny-onnx", "main", theirs)))
    message = client.refuse(*ONNX, artifacts / "gptq-int4")
    assert "somebody else committed meanwhile" in message
    assert "onnx/model_quantized.onnx" in hub.files("me/tiny-onnx")
    assert hub.commits("me/tiny-onnx")[0].title == "Put files"
    client.succeed(*ONNX, artifacts / "gptq-int4")
    assert {"other.txt", "model.safetensors"} < set(hub.files("me/tiny-onnx"))


@pytest.mark.usefixtures("_hurried")
def test_a_hub_that_stays_broken_leaves_everything_as_it_was(
    client: Client, debugging: Client, hub: Hub, artifacts: Path
) -> None:
    repositories = {"me/one": "/lfs/me/one", "me/two": "/me/two/commit/"}
    for repo_id, path in repositories.items():
        client.succeed("publish", artifacts / "onnx-int8", "--repo-id", repo_id, "--yes")
        hub.faults.append(Fault("PUT|POST", path, status=503, times=99))
    before = {repo_id: hub.head(repo_id) for repo_id in repositories}
    for repo_id in repositories:
        folder = artifacts / "gptq-int4"
        done = debugging.run("publish", folder, "--repo-id", repo_id, "--revision", "other", "--yes")
        assert done.returncode == 2
        assert "the hub has an error of its own (503)" in done.stderr
        assert "Traceback" in done.stderr, "--debug shows where"
    for repo_id, head in before.items():
        assert hub.repos[repo_id].branches == {"main": head}


def test_what_the_hub_stored_otherwise_is_found(client: Client, hub: Hub, artifacts: Path) -> None:
    def spoil(hub: Hub) -> None:
        repo = hub.repos["me/tiny-onnx"]
        tree = repo.commits[repo.branches["main"]].tree
        tree["config.json"] = type(tree["config.json"])(b"{}")
        del tree["recipe.yaml"]

    client.succeed(*ONNX, artifacts / "gptq-int4")
    hub.faults.append(Fault("GET", "/tree/", skip=1, before=spoil))
    message = client.refuse(*ONNX, artifacts / "onnx-int8")
    assert "config.json has other content" in message
    assert "recipe.yaml is missing" in message


def test_large_files_go_in_parts(client: Client, hub: Hub, artifacts: Path) -> None:
    hub.multipart_chunk = 50_000
    client.succeed(*ONNX, artifacts / "onnx-int8")
    assert sum("/parts/" in write or "part" in write for write in hub.writes) > 3
    data = artifacts / "onnx-int8" / "onnx" / "model_quantized.onnx_data"
    assert hub.files("me/tiny-onnx")["onnx/model_quantized.onnx_data"] == data.read_bytes()


def test_a_card_the_hub_does_not_accept_stops_before_the_upload(client: Client, hub: Hub, artifacts: Path) -> None:
    said = {"errors": [{"message": "license is wrong"}], "warnings": []}
    hub.faults.append(Fault("POST", "/validate-yaml", status=400, body=said))
    assert "does not accept the card" in (message := client.refuse(*ONNX, artifacts / "onnx-int8"))
    assert "license is wrong" in message
    assert "me/tiny-onnx" not in hub.repos


def test_with_xet_a_refused_token_is_a_clear_error(client: Client, hub: Hub, artifacts: Path) -> None:
    done = client.run("--debug", *ONNX, artifacts / "onnx-int8", HF_HUB_DISABLE_XET="0")
    assert done.returncode == 2
    assert "Xet" in done.stderr.splitlines()[-2] + done.stderr.splitlines()[-1]
    assert any("xet-write-token" in request for request in hub.requests)
    assert len(hub.commits("me/tiny-onnx")) == 1, "only the one that made the repository"


def test_publishing_does_not_use_xet_unless_asked(client: Client, hub: Hub, artifacts: Path) -> None:
    client.succeed(*ONNX, artifacts / "onnx-int8", HF_HUB_DISABLE_XET=None)
    assert not any("xet" in request for request in hub.requests)
