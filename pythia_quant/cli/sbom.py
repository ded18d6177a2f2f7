"""pythia-quant sbom: what this environment is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pythia_quant.cli.options import AsJson
from pythia_quant.core.console import example, out_console, print_json
from pythia_quant.core.text import printable

# ruff: noqa: PLC0415 - --help answers at once

commands = typer.Typer()


@commands.command(
    epilog=example(
        "pythia-quant sbom --out artifacts/demo/builtin/onnx-int8/sbom.cdx.json", variables=["files", "output"]
    )
)
def sbom(
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write it to this file.", show_default="standard output"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a bill of materials of this Python environment: all packages with versions and licenses, as CycloneDX.

    An artifact may hold one, as sbom.cdx.json, which `sign` then signs and `publish` uploads.
    """
    from pythia_quant.publishing.sbom import make_sbom

    text = make_sbom()
    if out is None:
        print(text, end="")
        return
    from pythia_quant.core.files import replace_file, target_lock

    with target_lock(out):
        replace_file(out, text)
    if as_json:
        print_json({"file": str(out)})
    else:
        out_console.print(printable(f"The bill of materials is in {out}."), markup=False, soft_wrap=True)
