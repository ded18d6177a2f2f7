"""Who may ask: keys, loopback names, and key files that are refused without showing what they hold."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from openai import AuthenticationError, OpenAI
from serving import running

from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.serve.guard import is_loopback, read_keys

KEYS = ["first-key-0123456789", "second-key-0123456789"]


def test_a_key_is_asked_for_and_never_logged(converted: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with running(converted / "out/tiny/local/onnx-fp32", KEYS) as server:
        assert server.ask("/health").status == 200
        for path in ("/v1/models", "/metrics", "/v1/nothing"):
            refused = server.ask(path)
            assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        for wrong in ("Bearer", "Bearer x", f"Bearer {KEYS[0]}x", f"Basic {KEYS[0]}", KEYS[0]):
            assert server.ask("/v1/models", headers={"Authorization": wrong}).status == 401
        with pytest.raises(AuthenticationError, match="send a key"):
            OpenAI(base_url=server.url, api_key="wrong", max_retries=0).models.list()
        for key in KEYS:
            assert OpenAI(base_url=server.url, api_key=key, max_retries=0).models.list().data[0].id == "tiny"
    ours = [record for record in caplog.records if not record.name.startswith(("openai", "httpx", "httpcore"))]
    assert not any(key in record.getMessage() for record in ours for key in KEYS)


def test_a_page_with_a_name_of_its_own_is_refused_where_no_key_is_asked_for(converted: Path) -> None:
    with running(converted / "out/tiny/local/onnx-fp32") as server:
        for host in ("localhost", "localhost:1", "127.0.0.1:80", "[::1]:80", "[::1]"):
            assert server.ask("/v1/models", headers={"Host": host}).status == 200
        for host in ("evil.example", "evil.example:8000", "192.168.0.1", ""):
            assert server.ask("/v1/models", headers={"Host": host}).status == 403


LOOPBACK = ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "LOCALHOST")
OTHERS = ("0.0.0.0", "::", "192.168.0.1", "example.org", "localhost.example.org", "")


def test_only_loopback_is_loopback() -> None:
    assert all(map(is_loopback, LOOPBACK))
    assert not any(map(is_loopback, OTHERS))


def test_a_key_file_has_a_key_a_line(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{KEYS[0]}\n\n  {KEYS[1]}  \n")
    assert read_keys(path) == KEYS
    for content, message in [
        (b"", "holds no key"),
        (b"# nothing\n", "holds no key"),
        (b"short\n", "line 1: a key has at least 16"),
        (b"\n" + b"with a blank in it 0123\n", "line 2"),
        ("schlüssel-0123456789\n".encode(), "line 1"),
        (b"a" * 200_000, "more than 100,000 bytes"),
    ]:
        path.write_bytes(content)
        with pytest.raises(PythiaQuantError, match=message) as refused:
            read_keys(path)
        assert "0123" not in str(refused.value)
    with pytest.raises(PythiaQuantError, match="no such file"):
        read_keys(tmp_path / "nothing")
