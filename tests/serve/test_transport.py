"""Bad requests, clients that go away or do not read, too many of them: each has its answer, and the server lives."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Running, running

from pythia_quant.serve import connection as connection_module
from pythia_quant.serve import server as server_module


@pytest.fixture(scope="module")
def folder(converted: Path) -> Path:
    return converted / "out/tiny/local/gptq-int4"  # the slowest here: requests do not end before they are cut


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    with running(folder, queue=4) as server:
        yield server


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "not JSON in UTF-8"),
        (b'{"prompt":"\xff"}', 400, "not JSON in UTF-8"),
        (b'{"prompt":"\\ud800"}', 400, "not JSON in UTF-8"),
        (b"[" * 200_000, 400, "recursion limit"),
        (b"", 400, "not JSON"),
        (b"[]", 400, "the body"),
        ({}, 400, "prompt: field required"),
        ({"prompt": 5}, 400, "prompt: is of a wrong type"),
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": [[]]}, 400, "prompt"),
        ({"prompt": [1, "a"]}, 400, "prompt"),
        ({"prompt": [True]}, 400, "prompt"),
        ({"prompt": [300]}, 400, "300 is no token of this model, which has 272"),
        ({"prompt": [-1]}, 400, "-1 is no token"),
        ({"prompt": [10**30]}, 400, "prompt"),
        ({"prompt": "a", "max_tokens": "5"}, 400, "max_tokens: input should be a valid integer"),
        ({"prompt": "a", "max_tokens": 0}, 400, "needs echo"),
        ({"prompt": "a", "temperature": -1}, 400, "temperature"),
        (b'{"prompt":"a","temperature":NaN}', 400, "temperature"),
        ({"prompt": "a", "top_p": 0}, 400, "top_p"),
        ({"prompt": "a", "n": 257}, 400, "n: "),
        ({"prompt": ["a"] * 200, "n": 2}, 400, "at most 256 texts"),
        ({"prompt": [[300]] * 257}, 400, "at most 256 texts"),  # counted before it is tokenized
        ({"prompt": "a", "stop": ["b"] * 17}, 400, "stop"),
        ({"prompt": "a", "tempreature": 1}, 400, "tempreature is not a parameter"),
        ({"prompt": "a", "presence_penalty": 0.5}, 400, "presence_penalty"),
        ({"prompt": "a", "best_of": 3}, 400, "best_of"),
        ({"prompt": "a" * 32, "max_tokens": 1}, 400, "context is 32 tokens; 32 of the prompt and 1 new ones"),
        ({"prompt": "a" * 900_000}, 400, "context is 32 tokens"),
        ({"prompt": "a", "model": "b"}, 404, "no model 'b' here"),
        (b"a" * 10_000_000, 413, "more than 1,000,000 bytes"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_requests_have_one_clear_error(server: Running, body: Any, status: int, message: str) -> None:
    answer = server.ask("/v1/completions", body)
    assert answer.status == status
    error = answer.data["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert message in error["message"]
    assert len(error["message"]) < 300
    assert server.ask("/health").data == {"status": "ok"}


def test_other_paths_methods_and_kinds_are_refused(server: Running) -> None:
    assert server.ask("/v1/nothing").status == 404
    assert server.ask("/v1/models", b"{}").status == 405
    assert server.ask("/v1/completions", b'{"prompt":"a"}', {"Content-Type": "text/plain"}).status == 415
    assert server.ask("/docs").status == 404, "pages that load scripts from elsewhere"
    for path, status in (("/health", 200), ("/v1/models", 200), ("/metrics", 200), ("/v1/completions", 405)):
        answer = server.ask(path, method="HEAD")
        assert (answer.status, answer.body) == (status, b"")


def test_what_is_no_http_is_refused_in_json(server: Running) -> None:
    for said in (b"\x16\x03\x01 no HTTP\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"A" * 100_000):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(said)
            head, _, body = _read(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert json.loads(body)["error"]["code"] == "invalid_http"


@pytest.mark.parametrize(
    ("said", "later", "answers"),
    [
        (b"", b"", []),
        (b"GET /health HTTP/1.1\r\nHost: local", b"", [408]),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"G", [200, 408]),
        (b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n", b"{", [405]),
    ],
    ids=["silent", "half a head", "half a second one", "no body"],
)
def test_a_connection_without_a_whole_request_ends(
    server: Running, monkeypatch: pytest.MonkeyPatch, said: bytes, later: bytes, answers: list[int]
) -> None:
    monkeypatch.setattr(connection_module, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(connection_module, "WATCH_SECONDS", 0.05)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(said)
        if later:
            time.sleep(0.1)
            connection.sendall(later)  # ends uvicorn's own limit, which begins after an answer
        got = _read(connection)
    assert [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", got)] == answers


def test_a_connection_whose_answers_are_not_read_ends(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "SEND_SECONDS", 0.2)
    monkeypatch.setattr(connection_module, "WATCH_SECONDS", 0.05)
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # connections have it, too
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", server.port))
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100_000)
    assert server.ask("/health").status == 200


def connected(server: Running, body: dict[str, Any]) -> socket.socket:
    """Send a request, and read nothing."""
    content = json.dumps(body).encode()
    head = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    connection.sendall(b"POST /v1/completions HTTP/1.1\r\n" + head.encode() + content)
    return connection


LONG = {"prompt": ["a"] * 8, "n": 32, "max_tokens": 31, "ignore_eos": True}


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_stops_its_work(server: Running, stream: bool) -> None:
    cancelled = server.metric("requests_cancelled_total")
    before = server.metric("generated_tokens_total")
    running, waiting = connected(server, LONG | {"stream": stream}), connected(server, LONG | {"stream": stream})
    wait_until(lambda: server.metric("requests_waiting") == 1)
    waiting.close()
    running.close()
    wait_until(lambda: server.metric("requests_cancelled_total") == cancelled + 2)
    wait_until(lambda: server.metric("requests_running") == 0)
    assert server.metric("generated_tokens_total") - before < 8 * 32 * 31
    assert server.complete("abc", max_tokens=2).status == 200


def test_more_requests_than_may_wait_are_told_to_come_again(server: Running) -> None:
    first = connected(server, LONG)
    wait_until(lambda: server.metric("requests_running") == 1)
    others = [connected(server, LONG) for _ in range(4)]
    wait_until(lambda: server.metric("requests_waiting") == 4)
    refused = server.complete("abc", max_tokens=2)
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert refused.data["error"]["type"] == "rate_limit_error"
    for connection in (*others, first):
        connection.close()
    wait_until(lambda: server.metric("requests_running") == server.metric("requests_waiting") == 0)
    assert server.complete("abc", max_tokens=2).status == 200


def test_connections_that_say_nothing_and_readers_that_do_not_read_hold_nobody_up(server: Running) -> None:
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(200)]
    deaf = [connected(server, {"prompt": "abc", "max_tokens": 20, "stream": True}) for _ in range(4)]
    wait_until(lambda: server.metric("requests_running") == server.metric("requests_waiting") == 0)
    assert server.complete("abc", max_tokens=2).status == 200
    assert all(b"data: [DONE]" in _read(connection) for connection in deaf)
    for connection in (*silent, *deaf):
        connection.close()


def _read(connection: socket.socket) -> bytes:
    content = b""
    while b"[DONE]" not in content and (part := connection.recv(65536)):
        content += part
    return content


def test_what_runs_may_end_and_what_takes_longer_is_cut(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "GRACE_SECONDS", 0.3)
    answers = {}
    with running(folder) as server:

        def ask(name: str, prompt: Any, **settings: Any) -> None:
            answers[name] = server.complete(prompt, ignore_eos=True, **settings)

        threads = [
            threading.Thread(target=ask, args=("short", "a"), kwargs={"max_tokens": 5}),
            threading.Thread(target=ask, args=("cut", ["a"] * 256), kwargs={"max_tokens": 31, "stream": True}),
            threading.Thread(target=ask, args=("whole", ["a"] * 256), kwargs={"max_tokens": 31}),
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: server.metric("requests_waiting") == 1)
        server.server.should_exit = True
        for thread in threads:
            thread.join(20)
    assert answers["short"].data["choices"][0]["finish_reason"] == "length"
    last = answers["cut"].body.decode().split("\n\n")[-2]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
    assert (answers["whole"].status, answers["whole"].data["error"]["code"]) == (503, "stopping")
