"""What is refused of a command line before torch is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from program import refuse

from pythia_quant.cli.arguments import check_device, parse_memory
from pythia_quant.core.errors import ArgumentError

PROGRAM = """
import json, sys
from importlib.machinery import PathFinder
from pythia_quant.cli.main import main

class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
for blocked, arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code
    print(json.dumps([code, "torch" in sys.modules]), file=sys.stderr)
"""


def refusals(*calls: tuple[list[str], tuple[str | Path, ...]]) -> list[str]:
    """Return the errors of calls in one process, each without some packages; torch must not have been imported."""
    data = [[blocked, list(map(str, arguments))] for blocked, arguments in calls]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(data)], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    *errors, last = done.stderr.split("[2, false]\n")
    assert (last, len(errors)) == ("", len(calls)), done.stderr
    return errors


def test_arguments_that_cannot_be_used_are_refused_before_torch_is_imported(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    artifact = tmp_path / "artifact"
    errors = refusals(
        ([], ("run", "demo", "--out", "")),
        ([], ("convert", "demo", "--out", file)),
        ([], ("run", "demo", "--out", file / "below")),
        ([], ("bench", artifact, "--out", file)),
        ([], ("report", tmp_path, "--out", file)),
        ([], ("run", "demo", "--memory", "4")),
        ([], ("bench", artifact, "--memory", "much")),
        ([], ("run", "demo", "--only", "onnx-int9")),
        ([], ("run", "demo", "--lambada", file, "--no-lambada")),
    )
    assert errors[0] == "error: --out: is empty\n  name a folder; the current one is called .\n"
    for error in errors[1:5]:
        assert f"{file} is a file, not a folder" in error
    assert errors[5] == "error: --memory: '4' has no unit\n  say 4GiB, or 4MB\n"
    assert "'much' is no size of memory" in errors[6]
    assert "did you mean 'onnx-int8'?" in errors[7]
    assert "contradict each other" in errors[8]
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "nothing was made"


def test_all_packages_that_are_missing_are_named_at_once_with_a_command_that_installs_them(tmp_path: Path) -> None:
    out = ("--out", tmp_path)
    blocked = ["bitsandbytes", "accelerate", "onnxruntime", "pyarrow", "xllamacpp"]
    some, all_of_them, of_one, text = refusals(
        (blocked[:2], ("run", "demo", *out)),
        (blocked, ("run", "demo", *out)),
        (blocked, ("convert", "demo", "--only", "bnb-nf4", *out)),
        (blocked, ("run", "pythia-160m", "--only", "gptq-int4", *out)),
    )
    assert some.splitlines()[0] == "error: bnb-nf4 needs bitsandbytes and accelerate: not installed here"
    assert some.splitlines()[1] == "  pip install bitsandbytes accelerate"
    assert some.splitlines()[2].endswith("--only onnx-fp32, which need nothing more")
    assert all_of_them.splitlines() == [
        "gguf-q4 and gguf-q8 left out: without xllamacpp (pip install xllamacpp)",
        "error: bnb-nf4 needs bitsandbytes and accelerate; onnx-int8, onnx-int8-dynamic, onnx-int4 and onnx-fp32 need "
        "onnxruntime: not installed here",
        "  pip install bitsandbytes accelerate onnxruntime",
        "  or --only gptq-int4, which needs nothing more",
    ]
    assert of_one.splitlines()[1:] == ["  pip install bitsandbytes accelerate"]
    assert text.splitlines() == ["error: a parquet text needs pyarrow: not installed here", "  pip install pyarrow"]


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    errors = refusals(
        ([], ("run", "demo", "--device", "cuda", "--out", tmp_path)),
        ([], ("bench", tmp_path, "--device", "cuda")),
    )
    assert errors == ["error: --device cuda: there is no GPU here\n  measure on the CPU: --device cpu\n"] * 2
    check_device("cpu")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="only Linux has a folder in which even root writes nothing")
def test_a_folder_that_cannot_be_written_is_refused() -> None:
    assert "--out /proc/x: nothing can be written in /proc: no such file" in refuse(
        "convert", "demo", "--out", "/proc/x"
    )


@pytest.mark.parametrize(
    ("size", "number"),
    [("4g", 4e9), ("4GB", 4e9), ("4GiB", 2**32), ("4gib", 2**32), ("1.5 M", 1.5e6), ("512kB", 512e3), ("100B", 100)],
)
def test_sizes_of_memory(size: str, number: float) -> None:
    assert parse_memory(size) == number


@pytest.mark.parametrize("size", ["4", " 4.5 ", "", "GiB", "4 x", "-4GB", "4GBB", "4iB x"])
def test_a_size_without_a_unit_is_refused(size: str) -> None:
    with pytest.raises(ArgumentError, match=r"--memory: .* (has no unit|is no size)"):
        parse_memory(size)
