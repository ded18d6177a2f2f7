"""Sign an artifact, and check who signed it, with the library model-signing of the OpenSSF.

A signature is a Sigstore bundle around an in-toto statement that lists the SHA-256 of every file that is signed: those
of the artifact and the statement of origin, not what only a published repository has. Any program of that library
checks it, too.
"""

from __future__ import annotations

import base64
import errno
import io
import os
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pythia_quant.artifacts.artifact import PUBLISHED, Artifact, verify_files
from pythia_quant.artifacts.listing import newest_result
from pythia_quant.artifacts.pull import place_file
from pythia_quant.core.errors import ArgumentError, ArtifactError, without_links
from pythia_quant.core.extras import refuse_without
from pythia_quant.core.file_hashes import sha256
from pythia_quant.core.files import folder_beside, target_lock
from pythia_quant.core.foreign_files import (
    ADDED,
    MANIFEST,
    SBOM,
    SIGNATURE,
    STATEMENT,
    own_file,
    parse_json,
    read_ordinary,
)
from pythia_quant.core.text import printable, redacted
from pythia_quant.model.source_name import DEMO
from pythia_quant.publishing.anonymize import public_manifest, public_results
from pythia_quant.publishing.base_model import NONE, base_model
from pythia_quant.publishing.statement import Predicate, check_statement, make_statement

if TYPE_CHECKING:
    from model_signing import signing, verifying

    from pythia_quant.records.results import Results, Row

# ruff: noqa: PLC0415 - the library takes a second to import, and is an extra

PASSWORD, TOKEN = "PYTHIA_QUANT_KEY_PASSWORD", "PYTHIA_QUANT_IDENTITY_TOKEN"
_NEEDS = {"model_signing": "model-signing", "OpenSSL": "pyOpenSSL"}
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_UNSIGNED = (SIGNATURE, MANIFEST, *PUBLISHED, ".cache")
"""What a signature does not cover. The statement of origin has the manifest's hash, as it is published."""
_MOST_BYTES = 10_000_000
_KEY_BYTES = 100_000
_BUNDLE = {"mediaType", "verificationMaterial", "dsseEnvelope"}
_ENVELOPE = {"payload", "payloadType", "signatures"}
_MAKE_KEY = "make one: openssl ecparam -name prime256v1 -genkey -noout -out signing.key"
_PUBLIC_KEY = "the signer makes it of the private key: openssl ec -in signing.key -pubout -out signing.pub"
_AGAIN = "sign it again, or download it again"


@dataclass(frozen=True)
class Trust:
    """Who must have signed: the holder of a key, or an identity that a provider vouches for to Sigstore.

    Attributes:
        key: the file of a public key, PEM; None for an identity.
        identity: the identity, such as an address of mail.
        provider: the address of the identity's provider.
    """

    key: Path | None
    identity: str = ""
    provider: str = ""

    def __str__(self) -> str:
        return f"the key in {self.key}" if self.key else f"{self.identity} ({self.provider})"


@dataclass(frozen=True)
class Signed:
    """What a valid signature proves.

    Attributes:
        files: the number of files that are signed.
        origin: what the signer stated of the origin; None if only files are signed.
    """

    files: int
    origin: Predicate | None


