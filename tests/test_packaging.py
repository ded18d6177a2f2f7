"""What is installed."""

import subprocess
import tomllib
from pathlib import Path

import pythia_quant

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_the_mark_by_which_type_checkers_take_our_types() -> None:
    """hatchling takes all of a package but what git ignores."""
    marker = Path(pythia_quant.__file__).parent / "py.typed"
    assert marker.is_file()
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["pythia_quant"]
    assert not wheel.keys() & {"exclude", "include", "only-include"}
    assert subprocess.run(["git", "check-ignore", "-q", marker], cwd=ROOT, check=False).returncode == 1
