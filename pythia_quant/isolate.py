"""Call one of our functions in a fresh process: nothing it loads or leaves touches the caller or the next call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pythia_quant import errors
from pythia_quant.formats import load


def call(function: str, arguments: dict[str, Any], threads: int | None = None) -> Any:
    """Run ``module:function`` of this package in a fresh Python and return what it returns.

    Args:
        function: a function whose keyword arguments and result are JSON data; large arrays travel as files.
        arguments: its keyword arguments.
        threads: how many threads numeric libraries may use there.

    Raises:
        PythiaQuantError: what the function raised, or that its process died and how.
    """
    environment = dict(os.environ)
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory(prefix="pythia-quant-") as folder:
        answer = Path(folder) / "answer.json"
        request = json.dumps({"function": function, "arguments": arguments, "answer": str(answer)})
        child = subprocess.run(
            [sys.executable, "-m", "pythia_quant.isolate"],
            input=request.encode(),
            capture_output=True,
            env=environment,
            check=False,
        )
        if answer.exists():
            reply = json.loads(answer.read_bytes())
            if "result" in reply:
                return reply["result"]
            kind = getattr(errors, reply["error"])
            raise kind(reply["what"], where=reply["where"], hint=reply["hint"])
    raise errors.BenchmarkError(f"{function} {_cause(child)}")


def _cause(child: subprocess.CompletedProcess[bytes]) -> str:
    if child.returncode == -9:
        return "was killed, most likely because the machine ran out of memory"
    last = child.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
    return f"failed with exit code {child.returncode}: {last[0]}"


def _serve() -> None:
    request = json.loads(sys.stdin.buffer.read())
    reply: dict[str, Any]
    try:
        reply = {"result": load(request["function"])(**request["arguments"])}
    except errors.PythiaQuantError as error:
        reply = {"error": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint}
    answer = Path(request["answer"])
    written = answer.with_suffix(".partial")
    written.write_text(json.dumps(reply))
    written.rename(answer)


if __name__ == "__main__":
    _serve()
