"""What quantization costs on models that are hard to quantize: ``python benchmarks/hardness --help``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # this package, and peers/, which other benchmarks use too

from rich.console import Console

from hardness.models import KINDS, write_model
from pythia_quant.core.errors import PythiaQuantError

BASES = {"demo": "builtin:demo", "14m": "models/pythia-14m-ref"}
"""The checkpoints that hard ones are made from; a path is below ``--shared``."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/hardness", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["models"], help="models: write the hard checkpoints below WORK/models")
    parser.add_argument("--work", type=Path, required=True, help="folder for all that is made meanwhile")
    parser.add_argument("--shared", type=Path, metavar="FOLDER", help="has models/ and data/; else only the demo model")
    return parser.parse_args()


def _models(given: argparse.Namespace, console: Console) -> None:
    for name, place in BASES.items():
        base = place if ":" in place else str(given.shared / place) if given.shared else ""
        if not base:
            console.print(f"without --shared, there is no {name}")
            continue
        for kind in KINDS:
            write_model(base, kind, given.work / "models" / f"{name}-{kind}")
            console.print(given.work / "models" / f"{name}-{kind}")


def _main() -> int:
    given = _arguments()
    console = Console(width=max(150, Console().width))
    try:
        _models(given, console)
    except PythiaQuantError as error:
        console.print(str(error), style="red", markup=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main())
