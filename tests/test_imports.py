"""Every module is imported in a process that has only the packages it may need."""

import subprocess
import sys
from pathlib import Path

import pytest

import pythia_quant

PACKAGE = Path(pythia_quant.__file__).parent
EXTRAS = [
    "accelerate", "bitsandbytes", "fastapi", "gptqmodel", "lm_eval", "matplotlib", "onnx", "onnxruntime", "optimum",
    "pandas", "prometheus_client", "pyarrow", "uvicorn",
]  # fmt: skip
"""What only extras install. transformers looks for some of them without importing them."""
HEAVY = ["torch", "transformers", "safetensors", "tokenizers"]
WITH_AN_EXTRA = {
    "pythia_quant.formats.onnx": "onnx",
    "pythia_quant.formats.onnx.runtime": "onnx",
    "pythia_quant.report": "matplotlib",
    "pythia_quant.integrations.lm_eval": "lm_eval",
}
"""Modules that may need an extra, by their name or how it begins, and that extra or its package."""
STUDIES = ("pyarrow", "scipy", "matplotlib")
"""The packages of the extra `sweep`."""
SERVER = ("fastapi", "prometheus_client", "uvicorn")
"""Those of the extra `serve`."""
TUNING = ("scipy", "matplotlib")
"""Those of the extra `tune`."""
IMPORT = """
import sys
from importlib import import_module
from importlib.machinery import PathFinder

class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in BLOCKED else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
for module in MODULES:
    try:
        import_module(module)
    except Exception as error:
        print(module, "|", " ".join(str(error).split()))
"""


def modules() -> list[str]:
    files = sorted(PACKAGE.rglob("*.py"))
    names = [".".join(("pythia_quant", *file.relative_to(PACKAGE).with_suffix("").parts)) for file in files]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def refused(names: list[str], blocked: list[str]) -> dict[str, str]:
    """Return the modules that cannot be imported without the packages, and why."""
    code = f"BLOCKED, MODULES = {set(blocked)!r}, {names!r}\n{IMPORT}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return dict(line.split(" | ", 1) for line in done.stdout.splitlines() if line.startswith("pythia_quant."))


def test_every_module_but_those_of_an_extra_needs_the_core_dependencies_only() -> None:
    for module, why in refused(modules(), EXTRAS).items():
        of_a_study = module.startswith(("pythia_quant.sweep", "pythia_quant.cli.sweep_job")) and any(
            name in why for name in STUDIES
        )
        known = any(module.startswith(beginning) and extra in why for beginning, extra in WITH_AN_EXTRA.items())
        of_the_server = module.startswith("pythia_quant.serve.") and any(name in why for name in SERVER)
        of_tune = module.startswith("pythia_quant.tune.") and any(name in why for name in TUNING)
        assert known or of_a_study or of_the_server or of_tune, why


@pytest.mark.parametrize("blocked", [[*HEAVY, *EXTRAS]], ids=["no-torch"])
def test_what_reads_records_and_starts_the_program_needs_no_torch(blocked: list[str]) -> None:
    light = [name for name in modules() if name.split(".")[1:2] in (["recipe"], ["records"], ["cli"])]
    for name in ("jobs", "dry_run", "sweep_job"):  # imported by the commands that compute
        light.remove(f"pythia_quant.cli.{name}")
    light += ["pythia_quant.model.suite", "pythia_quant.core.errors", "pythia_quant.bench.compare"]
    light += [f"pythia_quant.library.{name}" for name in ("progress", "results")]
    light += [f"pythia_quant.report.{name}" for name in ("files", "tables", "terminal", "numbers")]
    assert refused(light, blocked) == {}


def test_the_report_needs_no_torch() -> None:
    names = [name for name in modules() if name.startswith("pythia_quant.report")]
    without_torch = [name for name in [*HEAVY, *EXTRAS] if name != "matplotlib"]
    assert refused(names, without_torch) == {}


def test_the_command_line_starts_without_the_client_of_the_hub() -> None:
    """The client's import fails on bad environment variables, which the program refuses before."""
    assert refused(["pythia_quant.cli.main"], ["huggingface_hub"]) == {}


CONVERT = """
import sys
from pythia_quant.cli.main import main
try:
    main()
finally:
    print("torch" in sys.modules)
"""


def test_artifacts_that_are_there_are_found_without_torch(converted: Path) -> None:
    command = [sys.executable, "-c", CONVERT, "convert", str(converted / "tiny.yaml"), "--out", str(converted / "out")]
    *lines, torch_was_imported = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    there = {path.name for path in (converted / "out/tiny/local").iterdir()}
    assert {line.partition(":")[0] for line in lines} == {f"{name} is there already" for name in there}
    assert torch_was_imported == "False"
