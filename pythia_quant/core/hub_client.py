"""Check the environment variables of the hub before huggingface_hub reads them: its import fails on bad values."""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import huggingface_hub
from huggingface_hub import HfApi, constants
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import disable_progress_bars, validate_repo_id  # type: ignore[attr-defined]

from pythia_quant.core import machine
from pythia_quant.core.errors import HubError, PythiaQuantError, refusal
from pythia_quant.core.hub_answers import check_answer
from pythia_quant.core.text import Redacting, redacted, short


def check_hub_environment(variables: Mapping[str, str] = os.environ) -> None:
    """Refuse values that make the import of huggingface_hub fail. Other bad values are reported by later requests.

    Raises:
        HubError: a variable has such a value; the message names it.
    """
    endpoint = variables.get("HF_ENDPOINT", "")
    try:
        urlsplit(endpoint).port  # noqa: B018 - urllib parses the port only when it is read
    except ValueError as error:
        hint = "give one such as https://huggingface.co, or unset it"
        raise HubError(f"{short(endpoint)} is no address ({error})", where="HF_ENDPOINT", hint=hint) from error
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        try:
            int(variables.get(name, "10"))
        except ValueError as error:
            what = f"{short(variables[name])} is no whole number of seconds"
            raise HubError(what, where=name, hint="give one such as 10, or unset it") from error


T = TypeVar("T")

TIMEOUT_VARIABLE = "PYTHIA_QUANT_HUB_TIMEOUT"
"""Names the environment variable with the longest silence of a hub, in seconds; 60 unless given."""

WAITS = (1.0, 2.0, 4.0, 8.0, 8.0)
"""Seconds before each repetition of a call, as huggingface_hub waits where it repeats itself."""

_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})

_ON_THE_WAY = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)

FAILURES = (hub_errors.HfHubHTTPError, hub_errors.OfflineModeIsEnabled, httpx2.HTTPError, OSError)
"""What huggingface_hub raises when a call fails."""


class NoRepositoryError(HubError):
    """There is no such repository, or the token does not let us see it."""


class NoRevisionError(HubError):
    """The repository has no such branch, tag or commit."""


class UnreachableError(hub_errors.OfflineModeIsEnabled):
    """Nothing of a hub can be found from here; of a kind that huggingface_hub does not repeat, looking in its cache."""


class _Client(httpx2.Client):
    """Gives up at once where a first call finds no such name, nobody listening, or no answer: that does not soon pass.

    Nor does any call wait longer than :func:`timeout` says, whatever the library asks for.
    """

    heard = False

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        limits = {
            kind: min(asked or math.inf, timeout()) for kind, asked in request.extensions.get("timeout", {}).items()
        }
        request.extensions = {**request.extensions, "timeout": limits}
        try:
            answer = super().send(request, **options)
        except (httpx2.ConnectError, httpx2.TimeoutException) as error:
            nobody = isinstance(_origin(error), socket.gaierror | ConnectionRefusedError)
            if _Client.heard or not (nobody or isinstance(error, httpx2.TimeoutException)):
                raise
            raise UnreachableError(f"{request.url.host}: {error}") from error
        _Client.heard = True
        return answer


def _origin(error: BaseException) -> BaseException:
    """Return what an error began with: httpcore2 names no cause, but raises while it handles it."""
    while earlier := error.__cause__ or error.__context__:
        error = earlier
    return error


