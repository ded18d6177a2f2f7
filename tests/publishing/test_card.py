from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from card_inputs import COMMIT, DEMO, FOLDER, HUB, manifest, results
from huggingface_hub import ModelCard
from measured import lambada_run
from rendered_card import card, front, only_our_html, outline, section, tokens

from pythia_quant.bench.metrics import METRICS
from pythia_quant.core.text import printable
from pythia_quant.publishing.anonymize import public_recipe
from pythia_quant.publishing.card import Sister
from pythia_quant.publishing.project import Project, source_address
from pythia_quant.publishing.storage_words import storage
from pythia_quant.recipe.onnx_variant import OnnxSettings
from pythia_quant.records.manifest import FileRecord
from pythia_quant.records.results import Drift

HEADINGS = (
    "How to run it", "How good it is", "Other programs", "What is stored", "Uses and limitations",
    "Where it comes from", "Citation", "Original model description",
)  # fmt: skip
VARIANTS = ("bnb-nf4", "gptq-int4", "onnx-int8", "onnx-int8-dynamic", "onnx-int4", "onnx-fp32")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_front_matter_is_read_back_as_it_was_meant(variant: str) -> None:
    of = manifest(variant)
    run = results(of, lambada=True)
    data = front(card(of, run))
    assert (data.base_model, data.base_model_relation) == (HUB.model, "quantized")
    assert (data.license, data.language, data.datasets) == ("mit", "en", ["EleutherAI/pile"])
    assert data.library_name == ("transformers.js" if variant.startswith("onnx") else "transformers")
    assert data.pipeline_tag == "text-generation"
    assert {"gpt_neox", "pythia", "pythia-quant", "causal-lm"} <= set(data.tags)
    assert "pytorch" not in data.tags
    bits = {"onnx-int8": "8-bit", "onnx-int8-dynamic": "8-bit", "onnx-fp32": ""}.get(variant, "4-bit")
    assert [tag for tag in data.tags if tag.endswith("-bit")] == ([bits] if bits else [])
    values = {result.metric_type: result for result in data.eval_results}
    assert values.keys() == {"perplexity", "perplexity_drift", "kl_divergence", "top1_agreement", "accuracy"}
    drift = METRICS["ppl_drift"].value_of(run.row(variant), run)
    assert drift
    written = values["perplexity_drift"]
    assert written.metric_value == pytest.approx(drift.value, rel=1e-5)
    assert written.metric_args["interval_95"] == pytest.approx([drift.low, drift.high], rel=1e-5)
    assert written.metric_args["protocol"] == "windows v2"
    assert written.dataset_args["sha256"] == run.text.sha256
    assert values["accuracy"].metric_value == pytest.approx(75)
    for result in values.values():
        assert result.verified is False
        assert "elf-reported" in (result.source_name or "")
        assert result.source_url == "https://huggingface.co/me/quantized/blob/main/results.json"


def test_a_text_from_the_hub_is_named_as_a_dataset() -> None:
    of = manifest()
    text = {
        "dataset": "Salesforce/wikitext",
        "file": "wikitext-2-raw-v1/test-00000-of-00001.parquet",
        "revision": COMMIT,
    }
    of = of.model_copy(update={"recipe": of.recipe | {"evaluation": {"text": text}}})
    found = front(card(of)).eval_results[0]
    assert (found.dataset_type, found.dataset_config, found.dataset_split, found.dataset_revision) == (
        "Salesforce/wikitext", "wikitext-2-raw-v1", "test", COMMIT,
    )  # fmt: skip
    text["revision"] = "main"
    assert front(card(of)).eval_results[0].dataset_revision is None


@pytest.mark.parametrize(
    ("source", "said"), [(DEMO, "no Pythia and on no hub"), (FOLDER, "`my-pythia`, a folder that is on no hub")]
)
def test_a_source_that_is_on_no_hub_is_no_base_model(source: Any, said: str) -> None:
    of = manifest(source=source)
    text = card(of, original=None)
    data = front(text)
    assert data.base_model is None
    assert "base_model_relation" not in data.to_dict()
    assert data.license == ("apache-2.0" if source is DEMO else None)
    assert ("pythia" in data.tags) == (source is FOLDER)
    assert said in text
    assert data.language == "en"
    assert "without a commit" in section(text, "Where it comes from")
    assert ("give yours with `--model`" in text) == (source is FOLDER)
    headings = [heading for heading in HEADINGS if f"\n## {heading}\n" in text]
    assert headings == [one for one in HEADINGS if one not in ("Uses and limitations", "Original model description")]


