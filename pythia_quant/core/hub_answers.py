"""Check a hub's answers as they arrive, before huggingface_hub sees them.

huggingface_hub builds paths from some headers and checks neither these headers nor most JSON. An ETag names a file in
its cache, a commit names a folder: with ``"../../../home/me/.bashrc"`` it would write or remove that file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx2

from pythia_quant.core.errors import HubError
from pythia_quant.core.foreign_files import COMMIT

MOST_JSON = 50_000_000
"""Uncompressed bytes of an answer that is not a file. The listing of a large repository is ten times smaller."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
# With quotes, because the client strips a W and slashes from the beginning of a tag without quotes.
_TAG = re.compile(r'(?:W/)?"[A-Za-z0-9][A-Za-z0-9._+=-]{0,127}"|[0-9a-f]{1,128}')
_NUMBER = re.compile(r"[0-9]{1,15}")
_DISTRUST = "nothing was written; HF_ENDPOINT or a proxy leads to something that is not to be trusted"
_HEADERS = {
    "X-Repo-Commit": COMMIT,
    "X-Linked-Size": _NUMBER,
    "X-Xet-Hash": _SHA256,
    "Content-Length": _NUMBER,
    "Content-Range": re.compile(r"bytes (?:[0-9]{1,15}-[0-9]{1,15}|\*)/[0-9]{1,15}"),
    "Location": re.compile(r"(?:https?://|(?![A-Za-z][A-Za-z0-9+.-]*:))[\x21-\x7e]*"),
}


def check_answer(response: httpx2.Response) -> None:
    """Refuse an answer with a header that the client could misuse, and stop reading an answer that never ends.

    Raises:
        HubError: a header is malformed, and the message names it; or, while the answer is read, it has more than
            :data:`MOST_JSON` bytes.
    """
    for name, pattern in _HEADERS.items():
        value = response.headers.get(name)
        if value is not None and not pattern.fullmatch(value):
            raise _refused(response, name, value)
    _check_tag(response)
    is_file = response.request.method == "GET" and response.is_success and "/api/" not in response.request.url.path
    if not is_file:  # the code that downloads a file checks the file's size
        _bound(response)


def _bound(response: httpx2.Response) -> None:
    """Limit the size of an answer: the client decompresses all of it and holds it in memory."""
    unbounded = response.iter_bytes

    def iter_bytes(chunk_size: int | None = None) -> Iterator[bytes]:
        size = 0
        for chunk in unbounded(chunk_size):
            size += len(chunk)
            if size > MOST_JSON:
                raise HubError(
                    f"the hub's answer has more than {MOST_JSON / 1e6:.0f} MB", where=_place(response), hint=_DISTRUST
                )
            yield chunk

    response.iter_bytes = iter_bytes  # type: ignore[method-assign]


def _check_tag(response: httpx2.Response) -> None:
    """Check the ETag that the client names a file after: that of a HEAD request, X-Linked-ETag before ETag."""
    if response.request.method != "HEAD" or response.status_code >= 400:
        return
    linked = response.headers.get("X-Linked-ETag")
    tag = linked or response.headers.get("ETag")
    if tag is None or _TAG.fullmatch(tag):
        return
    if response.is_redirect and not linked:
        del response.headers["ETag"]  # it tags the redirection itself, and web servers may write anything there
        return
    raise _refused(response, "X-Linked-ETag" if linked else "ETag", tag)


def _refused(response: httpx2.Response, header: str, value: str) -> HubError:
    shown = ascii(value if len(value) <= 80 else f"{value[:77]}...")
    return HubError(
        f"the hub's answer says {header}: {shown}, which no hub says of a file",
        where=_place(response),
        hint=_DISTRUST,
    )


def _place(response: httpx2.Response) -> str:
    return f"{response.request.url.host}{ascii(response.request.url.path)[1:-1]}"


def commit_id(value: object) -> str:
    """Return `value` if it is a commit's id, 40 hex digits.

    Raises:
        ValueError: it is not.
    """
    return _matching(value, COMMIT, "commit")


def git_id(value: object) -> str:
    """Return `value` if it is git's hash of a file, 40 hex digits; raises like :func:`commit_id`."""
    return _matching(value, COMMIT, "hash")


def sha256_digest(value: object) -> str:
    """Return `value` if it is a SHA-256, 64 hex digits; raises like :func:`commit_id`."""
    return _matching(value, _SHA256, "SHA-256")


def byte_count(value: object) -> int:
    """Return `value` if it is a size in bytes; raises like :func:`commit_id`."""
    if type(value) is not int or not 0 <= value < 10**15:
        raise ValueError(f"{value!r:.80} is no size")
    return value


def text(value: object) -> str:
    """Return `value` if it is a name, which is any text but an empty one; raises like :func:`commit_id`."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r:.80} is no name")
    value.encode()  # raises UnicodeError, which is a ValueError, for half a surrogate pair
    return value


def _matching(value: object, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r:.80} is no {what}")
    return value