def sign(
    artifact: Artifact,
    key: Path | None,
    *,
    results: tuple[Results, Row] | None = None,
    base: str | None = None,
) -> Predicate:
    """Put a signature and a statement of origin into an artifact's folder, in the place of earlier ones.

    Args:
        artifact: the artifact.
        key: the file of a private key, PEM, on the curves P-256, P-384 or P-521; None to sign by an identity, for which
            Sigstore is asked.
        results: the results to state, and the artifact's row in them; by default, the newest beside the artifact.
        base: the repository with the source's weights, if the source was a folder and the signer names it.

    Raises:
        ArgumentError: the key cannot be used, or the library is not installed.
        ArtifactError: a file is not as the manifest says, or Sigstore cannot be asked.
        HubError: `base` has other weights, or is not needed.
    """
    config = _signer(key)
    verify_files(artifact)
    artifact.recipe()  # raises if it is not that of the settings
    manifest, folder = artifact.manifest, without_links(artifact.folder)
    of_a_folder = manifest.source.commit is None and manifest.source.model != DEMO
    public = public_manifest(manifest, base_model(manifest, base or (NONE if of_a_folder else None)))
    measured = results or newest_result(artifact)
    statement = make_statement(public, public_results(*measured, manifest, public) if measured else None)
    with target_lock(folder), folder_beside(folder) as scratch:
        signed = scratch / folder.name  # the signature records this name
        signed.mkdir()
        for name in (*manifest.files, *([SBOM] if own_file(folder, SBOM, ArtifactError) else [])):
            place_file(folder / name, signed / name)
        (signed / STATEMENT).write_bytes(statement)
        make = partial(config.sign, signed, scratch / SIGNATURE)
        make() if key else _ask_sigstore(make)
        (folder / SIGNATURE).unlink(missing_ok=True)  # a kill then leaves an unsigned artifact, not one that is refused
        (signed / STATEMENT).replace(folder / STATEMENT)
        (scratch / SIGNATURE).replace(folder / SIGNATURE)
    return check_statement(artifact)


def check_signature(artifact: Artifact, trust: Trust) -> Signed:
    """Check who signed an artifact whose files agree with its manifest.

    Args:
        artifact: the artifact, after :func:`~pythia_quant.artifacts.artifact.verify_files`.
        trust: who must have signed it.

    Raises:
        ArgumentError: the key cannot be used, or the library is not installed.
        ArtifactError: there is no signature, it is damaged, of somebody else or of other files, or it leaves out a file
            or the origin; or Sigstore cannot be asked.
    """
    folder = artifact.folder
    config = _verifier(trust)
    resources = signed_files(folder)
    if resources is None:
        hint = "pythia-quant sign signs an artifact; a hub has the signature if it was there when it was published"
        raise ArtifactError(f"is not signed: there is no {SIGNATURE}", where=str(folder), hint=hint)
    try:
        with redirect_stdout(io.StringIO()):  # the library prints warnings there
            config.verify(folder, folder / SIGNATURE)
    except Exception as error:  # damaged data makes the library raise anything
        raise _refused(error, artifact, resources, trust) from error
    left_out = sorted(artifact.manifest.files.keys() - resources.keys())
    if left_out:
        raise _of_others(folder, f"{left_out[0]} is not signed")
    if STATEMENT in resources:
        return Signed(len(resources), check_statement(artifact))
    if MANIFEST not in resources:
        raise _of_others(folder, f"neither {MANIFEST} nor {STATEMENT} is signed")
    return Signed(len(resources), None)


