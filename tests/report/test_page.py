"""What the page says, and that it is safe."""

import base64
import hashlib
import html
import re
from pathlib import Path

import plausible
from measured import lambada_run
from reported import NASTY, Page

from pythia_quant.bench.gates import describe_gate
from pythia_quant.bench.metrics import METRICS
from pythia_quant.records.results import Results
from pythia_quant.report.numbers import format_value
from pythia_quant.report.write import write_report


def test_every_value_of_every_row_is_on_the_page(runs: list[Results], source: str) -> None:
    tables = Page(source).cells
    for number, run in enumerate(runs):
        lines = {line[0].split("  ")[0].strip(): line[1:] for line in tables[2 + 3 * number]}
        for metric in METRICS.values():
            for one, cell in zip(run.rows, lines[metric.label], strict=True):
                text, interval = format_value(metric, one, metric.value_of(one, run))
                assert cell.split() == f"{text} {interval}".split(), (metric.key, one.name)


def test_rows_of_all_files_are_in_one_table_each_with_protocol_and_machine(runs: list[Results], source: str) -> None:
    lines = [line for line in Page(source).cells[0][2:] if len(line) > 1]
    assert len(lines) == sum(len(run.rows) for run in runs)
    measured = [(run, one) for run in runs for one in run.rows]
    for line, (run, one) in zip(lines, measured, strict=True):
        assert one.name in line[0]
        assert format_value(METRICS["kl"], one, METRICS["kl"].value_of(one, run)).text == line[2].split()[0]
        assert line[-1].split()[0] == format_value(METRICS["memory"], one, METRICS["memory"].value_of(one, run)).text
    heads = [line[0] for line in Page(source).cells[0] if len(line) == 1]
    for head, run in zip(heads, runs, strict=True):
        assert "windows v2" in head
        assert "latency v2" in head
        assert run.machine.cpu in head
    assert "B · pythia-160m @ step3000" in lines[-1][0]


def test_what_the_numbers_belong_to_is_said(runs: list[Results], source: str) -> None:
    text = " ".join(Page(source).texts)
    for run in runs:
        for said in (
            run.source.model, run.source.commit, run.text.name, run.text.sha256, run.machine.cpu, run.machine.system,
            *run.machine.instruction_sets, *run.machine.versions.values(), *run.source.sha256.values(),
            *(describe_gate(gate) for gate in run.gates), *(note for one in run.rows for note in one.notes),
            "windows, version 2: 48 windows of 2,048 tokens", "latency, version 2", "lambada-openai, version 1",
            "other programs took 9 %" if run.machine is plausible.EPYC else "8 cores",
        ):  # fmt: skip
            assert said is not None
            assert said in text


def test_what_was_published_is_said_with_the_protocols(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(lambada_run(1_400, 40.0).model_dump_json())
    page = Page(write_report([path], tmp_path / "report").read_text(encoding="utf-8"))
    assert "LAMBADA of others" in page.texts
    text = " ".join(page.texts)
    assert "torch-fp16 does not agree (27.17 %, 40.00)" in text
    assert "is 27.17 %, more than 2.27 from the published 32.84 %" in text


def test_gates_and_the_baseline_are_marked_in_words(runs: list[Results], source: str) -> None:
    lines = [line for line in Page(source).cells[0][2:] if len(line) > 1]
    by_name = {line[0].split()[0]: line for line in lines[: len(runs[0].rows)]}
    assert "baseline" in by_name["torch-fp16"][0]
    assert "baseline" not in by_name["gptq-int4"][0]
    assert "disturbed" in by_name["torch-bf16"][0]
    assert "remark" in by_name["bnb-nf4"][0]
    assert source.count("Disturbed while their speed was measured: torch-bf16.") == 4 * len(runs)
    gates = 1 + 4
    counts = {
        outcome: sum(g.outcome == outcome for g in runs[0].gates if g.variant == "bnb-nf4")
        for outcome in ("passed", "failed", "undecided")
    }
    for outcome, count in counts.items():
        assert (f"{count} {outcome}" in by_name["bnb-nf4"][gates]) == (count > 0)


def test_nothing_is_loaded_and_only_our_own_style_and_script_are_allowed(source: str) -> None:
    page = Page(source)
    links = [
        attributes[key]
        for _, attributes in page.tags
        for key in ("src", "href", "srcset", "action")
        if key in attributes
    ]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "@import" not in source
    assert not re.search(r"url\((?!#)", source)
    assert not {"style", "onclick", "onload", "onerror"} & {key for _, attributes in page.tags for key in attributes}
    (policy,) = (
        a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_where_the_files_lay_is_not_told(written: Path, source: str) -> None:
    assert str(written.parents[1]) not in source
    assert "0.json, sha256" in source


def test_links_go_somewhere_and_ids_are_unique(source: str) -> None:
    tags = Page(source).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"][1:] for _, attributes in tags if attributes.get("href", "").startswith("#")}
    clips = set(re.findall(r"url\(#([^)]+)\)", source))
    assert links | clips <= set(ids)
    assert {"file-A", "file-B"} <= links


def test_what_others_wrote_is_text(nasty: Path) -> None:
    source = nasty.read_text(encoding="utf-8")
    page = Page(source)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "img" not in {tag for tag, _ in page.tags}
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    text = " ".join(page.texts)
    for name in NASTY:
        assert name in text
        assert (
            html.escape(name, quote=False) in source
            or html.escape(name).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in source
        )
    for plot in (nasty.parent / "plots").glob("*.svg"):
        assert "<script" not in plot.read_text(encoding="utf-8")


def test_points_have_tooltips_with_their_numbers(runs: list[Results], source: str) -> None:
    for letter, run in zip("AB", runs, strict=True):
        for place, one in enumerate(run.rows):
            titles = re.findall(f'<g data-row="{letter}{place}"[^>]*><title>(.*?)</title>', source, re.DOTALL)
            assert len(titles) > 10
            text = format_value(METRICS["decode"], one, METRICS["decode"].value_of(one, run)).text
            assert all(title.startswith(f"{one.name}\n") and f"decode {text} " in title for title in titles)
