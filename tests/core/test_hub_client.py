import errno
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from pythia_quant.core.errors import HubError
from pythia_quant.core.hub_client import (
    TIMEOUT_VARIABLE,
    NoRepositoryError,
    NoRevisionError,
    explained,
    is_name,
    passing,
    prepare,
    retry_after,
    timeout,
)
from pythia_quant.core.hub_environment import check_hub_environment
from pythia_quant.core.hub_files import commit_of


def failure(
    status: int, said: str = "", kind: type[errors.HfHubHTTPError] = errors.HfHubHTTPError, wait: str = ""
) -> errors.HfHubHTTPError:
    request = httpx2.Request("PUT", "https://host/a?X-Amz-Signature=presignedsecret")
    response = httpx2.Response(status, request=request, headers={"Retry-After": wait})
    return kind(f"{status} for url {request.url}", response=response, server_message=said)


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "what", "may_pass"),
    [
        (failure(503), "an error of its own (503)", True),
        (caused(RuntimeError("while uploading"), failure(500)), "an error of its own (500)", True),
        (failure(429), "too many requests (429)", True),
        (failure(403, "not\nyours"), "does not permit this (403): not yours", False),
        (failure(422, "hf_secretsecret no"), "the hub refused (422): hf_… no", False),
        (
            failure(403, "<Error><SignatureProvided>a</SignatureProvided></Error>"),
            "does not permit this (403)",
            False,
        ),
        (httpx2.ReadTimeout("long"), "the hub was silent for 60 s", True),
        (caused(httpx2.ConnectError("x"), OSError("y")), "the hub cannot be reached (ConnectError)", True),
        (errors.LocalTokenNotFoundError("x"), "the hub needs a token", False),
        (errors.OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE is set", False),
        (failure(403, kind=errors.GatedRepoError), "restricted", False),
    ],
)
def test_a_failure_is_one_sentence_without_addresses(error: Exception, what: str, may_pass: bool) -> None:
    said = explained(error, "me/x")
    assert what in said.what
    assert "presigned" not in str(said)
    assert "Signature" not in str(said)
    assert said.__cause__ is said.__context__ is None
    assert passing(error) == may_pass


def test_what_is_not_there_can_be_told_apart() -> None:
    assert isinstance(explained(failure(404, kind=errors.RepositoryNotFoundError), "x"), NoRepositoryError)
    assert isinstance(explained(failure(404, kind=errors.RevisionNotFoundError), "x"), NoRevisionError)


@pytest.mark.parametrize(("header", "seconds"), [("7", 7), ("99999", 600), ("Sat, 21 Nov 2026", None), ("", None)])
def test_a_hub_may_ask_to_wait_but_not_for_ever(header: str, seconds: float | None) -> None:
    assert retry_after(failure(429, wait=header)) == seconds
    assert retry_after(OSError()) is None


@pytest.mark.parametrize("given", ["0", "-1", "soon", "nan", "1e9"])
def test_a_time_limit_is_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, given)
    with pytest.raises(HubError, match=f"{TIMEOUT_VARIABLE}: '{given}' is no number of seconds"):
        timeout()


def test_names_of_repositories() -> None:
    assert is_name("me/pythia-1.4b_x")
    for name in ("me", "me/", "/x", "me/x/y", "me/x..y", "me/-x", "me/x y", "me/{variant}", "hf://me/x", ""):
        assert not is_name(name), name


@pytest.mark.parametrize(
    ("number", "what"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission")]
)
def test_a_disk_that_cannot_be_written_is_not_a_hub_that_cannot_be_reached(number: int, what: str) -> None:
    said = explained(OSError(number, os.strerror(number), "/cache/blobs/x"), "me/x")
    assert said.what.startswith("/cache/blobs/x: ")
    assert what in said.what
    assert constants.HF_HUB_CACHE in explained(OSError(number, os.strerror(number)), "me/x").what


NOBODY = """
import sys
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.core.hub_client import api, ask
from pythia_quant.core.hub_files import fetch
for call in (lambda: fetch("me/x", "config.json", "main"), lambda: ask(lambda: api().repo_info("me/x"), "me/x")):
    try:
        call()
    except PythiaQuantError as error:
        print(error.what)
"""


@pytest.mark.parametrize("address", ["http://no-such-host.invalid", "http://127.0.0.1:9"])
def test_a_hub_that_is_not_there_is_given_up_at_once(address: str, tmp_path: Path) -> None:
    began = time.monotonic()
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", NOBODY], env=environment, capture_output=True, text=True, check=True)
    cached, asked = done.stdout.splitlines()
    assert cached == "config.json is not in the cache and the hub cannot be reached"
    assert asked == f"the hub cannot be reached: there is no {address[7:].partition(':')[0]}, or it does not answer"
    assert done.stderr == ""
    assert time.monotonic() - began < 15, "mostly imports; repetitions took half a minute"


def test_a_cache_below_a_folder_called_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/disk/snapshots/of-mine/hub")
    path = Path(constants.HF_HUB_CACHE) / f"models--me--x/snapshots/{'0' * 40}/snapshots/file"
    assert commit_of(path) == "0" * 40


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_ENDPOINT", "http://[::1"),
        ("HF_ENDPOINT", "https://hub:99999"),
        ("HF_HUB_ETAG_TIMEOUT", "1.5"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", ""),
    ],
)
def test_what_the_client_cannot_be_imported_with_is_refused_by_its_name(name: str, value: str) -> None:
    check_hub_environment({"HF_ENDPOINT": "https://hub.example:8443/hf", "HF_HUB_ETAG_TIMEOUT": "5"})
    check_hub_environment({"HF_ENDPOINT": ""})
    with pytest.raises(HubError, match=f"{name}: .* is no"):
        check_hub_environment({name: value})


@pytest.mark.parametrize(("name", "value"), [("ALL_PROXY", "odd://me:secret@h"), ("SSL_CERT_FILE", "/nonexistent")])
def test_a_connection_that_cannot_be_made_is_one_message(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    prepare.cache_clear()
    huggingface_hub.close_session()
    monkeypatch.setenv(name, value)
    with pytest.raises(HubError, match=f"as the environment asks(.|\n)*{name}") as refusal:
        prepare()
    assert "secret" not in str(refusal.value)


def test_a_hub_that_is_silent_is_given_up_after_its_time(tmp_path: Path) -> None:
    """Whatever time limits and repetitions the library has of its own; a firewall that drops all looks like that."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), TIMEOUT_VARIABLE: "0.5"}
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", NOBODY], env=environment, capture_output=True, text=True, check=True
        )
    assert done.stdout.splitlines()[1] == "the hub cannot be reached: there is no 127.0.0.1, or it does not answer"
    assert done.stderr == ""
    assert time.monotonic() - began < 15, "mostly imports"
