"""Manifests as anybody may have written them."""

import json
from pathlib import Path
from typing import Any

import pytest

from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.records.manifest import Manifest, read_manifest

FILE = {"bytes": 5, "sha256": "0" * 64}
MANIFEST_FIELDS: dict[str, Any] = {
    "schema_version": 1, "tool": "pythia-quant 0.1.0", "created": "2026-11-26T12:00:00Z", "variant": "v",
    "settings": {"format": "onnx"}, "recipe_name": "r", "recipe_id": "0", "recipe": {},
    "source": {"model": "m", "revision": "main", "commit": None, "sha256": {"w": "0" * 64}, "parameters": 1},
    "calibration": None, "bits_per_weight": 4.5, "bytes_on_disk": 5, "versions": {}, "cpu": "c", "notes": {},
    "check": {
        "method": "m", "max_weight_error": 0.0, "runtime": "r", "run_error": 0.0, "kl_as_run": 0.0, "generated": [],
    },
    "files": {"config.json": FILE, "onnx/model.onnx": FILE},
}  # fmt: skip


SIZES = {
    "onnx/model_quantized.onnx": 1, "onnx/model_quantized.onnx_data": 2, "model-00001-of-00002.safetensors": 4,
    "model-00002-of-00002.safetensors": 8, "model.safetensors": 20, "model.safetensors.index.json": 100,
    "tokenizer.json": 200, "config.json": 400, "results.json": 800, "README.md": 1600,
}  # fmt: skip


def read(folder: Path, fields: dict[str, Any]) -> Manifest:
    path = folder / MANIFEST
    path.write_text(json.dumps(fields))
    return read_manifest(path, ArtifactError)


def test_a_manifest_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, MANIFEST_FIELDS).files["onnx/model.onnx"].bytes == 5


@pytest.mark.parametrize(
    "name",
    [
        "/", "//", "", ".", "..", "../x", "/tmp/x", "a/../../x", "a\\..\\x", "C:/x", "a//b", "a/", "./a", "a/./b",
        "a/..", "CON", "nul.txt", "a/Com1", "a.", "a ", ".hidden", "a/.git/x", "pythia_quant.json", "PYTHIA_QUANT.JSON",
        "a\0b",        "a\nb", "a\x1b[31m", "a\u202eb", "x" * 300, "a*", "a?", "a|b", 'a"b', "d/" * 600 + "x",
    ],
)  # fmt: skip
def test_names_that_are_no_plain_paths_on_every_system_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match=r"is no path within the artifact|is the manifest itself") as error:
        read(tmp_path, MANIFEST_FIELDS | {"files": {name: FILE}})
    assert "\x1b" not in str(error.value)


def test_sizes_are_counted_from_the_files_whatever_is_said(tmp_path: Path) -> None:
    files = {name: {"bytes": size, "sha256": "0" * 64} for name, size in SIZES.items()}
    fields = MANIFEST_FIELDS | {"files": files, "source": MANIFEST_FIELDS["source"] | {"parameters": 20}}
    for said in (4.5, -1, float("inf"), None):
        manifest = read(tmp_path, fields | {"bits_per_weight": said, "bytes_on_disk": said})
        assert (manifest.bytes_on_disk, manifest.bits_per_weight) == (35, 14.0)
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    written = json.loads(manifest.model_dump_json())
    assert (written["bytes_on_disk"], written["bits_per_weight"]) == (35, 14.0)


def test_names_that_artifacts_have_are_taken(tmp_path: Path) -> None:
    names = [
        "config.json", "onnx/model_quantized.onnx_data", "model-00001-of-00002.safetensors", "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja", "model.safetensors.index.json", "onnx/pythia_quant.json",
        "console.txt",
    ]  # fmt: skip
    assert list(read(tmp_path, MANIFEST_FIELDS | {"files": dict.fromkeys(names, FILE)}).files) == names


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["onnx", "onnx/model.onnx"], "lies in what is a file"),
        (["a/b/c", "a/B"], "lies in what is a file"),
        (["config.json", "Config.json"], "is there twice"),
    ],
)
def test_names_that_cannot_stand_beside_each_other_are_refused(tmp_path: Path, names: list[str], why: str) -> None:
    with pytest.raises(ArtifactError, match=why):
        read(tmp_path, MANIFEST_FIELDS | {"files": dict.fromkeys(names, FILE)})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("files", "config.json", "bytes"), -1),
        (("files", "config.json", "bytes"), 2**70),
        (("files", "config.json", "sha256"), "0" * 63),
        (("files", "config.json", "sha256"), "../x"),
        (("source", "sha256", "w"), ""),
        (("source", "parameters"), 0),
        (("check", "kl_as_run"), float("nan")),
    ],
)
def test_numbers_and_hashes_are_what_they_should_be(tmp_path: Path, path: tuple[str, ...], value: Any) -> None:
    fields = json.loads(json.dumps(MANIFEST_FIELDS))
    inner = fields
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ArtifactError, match=f"cannot be read: {'.'.join(path)}"):
        read(tmp_path, fields)


def test_a_manifest_of_another_version_names_that_version(tmp_path: Path) -> None:
    newest: list[dict[str, Any]] = [{"schema_version": 2}, {"provenance": {}}]
    for newer in newest:
        with pytest.raises(ArtifactError, match=r"pythia-quant 7\.0 wrote it; read it with that version") as error:
            read(tmp_path, MANIFEST_FIELDS | {"tool": "pythia-quant 7.0"} | newer)
        assert str(next(iter(newer))) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"tool": 5}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_manifest(tmp_path / MANIFEST, ArtifactError)


@pytest.mark.parametrize(("kind", "new"), [("bnb", "equalize"), ("onnx", "adapt")])
def test_an_artifact_of_before_is_what_its_version_made(tmp_path: Path, kind: str, new: str) -> None:
    """Its manifest has no such setting, neither for itself nor in its recipe, and both must say the same."""
    settings = {"format": kind}
    recipe = {"variants": {"v": settings, "w": {"format": "gptq"}}}
    before = read(tmp_path, MANIFEST_FIELDS | {"settings": settings, "recipe": recipe})
    assert before.settings == before.recipe["variants"]["v"] == settings | {new: False}
    assert before.recipe["variants"]["w"] == {"format": "gptq"}
    now = settings | {new: True}
    assert read(tmp_path, MANIFEST_FIELDS | {"settings": now}).settings == now
