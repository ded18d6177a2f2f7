"""Against lm_eval's own model for transformers, on the demo model in fp32; nothing is downloaded."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from tiny import TINY, byte_tokenizer, write_recipe
from tokenizers import Tokenizer

import pythia_quant
from pythia_quant import convert, load_inputs, load_recipe
from pythia_quant.bench.lambada_accuracy import score_passages
from pythia_quant.bench.metrics import last_word_accuracy, last_word_perplexity
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.formats.onnx.runtime import open_runtime
from pythia_quant.model.config import read_config
from pythia_quant.runtimes.transformers import open_model
from pythia_quant.texts.lambada import read_passages, split_passage

MODEL = Path(pythia_quant.__file__).parent / "model" / "demo"
TASK = "lambada_of_the_test"
CONTEXT = 512


def refuse_connection(*_: object) -> None:
    raise AssertionError("a test needs the network")


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(socket.socket, "connect", refuse_connection)
        yield


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Passages of 30 words, one longer than the context, and one with a line before its last word."""
    words = [word for name in sorted(topics)[:6] for word in topics[name].split(" ")]
    passages = [" ".join(words[start : start + 30]) for start in range(0, 900, 30)]
    passages += [" ".join(words[:900]), "for the value of the \n\nname"]
    path = tmp_path_factory.mktemp("lambada") / "rows.jsonl"
    path.write_text(
        "".join(f"{json.dumps({'text': passage})}\n" for passage in passages if passage.split(" ")[-1].strip())
    )
    return path


@pytest.fixture(scope="module")
def theirs(offline: None) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(MODEL), device="cpu", dtype="float32", batch_size=1)


@pytest.fixture(scope="module")
def ours(offline: None) -> Any:
    from pythia_quant.integrations.lm_eval import PythiaQuantLM

    return PythiaQuantLM(source=str(MODEL))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    return convert(load_inputs(load_recipe(write_recipe(folder))), "onnx-int8", folder / "out").folder


