from __future__ import annotations

import pytest
import yaml
from card_inputs import manifest, results
from huggingface_hub import parse_eval_result_entries

from pythia_quant.core.text import printable
from pythia_quant.publishing.metadata import benchmark_task, eval_results_yaml

WHERE = {
    "dataset_id": "EleutherAI/lambada_openai",
    "task_id": "lambada",
    "source_url": "https://huggingface.co/me/quantized/blob/main/results.json",
}


def test_lambada_accuracy_is_read_back_by_the_hubs_own_parser() -> None:
    of = manifest()
    text = eval_results_yaml(results(of, lambada=True), of.variant, **WHERE)
    assert text
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    assert (entry.dataset_id, entry.task_id, entry.source_url) == tuple(WHERE.values())
    assert entry.value == 75
    assert entry.verify_token is None
    assert "95 % interval 66.47 to 83.53" in str(entry.notes)
    assert "lambada-openai v1, 5,153 examples" in str(entry.notes)


def test_what_a_runtime_is_called_hides_nothing() -> None:
    run = results(of := manifest(), lambada=True, runtime="\u202eours\x9b")
    text = eval_results_yaml(run, of.variant, **WHERE) or ""
    assert printable(text) == text
    assert "; ours" in text


def test_the_date_is_that_of_the_measurement() -> None:
    run = results(of := manifest(), lambada=True)
    (entry,) = yaml.safe_load(eval_results_yaml(run, of.variant, **WHERE) or "")
    assert entry["date"] == run.created.date().isoformat()


def test_what_was_not_measured_is_not_reported() -> None:
    of = manifest()
    assert eval_results_yaml(results(of), of.variant, **WHERE) is None
    run = results(of, lambada=True)
    assert eval_results_yaml(run, "torch-fp16", **WHERE) is None
    assert run.lambada
    part = run.model_copy(update={"lambada": run.lambada.model_copy(update={"examples": 100})})
    assert eval_results_yaml(part, of.variant, **WHERE) is None


TASK = "name: A\nevaluation_framework: inspect-ai\ntasks:\n"


@pytest.mark.parametrize(
    ("text", "task"),
    [
        (f"{TASK}  - id: lambada\n    config: default\n    split: test\n", "lambada"),
        (f"{TASK}  - id: a\n  - id: b\n", None),
        (f"{TASK}  - config: default\n", None),
        (f"{TASK}  - id: 3\n", None),
        (f"{TASK}  - id: ''\n", None),
        (f"{TASK}  - lambada\n", None),
        ("tasks: {id: a}\n", None),
        ("tasks: []\n", None),
        ("name: A\n", None),
        ("- id: a\n", None),
        ("tasks: [", None),
        ("tasks: !!bool maybe", None),
        ("", None),
    ],
)
def test_a_benchmark_has_a_task_when_it_has_exactly_one(text: str, task: str | None) -> None:
    assert benchmark_task(text) == task
