"""pythia-quant web: write a site in which artifacts run in the visitor's browser."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pythia_quant.cli.completion import complete_artifact
from pythia_quant.cli.options import AsJson, local_folders
from pythia_quant.core.console import EVERY_VARIABLE, example, out_console, progress_console
from pythia_quant.core.errors import ArgumentError

# ruff: noqa: PLC0415 - --help answers at once: what needs torch is imported when it is needed

commands = typer.Typer()

_Artifacts = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ARTIFACT...",
        help="Folders of ONNX artifacts, or hf://owner/name@revision. Without one, --serve serves the site in --out.",
        autocompletion=complete_artifact,
        show_default=False,
    ),
]
_Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Write the site to this folder. With --serve, it may be left out.",
        show_default=False,
    ),
]
_Assets = Annotated[
    Path | None,
    typer.Option(
        "--assets",
        metavar="DIR",
        help="Take onnxruntime-web and tokenizers.js from here: node_modules, tarballs, or a site's vendor.",
        show_default="the cache, or npm",
    ),
]
_Serve = Annotated[bool, typer.Option("--serve", help="Serve the site on this machine, with several threads.")]
_Port = Annotated[
    int, typer.Option("--port", metavar="N", min=0, max=65535, help="Serve on this port; 0 takes a free one.")
]


@commands.command(
    epilog=example(
        "pythia-quant web artifacts/demo/builtin/onnx-int8 --out site",
        "pythia-quant web artifacts/demo/builtin/onnx-int8 --serve --port 8001",
        variables=EVERY_VARIABLE,
    )
)
def web(
    artifacts: _Artifacts = None,
    out: _Out = None,
    assets: _Assets = None,
    serve: _Serve = False,
    port: _Port = 8001,
    as_json: AsJson = False,
) -> None:
    """Write a static site in which ONNX artifacts run wholly in the visitor's browser, offline too."""
    if out is None and not serve:
        raise ArgumentError("is not given", where="--out", hint="name a folder, or say --serve to look at it only")
    from pythia_quant.core.files import temporary_folder
    from pythia_quant.web.local_server import open_site_server, serve_until_stopped

    with ExitStack() as stack:
        server = stack.enter_context(open_site_server(port)) if serve else None  # a taken port is found at once
        out = out or stack.enter_context(temporary_folder()) / "site"
        _write(artifacts or [], out, assets, as_json=as_json)
        if server is None:
            return

        def ready(address: str) -> None:
            if as_json:
                print(json.dumps({"url": address}), flush=True)
            print(f"serving the site on {address}; Ctrl-C ends it", file=sys.stderr, flush=True)

        serve_until_stopped(server, out, ready)
    print("stopped", file=sys.stderr)


def _write(artifacts: list[str], out: Path, assets: Path | None, *, as_json: bool) -> None:
    from pythia_quant.web.site import check_out, is_site, write_site

    check_out(out)
    if not artifacts:
        if is_site(out):
            return
        raise ArgumentError("give one or more", where="ARTIFACT", hint="`pythia-quant ls` shows what there is")
    from pythia_quant.artifacts.artifact import open_artifact
    from pythia_quant.core.progress import Steps

    opened = [open_artifact(folder) for folder in local_folders(artifacts)]
    with Steps(1, progress_console) as steps, steps.step("writing the site") as progress:
        site = write_site(opened, out, assets=assets, progress=progress)
    if as_json:
        print(json.dumps({"folder": str(site.folder), "models": site.models, "bytes": site.bytes}), flush=True)
    else:
        what = f"{', '.join(site.models)}: {site.bytes / 1e6:,.1f} MB in {site.folder}"
        out_console.print(escape(what), soft_wrap=True)
