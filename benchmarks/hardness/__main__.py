"""What quantization costs on hard models, with little calibration, on four kinds of text.

``python benchmarks/hardness {models,run,table} --help``; docs/hardness.md says what is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import product
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # this package, and peers/, which other benchmarks use too

import torch
from rich.console import Console

from hardness.finetuned import Training, write_finetuned
from hardness.measure import NEAREST, SOURCE, Measuring, Row
from hardness.models import KINDS, write_model
from hardness.tables import Record, table
from hardness.texts import BUILTIN, CALIBRATION, DRAWS, Texts
from pythia_quant.core import machine
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.recipe.set_keys import parse_assignments, set_keys
from pythia_quant.texts.builtin import training_text
from pythia_quant.texts.load import read_text

RECIPE = Path(__file__).parent / "recipe.yaml"
BASES = {"demo": "builtin:demo", "14m": "models/pythia-14m-ref"}
"""The checkpoints that hard ones are made from; a path is below ``--shared``."""
TUNED = "tuned"
HARD = (*KINDS, TUNED)


def _arguments() -> argparse.Namespace:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--work", type=Path, required=True, help="folder for models, references and what is made meanwhile"
    )
    shared.add_argument(
        "--shared", type=Path, metavar="FOLDER", help="has models/ and data/; without it, demo and code only"
    )
    shared.add_argument(
        "--text", action="append", default=[], metavar="KIND=FILE", help="another file for a kind of text"
    )
    shared.add_argument("--threads", type=int, default=machine.cores())
    shared.add_argument(
        "--only", nargs="+", default=[], metavar="model:NAME", help="only these; also method:NAME, once or more"
    )
    parser = argparse.ArgumentParser(prog="python benchmarks/hardness", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("models", parents=[shared], help="write the hard models to WORK/models")
    run = commands.add_parser("run", parents=[shared], help="measure the rows that the result file does not have")
    run.add_argument("--out", type=Path, required=True, metavar="FILE", help="result file, JSON lines")
    run.add_argument("--recipe", type=Path, default=RECIPE, metavar="FILE", help="the variants")
    run.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the variants that have it"
    )
    run.add_argument(
        "--label", default="", help="a word for the version of the code, which becomes part of a row's name"
    )
    run.add_argument("--calibration", nargs="+", default=[BUILTIN], choices=[*CALIBRATION, BUILTIN])
    run.add_argument("--windows", nargs="+", type=int, default=[8, 32, 128], help="of calibration")
    run.add_argument("--draws", nargs="+", type=int, default=list(range(DRAWS)))
    run.add_argument("--measured", type=int, default=8, metavar="N", help="windows of each kind of text to measure on")
    run.add_argument("--weights-only", action="store_true", help="do not measure as run, where there are weights")
    tables = commands.add_parser("table", help="print a result file as Markdown")
    tables.add_argument("--out", type=Path, nargs="+", required=True, metavar="FILE", help="result files")
    tables.add_argument("--what", choices=["weights", "as_run"], default="as_run")
    tables.add_argument("--against", metavar="METHOD", help="print differences from this method instead")
    tables.add_argument("--only", nargs="+", default=[], metavar="model:NAME", help="only these; also method:NAME")
    return parser.parse_args()


def _chosen(only: list[str], kind: str, names: list[str]) -> list[str]:
    """Return the names that ``--only`` asks for, all of them if it names none of this kind.

    Raises:
        SystemExit: a word is none of them.
    """
    wanted = [word.removeprefix(f"{kind}:") for word in only if word.startswith(f"{kind}:")]
    for word in only:
        if not word.startswith(("model:", "method:")):
            raise SystemExit(f"--only {word}: say model:NAME or method:NAME")
    if unknown := [word for word in wanted if word not in names]:
        raise SystemExit(f"--only: there is no {kind} {unknown[0]!r}; there are {', '.join(names)}")
    return wanted or names


def _texts(given: argparse.Namespace) -> Texts:
    files = {kind: Path(file) for kind, _, file in (word.partition("=") for word in given.text)}
    return Texts(given.shared / "data" if given.shared else None, files)


def _write_models(given: argparse.Namespace, console: Console) -> list[str]:
    """Write the models that are not there; return the names of those that can be had."""
    bases = {name: place for name, place in BASES.items() if ":" in place or given.shared}
    names = [f"{base}-{kind}" for base in bases for kind in HARD]
    for name in _chosen(given.only, "model", names):
        base, _, kind = name.rpartition("-")
        place = bases[base] if ":" in bases[base] else str(given.shared / bases[base])
        folder = given.work / "models" / name
        if kind == TUNED:
            text = training_text() if ":" in place else read_text(given.shared / "data" / CALIBRATION["wiki"])
            write_finetuned(place, text, folder, Training(), console.print)
        else:
            write_model(place, kind, folder)
    return names


def _rows(given: argparse.Namespace, models: list[str]) -> tuple[Measuring, list[Row]]:
    recipe = load_recipe(given.recipe)
    variants, changed = recipe.variants(), parse_assignments(given.set)
    methods = _chosen(given.only, "method", [*SOURCE, NEAREST, *variants])
    special = {
        name: tuple(changed.items())
        for name in methods
        if name in variants and changed.keys() <= variants[name].model_dump().keys()
    }
    recipe = set_keys(recipe, {f"variants.{name}.{key}": value for name in special for key, value in changed.items()})
    measuring = Measuring(
        recipe, given.work.resolve(), _texts(given), given.measured, given.threads, not given.weights_only
    )
    rows = []
    for model, method in product(models, methods):
        if changed and method not in special:
            continue
        row = Row(model, method, special.get(method, ()), label=given.label)
        if method in variants and recipe.calibrates([method]):
            draws = product(given.calibration, given.windows, given.draws)
            rows += [Row(model, method, row.settings, *draw, given.label) for draw in draws]
        else:
            rows.append(row)
    return measuring, rows


def _run(given: argparse.Namespace, console: Console) -> None:
    names = _write_models(given, console)
    measuring, rows = _rows(given, _chosen(given.only, "model", names))
    if missing := measuring.texts.missing():
        console.print(f"not there, and left out: {', '.join(missing)}")
    found = _read([given.out])
    if others := {record["measured"] for record in found} - {given.measured}:
        raise SystemExit(f"{given.out}: its rows are of {others.pop()} windows; give another --out, or --measured")
    done = [record["key"] for record in found]
    for row in rows:
        if row.key() in done:
            continue
        try:
            record = measuring.measure(row)
        except PythiaQuantError as error:
            console.print(f"{row.key()}: {error}", style="red", markup=False)
            continue
        with given.out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        console.print(f"{row.key()}: {record['seconds']['all']:.0f} s", markup=False)


def _read(files: list[Path]) -> list[Record]:
    return [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]


def _table(given: argparse.Namespace) -> str:
    records = _read(given.out)
    for field in ("model", "method"):
        names = _chosen(given.only, field, sorted({record[field] for record in records}))
        records = [record for record in records if record[field] in names]
    return table(records, given.what, given.against)


def _main() -> int:
    given = _arguments()
    console = Console(width=max(150, Console().width))
    try:
        if given.command == "table":
            print(_table(given))
            return 0
        given.work.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(given.threads)
        if given.command == "run":
            _run(given, console)
        else:
            _write_models(given, console)
    except PythiaQuantError as error:
        console.print(str(error), style="red", markup=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main())
