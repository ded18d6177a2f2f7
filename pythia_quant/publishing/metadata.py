"""The front matter of a card, as data: the hub's search and its page of the model read it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml

from pythia_quant.bench.metrics import METRICS
from pythia_quant.core.hub_client import is_name
from pythia_quant.core.settings import VariantSettings
from pythia_quant.model.source_name import DEMO
from pythia_quant.publishing.foreign_markdown import plain
from pythia_quant.publishing.storage_words import TITLES, bits
from pythia_quant.recipe.variants import BnbSettings
from pythia_quant.recipe.yaml_lines import parse_plain
from pythia_quant.records.manifest import Manifest
from pythia_quant.records.results import Results, Row

_MEASURED = {
    "perplexity": "perplexity", "ppl_drift": "perplexity_drift", "kl": "kl_divergence", "top1": "top1_agreement",
}  # fmt: skip
"""The metrics in the front matter, and the names of their types on the hub."""

# The hub asks for a library, not for a file format (huggingface.js, model-libraries.ts). Of the libraries that run ONNX
# files, it knows only transformers.js for this task.
_LIBRARIES = {
    "bnb": "transformers", "gptq": "transformers", "onnx": "transformers.js", "gguf": "llama.cpp",
    "compressed-tensors": "transformers",
}  # fmt: skip

_FILE_TAGS = {"pytorch", "safetensors", "tf", "jax", "onnx", "gguf"}
"""Tags that say which files a repository has. Those of the source's card are not true of ours."""

_SPLIT = re.compile(r"(?:(?P<config>[^/]+)/)?(?P<split>train|test|validation)-\d+-of-\d+\.parquet")

_COMMIT = re.compile(r"[0-9a-f]{40}")


def front_matter(
    manifest: Manifest,
    results: Results,
    settings: VariantSettings,
    original: dict[str, list[str]],
    *,
    repo_id: str,
    results_url: str,
) -> ModelCardData:
    """Return the front matter of a card.

    Args:
        manifest: the artifact's manifest.
        results: results with the variant's row.
        settings: the variant's settings.
        original: the front matter of the source's card, see :func:`pythia_quant.publishing.foreign_markdown.metadata`.
        repo_id: the repository that it is published in.
        results_url: the address of the result file.
    """
    base = base_name(manifest)
    demo = manifest.source.model == DEMO
    measured = [*_drift(manifest, results, results_url), *_lambada(manifest, results, results_url)]
    tags = [TITLES[settings.format].lower(), bits(settings), "gpt_neox", *([] if demo else ["pythia"]), "pythia-quant"]
    if isinstance(settings, BnbSettings):
        tags.append(settings.quant_type)
    source_tags = [tag for tag in original.get("tags", []) if tag not in _FILE_TAGS]
    language = original.get("language", ["en"])  # the Pile, on which Pythia was trained, is English
    return ModelCardData(
        base_model=base,
        base_model_relation="quantized" if base else None,
        license="apache-2.0" if demo else _first(original, "license"),
        license_name=_first(original, "license_name"),
        license_link=_first(original, "license_link"),
        language=language[0] if len(language) == 1 else language,
        datasets=original.get("datasets"),
        library_name=_LIBRARIES[settings.format],
        pipeline_tag="text-generation",
        tags=[tag for tag in (*tags, *source_tags) if tag],
        model_name=repo_id.rpartition("/")[2] if measured else None,
        eval_results=measured or None,
    )


def base_name(manifest: Manifest) -> str | None:
    """Return the source's repository on the hub; None if the source is on no hub."""
    source = manifest.source
    return source.model if source.commit and is_name(source.model) else None


def _drift(manifest: Manifest, results: Results, url: str) -> Iterator[EvalResult]:
    row, protocol, text = results.row(manifest.variant), results.protocol, manifest.recipe["evaluation"]["text"]
    for key, kind in _MEASURED.items():
        yield from _measured(
            key, kind, row, results, url,
            dataset=_dataset(text, results.text.name) | {
                "dataset_args": {
                    "sha256": _line(results.text.sha256), "windows": protocol.windows, "context": protocol.context,
                },
            },
            protocol=f"{protocol.name} v{protocol.version}",
        )  # fmt: skip


def _lambada(manifest: Manifest, results: Results, url: str) -> Iterator[EvalResult]:
    row, protocol = results.row(manifest.variant), results.lambada
    if protocol is None:
        return
    text = (manifest.recipe.get("tasks") or {}).get("lambada") or {}
    yield from _measured(
        "lambada_accuracy", "accuracy", row, results, url,
        dataset=_dataset(text, "LAMBADA, OpenAI's form") | {
            "dataset_args": {"sha256": _line(protocol.sha256), "examples": protocol.examples},
        },
        protocol=f"{protocol.name} v{protocol.version}",
    )  # fmt: skip


def _measured(
    key: str, kind: str, row: Row, results: Results, url: str, *, dataset: dict[str, Any], protocol: str
) -> Iterator[EvalResult]:
    metric = METRICS[key]
    value = metric.value_of(row, results)
    if value is None or not all(map(math.isfinite, value)):
        return
    arguments = {"unit": metric.unit} if metric.unit else {}
    yield EvalResult(
        task_type="text-generation",
        metric_type=kind,
        metric_name=metric.label,
        metric_value=_short(value.value),
        metric_args=arguments | {"protocol": protocol, "interval_95": [_short(value.low), _short(value.high)]},
        verified=False,
        source_name="Self-reported, measured by pythia-quant",
        source_url=url,
        **dataset,
    )


def _dataset(text: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the fields of a text: for one from the hub, its repository, configuration, split and revision."""
    dataset = text.get("dataset")
    if not dataset or not is_name(dataset):
        return {"dataset_type": "text", "dataset_name": _line(name)}
    match = _SPLIT.fullmatch(text.get("file") or "")
    revision = text.get("revision") or ""
    return {
        "dataset_type": dataset,
        "dataset_name": _line(name),
        "dataset_config": match["config"] if match else None,
        "dataset_split": match["split"] if match else None,
        "dataset_revision": revision if _COMMIT.fullmatch(revision) else None,
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _line(text: str) -> str:
    return " ".join(plain(text).split())


def _first(original: dict[str, list[str]], key: str) -> str | None:
    return next(iter(original.get(key, [])), None)


EXAMPLES = 5_153
"""The passages of LAMBADA's test set. An accuracy on fewer passages is not the benchmark's."""


def eval_results_yaml(results: Results, variant: str, *, dataset_id: str, task_id: str, source_url: str) -> str | None:
    """Return a variant's LAMBADA accuracy as YAML; None if it was not measured on the whole test set.

    Args:
        results: results with the variant's row.
        variant: the name of the variant.
        dataset_id: the dataset on the hub that is the benchmark.
        task_id: the id of the task in that dataset's ``eval.yaml``.
        source_url: the address of the result file.
    """
    value = METRICS["lambada_accuracy"].value_of(results.row(variant), results)
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
    """Return the id of the only task in a dataset's ``eval.yaml``; None if it is no YAML, or has not one task."""
    data = parse_plain(eval_yaml)
    tasks = data.get("tasks") if isinstance(data, dict) else None
    if not isinstance(tasks, list) or len(tasks) != 1 or not isinstance(tasks[0], dict):
        return None
    task = tasks[0].get("id")
    return task if isinstance(task, str) and task else None
