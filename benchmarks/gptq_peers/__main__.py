"""Measure our GPTQ beside that of other programs: ``python benchmarks/gptq_peers --help``.

Quality: every method quantizes the same checkpoint against the same windows, and its weights are compared on other
windows. ``--time`` measures time and memory instead. What is in the result file already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # this package, and peers/, which other benchmarks use too

from peers.environments import UnavailableError, make, versions
from peers.store import Store
from rich.console import Console

from gptq_peers import peer
from gptq_peers.methods import METHODS, Method
from gptq_peers.quality import Quality, Row
from gptq_peers.tables import print_all
from gptq_peers.timing import Timing, with_windows
from pythia_quant.artifacts.inputs import Inputs, load_inputs
from pythia_quant.core import machine
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.recipe.overrides import override
from pythia_quant.recipe.recipe import Recipe, load_recipe

RECIPE = Path(__file__).parent / "recipe.yaml"
TIMED = "gptqmodel 4"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/gptq_peers", description=__doc__.splitlines()[0])
    parser.add_argument("--source", metavar="MODEL", help="checkpoint folder or builtin:demo; default: the recipe's")
    parser.add_argument("--text", type=Path, metavar="FILE", help="to evaluate on; default: the recipe's")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="to calibrate on; default: the recipe's")
    parser.add_argument("--recipe", type=Path, default=RECIPE, metavar="FILE", help="our variants, and the windows")
    parser.add_argument("--work", type=Path, help="folder for environments and what is made meanwhile")
    parser.add_argument("--out", type=Path, metavar="FILE", help="result file, JSON")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these variants and methods")
    parser.add_argument("--fresh", nargs="+", default=[], metavar="NAME", help="measure these again")
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PROGRAM=FILE",
        help="the interpreter of gptqmodel, auto-round or onecomp; default: made in --work",
    )
    parser.add_argument("--time", type=Path, metavar="FOLDER", help="time the quantization of this checkpoint instead")
    parser.add_argument("--rounds", type=int, default=5, help="of --time")
    parser.add_argument("--windows", type=int, default=32, help="calibration windows of --time")
    parser.add_argument("--patience", type=float, default=60, metavar="S", help="seconds to wait for a quiet machine")
    parser.add_argument("--print", type=Path, metavar="FILE", help="print a result file, and do nothing else")
    given = parser.parse_args()
    if not given.print and not (given.work and given.out):
        parser.error("--work and --out are needed, or --print")
    return given


def _choose(recipe: Recipe, only: list[str] | None) -> list[Row]:
    """Return the variants of a recipe and the methods, or those named in `only`, in that order.

    Raises:
        SystemExit: a name is none of them.
    """
    found: dict[str, Row] = {name: name for name in recipe.variants()} | {each.name: each for each in METHODS}
    unknown = [name for name in only or () if name not in found]
    if unknown:
        raise SystemExit(f"there is no {unknown[0]!r}; there are {', '.join(found)}")
    return [found[name] for name in only] if only else list(found.values())


def _timed(recipe: Recipe) -> list[str]:
    """Return the rows that are timed by default: our first variant that calibrates, and gptqmodel."""
    mine = next(name for name, settings in recipe.variants().items() if settings.calibrates)
    return [mine, TIMED]


def _interpreters(given: argparse.Namespace, rows: list[Row], work: Path, console: Console) -> dict[str, Path | str]:
    """Return the interpreter of each program that rows need, or why there is none."""
    named = dict(word.split("=", 1) for word in given.python)
    found: dict[str, Path | str] = {}
    for program in dict.fromkeys(row.program for row in rows if isinstance(row, Method) and row.options is not None):
        if program in named:
            found[program] = Path(named[program]).absolute()  # not resolved: a venv's python is a link
            continue
        try:
            found[program] = make(program, peer.PROGRAMS[program].environment, work, console.print)
        except UnavailableError as error:
            found[program] = str(error)
    return found


def _conditions(given: argparse.Namespace, inputs: Inputs) -> dict[str, object]:
    calibration = inputs.calibration_record
    return {
        "cpu": machine.cpu(),
        "threads": given.threads,
        "model": inputs.source.name,
        "source": inputs.source.sha256,
        "calibration": {
            "text": Path(calibration.text.name).name if calibration else None,
            "sha256": calibration.text.sha256 if calibration else None,
            "shape": list(inputs.calibration.shape),
        },
        "evaluation": {
            "text": Path(inputs.evaluation_text.name).name,
            "sha256": inputs.evaluation_text.sha256,
            "shape": list(inputs.evaluation.shape),
        },
    }


def _measure(given: argparse.Namespace, console: Console) -> Store:
    work: Path = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    model = str(given.time.resolve()) if given.time else given.source
    recipe = override(load_recipe(given.recipe), model=model, text=given.text, calibration=given.calibration)
    if given.time:
        recipe = load_recipe(with_windows(recipe, given.windows, work))
    rows = _choose(recipe, given.only or (_timed(recipe) if given.time else None))
    inputs = load_inputs(recipe)
    store = Store(given.out, _conditions(given, inputs))
    pythons = _interpreters(given, rows, work, console)
    store.data["versions"] = store.data.get("versions", {}) | {"ours": versions(Path(sys.executable))}
    store.data["versions"] |= {name: versions(each) for name, each in pythons.items() if isinstance(each, Path)}
    for name in given.fresh:
        for part in ("rows", "timings"):
            store.data.get(part, {}).pop(name, None)
    if given.time:
        windows = inputs.calibration.tolist()
        folder = inputs.source.folder
        python = pythons["gptqmodel"]
        timing = Timing(recipe.path, folder, windows, store, work, python, given.threads, given.patience, console.print)
        timing.run(rows, given.rounds)
    else:
        Quality(inputs, store, work, pythons, given.threads, console.print).run(rows)
    return store


def _main() -> int:
    given = _arguments()
    console = Console(width=max(150, Console().width))
    try:
        data = json.loads(given.print.read_text()) if given.print else _measure(given, console).data
    except PythiaQuantError as error:
        console.print(str(error), style="red", markup=False)
        return 2
    print_all(data, console)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
