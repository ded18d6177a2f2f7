"""What others published about the suite. The first line of each CSV file beside this module names its source."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pythia_quant.model.suite import ORGANIZATION


@dataclass(frozen=True)
class Evaluation:
    """The zero-shot results of one model after the last step, in fp16.

    Attributes:
        lambada_perplexity: exp of the mean negative log-likelihood of a last word of LAMBADA in OpenAI's form.
        lambada_perplexity_error: its standard error.
        accuracy: shares of 0 to 1 by the harness's names of the tasks, such as ``lambada_openai`` and ``piqa``.
    """

    lambada_perplexity: float
    lambada_perplexity_error: float
    accuracy: Mapping[str, float]


@dataclass(frozen=True)
class GptqPerplexity:
    """The perplexities of one model on WikiText-2, by a protocol that is none of ours.

    Attributes:
        unquantized: that of the fp16 weights; None if it was not published.
        gptq: that of 4 bits in groups of 128 by AutoGPTQ.
    """

    unquantized: float | None
    gptq: float


@cache
def evaluations() -> Mapping[str, Evaluation]:
    """Return the published zero-shot results by the name of the repository."""
    return {name: _evaluation(row) for name, row in _rows("published_evals.csv").items()}


@cache
def gptq_perplexities() -> Mapping[str, GptqPerplexity]:
    """Return the published perplexities of GPTQ by the name of the repository."""
    return {
        name: GptqPerplexity(float(row["ppl_16bit"]) if row["ppl_16bit"] else None, float(row["ppl_gptq4_g128"]))
        for name, row in _rows("published_gptq.csv").items()
    }


def _evaluation(row: dict[str, str]) -> Evaluation:
    perplexity, error = float(row.pop("lambada_ppl")), float(row.pop("lambada_ppl_se"))
    accuracy = {"lambada_openai": float(row.pop("lambada_acc"))} | {task: float(share) for task, share in row.items()}
    return Evaluation(perplexity, error, accuracy)


def _rows(name: str) -> dict[str, dict[str, str]]:
    lines = (files("pythia_quant.model") / name).read_text(encoding="utf-8").splitlines()[1:]
    return {f"{ORGANIZATION}/{row.pop('model')}": row for row in csv.DictReader(lines)}
