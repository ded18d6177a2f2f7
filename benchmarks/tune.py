"""Whether the budgets of `tune` hold on text that nothing was chosen on, what uniform choices do, and what it costs.

    python benchmarks/tune.py demo onnx-int8 2 5 15
    python benchmarks/tune.py RECIPE VARIANT LIMIT... [-- options of tune]

Each limit is a KL divergence in mnat. Each line is one call of `tune --predict`; sensitivities and trials are kept
between the calls, and count as when they were made. Afterwards `convert` makes the recipe again, and its files are
compared with those of the trial by their hashes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HEADINGS = (
    "limit, mnat", "choice, MB", "uniform", "of the limit on selection", "expected elsewhere", "on evaluation",
    "best uniform, at most as large", "smallest uniform within", "search / (conversion + measurement)", "same bytes",
)  # fmt: skip


def tuned(recipe: str, variant: str, limit: str, out: Path, options: list[str]) -> dict[str, Any]:
    """Run `tune` and return what it says as data."""
    command = [
        sys.executable,
        "-m",
        "pythia_quant",
        "tune",
        recipe,
        "--only",
        variant,
        "--within",
        f"max_kl: {limit} mnat",
    ]
    done = subprocess.run(
        [*command, "--predict", "--json", "--out", out, *options], check=False, stdout=subprocess.PIPE, text=True
    )
    if done.returncode not in (0, 3):
        raise SystemExit(done.returncode)
    data: dict[str, Any] = json.loads(done.stdout)
    return data


def has_same_bytes(data: dict[str, Any], folder: Path) -> bool:
    """Convert the recipe that was written, and compare the files of weights with those of the trial."""
    command = [sys.executable, "-m", "pythia_quant", "convert", data["recipe"], "--out", folder, "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (manifest,) = folder.glob("*/*/*/pythia_quant.json")
    files = json.loads(manifest.read_text())["files"]
    return bool({name: file["sha256"] for name, file in files.items()} == data["files"])


def line(data: dict[str, Any], limit: str, *, same: bool | None) -> list[str]:
    """Return the cells of a line."""
    if not data["evaluation"]:
        return [limit, "none", "", "", "", "", "", "", "", ""]
    mix, *others = data["evaluation"]
    trial = next(each for each in data["trials"] if each["choices"] == mix["choices"])

    def cell(role: str) -> str:
        found = [each for each in others if each["role"] == role]
        return f"{found[0]['bytes'] / 1e6:.3f} MB: {100 * found[0]['use']:.0f} %" if found else "the same"

    return [
        limit, f"{mix['bytes'] / 1e6:.3f}", "yes" if trial["uniform"] else "no", f"{100 * trial['use']:.0f} %",
        f"{100 * trial['use_elsewhere']:.0f} %", f"{100 * mix['use']:.0f} %", cell("same size"), cell("within"),
        f"{data['cost_seconds']['search']:.0f} s / {data['cost_seconds']['once']:.0f} s = "
        f"{data['cost_seconds']['ratio']:.1f}", {True: "yes", False: "NO", None: ""}[same],
    ]  # fmt: skip


def main() -> None:
    """Print the table, a line as soon as it is known."""
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    (recipe, variant, *limits), options = arguments[:split], arguments[split + 1 :]
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, limit in enumerate(limits):
            data = tuned(recipe, variant, limit, Path(folder) / "tuned", options)
            same = has_same_bytes(data, Path(folder) / f"again-{number}") if data["recipe"] else None
            print(f"| {' | '.join(line(data, limit, same=same))} |", flush=True)
            print(
                json.dumps({key: data[key] for key in ("remarks", "verdicts")}, indent=1), file=sys.stderr, flush=True
            )


if __name__ == "__main__":
    main()