def evaluate(rows: Path, **model: Any) -> tuple[dict[str, float], list[tuple[float, bool]]]:
    """Run ``lambada_openai`` with these rows; return its metrics and each row's answer."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}, "cache_dir": str(rows.parent / "cache")},
        "test_split": "test",
        "output_type": "loglikelihood",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' '+text.split(' ')[-1]}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    }
    manager = TaskManager(include_defaults=False)
    found = simple_evaluate(tasks=[task], task_manager=manager, bootstrap_iters=0, log_samples=True, **model)
    samples = sorted(found["samples"][TASK], key=lambda sample: int(sample["doc_id"]))
    return found["results"][TASK], [tuple(sample["filtered_resps"][0]) for sample in samples]


def requests(*arguments: Any) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance("loglikelihood", {}, one, index) for index, one in enumerate(arguments)]


def test_lambada_is_what_lm_eval_measures(rows: Path, theirs: Any, ours: Any) -> None:
    metrics, answers = evaluate(rows, model=theirs)
    tokenizer, passages = Tokenizer.from_file(str(MODEL / "tokenizer.json")), read_passages(rows)
    examples = [split_passage(tokenizer, passage, 0) for passage in passages]
    assert {1, 2} <= {len(example.word) for example in examples}
    assert max(len(example.context) for example in examples) > CONTEXT

    measured = score_passages(open_model(MODEL, torch.float32), tokenizer, passages, read_config(MODEL / "config.json"))
    assert measured.log_likelihood == pytest.approx([likelihood for likelihood, _ in answers], rel=1e-4, abs=1e-4)
    assert measured.greedy == [greedy for _, greedy in answers]
    assert 0 < last_word_accuracy(measured).value < 1
    assert last_word_accuracy(measured).value == metrics["acc,none"]
    assert last_word_perplexity(measured).value == pytest.approx(metrics["perplexity,none"], rel=1e-5)

    adapted, _ = evaluate(rows, model=ours)
    assert adapted["acc,none"] == metrics["acc,none"]
    assert adapted["perplexity,none"] == pytest.approx(metrics["perplexity,none"], rel=1e-5)


def test_an_artifact_runs_by_name(rows: Path, artifact: Path) -> None:
    import pythia_quant.integrations.lm_eval  # noqa: F401  # which tells lm_eval the name

    metrics, answers = evaluate(rows, model="pythia-quant", model_args=f"artifact={artifact},threads=2")
    measured = score_passages(open_runtime(artifact, 2), byte_tokenizer(), read_passages(rows), TINY)
    assert answers == list(zip(measured.log_likelihood, measured.greedy, strict=True))
    assert metrics["acc,none"] == last_word_accuracy(measured).value
    assert metrics["perplexity,none"] == pytest.approx(last_word_perplexity(measured).value, rel=1e-12)


def test_continuations_score_as_in_lm_eval(theirs: Any, ours: Any) -> None:
    pairs = [
        ("", "import os"),
        ("", "<|endoftext|>import"),
        ("import os\nimport", " sys"),
        ("import os\nimport", " re"),  # the same context, of one token each
        ("import os\nimport", " incredibly_long"),
        ("x = 1\nif x is not", " None"),
        ("the value of the  ", "name"),
        ("x = 1\n" * 300, "x = 1"),
    ]
    expected = theirs.loglikelihood(requests(*pairs), disable_tqdm=True)
    found = ours.loglikelihood(requests(*pairs), disable_tqdm=True)
    assert [likelihood for likelihood, _ in found] == pytest.approx([one for one, _ in expected], rel=1e-4, abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert {greedy for _, greedy in found} == {True, False}


def test_whole_texts_score_as_in_lm_eval(theirs: Any, ours: Any) -> None:
    texts = [("x",), (topics["if"],), (topics["formatstrings"],)]
    assert len(ours.tok_encode(texts[2][0])) > 3 * CONTEXT
    expected = theirs.loglikelihood_rolling(requests(*texts), disable_tqdm=True)
    assert ours.loglikelihood_rolling(requests(*texts), disable_tqdm=True) == pytest.approx(expected, rel=1e-5)


def test_greedy_continuations_are_lm_evals(theirs: Any, ours: Any) -> None:
    prompts: list[tuple[str, dict[str, Any]]] = [
        ("import os\nimport", {"until": ["\n\n"], "max_gen_toks": 40}),
        ("import os\nimport", {"until": "\n", "max_gen_toks": 40, "do_sample": False, "temperature": 0.7}),
        ("def main(", {"max_new_tokens": 30}),
        ("def main(", {"until": ["\n", "):"], "max_gen_toks": 30, "top_p": 0.9}),
        ("import os\nimport", {"until": ["s", "os"], "max_gen_toks": 30}),  # one token completes both
        (topics["formatstrings"], {"until": [], "max_gen_toks": 20}),
        ("class A:\n    def", {"until": ["\n\n", "return"], "max_gen_toks": 30}),
    ]
    # theirs adds the end of the text to `until` in place
    expected = theirs.generate_until(requests(*((p, s | {"do_sample": False}) for p, s in prompts)), disable_tqdm=True)
    found = ours.generate_until(requests(*prompts), disable_tqdm=True)
    assert found == expected
    assert len(set(found)) == len(prompts)
    assert all(found)


def test_a_continuation_ends_with_the_text(ours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [*ours.tok_encode("import"), 0, *ours.tok_encode(" os")]
    fed = []

    class Script:
        def prefill(self, ids: torch.Tensor, capacity: int) -> torch.Tensor:
            fed.append((ids.tolist(), capacity))
            return self.step(0)

        def step(self, _: int) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.tensor(tokens.pop(0)), 4096).float()

    monkeypatch.setattr(ours, "_runtime", Script())
    assert ours.generate_until(requests(("", {"max_gen_toks": 4})), disable_tqdm=True) == ["import"]
    assert fed == [([0], 5)]  # the end of the text stands for an empty context


def test_sampling_follows_the_seed(offline: None) -> None:
    from pythia_quant.integrations.lm_eval import PythiaQuantLM

    def sample(seed: int) -> list[str]:
        settings = {"until": ["\n"], "max_gen_toks": 12, "do_sample": True, "temperature": 1.5}
        return list(
            PythiaQuantLM(source=str(MODEL), seed=seed).generate_until(requests(*[("def", settings)] * 3), True)
        )

    assert sample(1) == sample(1) != sample(2)
    assert len(set(sample(1))) > 1


def test_answers_are_offered_to_the_cache(ours: Any) -> None:
    kept = []

    class Hook:
        def add_partial(self, kind: str, request: Any, answer: Any) -> None:
            kept.append((kind, request, answer))

    settings = {"until": ["\n"], "max_gen_toks": 4}
    before, ours.cache_hook = ours.cache_hook, Hook()
    try:
        ours.loglikelihood(requests(("import", " os")), disable_tqdm=True)
        ours.loglikelihood_rolling(requests(("import os",)), disable_tqdm=True)
        ours.generate_until(requests(("import", settings)), disable_tqdm=True)
    finally:
        ours.cache_hook = before
    assert [(kind, request) for kind, request, _ in kept] == [
        ("loglikelihood", ("import", " os")), ("loglikelihood_rolling", ("import os",)),
        ("generate_until", ("import", settings)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either an artifact or a source"),
        ({"artifact": "a", "source": "b"}, "give either an artifact or a source"),
        ({"artifact": "/nowhere"}, r"/nowhere: there is no pythia_quant\.json"),
        ({"source": "/nowhere"}, "/nowhere: has neither model.safetensors"),
        ({"source": str(MODEL), "dtype": "float8"}, "'float8' is not handled\n  did you mean 'float32'"),
        ({"artifact": "a", "threads": "x"}, "threads is 'x'; a whole number from 1"),
        ({"artifact": "a", "threads": -1}, "threads is -1; a whole number from 1"),
        ({"artifact": "a", "seed": 0.5}, "seed is 0.5; a whole number from 0"),
        ({"artefact": "a"}, "no setting 'artefact'\n  did you mean 'artifact'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    from pythia_quant.integrations.lm_eval import PythiaQuantLM

    with pytest.raises(PythiaQuantError, match=message):
        PythiaQuantLM(**arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_gen_toks": CONTEXT}, "512 new tokens leave no room for a context in the model's 512"),
        ({"num_beams": 2}, "'num_beams' is not handled"),
        ({"do_sample": True, "top_k": -5}, "'top_k' is not handled\n  it is -5; give a whole number"),
        ({"do_sample": True, "top_p": 0}, "'top_p' is not handled\n  it is 0; give a number above 0"),
        ({"temperature": "hot"}, "'temperature' is not handled\n  it is 'hot'; give a number"),
        ({"temperature": float("nan")}, "'temperature' is not handled\n  it is nan"),
        ({"until": 5}, "'until' is not handled\n  it is 5; give a text"),
        ({"until": ["a", 5]}, "'until' is not handled"),
        ({"max_new_tokens": "many"}, "'max_new_tokens' is not handled\n  it is 'many'"),
        ({"max_gen_toks": -1}, "'max_gen_toks' is not handled"),
    ],
)
def test_generation_that_is_not_handled_is_refused(ours: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PythiaQuantError, match=message):
        ours.generate_until(requests(("a", settings)), disable_tqdm=True)


def test_a_source_without_tokenizer_is_refused(checkpoint: Path) -> None:
    from pythia_quant.integrations.lm_eval import PythiaQuantLM

    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(PythiaQuantError, match=r"tokenizer\.json: there is no such file"):
        PythiaQuantLM(source=str(checkpoint))


def test_the_command_line_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import lm_eval.__main__
    from lm_eval.api.registry import get_model

    from pythia_quant.integrations.lm_eval import NAME, main

    def run() -> None:
        get_model(sys.argv[1]).create_from_arg_string(sys.argv[2], {"device": "cuda:0", "batch_size": 1})

    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", run)
    monkeypatch.setattr(sys, "argv", ["lm_eval", NAME, "artifact=/no\x1bwhere"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "error: /no\\x1bwhere: there is no pythia_quant.json" in capsys.readouterr().err


def test_lm_evals_own_models_stay_in_its_table() -> None:
    """In a process of its own: here they are there already."""
    script = (
        "import pythia_quant.integrations.lm_eval; from lm_eval.api.registry import get_model; print(get_model('hf'))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "HFLM" in found
