"""pythia-quant serve: answer requests over HTTP with an artifact."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pythia_quant.cli.completion import complete_artifact
from pythia_quant.cli.options import AsJson, local_folders
from pythia_quant.core.console import EVERY_VARIABLE, example
from pythia_quant.core.errors import ArgumentError
from pythia_quant.core.extras import refuse_without
from pythia_quant.core.text import printable
from pythia_quant.model.source_name import SCHEME

if TYPE_CHECKING:
    from pythia_quant.artifacts.artifact import Artifact

# ruff: noqa: PLC0415 - --help answers at once: what needs torch is imported when it is needed

commands = typer.Typer()
_NEEDS = {"fastapi": "fastapi", "prometheus_client": "prometheus-client", "uvicorn": "uvicorn"}


_Artifact = Annotated[
    str,
    typer.Argument(
        metavar="ARTIFACT",
        help="The folder of an artifact, or hf://owner/name@revision for one on the hub.",
        autocompletion=complete_artifact,
    ),
]
_Host = Annotated[
    str, typer.Option("--host", metavar="HOST", help="Listen on this address. Only loopback needs no key.")
]
_Port = Annotated[
    int, typer.Option("--port", metavar="N", min=0, max=65535, help="Listen on this port; 0 takes a free one.")
]
_KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file", metavar="FILE", help="Ask for one of the keys in this file, one a line.", show_default=False
    ),
]
_NoAuth = Annotated[bool, typer.Option("--no-auth", help="Let everybody ask who reaches the host, without a key.")]
_Queue = Annotated[
    int, typer.Option("--queue", metavar="N", min=1, max=100_000, help="Let N requests wait; refuse more.")
]


@commands.command(
    epilog=example("pythia-quant serve artifacts/demo/builtin/onnx-int8 --port 8000", variables=EVERY_VARIABLE)
)
def serve(
    artifact: _Artifact,
    host: _Host = "127.0.0.1",
    port: _Port = 8000,
    api_key_file: _KeyFile = None,
    no_auth: _NoAuth = False,
    queue: _Queue = 64,
    as_json: AsJson = False,
) -> None:
    """Serve an artifact over HTTP, in the shape of OpenAI's API: /v1/completions, /v1/models, /health, /metrics."""
    refuse_without(_NEEDS, "serve")
    from pythia_quant.serve.guard import read_keys

    if api_key_file is not None and no_auth:
        raise ArgumentError("contradict each other", where="--api-key-file and --no-auth", hint="give one of them")
    keys = [] if api_key_file is None else read_keys(api_key_file)
    from pythia_quant.serve.server import bind, open_server

    (folder,) = local_folders([artifact])
    from pythia_quant.artifacts.artifact import open_artifact
    from pythia_quant.serve.model import ModelProcess

    opened = open_artifact(folder)
    place = bind(host, port)
    with place.socket:
        if not (place.local or keys or no_auth):
            hint = "give --api-key-file FILE, or say --no-auth to let everybody ask who reaches it"
            raise ArgumentError("is not loopback, so that others reach it", where=f"--host {host}", hint=hint)
        names = _names(artifact, opened)

        def ready() -> None:
            if as_json:
                print(json.dumps({"model": names[0], "url": f"{place.address}/v1"}), flush=True)
            print(f"serving {printable(names[0])} on {place.address}/v1; Ctrl-C ends it", file=sys.stderr, flush=True)

        with closing(ModelProcess(opened)) as model:
            open_server(opened, model, place, names, keys, queue, ready).serve_until_stopped()
    print("stopped", file=sys.stderr)


def _names(artifact: str, opened: Artifact) -> list[str]:
    """Return what clients may call the model: by its source and variant, or as the command line does."""
    model = opened.manifest.source.model.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    name = artifact.removeprefix(SCHEME) if artifact.startswith(SCHEME) else f"{model}-{opened.manifest.variant}"
    return [name, artifact]
