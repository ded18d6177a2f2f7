"""pythia-quant sign: say who made an artifact, so that others can check it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pythia_quant.cli.completion import complete_artifact
from pythia_quant.cli.options import AsJson, is_from_a_hub
from pythia_quant.core.console import example, out_console, print_json
from pythia_quant.core.errors import ArgumentError, ArtifactError
from pythia_quant.core.foreign_files import SIGNATURE, STATEMENT
from pythia_quant.core.text import printable

# ruff: noqa: PLC0415 - --help answers at once

commands = typer.Typer()


@commands.command(
    epilog=example(
        "pythia-quant sign artifacts/demo/builtin/onnx-int8 --key signing.key", variables=["output", "signing"]
    )
)
def sign(
    artifact: Annotated[
        Path, typer.Argument(metavar="ARTIFACT", help="The folder of an artifact.", autocompletion=complete_artifact)
    ],
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Sign with this private key: PEM, P-256, P-384 or P-521."),
    ] = None,
    sigstore: Annotated[
        bool, typer.Option("--sigstore", help="Sign by an identity instead, for which Sigstore is asked.")
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(
            "--results",
            metavar="FILE",
            help="State the results in this file.",
            show_default="the latest beside the artifact, if there are some",
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model",
            metavar="OWNER/NAME[@REVISION]",
            help="Name this repository as the source, which was a folder; hashes must agree.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Sign an artifact, and state what it was made from, for `verify --key` and for `publish`.

    The signature and an in-toto statement of origin come into the artifact's folder as model.sig and
    origin.intoto.json. Measure first: the statement names the results by their hash.
    """
    if (key is None) != sigstore:
        raise ArgumentError("give --key FILE, or --sigstore", where="sign")
    if is_from_a_hub(str(artifact)):
        raise ArtifactError("is from a hub", where=str(artifact), hint="sign what you have made")
    from pythia_quant.artifacts.artifact import open_artifact
    from pythia_quant.publishing.publication import find_result
    from pythia_quant.publishing.signature import sign as sign_artifact

    opened = open_artifact(artifact)
    measured = None if results is None else find_result(opened, results)
    origin = sign_artifact(opened, key, results=measured, base=base_model)
    if as_json:
        print_json({"folder": str(artifact), "files": [SIGNATURE, STATEMENT], "origin": origin.model_dump(mode="json")})
        return
    found = "with its results" if origin.results else "without results, for there are none beside it"
    text = f"{artifact}: signed; {STATEMENT} says: {origin.sentence()}, {found}"
    out_console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