def signed_files(folder: Path) -> dict[str, str] | None:
    """Return the hex SHA-256 of each file as a signature has them, before anybody has checked it; None without one.

    Raises:
        ArtifactError: the signature is damaged, or of another kind.
    """
    path = own_file(folder, SIGNATURE, ArtifactError)
    if path is None:
        return None
    bundle = parse_json(read_ordinary(path, _MOST_BYTES, ArtifactError, _AGAIN), str(path), ArtifactError, _AGAIN)
    try:
        envelope = bundle["dsseEnvelope"]
        # The library must not take another field for these, such as one in another spelling.
        unknown = (bundle.keys() - _BUNDLE) | (envelope.keys() - _ENVELOPE)
        payload = base64.b64decode(envelope["payload"], validate=True)
        statement = parse_json(payload, str(path), ArtifactError, _AGAIN)
        listed = statement["predicate"]["resources"]
        files = {str(one["name"]): str(one["digest"]) for one in listed if one["algorithm"] == "sha256"}
        kind = statement["predicateType"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError("is damaged, or no signature of a model", where=str(path), hint=_AGAIN) from error
    if unknown or kind != _PREDICATE_TYPE or len(files) != len(listed):
        raise ArtifactError("is a signature of another kind", where=str(path), hint=_AGAIN)
    return files


def _signer(key: Path | None) -> signing.Config:
    """Return the library's settings to sign by a key, or by Sigstore."""
    refuse_without(_NEEDS, "signing")
    from model_signing import hashing, signing

    config = signing.Config().set_hashing_config(hashing.Config().set_ignored_paths(paths=_UNSIGNED))
    if key is None:
        token = os.environ.get(TOKEN)
        _ask_sigstore(lambda: config.use_sigstore_signer(use_ambient_credentials=True, identity_token=token))
        return config
    password = os.environ.get(PASSWORD)
    secret: Any = password.encode() if password else None  # the library says text, and needs bytes
    read_ordinary(key, _KEY_BYTES, ArgumentError, _MAKE_KEY)
    try:
        return config.use_elliptic_key_signer(private_key=key, password=secret)
    except Exception as error:  # what cryptography raises depends on what the file holds
        locked = b"ENCRYPTED" in key.read_bytes()
        what = "is no private key on P-256, P-384 or P-521 as PEM"
        hint = f"its password goes into {PASSWORD}" if locked else _MAKE_KEY
        raise ArgumentError(
            "cannot be opened with its password" if locked else what, where=str(key), hint=hint
        ) from error


def _verifier(trust: Trust) -> verifying.Config:
    refuse_without(_NEEDS, "signing")
    from model_signing import hashing, verifying

    # Links stay in the folder, or in the hub's cache: verify_files has seen to that.
    config = verifying.Config().set_hashing_config(hashing.Config().set_allow_symlinks(True))
    if trust.key is None:
        _ask_sigstore(lambda: config.use_sigstore_verifier(identity=trust.identity, oidc_issuer=trust.provider))
        return config
    read_ordinary(trust.key, _KEY_BYTES, ArgumentError, _PUBLIC_KEY)
    try:
        return config.use_elliptic_key_verifier(public_key=trust.key)
    except Exception as error:  # as in _signer
        what = "is no public key on P-256, P-384 or P-521 as PEM"
        raise ArgumentError(what, where=str(trust.key), hint=_PUBLIC_KEY) from error


def _ask_sigstore(call: Callable[[], object]) -> None:
    """Let the library do something for which it asks Sigstore over the network."""
    try:
        call()
    except Exception as error:  # of Sigstore, its HTTP client, its trust root, …
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        what = f"a signature by an identity needs Sigstore, which failed: {_said(error)}"
        raise ArtifactError(what, hint="see whether the network reaches it, or use --key") from error


def _said(error: Exception) -> str:
    return printable(redacted(" ".join(f"{type(error).__name__} {error}".split())))[:300]


def _refused(error: Exception, artifact: Artifact, resources: dict[str, str], trust: Trust) -> ArtifactError:
    """Return why the library refused a signature, in our words."""
    folder, said = artifact.folder, str(error)
    if said.startswith("Signature mismatch"):
        there = {name: file.sha256 for name, file in artifact.manifest.files.items()}
        for name in (MANIFEST, *ADDED, *PUBLISHED):
            if (name in (STATEMENT, SBOM) or name in resources) and (path := own_file(folder, name, ArtifactError)):
                there[name] = sha256(path)
        return _of_others(folder, _differences(there, resources))
    if trust.key is None:
        return ArtifactError(f"its signature is not that of {trust}, or damaged: {_said(error)}", where=str(folder))
    other = "Key mismatch" in said
    what = (
        f"is signed with another key than {trust.key}" if other else f"its signature is not that of {trust}, or damaged"
    )
    return ArtifactError(what, where=str(folder), hint="see whose public key it is, and download the artifact again")


def _differences(there: dict[str, str], signed: dict[str, str]) -> str:
    found = [
        f"{name} {'was added' if name not in signed else 'is missing' if name not in there else 'has other content'}"
        for name in sorted(there.keys() | signed.keys())
        if there.get(name) != signed.get(name)
    ]
    return "; ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "") or "they cannot be compared"


def _of_others(folder: Path, what: str) -> ArtifactError:
    return ArtifactError(f"its signature is of other files: {printable(what)}", where=str(folder), hint=_AGAIN)
