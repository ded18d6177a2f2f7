"""Signed artifacts: by our command, by the library's own, and every change to them refused."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import model_signing.hashing
import model_signing.signing
import model_signing.verifying
import pytest
from hub_user import SOURCE, Client
from loopback import Hub
from mutations import COUNT, damaged, distortions, generator
from program import refuse, succeed

from pythia_quant.artifacts.artifact import Artifact, open_artifact
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.publishing.signature import Trust, check_signature
from pythia_quant.records.results import load_results, save_results

MAKE_PAIR = """
import sys
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import ec, rsa
curve = getattr(ec, sys.argv[2], None)
private = ec.generate_private_key(curve()) if curve else rsa.generate_private_key(65537, 2048)
secret = s.BestAvailableEncryption(sys.argv[3].encode()) if sys.argv[3:] else s.NoEncryption()
open(sys.argv[1] + ".key", "wb").write(private.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, secret))
public = private.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
open(sys.argv[1] + ".pub", "wb").write(public)
"""
"""In a script, for the package comes with the library and is not declared for tests."""


def pair(path: Path, kind: str = "SECP256R1", password: str = "") -> tuple[Path, Path]:
    """Return the files of a new private and public key."""
    arguments = [str(path), kind, *([password] if password else [])]
    subprocess.run([sys.executable, "-c", MAKE_PAIR, *arguments], check=True)
    return path.with_suffix(".key"), path.with_suffix(".pub")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return pair(tmp_path_factory.mktemp("keys") / "ours")


@pytest.fixture
def folder(converted: Path, tmp_path: Path) -> Path:
    """Return a copy of an artifact that nobody has signed."""
    return Path(shutil.copytree(converted / "out/tiny/local/onnx-fp32", tmp_path / "onnx-fp32"))


def check(folder: Path, public: Path) -> str:
    """Return what the check of a signature says, without running the artifact as `verify` does."""
    try:
        signed = check_signature(open_artifact(folder), Trust(public))
    except PythiaQuantError as error:
        return str(error)
    return signed.origin.sentence() if signed.origin else "no statement"


def test_a_signed_artifact_says_who_made_it_of_what(folder: Path, keys: tuple[Path, Path], converted: Path) -> None:
    private, public = keys
    before = {path.name for path in folder.iterdir()}
    assert "integrity, not origin: for that" in succeed("verify", folder)
    said = json.loads(succeed("sign", folder, "--key", private, "--json"))
    assert (
        {path.name for path in folder.iterdir()} - before == set(said["files"]) == {"model.sig", "origin.intoto.json"}
    )
    assert [path.name for path in folder.parent.iterdir()] == ["onnx-fp32"], "nothing is left beside it"
    printed = succeed("verify", folder, "--key", public)
    manifest = open_artifact(folder).manifest
    assert f"signed by the key in {public}, {len(manifest.files) + 1} files" in printed
    assert f"its signer states: made from tiny by recipe {manifest.recipe_id}" in printed
    assert "not origin" not in printed
    (found,) = json.loads(succeed("verify", folder, "--json"))
    assert (found["verified"], found["signed_by"]) == (True, None), "also where nobody asks who signed it"
    statement = json.loads((folder / "origin.intoto.json").read_text())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    stated = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    assert {name: file.sha256 for name, file in manifest.files.items()}.items() <= stated.items()
    assert statement["predicate"]["source"]["sha256"] == manifest.source.sha256
    assert statement["predicate"]["results"] is None
    assert str(converted) not in json.dumps(statement), "folders of the signer are nobody's business"
    assert "is no public key" in refuse("verify", folder, "--key", private)
    succeed("sign", folder, "--key", private)  # again, in the place of the first
    assert check(folder, public).startswith("made from tiny")


def test_the_library_accepts_our_signature_and_we_accept_the_librarys(folder: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    succeed("sign", folder, "--key", private)
    theirs = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public)
    theirs.verify(folder, folder / "model.sig")
    (folder / "README.md").write_text("what only a published repository has")
    theirs.verify(folder, folder / "model.sig")
    payload = json.loads(base64.b64decode(json.loads((folder / "model.sig").read_text())["dsseEnvelope"]["payload"]))
    assert payload["subject"][0]["name"] == "onnx-fp32"
    (folder / "README.md").unlink()
    for name in ("model.sig", "origin.intoto.json"):
        (folder / name).unlink()
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=private)
    hashing = model_signing.hashing.Config().set_ignored_paths(paths=["model.sig"])
    config.set_hashing_config(hashing).sign(folder, folder / "model.sig")
    assert check(folder, public) == "no statement"
    manifest = folder / "pythia_quant.json"
    manifest.write_text(manifest.read_text().replace('"variant": "onnx-fp32"', '"variant": "onnx-fp16"', 1))
    assert "pythia_quant.json has other content" in check(folder, public)
    leaves_out = model_signing.hashing.Config().set_ignored_paths(paths=["model.sig", "onnx", "pythia_quant.json"])
    config.set_hashing_config(leaves_out).sign(folder, folder / "model.sig")
    assert "is not signed" in check(folder, public)
    leaves_out = model_signing.hashing.Config().set_ignored_paths(paths=["model.sig", "pythia_quant.json"])
    config.set_hashing_config(leaves_out).sign(folder, folder / "model.sig")
    assert "neither pythia_quant.json nor origin.intoto.json is signed" in check(folder, public)


def test_every_change_is_refused_by_its_name(
    folder: Path, keys: tuple[Path, Path], converted: Path, tmp_path: Path
) -> None:
    private, public = keys
    assert "is not signed: there is no model.sig" in refuse("verify", folder, "--key", public)
    succeed("sign", folder, "--key", private)
    other_private, other_public = pair(tmp_path / "other")
    assert f"is signed with another key than {other_public}" in refuse("verify", folder, "--key", other_public)
    signed = Path(shutil.copytree(folder, tmp_path / "signed"))

    def changed(name: str, content: bytes | None) -> str:
        """Return what is said of a copy with a file changed, or removed, and a manifest that agrees."""
        copy = Path(shutil.copytree(signed, tmp_path / "copy", dirs_exist_ok=True))
        (copy / name).unlink(missing_ok=True)
        if content is not None:
            (copy / name).write_bytes(content)
        said = refuse("verify", copy, "--key", public)
        shutil.rmtree(copy)
        return said

    statement, config = (signed / name for name in ("origin.intoto.json", "generation_config.json"))
    assert "config.json was changed" in changed("config.json", b"{}")
    assert "generation_config.json is missing" in changed(config.name, None)
    assert "extra.txt is not in the manifest" in changed("extra.txt", b"extra")
    assert "origin.intoto.json has other content" in changed(statement.name, statement.read_bytes() + b"\n")
    assert "origin.intoto.json is missing" in changed(statement.name, None)
    assert "model.sig: is not JSON" in changed("model.sig", b"{")
    assert "model.sig: is damaged, or no signature" in changed("model.sig", b"{}")
    manifest = json.loads((signed / "pythia_quant.json").read_text())
    forged = manifest | {"source": manifest["source"] | {"model": "EleutherAI/pythia-14m"}}
    assert "its statement of origin is of another manifest" in changed("pythia_quant.json", json.dumps(forged).encode())
    another = Path(shutil.copytree(converted / "out/tiny/local/bnb-nf4", tmp_path / "another"))
    succeed("sign", another, "--key", private)
    assert "its signature is of other files: config.json has other content" in changed(
        "model.sig", (another / "model.sig").read_bytes()
    )
    shutil.copy(another / "origin.intoto.json", folder)
    sign_as_it_is(folder, private)
    assert "its statement of origin is of another" in refuse("verify", folder, "--key", public)
    succeed("sign", folder, "--key", other_private)
    assert check(folder, other_public).startswith("made from tiny"), "who signs last has signed"


def sign_as_it_is(folder: Path, private: Path) -> None:
    """Let the library sign a folder, whatever it holds."""
    hashing = model_signing.hashing.Config().set_ignored_paths(paths=["model.sig", "pythia_quant.json"])
    config = model_signing.signing.Config().set_hashing_config(hashing)
    config.use_elliptic_key_signer(private_key=private).sign(folder, folder / "model.sig")


def test_a_key_that_cannot_be_used_is_refused_and_nothing_is_written(
    folder: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = keys
    before = sorted(path.name for path in folder.parent.rglob("*"))
    rsa, rsa_public = pair(tmp_path.with_name("rsa"), "rsa")
    locked, locked_public = pair(tmp_path.with_name("locked"), "SECP384R1", "secret")
    for key in (public, rsa, folder / "config.json"):
        assert "is no private key on P-256, P-384 or P-521" in refuse("sign", folder, "--key", key)
    assert "there is no such file" in refuse("sign", folder, "--key", tmp_path / "none")
    assert "PYTHIA_QUANT_KEY_PASSWORD" in refuse("sign", folder, "--key", locked)
    monkeypatch.setenv("PYTHIA_QUANT_KEY_PASSWORD", "wrong")
    assert "cannot be opened with its password" in refuse("sign", folder, "--key", locked)
    assert "give --key FILE, or --sigstore" in refuse("sign", folder)
    assert before == sorted(path.name for path in folder.parent.rglob("*"))
    monkeypatch.setenv("PYTHIA_QUANT_KEY_PASSWORD", "secret")
    succeed("sign", folder, "--key", locked)
    assert check(folder, locked_public).startswith("made from tiny")
    for key in (private, rsa_public, folder / "config.json"):
        assert "is no public key on P-256, P-384 or P-521" in check(folder, key)
    assert "belong together" in refuse("verify", folder, "--identity", "me@example.org")
    (folder / "config.json").write_text("{}")
    assert "config.json was changed" in refuse("sign", folder, "--key", locked)


def test_sigstore_that_cannot_be_reached_is_one_message(folder: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    nobody = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    environment = os.environ | nobody | {"HOME": str(tmp_path / "home"), "XDG_DATA_HOME": str(tmp_path / "data")}
    environment.pop("NO_PROXY", None)
    succeed("sign", folder, "--key", keys[0])
    asked = ("verify", folder, "--identity", "me@example.org", "--identity-provider", "https://issuer.example.org")
    for command in (("sign", folder, "--sigstore"), asked):
        said = refuse(*command, environment=environment)
        assert "a signature by an identity needs Sigstore, which failed" in said
    assert check(folder, keys[1]).startswith("made from tiny"), "the earlier signature is still there"


def test_a_damaged_signature_or_statement_is_refused_or_says_the_same(folder: Path, keys: tuple[Path, Path]) -> None:
    succeed("sign", folder, "--key", keys[0])
    artifact, trust = open_artifact(folder), Trust(keys[1])
    right = check_signature(artifact, trust)
    random_ = generator()
    refused = 0
    for name in ("model.sig", "origin.intoto.json"):
        content = (folder / name).read_bytes()
        texts = [damaged(content, random_) for _ in range(COUNT // 20)]
        texts += [json.dumps(data).encode() for data in distortions(json.loads(content), COUNT // 20)]
        for text in texts:
            (folder / name).write_bytes(text)
            refused += not accepts(artifact, trust, right)
        (folder / name).write_bytes(content)
    assert refused > COUNT // 10


def accepts(artifact: Artifact, trust: Trust, right: object) -> bool:
    try:
        found = check_signature(artifact, trust)
    except PythiaQuantError:
        return False
    assert found == right
    return True


def test_what_is_published_is_checked_with_the_same_key(
    client: Client, hub: Hub, artifacts: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = keys
    folder = artifacts / "onnx-int8"
    command = ("publish", folder, "--repo-id", "me/signed", "--yes")
    client.succeed("sbom", "--out", folder / "sbom.cdx.json")
    said = json.loads(client.succeed("sign", folder, "--key", private, "--json"))
    assert said["origin"]["source"]["commit"] == open_artifact(folder).manifest.source.commit
    client.succeed(*command)
    files = hub.files("me/signed")
    assert said["origin"]["results"] == hashlib.sha256(files["results.json"]).hexdigest()
    assert said["origin"]["recipe"]["sha256"] == hashlib.sha256(files["recipe.yaml"]).hexdigest()
    stated = {one["name"]: one["digest"]["sha256"] for one in json.loads(files["origin.intoto.json"])["subject"]}
    assert {name: hashlib.sha256(files[name]).hexdigest() for name in stated} == stated
    assert files["sbom.cdx.json"] == (folder / "sbom.cdx.json").read_bytes()
    assert "pythia-quant verify hf://me/signed --key signing.pub" in files["README.md"].decode()
    printed = client.succeed("verify", "hf://me/signed", "--key", public)
    assert f"its signer states: made from {SOURCE} at commit" in " ".join(printed.split())
    downloaded = tmp_path / "downloaded"
    for name, content in files.items():
        (downloaded / name).parent.mkdir(parents=True, exist_ok=True)
        (downloaded / name).write_bytes(content)
    theirs = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public)
    theirs.verify(downloaded, downloaded / "model.sig")
    assert check(downloaded, public).startswith(f"made from {SOURCE}")
    (downloaded / "results.json").write_bytes(files["results.json"] + b"\n")
    assert "its statement of origin is of another file results.json" in check(downloaded, public)
    results = load_results(artifacts / "results.json")
    later = {"created": results.created + timedelta(seconds=1)}
    save_results(results.model_copy(update=later), artifacts / "results.json")
    assert "origin.intoto.json is not of what would be published" in client.refuse(*command)
    (folder / "sbom.cdx.json").write_text("{}")
    assert "its signature is of other files: sbom.cdx.json has other content" in check(folder, public)
    (folder / "model.sig").unlink()
    client.succeed(*command)
    assert hub.files("me/signed").keys() & {"model.sig", "origin.intoto.json"} == set(), "of the earlier artifact"