@cache
def prepare() -> None:
    """Set huggingface_hub up for this process, once.

    By itself it sets no time limit on most calls, and shows presigned addresses in its warnings. Xet, its default
    transport, has no fallback and is not what our tests run: it is used only where HF_HUB_DISABLE_XET=0 asks for it.

    Raises:
        HubError: the environment asks for a proxy, a certificate or a time limit that cannot be.
    """
    # The hooks are the library's own: without them HF_HUB_OFFLINE would be ignored.
    hooks, limits = _first_session().event_hooks, httpx2.Timeout(timeout(), connect=min(10.0, timeout()))
    hooks = hooks | {"response": [*hooks.get("response", []), check_answer]}
    huggingface_hub.set_client_factory(lambda: _Client(event_hooks=hooks, follow_redirects=True, timeout=limits))
    if os.environ.get("HF_HUB_DISABLE_XET", "1").strip().upper() not in ("0", "FALSE", "NO", "OFF"):
        constants.HF_HUB_DISABLE_XET = True
    disable_progress_bars()  # progress is ours
    if not logging.root.isEnabledFor(logging.DEBUG):
        # They would tell of every repetition, two lines each.
        for part in ("file_download", "utils._http"):
            logging.getLogger(f"huggingface_hub.{part}").setLevel(logging.CRITICAL)
    redacting = Redacting()
    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(redacting)
    # A filter of a logger does not hold for those below it.
    for name in [*logging.root.manager.loggerDict, "httpx2"]:
        if name.partition(".")[0] in ("huggingface_hub", "httpx2", "httpcore2"):
            logging.getLogger(name).addFilter(redacting)


def _first_session() -> httpx2.Client:
    try:
        return huggingface_hub.get_session()
    except (ImportError, ValueError, OSError) as error:
        raise HubError(
            f"no connection can be made as the environment asks ({redacted(str(error))[:200]})",
            where=constants.ENDPOINT,
            hint="see ALL_PROXY, HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE and SSL_CERT_DIR",
        ) from error


def api() -> HfApi:
    """Return huggingface_hub's interface. Endpoint, token and cache are those of its environment variables."""
    prepare()
    name, _, version = machine.tool_version().partition(" ")
    return HfApi(library_name=name, library_version=version)


