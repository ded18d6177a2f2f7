"""What a hub's answers may say. huggingface_hub makes paths of some headers, and checks neither them nor most JSON.

An ETag becomes the name of a file in its cache, and the commit that of a folder: ``"../../../home/me/.bashrc"`` would
be written, or removed, there. So answers are checked as they arrive, before the client has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx2

from pythia_quant.errors import HubError
from pythia_quant.inside import COMMIT

MOST_JSON = 50_000_000
"""Bytes, unpacked, of an answer that is not a file: the listing of a large repository has a tenth of that."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
# In quotes, because the client strips a W and slashes from the beginning of what has none.
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
    """Refuse an answer whose headers the client would make something else of than they are for, or that never ends.

    Raises:
        HubError: naming the header; for what has no end, when so much of it has been read.
    """
    for name, pattern in _HEADERS.items():
        value = response.headers.get(name)
        if value is not None and not pattern.fullmatch(value):
            raise _refused(response, name, value)
    _check_tag(response)
    is_file = response.request.method == "GET" and response.is_success and "/api/" not in response.request.url.path
    if not is_file:  # whose size whoever downloads it checks
        _bound(response)


def _bound(response: httpx2.Response) -> None:
    """Have no more of an answer read than is sensible: the client keeps it whole, and unpacks it first."""
    unbounded = response.iter_bytes

    def iter_bytes(chunk_size: int | None = None) -> Iterator[bytes]:
        come = 0
        for chunk in unbounded(chunk_size):
            come += len(chunk)
            if come > MOST_JSON:
                raise HubError(
                    f"the hub's answer has more than {MOST_JSON / 1e6:.0f} MB", where=_place(response), hint=_DISTRUST
                )
            yield chunk

    response.iter_bytes = iter_bytes  # type: ignore[method-assign]


def _check_tag(response: httpx2.Response) -> None:
    """Check the ETag that the client would name a file after; only that of a HEAD request is, the linked one first."""
    if response.request.method != "HEAD" or response.status_code >= 400:
        return
    linked = response.headers.get("X-Linked-ETag")
    tag = linked or response.headers.get("ETag")
    if tag is None or _TAG.fullmatch(tag):
        return
    if response.is_redirect and not linked:
        del response.headers["ETag"]  # it is that of the redirection itself, which web servers call as they like
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
    """Return a commit's id, 40 hex digits.

    Raises:
        ValueError: it is none.
    """
    return _matching(value, COMMIT, "commit")


def git_id(value: object) -> str:
    """Return the hash that git gives a file, 40 hex digits; raises like :func:`commit_id`."""
    return _matching(value, COMMIT, "hash")


def sha256_digest(value: object) -> str:
    """Return a SHA-256, 64 hex digits; raises like :func:`commit_id`."""
    return _matching(value, _SHA256, "SHA-256")


def byte_count(value: object) -> int:
    """Return a size in bytes; raises like :func:`commit_id`."""
    if type(value) is not int or not 0 <= value < 10**15:
        raise ValueError(f"{value!r:.80} is no size")
    return value


def text(value: object) -> str:
    """Return a name, which is some text; raises like :func:`commit_id`."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r:.80} is no name")
    value.encode()  # half a surrogate pair is a UnicodeError, which is a ValueError
    return value


def _matching(value: object, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{value!r:.80} is no {what}")
    return value
