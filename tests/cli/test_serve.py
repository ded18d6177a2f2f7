"""`serve` as a program: it answers, ends after a signal, and refuses what it cannot do."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from program import refuse


@pytest.fixture(scope="module")
def folder(converted: Path) -> Path:
    return converted / "out/tiny/local/onnx-fp32"


def test_the_program_answers_and_ends_after_a_signal(folder: Path) -> None:
    command = [sys.executable, "-m", "pythia_quant", "serve", str(folder), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout
        said = json.loads(child.stdout.readline())
        with urllib.request.urlopen(f"{said['url']}/models", timeout=20) as response:
            assert json.load(response)["data"][0]["id"] == said["model"] == "tiny-onnx-fp32"
        assert "libtorch" not in Path(f"/proc/{child.pid}/maps").read_text(), "only the model's process needs it"
        child.send_signal(signal.SIGTERM)
        out, errors = child.communicate(timeout=20)
    assert child.returncode == 0
    assert out == ""
    assert errors.splitlines() == [f"serving tiny-onnx-fp32 on {said['url']}; Ctrl-C ends it", "stopped"]


def test_what_cannot_be_served_is_refused(folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "another program listens there" in refuse("serve", folder, "--port", port)
    assert "is not loopback" in refuse("serve", folder, "--port", "0", "--host", "0.0.0.0")
    assert "no such host" in refuse("serve", folder, "--port", "0", "--host", "no such host")
    assert "no such address" in refuse("serve", folder, "--port", "0", "--host", "192.0.2.1", "--no-auth")
    assert "contradict each other" in refuse("serve", folder, "--no-auth", "--api-key-file", "keys")
    assert "no such file" in refuse("serve", folder, "--api-key-file", tmp_path / "keys")
    assert "no artifact of ours" in refuse("serve", tmp_path, "--port", "0")


def test_without_the_extra_one_command_says_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = util.find_spec
    monkeypatch.setattr(
        "pythia_quant.core.extras.find_spec", lambda name, *rest: None if name == "uvicorn" else found(name, *rest)
    )
    message: Any = refuse("serve", folder)
    assert message == "error: serve: needs uvicorn, not installed here\n  pip install uvicorn\n"
