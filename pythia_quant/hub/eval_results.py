"""LAMBADA accuracy in the form of ``.eval_results/*.yaml``, which the hub shows on the page of a benchmark."""

from __future__ import annotations

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from pythia_quant.bench.metrics import METRICS
from pythia_quant.hub.quoting import plain
from pythia_quant.recipe.yaml_lines import parse_plain
from pythia_quant.records.results import Results

EXAMPLES = 5_153
"""Of LAMBADA's test set: an accuracy on fewer is not the benchmark's."""


def eval_results_yaml(results: Results, variant: str, *, dataset_id: str, task_id: str, source_url: str) -> str | None:
    """Return a variant's LAMBADA accuracy, or None where it was not measured on the whole test set.

    Args:
        results: what was measured.
        variant: whose.
        dataset_id: the benchmark, a dataset on the hub.
        task_id: the task, by its name in that dataset's ``eval.yaml``.
        source_url: where the samples can be read.
    """
    value = METRICS["lambada_accuracy"].of(results.row(variant), results)
    if value is None or results.lambada is None or results.lambada.examples != EXAMPLES:
        return None
    protocol, runtime = results.lambada, plain(results.row(variant).runtime)
    entry = EvalResultEntry(
        dataset_id=dataset_id,
        task_id=task_id,
        value=round(value.value, 4),
        date=results.created.date().isoformat(),
        source_url=source_url,
        source_name="Samples and protocol",
        notes=(
            f"greedy accuracy of the last word in %, 95 % interval {value.low:.2f} to {value.high:.2f}; "
            f"{protocol.name} v{protocol.version}, {protocol.examples:,} examples; {runtime}"
        ),
    )
    text: str = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
    return text


def benchmark_task(eval_yaml: str) -> str | None:
    """Return the id of the only task in a dataset's ``eval.yaml``; None where there are none, several, or no YAML."""
    data = parse_plain(eval_yaml)
    tasks = data.get("tasks") if isinstance(data, dict) else None
    if not isinstance(tasks, list) or len(tasks) != 1 or not isinstance(tasks[0], dict):
        return None
    task = tasks[0].get("id")
    return task if isinstance(task, str) and task else None
