"""The bill of materials: valid by CycloneDX's own schema, and complete; and what `make audit` says of it."""

import json
import subprocess
import sys
from importlib.metadata import distributions, version
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from documents import ROOT
from packaging.utils import canonicalize_name
from program import succeed


def test_every_package_of_the_environment_is_in_it_and_the_schema_holds(tmp_path: Path) -> None:
    file = tmp_path / "new" / "sbom.cdx.json"
    assert str(file) in succeed("sbom", "--out", file)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(file.read_text()) is None
    bom = json.loads(file.read_text())
    ours = bom["metadata"]["component"]
    assert (ours["name"], ours["type"]) == ("pythia-quant", "application")
    packages = {canonicalize_name(package.name) for package in distributions()}
    assert {canonicalize_name(one["name"]) for one in bom["components"]} == packages - {"pythia-quant"}
    (torch,) = (one for one in bom["components"] if one["name"] == "torch")
    assert torch["version"] == version("torch")
    assert torch["purl"].startswith("pkg:pypi/torch@")
    needs = {one["ref"]: one.get("dependsOn", []) for one in bom["dependencies"]}
    assert torch["bom-ref"] in needs[ours["bom-ref"]]
    assert any(one.startswith("bitsandbytes==") for one in needs[ours["bom-ref"]]), "of an extra that is installed"
    assert any(one.startswith("numpy==") for one in needs[next(ref for ref in needs if ref.startswith("transformers"))])
    assert not any(one.startswith("pytest") for one in needs[torch["bom-ref"]]), "of an extra of others"


@pytest.mark.parametrize(
    ("report", "code", "said"),
    [
        ('{"dependencies": [{"name": "a", "skip_reason": "not found"}]}', 2, "none of the 1 packages"),
        ("", 2, "could not reach its database"),
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', 0, "no known weaknesses in 1 packages"),
        (
            '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}]}',
            1,
            "a 1: PYSEC-1, mended in 2",
        ),
    ],
)
def test_an_audit_without_its_database_is_no_success(tmp_path: Path, report: str, code: int, said: str) -> None:
    (tmp_path / "report.json").write_text(report)
    command = [sys.executable, str(ROOT / "tools" / "audit.py"), str(tmp_path / "report.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("\n")) == (code, 1)
    assert said in done.stdout
