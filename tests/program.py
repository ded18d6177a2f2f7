"""The program as a user calls it, in this process: a new one takes seconds to import torch.

What a child process would begin anew is set to what the environment says, and put back: the variables themselves, what
huggingface_hub has read of them, standard streams, signal handlers, warnings and log records.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO
from unittest import mock

import huggingface_hub
from huggingface_hub import constants, hf_api

from pythia_quant.cli.main import main

Done = subprocess.CompletedProcess[str]

STEPS = r"(\[ *\d+/\d+\] .*\n|[\w-]+: [\d,]+ calibration tokens are [^\[]* drift less\n|[\w-]+ takes about .*\n)*"
"""A line a step, what each conversion takes, and that there is little calibration text, as for most models of tests."""
_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


def run(*arguments: str | Path, environment: Mapping[str, str] | None = None, given: bytes = b"") -> Done:
    """Run the program with these arguments and return its exit code and what it printed.

    Args:
        arguments: those after the program's name.
        environment: all variables; this process's unless given.
        given: what standard input holds.
    """
    return _run(main, ["pythia-quant", *map(str, arguments)], environment, given)


def run_script(script: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Done:
    """Run a Python script as :func:`run` runs the program; what it raises is raised."""
    return _run(lambda: exec(script, {"__name__": "__main__"}), ["-c", *arguments], environment)


def _run(
    function: Callable[[], object], command: list[str], environment: Mapping[str, str] | None, given: bytes = b""
) -> Done:
    with ExitStack() as stack:
        streams = [stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(2)]
        stack.enter_context(redirect_stdout(streams[0]))
        stack.enter_context(redirect_stderr(streams[1]))
        stack.enter_context(mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), "utf-8")))
        stack.enter_context(mock.patch.object(sys, "argv", command))
        stack.enter_context(surroundings(os.environ if environment is None else environment))
        code = 0
        try:
            function()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return Done(command, code, *map(_content, streams))


def _content(stream: IO[str]) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


@contextmanager
def surroundings(environment: Mapping[str, str]) -> Iterator[None]:
    """Give this process the variables of another one, and what the program itself changes of a process."""
    handlers = {number: signal.getsignal(number) for number in _HANDLED}
    records = logging.getLogRecordFactory()
    try:
        with (
            mock.patch.dict(os.environ, dict(environment), clear=True),
            mock.patch.object(warnings, "formatwarning", warnings.formatwarning),
            warnings.catch_warnings(),
        ):
            _read_hub_variables()
            yield
    finally:
        _read_hub_variables()
        logging.setLogRecordFactory(records)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _read_hub_variables() -> None:
    """Have huggingface_hub read its variables again: it does so once, as it is imported."""
    from pythia_quant.core import hub_client

    huggingface_hub.close_session()
    hub_client.prepare.cache_clear()
    importlib.reload(constants)
    hf_api.api.endpoint = constants.ENDPOINT
    hub_client._Client.was_answered = False


def succeed(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Run the program and return what it prints; on standard error, a line a step is all."""
    done = run(*arguments, environment=environment)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(STEPS, done.stderr), "not on a terminal, a line a step is printed"
    return done.stdout


def refuse(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Run the program and return its one message."""
    done = run(*arguments, environment=environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    steps, error, message = done.stderr.partition("error: ")
    assert error, done.stderr
    assert re.fullmatch(STEPS, steps)
    return error + message
