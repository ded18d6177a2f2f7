"""pythia-quant verify: check artifacts."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pythia_quant.cli.options import Artifacts, AsJson, local_folders
from pythia_quant.core.console import EVERY_VARIABLE, example, out_console, output_width, print_json, progress_console
from pythia_quant.core.errors import ArgumentError, PythiaQuantError
from pythia_quant.core.progress import Progress, Steps
from pythia_quant.core.text import printable

if TYPE_CHECKING:
    from pythia_quant.publishing.signature import Trust

# ruff: noqa: PLC0415 - --help answers at once: what needs torch is imported when it is needed

commands = typer.Typer()

_NO_STATEMENT = "the signature has no statement of origin: its signer vouches for the files and the manifest"


@commands.command(
    epilog=example(
        "pythia-quant verify artifacts/demo/builtin/onnx-int8",
        "pythia-quant verify hf://me/pythia-160m-gptq-int4 --model EleutherAI/pythia-160m",
        variables=EVERY_VARIABLE,
    )
)
def verify(
    artifacts: Artifacts,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="ID|FOLDER",
            help="Compare with this source, which is downloaded if it is not here.",
            show_default="the source, if it is on this machine",
        ),
    ] = None,
    derive: Annotated[
        bool,
        typer.Option(
            "--rederive", help="Also convert again from the source, by the recorded recipe, and compare all bytes."
        ),
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Also check that the holder of this public key (PEM) signed it."),
    ] = None,
    identity: Annotated[
        str, typer.Option("--identity", metavar="NAME", help="Also check that this identity signed it, by Sigstore.")
    ] = "",
    provider: Annotated[
        str, typer.Option("--identity-provider", metavar="URL", help="The provider that vouches for --identity.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Check artifacts: the manifest, the hash of every file, that they load, and that they compute what they hold.

    If the source is on this machine, or named by --model, the artifact's weights are compared with the source's. An
    artifact that was altered is refused.
    """
    trust = _trust(key, identity, provider)
    folders = local_folders(artifacts)
    findings: list[dict[str, Any]] = []
    try:
        with Steps(len(folders), progress_console) as steps:
            for name, folder in zip(artifacts, folders, strict=True):
                findings.append({"artifact": name, "folder": folder, "verified": False})
                with steps.step(f"verifying {name}") as progress:
                    findings[-1] |= _verify(folder, model, progress, trust, derive=derive)
    except PythiaQuantError as error:
        findings[-1]["error"] = str(error)
        raise
    finally:  # also prints what is known of the artifacts before one that is refused
        if as_json:
            print_json(findings)
        else:
            _print([one for one in findings if one["verified"]])


def _print(findings: list[dict[str, Any]]) -> None:
    """Print the integrity of each artifact that was verified, and its origin, if that is known."""
    for one in findings:
        _say(f"{one['artifact']}: {one['files']} files as in the manifest")
        kl = f"KL from the weights in fp32 {1000 * one['kl_as_run']:.2g} mnat"
        _say(_wrapped(f"{one['runtime']} runs them, {kl}", indent="  "))
        if one["signed_by"]:
            _say(f"  signed by {one['signed_by']}, {one['signed_files']} files")
            _say(_wrapped(f"its signer states: {one['origin']}" if one["origin"] else _NO_STATEMENT, indent="  "))
        if one["source"]:
            _say(f"  tokenizer and weights are those of {one['source']}")
            _say(_wrapped(one["closeness"], indent="  "))
        if one["rederived"]:
            _say(_wrapped(one["rederived"], indent="  "))
    if not all(one["signed_by"] or one["rederived"] for one in findings):
        _say("A manifest proves integrity, not origin: for that, add --key FILE or --rederive.")


def _say(text: str) -> None:
    """Print lines as they are: a path is never cut."""
    out_console.print("\n".join(map(printable, text.splitlines())), markup=False, highlight=False, soft_wrap=True)


def _wrapped(text: str, indent: str = "") -> str:
    return fill(text, output_width(), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _trust(key: Path | None, identity: str, provider: str) -> Trust | None:
    """Return who must have signed, by the command line; None if nobody must."""
    if not (key or identity or provider):
        return None
    if key and (identity or provider):
        raise ArgumentError("contradict each other", where="--key and --identity", hint="give one of them")
    if not key and not (identity and provider):
        hint = "such as --identity me@example.org --identity-provider https://accounts.google.com"
        raise ArgumentError("belong together", where="--identity and --identity-provider", hint=hint)
    from pythia_quant.publishing.signature import Trust

    return Trust(key, identity, provider)


def _verify(
    folder: Path, model: str | None, progress: Progress, trust: Trust | None, *, derive: bool
) -> dict[str, Any]:
    """Verify an artifact.

    Returns:
        The number of its files; who signed it and what they state, None if that was not asked for; the runtime, and the
        KL divergence of the runtime from the weights in fp32, nats a token; the source that its weights were compared
        with, None without one, a sentence on how close they are; what a second conversion gave, if that was asked for.
    """
    from pythia_quant.artifacts.artifact import open_artifact, verify_files
    from pythia_quant.artifacts.check import check_again
    from pythia_quant.artifacts.verify import compare_with, find_local_source, open_named_source
    from pythia_quant.core.file_hashes import sha256_anew

    artifact = open_artifact(folder)
    progress.step("opening its source", 0, 1)
    source = find_local_source(artifact) if model is None else open_named_source(artifact, model)
    progress.step("hashing its files", 0, 1)
    verify_files(artifact, sha256_anew)
    signed = None
    if trust:
        from pythia_quant.publishing.signature import check_signature

        signed = check_signature(artifact, trust)
    progress.step("running it", 0, 1)
    record = check_again(artifact)
    closeness = str(compare_with(artifact, source, progress)) if source else None
    rederived = None
    if derive:
        from pythia_quant.artifacts.rederive import check_derivation, describe, rederive

        derivation = rederive(artifact, model, progress)
        check_derivation(artifact, derivation)
        rederived = describe(derivation)
    return {
        "verified": True,
        "files": len(artifact.manifest.files),
        "signed_by": str(trust) if trust else None,
        "signed_files": signed.files if signed else None,
        "origin": signed.origin.sentence() if signed and signed.origin else None,
        "runtime": record.runtime,
        "kl_as_run": record.kl_as_run,
        "source": (model or artifact.manifest.source.model) if source else None,
        "closeness": closeness,
        "rederived": rederived,
    }