def test_rows_of_frequent_tokens_are_said() -> None:
    small = OnnxSettings(format="onnx", head="int4", frequent_tokens=2048)
    words = storage(small)["head"]
    assert words.startswith("int4 in blocks of 64;")
    assert words.endswith("; rows of the first 2,048 and of the last tokens in int8")
    assert "tokens" not in storage(small)["embeddings"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_stored_and_how_it_was_made_is_said(variant: str) -> None:
    of = manifest(variant)
    text = card(of)
    size, origin = section(text, "What is stored"), section(text, "Where it comes from")
    assert "86,581,000 bytes on disk in the files that hold weights" in size
    assert "9.84 bits a weight over all 70,426,624 parameters" in size
    assert "Weights on disk: **86.6 MB**, 61 % of the fp16 weights' 140.9 MB" in text
    assert "disk: size v2: all bytes of the files that hold weights" in text
    assert "73 % of them are embeddings and head" in size
    assert ("Calibrated on 128 windows of 512 tokens of held-out documents" in size) == (of.calibration is not None)
    assert ("int8 in blocks of 64" in size) == (variant in ("onnx-int8", "onnx-int8-dynamic"))
    for digest in (*of.source.sha256.values(), *(file.sha256 for file in of.files.values())):
        assert digest in origin
    assert all(words in origin for words in (COMMIT, "AMD EPYC", "torch 2.13.0", "pythia-quant 0.1.0"))
    (shown,) = re.findall(r"```yaml\n(.*?)```", origin, re.DOTALL)
    assert shown == public_recipe(of)
    assert list(yaml.safe_load(shown)["variants"]) == (["gptq-int4", variant] if variant == "onnx-int4" else [variant])
    assert f"pythia-quant run recipe.yaml --only {variant}" in origin
    assert ("GPTQModel.load()" in text) == (variant == "gptq-int4")
    assert ("session.x64quantprecision" in text) == (variant == "onnx-int8-dynamic")
    cited = set(re.findall(r"eprint = \{(.*?)\}", text))
    assert cited == {
        "2304.01373",
        *{"bnb-nf4": ["2305.14314"], "gptq-int4": ["2210.17323"], "onnx-int4": ["2210.17323"]}.get(variant, []),
    }


def test_texts_that_are_not_on_the_hub_are_to_be_given() -> None:
    of = manifest()
    assert "`--text`" not in card(of)
    for text, said in (({"file": "a.txt"}, True), ({"file": "a.txt", "dataset": "me/texts"}, False)):
        other = of.model_copy(update={"recipe": of.recipe | {"evaluation": {"text": text}}})
        assert ("give yours with `--calibration` and `--text`" in card(other)) == said


def test_numbers_are_those_of_the_results() -> None:
    of = manifest()
    as_run = results(of).row("gptq-int4").as_run
    assert as_run
    text = card(of, results(of, as_run=as_run.model_copy(update={"kl": ([0.0123] * 5 + [0.0125] * 5) * 4})))
    assert "KL divergence 12.40 ± 0.09 mnat" in text.split("## How good it is")[0]
    rows = re.findall(r"^\| (.*?) \|(.*)\|$", section(text, "How good it is"), re.MULTILINE)
    drift = [name for name, cells in rows if "12.40±0.09" in cells or "10.00" in cells]
    assert drift == ["**torch-fp16** (baseline)", "gptq-int4", "torch-fp32"]
    assert [label for label in ("prefill", "decode") if label in text] == ["prefill", "decode"]


@pytest.mark.parametrize("gate", ["", "passed", "failed", "undecided"])
@pytest.mark.parametrize("reason", ["", "good enough"])
def test_gates_are_named_with_their_outcome(gate: str, reason: str) -> None:
    of = manifest()
    text = card(of, results(of, gate), despite_gate=reason)
    assert ("max\\_ppl\\_drift" in section(text, "How good it is")) == bool(gate)
    assert ("Gate " in text) == bool(gate)
    assert not gate or f"of gptq-int4 {gate}: " in text
    lead = text.split("## How good it is")[0]
    assert ("**Published despite its gates.** The reason given: good enough" in lead) == bool(reason)
    assert (f"of gptq-int4 {gate}: " in lead) == (bool(reason) and gate in ("failed", "undecided"))


UNMEASURED: dict[str, dict[str, Any]] = {
    "not run": {"as_run": None},
    "not measured": {"as_run": None, "weights": None},
    "not finite": {"as_run": Drift(nll=[], kl=[], top1=[], non_finite=7)},
    "no weights": {"weights": None},
    "neither finite": dict.fromkeys(("as_run", "weights"), Drift(nll=[], kl=[], top1=[], non_finite=7)),
    "no speed": {"speeds": []},
}


@pytest.mark.parametrize("lambada", [False, True])
@pytest.mark.parametrize("case", UNMEASURED)
def test_what_was_not_measured_is_not_made_up(case: str, lambada: bool) -> None:
    of = manifest()
    run = results(of, "failed", lambada=lambada, **UNMEASURED[case])
    text = card(of, run)
    lead = text.split("## How good it is")[0]
    values = "\n".join(line for line in ModelCard(text).text.splitlines() if not line.startswith("- Gate"))
    assert not re.search(r"\b(None|nan|inf|Undefined)\b", values)
    assert ("it was not run; of its weights alone" in lead) == (case == "not run")
    assert ("its drift was not measured" in lead) == (case == "not measured")
    assert ("perplexity drift not finite" in lead) == (case in ("not finite", "neither finite"))
    assert ("logits were not finite at 7 positions" in text) == (case in ("not finite", "neither finite"))
    measured = {result.metric_type for result in front(text).eval_results or []}
    assert (measured & {"kl_divergence", "perplexity_drift"} != set()) == (case in ("no weights", "no speed"))
    assert ("accuracy" in measured) == lambada
    assert ("5,153 examples: accuracy 75.00 ± " in text) == lambada


@pytest.mark.parametrize(("hits", "verdict"), [(1_720, "agrees within error"), (1_400, "does not agree")])
def test_the_baseline_stands_beside_published_numbers(hits: int, verdict: str) -> None:
    of = manifest()
    published = lambada_run(hits, 40.0)
    run = results(of)
    baseline = run.rows[0].model_copy(update={"lambada": published.rows[0].lambada})
    update = {"rows": [baseline, *run.rows[1:]], "lambada": published.lambada, "source": published.source}
    text = card(of, run.model_copy(update=update))
    assert "- LAMBADA of the original, published: accuracy 32.84 % ± 1.28" in text
    assert f"torch-fp16 {verdict}" in text
    assert ("- torch-fp16: LAMBADA of torch-fp16 is not as published" in text) == (hits == 1_400)


def test_without_any_speed_there_is_no_table_of_it() -> None:
    of = manifest()
    run = results(of)
    slow = run.model_copy(update={"rows": [row.model_copy(update={"speeds": []}) for row in run.rows], "latency": None})
    assert "× baseline" in card(of, run)
    assert "× baseline" not in card(of, slow)


def test_a_card_is_a_function_of_what_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    before = card(manifest())
    monkeypatch.setenv("HF_ENDPOINT", "https://elsewhere.example")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert card(manifest()) == before


def test_a_branch_is_named_wherever_something_is_fetched() -> None:
    text = card(manifest(), revision="step3000")
    assert "blob/step3000/results.json" in text
    assert "hf download me/quantized recipe.yaml --revision step3000" in text
    assert 'from_pretrained("me/quantized", revision="step3000")' in text
    assert "--revision" not in card(manifest())


HOSTILE = (
    "`a`b``", "a|b||c", "line\nbreak\n\n# Heading\n", "---", "\n---\n", "{{ 7 * 7 }}{% raw %}", "</blockquote>", "<!--",
    "<script>alert(1)</script>", "x](javascript:alert(1))[y", "[z]: http://example.org", "![i](http://example.org)",
    "\u202egnp.exe", "$x$", "~~s~~", "**b** _i_", "&lt;b&gt;", "\\", "\\`", "\x1b[2J\x9b\ufeff",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_data(name: str) -> None:
    of = manifest(source=FOLDER)
    harmless = outline(card(of, original=None, despite_gate="reason"))
    source = FOLDER.model_copy(update={"model": name, "revision": name, "sha256": {name: name}})
    record = FileRecord.model_construct(bytes=1, sha256=name)  # no manifest that is read has such a one
    hostile = of.model_copy(update={
        "source": source, "tool": name, "cpu": name, "versions": {name: name},
        "files": {file if index else name: record for index, file in enumerate(of.files)},
        "calibration": of.calibration and of.calibration.model_copy(
            update={"text": of.calibration.text.model_copy(update={"name": name})}
        ),
        "check": of.check.model_copy(update={"method": name}),
    })  # fmt: skip
    run = results(hostile, runtime=name, notes=[name])
    run = run.model_copy(update={
        "notes": [name], "text": run.text.model_copy(update={"name": name, "sha256": name}),
        "machine": run.machine.model_copy(update={"cpu": name, "system": name}),
    })  # fmt: skip
    text = card(hostile, run, original=None, despite_gate=name)
    found = tokens(text)
    assert only_our_html(found)
    links = {str(token.attrs["href"]) for token in found if token.type == "link_open"}
    assert links == {"#other-programs", "results.json", "recipe.yaml"}
    assert not [token for token in found if token.type == "image"]
    assert printable(text) == text
    assert "49" not in section(text, "Where it comes from")
    remarked = [("list_item_openli", 1), ("paragraph_openp", 2)] * 2
    assert sorted(outline(text)) == sorted([*harmless, *remarked])
    assert front(text).eval_results[0].dataset_name


def test_a_hostile_name_is_no_base_model() -> None:
    for name in HOSTILE:
        of = manifest(source=HUB.model_copy(update={"model": name}))
        assert front(card(of)).base_model is None


URL = "https://git.example/us/pythia-quant"


def test_what_it_is_how_to_run_it_and_how_good_it_is_come_first() -> None:
    text = card(manifest(), project=Project("pythia-quant", URL), sample="Once upon a time\n```\n<b>")
    assert [name for name in re.findall(r"^## (.*)$", ModelCard(text).text, re.MULTILINE) if name in HEADINGS] == [
        *HEADINGS
    ]
    assert f"by [pythia-quant]({URL})" in text.split("\n## ")[0]
    run = section(text, "How to run it")
    assert run.startswith(
        f"\n```sh\npip install 'pythia-quant @ git+{URL}'\n"
        "pythia-quant generate hf://me/quantized --prompt 'Once upon a time' --max-new-tokens 40\n```\n"
    )
    assert "````text\nOnce upon a time\n```\n<b>\n````" in run
    assert "It printed" not in card(manifest())
    here = card(manifest("onnx-int8"), project=Project("pythia-quant", ""))
    assert "pip install '.[onnx]'  # in a checkout of pythia-quant\n" in section(here, "How to run it")
    assert "by pythia-quant (variant `onnx-int8`)" in here


def test_a_card_has_only_the_rows_that_concern_its_artifact() -> None:
    of = manifest("onnx-int8")
    run = results(of)
    other = run.rows[0].model_copy(update={"name": "torch-bf16", "notes": ["a note on bf16"]})
    unquantized = run.rows[0].model_copy(update={"name": "onnx-fp32"})
    text = card(of, run.model_copy(update={"rows": [other, unquantized, *run.rows]}))
    rows = re.findall(r"^\| \**([a-z][\w-]+)\**(?: \(baseline\))? \|", section(text, "How good it is"), re.MULTILINE)
    assert rows == ["torch-fp16", "onnx-int8", "torch-fp32"] * 2
    assert "bf16" not in section(text, "How good it is")


def test_memory_is_what_was_measured() -> None:
    of = manifest()
    run = results(of)
    speed = run.row("gptq-int4").speeds[0]
    process = speed.processes[0].model_copy(update={"start_rss_bytes": 300_000_000, "peak_rss_bytes": 450_000_000})
    speeds = [speed.model_copy(update={"processes": [speed.processes[0], process]})]
    lead = card(of, results(of, speeds=speeds)).split("\n## ")[0]
    assert "Memory when it was measured: 450 MB, of which the model and its run take 150 MB." in lead
    assert "Memory when" not in card(of, results(of, speeds=[]))


def test_variants_that_are_published_together_name_each_other() -> None:
    sisters = [
        Sister("me/tiny-onnx", "main", manifest("onnx-int8")), Sister("me/a_b", "step 1/2", manifest("bnb-nf4")),
    ]  # fmt: skip
    text = section(card(manifest(), sisters=sisters), "Other variants")
    assert "- [me/tiny-onnx](https://huggingface.co/me/tiny-onnx) (`onnx-int8`): ONNX, 8-bit, 86.6 MB\n" in text
    assert "[me/a\\_b@step 1/2](https://huggingface.co/me/a_b/tree/step%201%2F2) (`bnb-nf4`): bitsandbytes" in text
    assert "Other variants" not in card(manifest())


@pytest.mark.parametrize(
    ("urls", "address"),
    [
        (["Models, https://a.example", f"Source, {URL}"], URL),
        ([f"source,{URL}"], URL),
        (["Models, https://a.example"], ""),
        (["Source, http://plain.example"], ""),
        (["Source, https://x.example/'; rm -rf ~"], ""),
        (["Source, https://x.example/)[y"], ""),
        ([], ""),
    ],
)
def test_the_address_of_this_project_is_that_of_the_package(urls: list[str], address: str) -> None:
    assert source_address(urls) == address
