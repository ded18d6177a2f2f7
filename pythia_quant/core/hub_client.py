"""huggingface_hub with time limits; calls are repeated while the hub is busy, and fail with one clear error."""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import time
from collections.abc import Callable, Collection, Iterator
from functools import cache
from typing import Any, TypeVar

import httpx2
import huggingface_hub
from huggingface_hub import HfApi, constants
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import disable_progress_bars, validate_repo_id  # type: ignore[attr-defined]

from pythia_quant.core import machine
from pythia_quant.core.errors import HubError, PythiaQuantError, refusal
from pythia_quant.core.hub_answers import check_answer
from pythia_quant.core.text import Redacting, redacted

T = TypeVar("T")

TIMEOUT_VARIABLE = "PYTHIA_QUANT_HUB_TIMEOUT"
"""The name of the environment variable that sets how long a hub may be silent, in seconds; 60 by default."""

WAITS = (1.0, 2.0, 4.0, 8.0, 8.0)
"""The seconds before each repetition of a call, which are those of huggingface_hub's own repetitions."""

_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})

_ON_THE_WAY = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)

FAILURES = (hub_errors.HfHubHTTPError, hub_errors.OfflineModeIsEnabled, httpx2.HTTPError, OSError)
"""The exceptions that huggingface_hub raises when a call fails."""


class NoRepositoryError(HubError):
    """There is no such repository, or the token does not let us see it."""


class NoRevisionError(HubError):
    """The repository has no such branch, tag or commit."""


class NoAnswerError(HubError):
    """The hub cannot be asked: it cannot be reached, is silent, or must not be asked."""


class UnreachableError(hub_errors.OfflineModeIsEnabled):
    """The hub cannot be reached at all.

    huggingface_hub does not repeat a call after an error of this class, but looks in its cache.
    """


class _Client(httpx2.Client):
    """Gives up at once if the first call of a process does not reach the hub: a repetition would not help soon.

    No call waits longer than :func:`timeout` says, whatever limits huggingface_hub sets.
    """

    was_answered = False

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        limits = {
            kind: min(limit or math.inf, timeout()) for kind, limit in request.extensions.get("timeout", {}).items()
        }
        request.extensions = {**request.extensions, "timeout": limits}
        try:
            answer = super().send(request, **options)
        except (httpx2.ConnectError, httpx2.TimeoutException) as error:
            no_host = isinstance(_origin(error), socket.gaierror | ConnectionRefusedError)
            if _Client.was_answered or not (no_host or isinstance(error, httpx2.TimeoutException)):
                raise
            raise UnreachableError(f"{request.url.host}: {error}") from error
        _Client.was_answered = True
        return answer


def _origin(error: BaseException) -> BaseException:
    """Return the first error of a chain: httpcore2 does not name causes, but raises while it handles another error."""
    while earlier := error.__cause__ or error.__context__:
        error = earlier
    return error


@cache
def prepare() -> None:
    """Set huggingface_hub up for this process, once.

    By default it sets no time limit on most calls, and shows presigned addresses in its warnings. Xet, its default
    transport, has no fallback, and our tests do not run it: it is used only if HF_HUB_DISABLE_XET=0 is set.

    Raises:
        HubError: the environment sets a proxy, a certificate or a time limit that cannot be used.
    """
    # The hooks are the library's own: without them HF_HUB_OFFLINE would be ignored.
    hooks, limits = _first_session().event_hooks, httpx2.Timeout(timeout(), connect=min(10.0, timeout()))
    hooks = hooks | {"response": [*hooks.get("response", []), check_answer]}
    huggingface_hub.set_client_factory(lambda: _Client(event_hooks=hooks, follow_redirects=True, timeout=limits))
    if os.environ.get("HF_HUB_DISABLE_XET", "1").strip().upper() not in ("0", "FALSE", "NO", "OFF"):
        constants.HF_HUB_DISABLE_XET = True
    disable_progress_bars()  # progress is ours
    if not logging.root.isEnabledFor(logging.DEBUG):
        # These two would log two lines for every repetition.
        for part in ("file_download", "utils._http"):
            logging.getLogger(f"huggingface_hub.{part}").setLevel(logging.CRITICAL)
    redacting = Redacting()
    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(redacting)
    # A filter of a logger does not apply to the loggers below it.
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
    """Return huggingface_hub's interface; its environment variables set the endpoint, token and cache."""
    prepare()
    name, _, version = machine.tool_version().partition(" ")
    return HfApi(library_name=name, library_version=version)


def timeout() -> float:
    """Return how long a hub may be silent, in seconds.

    Raises:
        HubError: the environment variable does not hold a number of seconds.
    """
    value = os.environ.get(TIMEOUT_VARIABLE, "60")
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 86_400:
        raise HubError(f"{value!r} is no number of seconds", where=TIMEOUT_VARIABLE, hint="give one such as 60")
    return seconds


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of a call's error or of one of its causes; None if the hub did not answer."""
    answers = (cause for cause in _chain(error) if isinstance(cause, hub_errors.HfHubHTTPError))
    return next((int(answer.response.status_code) for answer in answers), None)


