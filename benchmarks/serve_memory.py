"""Ask a server 10,000 times, and see that its memory stays what it was: ``python benchmarks/serve_memory.py ARTIFACT``.

Requests of many kinds go over new connections: whole and streamed, sampled, with log-probabilities, wrong, and some
whose client closes the connection in mid-stream. The memory after the first tenth is compared with that at the end.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

MOST_GROWTH = 8e6
"""Bytes that memory may grow by between the first tenth and the end."""


def ask(port: int, body: bytes, *, read: int | None = None) -> int:
    """Send a request; return the status. With `read`, close the connection after so many bytes of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read(read)
    connection.close()
    return response.status


def kinds(number: int) -> tuple[bytes, int | None, int]:
    """Return a request's body, how much of the answer is read, and the status that is expected."""
    prompt = f"import {number % 997}\nclass A{number}"
    base = {"prompt": prompt, "max_tokens": 8, "temperature": 0}
    variants: list[tuple[object, int | None, int]] = [
        (base, None, 200),
        (base | {"stream": True}, None, 200),
        (base | {"temperature": 1, "top_p": 0.9, "logprobs": 3, "echo": True}, None, 200),
        (base | {"stream": True, "max_tokens": 200}, 60, 200),
        (base | {"max_tokens": 100_000}, None, 400),
    ]
    body, read, status = variants[number % len(variants)]
    return json.dumps(body).encode(), read, status


def measure(port: int, count: int, memory: Callable[[], int]) -> list[int]:
    """Send `count` requests; return the server's resident bytes after each tenth."""
    seen = []
    for number in range(1, count + 1):
        body, read, expected = kinds(number)
        status = ask(port, body, read=read)
        if status != expected:
            sys.exit(f"request {number}: {status}, not {expected}")
        if number % (count // 10) == 0:
            seen.append(memory())
            print(f"{number:,} requests: {seen[-1] / 1e6:.1f} MB", flush=True)
    return seen


def main() -> None:
    """Start a server, ask, and exit with 1 if its memory grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "pythia_quant", "serve", str(arguments.artifact), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        port = int(json.loads(child.stdout.readline())["url"].removesuffix("/v1").rpartition(":")[2])
        started = time.monotonic()
        try:
            seen = measure(port, arguments.requests, lambda: psutil.Process(child.pid).memory_info().rss)
            growth = seen[-1] - seen[0]
            files = psutil.Process(child.pid).num_fds()
        finally:
            child.terminate()
    seconds = time.monotonic() - started
    print(
        f"{arguments.requests:,} requests in {seconds:.0f} s, memory grew by {growth / 1e6:.2f} MB, {files} files open"
    )
    sys.exit(growth > MOST_GROWTH)


if __name__ == "__main__":
    main()
