import httpx2
import pytest
from huggingface_hub import errors

from pythia_quant.errors import HubError
from pythia_quant.hub_client import (
    TIMEOUT_VARIABLE,
    NoRepositoryError,
    NoRevisionError,
    explained,
    is_name,
    passing,
    retry_after,
    timeout,
)


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