def timeout() -> float:
    """Return how long a hub may be silent, in seconds.

    Raises:
        HubError: the environment variable is no number of seconds.
    """
    given = os.environ.get(TIMEOUT_VARIABLE, "60")
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 86_400:
        raise HubError(f"{given!r} is no number of seconds", where=TIMEOUT_VARIABLE, hint="give one such as 60")
    return seconds


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of what a call raised, or of what led to it; None when there was no answer."""
    answers = (cause for cause in _chain(error) if isinstance(cause, hub_errors.HfHubHTTPError))
    return next((int(answer.response.status_code) for answer in answers), None)


def passing(error: BaseException) -> bool:
    """Say whether a failed call may do better later: no answer came, or the hub was busy."""
    status = status_of(error)
    if status is None:
        if any(isinstance(cause, UnreachableError) for cause in _chain(error)):
            return False
        return any(isinstance(cause, _ON_THE_WAY) for cause in _chain(error))
    return status in _TRANSIENT


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def ask(
    call: Callable[[], T],
    where: str,
    *,
    busy: Collection[int] = (),
    unheard: Callable[[BaseException], T | None] = lambda _: None,
) -> T:
    """Make a call that does no harm when repeated, and repeat it while the hub is busy or cannot be heard.

    Args:
        call: what is asked.
        where: the repository, and what is asked of it.
        busy: further statuses after which the call is repeated.
        unheard: is given each failure, and returns what the call did although its answer was lost; None for nothing.

    Raises:
        HubError: what went wrong, in words for the user: see :func:`explained`. The call's own stays as it is.
    """
    failure: BaseException | None = None
    for wait in (*WAITS, None):
        try:
            return call()
        except PythiaQuantError:
            raise
        except Exception as error:  # the client stumbles over answers that are not what it takes them for
            failure = error
        result = unheard(failure)
        if result is not None:
            return result
        if wait is None or not (passing(failure) or status_of(failure) in busy):
            break
        time.sleep(retry_after(failure) or wait)
    assert failure is not None  # noqa: S101 - the loop ends only after a failure
    raise explained(failure, where)


def retry_after(error: BaseException) -> float | None:
    """Return the seconds that the hub asked to wait, at most ten minutes; None when it named none."""
    response = getattr(error, "response", None)
    value = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(value), 600.0) if re.fullmatch("[0-9]{1,9}", value) else None


def explained(error: BaseException, where: str) -> HubError:
    """Return the error for the user. It keeps nothing of `error`, in which addresses may be presigned.

    Args:
        error: what a call raised.
        where: the repository, and what was asked of it.

    Returns:
        A :class:`NoRepositoryError` or :class:`NoRevisionError` where the hub says so.
    """
    kind, what, hint = _words(error)
    return kind(what, where=where, hint=hint)


def _words(error: BaseException) -> tuple[type[HubError], str, str]:
    causes = list(_chain(error))
    if any(isinstance(cause, UnreachableError) for cause in causes):
        host = httpx2.URL(constants.ENDPOINT).host
        return HubError, f"the hub cannot be reached: there is no {host}, or it does not answer", _CONNECTION
    for kind, words in _CAUSES.items():
        if isinstance(error, kind):
            return words
    status = status_of(error)
    if status is None:
        if not isinstance(error, (*FAILURES, RuntimeError)) or isinstance(error, RecursionError):
            what = f"the hub answered something that cannot be understood ({type(error).__name__})"
            return HubError, what, "check HF_ENDPOINT; pythia-quant --debug … shows the calls"
        return HubError, *_words_without_answer(error, causes)
    what, hint = _STATUS.get(status, (f"the hub refused ({status})", "pythia-quant --debug … shows the calls"))
    if status >= 500:
        what, hint = f"the hub has an error of its own ({status})", "run again later"
    said = next((text for cause in causes if (text := getattr(cause, "server_message", None))), "")
    if "<" in said:  # a storage service's XML, in which signatures may be repeated
        said = ""
    said = " ".join(redacted(said).split())[:200]
    return HubError, f"{what}: {said}" if said else what, hint


def _words_without_answer(error: BaseException, causes: list[BaseException]) -> tuple[str, str]:
    if not any(isinstance(cause, httpx2.HTTPError) for cause in causes):
        for cause in causes:
            if isinstance(cause, Exception) and (refused := refusal(cause, constants.HF_HUB_CACHE)):
                return f"{refused.where}: {refused.what}", refused.hint
    if any(isinstance(cause, httpx2.TimeoutException) for cause in causes):
        return f"the hub was silent for {timeout():g} s", f"run again; {TIMEOUT_VARIABLE} allows more"
    if not constants.HF_HUB_DISABLE_XET and not passing(error):
        what = f"Xet, which HF_HUB_DISABLE_XET=0 asks for, failed ({type(error).__name__})"
        return what, "leave that variable out: plain uploads are the way we tested"
    what = f"the hub cannot be reached ({type(error).__name__})"
    return what, _CONNECTION


_CONNECTION = "check the connection and HF_ENDPOINT"

_CAUSES: dict[type[Exception], tuple[type[HubError], str, str]] = {
    hub_errors.OfflineModeIsEnabled: (
        HubError, "the hub is needed and HF_HUB_OFFLINE is set", "unset it and run again",
    ),
    hub_errors.LocalTokenNotFoundError: (
        HubError, "the hub needs a token", "log in with: hf auth login, or set HF_TOKEN",
    ),
    hub_errors.GatedRepoError: (  # a kind of RepositoryNotFoundError
        HubError, "access to this repository is restricted", "ask for access on its page, then: hf auth login",
    ),
    hub_errors.RevisionNotFoundError: (
        NoRevisionError, "the repository has no such revision", "its page lists the branches",
    ),
    hub_errors.RepositoryNotFoundError: (
        NoRepositoryError, "the hub has no such repository, or it is private",
        "check the name; if it is yours: hf auth login",
    ),
}  # fmt: skip

_STATUS = {
    401: ("the hub does not accept the token (401)", "log in with: hf auth login, or set HF_TOKEN"),
    403: ("the token does not permit this (403)", "it needs write access to the repository's namespace"),
    429: ("the hub has had too many requests (429)", "wait some minutes and run again"),
}


def is_name(repo_id: str) -> bool:
    """Say whether this can be the name of a repository with its owner."""
    try:
        validate_repo_id(repo_id)
    except hub_errors.HFValidationError:
        return False
    return "/" in repo_id


def check_name(repo_id: str, where: str) -> None:
    """Refuse what cannot be the name of a repository with its owner.

    Raises:
        HubError: with an example of one.
    """
    if not is_name(repo_id):
        raise HubError(f"{repo_id!r} is no name of a repository", where=where, hint="give one such as me/pythia-160m")
