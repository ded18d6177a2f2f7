"""What is installed."""

import subprocess
import tomllib
from pathlib import Path

import pytest

import pythia_quant

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["py.typed", "model/published_evals.csv", "model/published_gptq.csv"])
def test_the_wheel_holds_files_that_are_no_modules(name: str) -> None:
    """hatchling takes all of a package but what git ignores."""
    file = Path(pythia_quant.__file__).parent / name
    assert file.is_file()
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["pythia_quant"]
    assert not wheel.keys() & {"exclude", "include", "only-include"}
    assert subprocess.run(["git", "check-ignore", "-q", file], cwd=ROOT, check=False).returncode == 1