def passing(error: BaseException) -> bool:
    """Say whether a failed call may succeed later, because the connection broke or the hub was busy."""
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
    """Make a call, and repeat it while the hub is busy or the connection breaks. A repetition must do no harm.

    Args:
        call: the call.
        where: the repository and the subject of the call, for messages.
        busy: further HTTP statuses after which the call is repeated.
        unheard: receives each error, and returns the call's result if the call succeeded and only its answer was lost;
            otherwise None.

    Raises:
        HubError: the call failed; see :func:`explained`. An error of ours that the call raises is not changed.
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
    """Return the seconds that the hub's answer says to wait, at most ten minutes; None if it says nothing."""
    response = getattr(error, "response", None)
    value = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(value), 600.0) if re.fullmatch("[0-9]{1,9}", value) else None


def explained(error: BaseException, where: str) -> HubError:
    """Return the error for the user. It does not contain `error`, which may hold presigned addresses.

    Args:
        error: the error that a call raised.
        where: the repository and the subject of the call, for the message.

    Returns:
        A :class:`NoRepositoryError` or :class:`NoRevisionError` if the hub gives that reason, and a
        :class:`NoAnswerError` if the hub did not answer.
    """
    kind, what, hint = _words(error)
    return kind(what, where=where, hint=hint)


def _words(error: BaseException) -> tuple[type[HubError], str, str]:
    causes = list(_chain(error))
    if any(isinstance(cause, UnreachableError) for cause in causes):
        host = httpx2.URL(constants.ENDPOINT).host
        return NoAnswerError, f"the hub cannot be reached: there is no {host}, or it does not answer", _CONNECTION
    for kind, words in _CAUSES.items():
        if isinstance(error, kind):
            return words
    status = status_of(error)
    if status is None:
        if not isinstance(error, (*FAILURES, RuntimeError)) or isinstance(error, RecursionError):
            what = f"the hub answered something that cannot be understood ({type(error).__name__})"
            return HubError, what, "check HF_ENDPOINT; pythia-quant --debug … shows the calls"
        return _words_without_answer(error, causes)
    what, hint = _STATUS.get(status, (f"the hub refused ({status})", "pythia-quant --debug … shows the calls"))
    if status >= 500:
        what, hint = f"the hub has an error of its own ({status})", "run again later"
    answer = next((text for cause in causes if (text := getattr(cause, "server_message", None))), "")
    if "<" in answer:  # XML of a storage service, which may repeat signatures
        answer = ""
    answer = " ".join(redacted(answer).split())[:200]
    return HubError, f"{what}: {answer}" if answer else what, hint


def _words_without_answer(error: BaseException, causes: list[BaseException]) -> tuple[type[HubError], str, str]:
    if not any(isinstance(cause, httpx2.HTTPError) for cause in causes):
        for cause in causes:
            if isinstance(cause, Exception) and (system_error := refusal(cause, constants.HF_HUB_CACHE)):
                return HubError, f"{system_error.where}: {system_error.what}", system_error.hint
    if any(isinstance(cause, httpx2.TimeoutException) for cause in causes):
        return NoAnswerError, f"the hub was silent for {timeout():g} s", f"run again; {TIMEOUT_VARIABLE} allows more"
    if not constants.HF_HUB_DISABLE_XET and not passing(error):
        what = f"Xet, which HF_HUB_DISABLE_XET=0 asks for, failed ({type(error).__name__})"
        return HubError, what, "leave that variable out: plain uploads are the way we tested"
    what = f"the hub cannot be reached ({type(error).__name__})"
    return NoAnswerError, what, _CONNECTION


_CONNECTION = "check the connection and HF_ENDPOINT"

_CAUSES: dict[type[Exception], tuple[type[HubError], str, str]] = {
    hub_errors.OfflineModeIsEnabled: (
        NoAnswerError, "the hub is needed and HF_HUB_OFFLINE is set", "unset it and run again",
    ),
    hub_errors.LocalTokenNotFoundError: (
        HubError, "the hub needs a token", "log in with: hf auth login, or set HF_TOKEN",
    ),
    hub_errors.GatedRepoError: (  # a kind of RepositoryNotFoundError
        HubError, "access to this repository is restricted",
        "ask for access on its page, then: hf auth login, or set HF_TOKEN",
    ),
    hub_errors.RevisionNotFoundError: (
        NoRevisionError, "the repository has no such revision", "its page lists the branches",
    ),
    hub_errors.RepositoryNotFoundError: (
        NoRepositoryError, "the hub has no such repository, or it is private",
        "check the name; if it is yours: hf auth login, or set HF_TOKEN",
    ),
}  # fmt: skip

_STATUS = {
    401: ("the hub does not accept the token (401)", "log in with: hf auth login, or set HF_TOKEN"),
    403: ("the token does not permit this (403)", "it needs write access to the repository's namespace"),
    429: ("the hub has had too many requests (429)", "wait some minutes and run again"),
}


def is_name(repo_id: str) -> bool:
    """Say whether a text can be the name of a repository, with its owner."""
    try:
        validate_repo_id(repo_id)
    except hub_errors.HFValidationError:
        return False
    return "/" in repo_id


def check_name(repo_id: str, where: str) -> None:
    """Refuse a text that cannot be the name of a repository, with its owner.

    Raises:
        HubError: the text is no such name; the message has an example of one.
    """
    if not is_name(repo_id):
        raise HubError(f"{repo_id!r} is no name of a repository", where=where, hint="give one such as me/pythia-160m")
