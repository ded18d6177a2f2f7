"""What the page of a study says against its table, and that it is safe."""

import base64
import csv
import hashlib
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import sweep_tables as made
from reported import NASTY, Page

from pythia_quant.bench.metrics import METRICS, Value
from pythia_quant.core.errors import BenchmarkError, StudyError
from pythia_quant.report.numbers import format_number
from pythia_quant.sweep.page import write_page
from pythia_quant.sweep.series import changes, panels
from pythia_quant.sweep.table import read_table, write_table
from pythia_quant.sweep.views import Law, LawView, SeedSpread, SeedsView


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    return made.study()


@pytest.fixture(scope="module")
def written(lines: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_page([("small study", lines)], tmp_path_factory.mktemp("study") / "page")


@pytest.fixture(scope="module")
def source(written: list[Path]) -> str:
    return written[0].read_text(encoding="utf-8")


def prose(source: str) -> str:
    return " ".join(" ".join(Page(source).texts).split())


def rendered(tables: list[tuple[str, list[dict[str, Any]]]], folder: Path, **views: Any) -> str:
    return write_page(tables, folder, **views)[0].read_text(encoding="utf-8")


def test_every_job_is_in_the_table_with_its_numbers(lines: list[dict[str, Any]], source: str) -> None:
    _, jobs = Page(source).cells
    assert len(jobs) == 1 + len(lines) == 193
    for cells, line in zip(jobs[1:], lines, strict=True):
        assert cells[0].strip() == f"{line['model']}@{line['revision']}"
        assert [cell.strip() for cell in cells[1:7]] == [
            line["size"], str(line["seed"]), f"{line['step']:,}", line["variant"], f"{line['bits']:g}", line["status"]
        ]  # fmt: skip
        for key, cell in zip(("kl", "ppl_drift", "top1"), cells[7:10], strict=True):
            if line[key] is None:
                assert not cell.split()
            else:
                value = Value(line[key], line[f"{key}_low"], line[f"{key}_high"])
                assert cell.split() == list(format_number(METRICS[key], value))
        assert (line["problem"] or "") in cells[10]
        assert (line["duplicate_of"] or "") in cells[10]


def test_the_table_of_changes_has_first_last_and_factor(lines: list[dict[str, Any]], source: str) -> None:
    table, _ = Page(source).cells
    found = changes(panels([("", lines)], [""], "kl"))
    for cells, one in zip(table[1:], found, strict=True):
        assert one.curve.variant in cells[0]
        assert one.factor is not None
        assert cells[4].strip() == f"×\u00a0{one.factor.value:.3g} ({one.factor.low:.3g}–{one.factor.high:.3g})"
        for point, cell in ((one.first, cells[2]), (one.last, cells[3]), (one.largest, cells[5])):
            assert format_number(METRICS["kl"], point.value).text in cell
            assert f"step {point.step:,}" in cell


def test_the_answer_comes_first_in_sentences(source: str) -> None:
    text = prose(source)
    first = text[: text.index("Drift over training")]
    for said in (
        "3 variants of 2 sizes (70m, 160m) with 3 seeds, at 8 training steps from 0 to 143,000.",
        "187 of 192 jobs are done; 1 failed, 4 are of missing revisions, 12 repeat the weights of another revision.",
        "From step 0 (untrained) to step 143,000, the KL divergence grows in every case.",
        "No variant comes down to the fp16 floor at any step.",
    ):
        assert said in first


def test_a_variant_that_stays_at_the_floor_is_named(tmp_path: Path) -> None:
    lines = made.study(["70m"], [1])
    for line in lines:
        if line["variant"] == "bnb-int8":
            line |= {"kl": 0.0005, "kl_low": 0.0004, "kl_high": 0.0006}
    text = prose(rendered([("s", lines)], tmp_path / "page"))
    assert "Never above the fp16 floor: bnb-int8." in text
    assert "at or below the floor at 70m: 8 of 8 steps" in text
    assert "grows in 2 of 3 cases, stays the same within error in 1." in text


def test_step_0_is_explained_only_where_it_is_drawn(source: str, tmp_path: Path) -> None:
    assert prose(source).count("it stands left of the break") == 2
    later = rendered([("s", made.study(steps=made.STEPS[1:]))], tmp_path / "page")
    assert "left of the break" not in later
    assert prose(source).count("the vertical axis is linear from −0.01 to 0.01") == 1


def test_gaps_are_listed_with_their_reasons(source: str) -> None:
    text = prose(source)
    left_out = text[text.index("What the curves leave out") :]
    for said in (
        "layer 3: a matrix is singular gptq-int3 of EleutherAI/pythia-160m-seed3 step64000",
        "there is no such revision EleutherAI/pythia-70m-seed2 step512",
        "EleutherAI/pythia-160m-seed1@step64 EleutherAI/pythia-160m-seed1 step1",
    ):
        assert said in left_out


def test_conditions_are_said_and_differences_are_warned_of(source: str, tmp_path: Path) -> None:
    text = prose(source)
    for said in ("5e" * 32, "64 windows of 512 tokens", "torch 2.9.1", "AMD EPYC 9R45", "pythia-quant 0.1.0"):
        assert said in text
    assert "different conditions" not in text
    first, second = made.study(["70m"], [1]), made.study(["160m"], [1])
    for line in second:
        line |= {"cpu": "Graviton4", "versions": made.VERSIONS.replace("2.9.1", "2.10.0"), "windows": 32}
    what = "32 windows of 512 tokens and 64 windows of 512 tokens; torch 2.9.1 and 2.10.0; 2 processors"
    both = prose(rendered([("one", first + second)], tmp_path / "one"))
    assert f"The plots were measured under different conditions: {what}." in both
    second = [line | {"size": "70m", "seed": 2} for line in second]
    mixed = prose(rendered([("one", first + second)], tmp_path / "mixed"))
    assert f"Lines of one plot were measured under different conditions: {what}." in mixed


def test_several_tables_share_a_page(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    other = made.study(["410m"], [0])
    source = rendered([("small", lines), ("large", other)], tmp_path / "page")
    page = Page(source)
    text = prose(source)
    assert len(page.cells[-1]) == 1 + len(lines) + len(other)
    assert [a["aria-label"] for tag, a in page.tags if tag == "svg" and "aria-label" in a] == [
        f"{title} of {name} by training tokens"
        for title in ("KL divergence", "Perplexity drift")
        for name in ("A 70m", "A 160m", "B 410m")
    ]
    assert "4 seeds" in text
    assert "B large, 32 jobs" in text


def test_curves_without_tokens_stand_over_steps(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    other = [line | {"tokens": None, "learning_rate": None} for line in made.study(["410m"], [0])]
    source = rendered([("small", lines), ("large", other)], tmp_path / "page")
    assert "by training step" in source
    assert "by training tokens" not in source
    assert "the horizontal axis shows steps" in source


def test_the_law_and_the_seeds_have_their_sections(lines: list[dict[str, Any]], source: str, tmp_path: Path) -> None:
    assert 'id="law"' not in source
    assert 'id="seeds"' not in source
    law = LawView(
        "Divergence grows with tokens.", "KL = k · D^β", {"D": "training tokens"},
        [Law("gptq-int3", {"β": Value(0.333, 0.3, 0.37)}, 48, "R² 0.97", "R² 0.98", "two sizes only"),
         Law("bnb-int8", {"k": Value(0.5, 0.4, 0.6)}, 47, "R² 0.9")], ["By bootstrap."],
    )  # fmt: skip
    spread = SeedSpread("70m", "bnb-int8", 143000, Value(0.15, 0.1, 0.2), Value(0.9, 0.5, 2.1), 7, 8)
    seeds = SeedsView("bnb-int8 costs less than another seed.", "perplexity", "%", [spread], ["A standard deviation."])
    page = rendered([("s", lines)], tmp_path / "page", law=law, seeds=seeds)
    text = prose(page)
    for said in (
        "KL = k · D^β", "0.333 0.3–0.37", "48 R² 0.97 R² 0.98", "⚠ two sizes only", "By bootstrap.", "0.15 0.1 to 0.2",
        "0.9 0.5 to 2.1", "7 of 8 steps", "A standard deviation.",
    ):  # fmt: skip
        assert said in text
    first = text[: text.index("Drift over training")]
    assert law.answer in first
    assert seeds.answer in first


def test_the_plotted_means_are_a_table_too(lines: list[dict[str, Any]], written: list[Path]) -> None:
    with written[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = panels([("", lines)], [""], "kl")
    points = [(one, curve, point) for one in found for curve in one.curves for point in curve.mean]
    shown = [row for row in rows if row["metric"] == "kl"]
    for row, (one, curve, point) in zip(shown, points, strict=True):
        assert (row["plot"], row["variant"], int(row["step"])) == (one.name, curve.variant, point.step)
        assert [float(row[name]) for name in ("value", "low", "high")] == list(point.value)
        assert int(row["seeds"]) == point.seeds
    assert {row["metric"] for row in rows} == {"kl", "ppl_drift"}
    spread = [row for row in rows if row["variant"] == "another seed"]
    drifts = panels([("", lines)], [""], "ppl_drift")
    assert [float(row["value"]) for row in spread] == [point.value.value for one in drifts for point in one.spread]
    assert spread


def test_the_same_table_gives_the_same_bytes(lines: list[dict[str, Any]], written: list[Path], tmp_path: Path) -> None:
    again = write_page([("small study", read_table(write_table(lines, tmp_path)))], tmp_path / "page")
    assert [path.name for path in again] == [path.name for path in written]
    assert len(again) == 2 + 2 * 2 * 3
    for one, other in zip(written, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_nothing_is_loaded_and_only_our_own_style_and_script_are_allowed(source: str) -> None:
    page = Page(source)
    links = [a[key] for _, a in page.tags for key in ("src", "href", "srcset", "action") if key in a]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not {"style", "onclick", "onload", "onerror"} & {key for _, a in page.tags for key in a}
    (policy,) = (a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def test_what_others_wrote_is_text(tmp_path: Path) -> None:
    hostile = [*NASTY, "=HYPERLINK(1)", "</style></title></svg>", "\x1b[31m\x00\u202e", "../../etc"]
    lines = []
    for index, name in enumerate(hostile):
        named = dict.fromkeys(
            ("model", "revision", "family", "size", "variant", "cpu", "tool", "versions", "text_sha256"), name
        )
        lines += [made.line("70m", 1, step, "torch-fp16", **named) for step in (0, 64, 512)]
        lines.append(made.line("70m", 2, 64, "torch-fp16", **named | {"duplicate_of": name, "runtime": name}))
        for status in ("failed", "missing", "open"):
            lines.append(made.unmeasured("70m", 1, index, "torch-fp16", **{**named, "status": status, "problem": name}))
    paths = write_page([(name, lines) for name in hostile[:2]], tmp_path / "page")
    source = paths[0].read_text(encoding="utf-8")
    page = Page(source)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 1
    assert tags.count("style") == 1
    assert "img" not in tags
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", source)
    text = " ".join(page.texts)
    for name in NASTY:
        assert name in text
    for path in paths:
        assert path.resolve().is_relative_to(tmp_path / "page")
        if path.suffix == ".svg":
            assert "<script" not in path.read_text(encoding="utf-8")
            ElementTree.parse(path)
    with paths[1].open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert "'=HYPERLINK(1)" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "@", "\t"))]


@pytest.mark.parametrize(("tables", "said"), [([], "no table was given"), ([("an empty one", [])], "an empty one")])
def test_nothing_to_show_is_a_clear_error(tables: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=said):
        write_page(tables, tmp_path / "page")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        made.line("70m", 1, 64, "gptq-int3"), made.line("70m", 1, 0, "gptq-int3"),
        made.line("70m", 1, 64, "gptq-int3", ppl_drift=-1.0, learning_rate=None, tokens=None),
        made.line(
            "70m", 1, 64, "gptq-int3",
            **dict.fromkeys([f"{key}{end}" for key in ("kl", "ppl_drift") for end in ("", "_low", "_high")], 0.0),
        ),
    ],
)  # fmt: skip
def test_one_line_is_a_page(line: dict[str, Any], tmp_path: Path) -> None:
    text = prose(rendered([("one", [line])], tmp_path / "page"))
    assert "1 variant of 1 size (70m), at training step" in text
    assert "1 of 1 job is done." in text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (made.unmeasured("70m", 1, 64, "gptq-int3"), "not measured yet"),
        (made.line("70m", 1, 64, "gptq-int3", kl=None, ppl_drift=None), "the divergence is not finite"),
        (made.line("70m", 1, 64, "gptq-int3", step=None), "the revision names no training step"),
    ],
)
def test_without_a_curve_the_page_says_why(line: dict[str, Any], said: str, tmp_path: Path) -> None:
    text = prose(rendered([("one", [line])], tmp_path / "page"))
    assert "Nothing can be drawn yet" in text
    assert said in text


def test_an_earlier_page_is_replaced_and_nothing_else(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "page"
    write_page([("first", lines[:8])], out)
    assert "second" in rendered([("second", lines[:8])], out)
    precious = tmp_path / "precious"
    precious.mkdir()
    write_table(lines[:8], precious)
    with pytest.raises(BenchmarkError, match="no report of ours"):
        write_page([("s", lines[:8])], precious)
    assert sorted(path.name for path in precious.iterdir()) == ["table.csv", "table.parquet"]


def test_a_large_study_stays_small(tmp_path: Path) -> None:
    steps = [0, *(2**i for i in range(10)), *range(1000, 143001, 1000)]
    large = made.study(seeds=(1, 2), steps=steps)
    assert len(large) == 2464
    (page, *_) = write_page([("all", large)], tmp_path / "page")
    assert page.stat().st_size < 1.5e6
