"""What GPTQ gains at the same bytes if its scales and biases are trained on the whole model's KL, codes fixed.

``python benchmarks/end_to_end --help``; docs/gptq.md has what was found.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # this package, and hardness/, whose texts it measures on

import torch
from hardness.texts import CALIBRATION, CONTEXT, Texts

from end_to_end.scales import train
from end_to_end.student import Student, Teacher, window_means
from pythia_quant.artifacts.convert import convert
from pythia_quant.artifacts.inputs import Inputs, load_inputs
from pythia_quant.bench.statistics import differences, mean_of_windows
from pythia_quant.formats.gptq.reader import read
from pythia_quant.model.source import Source
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.texts.builtin import training_text
from pythia_quant.texts.load import read_text
from pythia_quant.texts.windows import encode

VARIANT = "gptq-int4"
Attempt = tuple[dict[str, Any], Student]
"""What was done, and the model that it left."""
RECIPE = """schema: 1
source: {{model: {source}}}
calibration: {{text: {{{text}}}, windows: 128, context: 512, seed: 0}}
evaluation: {{text: {{builtin: held-out}}, windows: 2, context: 512}}
variants: {{gptq-int4: {{format: gptq}}}}
"""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/end_to_end", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", default="builtin:demo", metavar="MODEL")
    parser.add_argument("--shared", type=Path, metavar="FOLDER", help="has data/; without it, code only")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="of GPTQ; default: Python's own text")
    parser.add_argument("--work", type=Path, required=True, help="folder for the artifact")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="result file, JSON lines")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="to train on")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3])
    parser.add_argument("--measured", type=int, default=24, metavar="N", help="windows of each kind of text")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _inputs(given: argparse.Namespace) -> Inputs:
    given.work.mkdir(parents=True, exist_ok=True)
    recipe = given.work.resolve() / "recipe.yaml"
    text = f"file: {given.calibration.resolve()}" if given.calibration else "builtin: training"
    recipe.write_text(RECIPE.format(source=given.source, text=text))
    return load_inputs(load_recipe(str(recipe)), only=[VARIANT])


def _training_tokens(source: Source, shared: Path | None) -> torch.Tensor:
    """Return Python's own text and, if there is one, Wikipedia's of calibration, int64 [tokens]. Web is measured on."""
    texts = [training_text()]
    if shared:
        texts.append(read_text(shared / "data" / CALIBRATION["wiki"]))
    return torch.cat([torch.from_numpy(encode(source.tokenizer, text)) for text in texts])


def _trained(given: argparse.Namespace, inputs: Inputs, teacher: Teacher, folder: Path) -> Iterator[Attempt]:
    students = {rate: Student(read(folder)) for rate in given.rates}
    tokens = _training_tokens(inputs.source, given.shared)
    done = train(teacher, students, tokens, CONTEXT, given.tokens, lambda line: print(line, flush=True))
    for rate, student in students.items():
        yield {"tokens": done, "rate": rate}, student


def _main() -> int:
    given = _arguments()
    torch.set_num_threads(given.threads)
    inputs = _inputs(given)
    folder = convert(inputs, VARIANT, given.work / "out").folder
    texts = Texts(given.shared / "data" if given.shared else None, {})
    evaluation = {
        kind: torch.from_numpy(ids) for kind, ids in texts.evaluation(inputs.source.tokenizer, given.measured).items()
    }
    teacher, before = Teacher.of(inputs.source.weights), Student(read(folder))
    plain = {kind: window_means(teacher, before, ids) for kind, ids in evaluation.items()}
    for settings, student in _trained(given, inputs, teacher, folder):
        after = {kind: window_means(teacher, student, ids) for kind, ids in evaluation.items()}
        record = {"source": given.source, **settings, "plain": plain, "after": after}
        with given.out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        for kind, values in after.items():
            change = mean_of_windows(differences(values, plain[kind]))
            kl = mean_of_windows(plain[kind]).value
            share = f"{100 * change.value / kl:+.1f} ± {100 * change.margin / kl:.1f} %"
            print(f"{settings}, {kind}: {1e3 * kl:.2f} mnat, {share}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
