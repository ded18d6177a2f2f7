import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from measured import results, row

from pythia_quant.core.errors import BenchmarkError
from pythia_quant.records.results import Drift, Results
from pythia_quant.report.write import write_report

DATA = Path(__file__).parents[1] / "data"


def saved(folder: Path, run: Results, name: str = "results.json") -> Path:
    path = folder / name
    path.write_text(run.model_dump_json())
    return path


def python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def small() -> Results:
    return results(row("torch-fp16", 0.0001), row("torch-fp32", 0), row("variant", 0.02, noise=0.01, decode=0.004))


def test_a_report_has_a_page_plots_and_the_tables_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "report"
    page = write_report([saved(tmp_path, small())], out, ("markdown", "csv", "json"))
    assert page == out / "index.html"
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == sorted(
        ["index.html", "results.md", "results.csv", "results.json"]
        + [f"plots/a-m-drift-{what}{end}" for what in ("size", "decode") for end in (".svg", "-dark.svg", ".png")]
    )
    assert [path.name for path in out.parent.iterdir()] == ["report"]


def test_ids_are_unique_within_each_svg_and_every_reference_leads_to_one(written: Path, nasty: Path) -> None:
    files = [path for page in (written, nasty) for path in (page.parent / "plots").glob("*.svg")]
    of_rows = 0
    for path in files:
        elements = list(ElementTree.parse(path).iter())
        ids = [element.attrib["id"] for element in elements if "id" in element.attrib]
        assert len(set(ids)) == len(ids), path
        values = [value for element in elements for value in element.attrib.values()]
        assert set(re.findall(r"(?m)(?:^|url\()#([\w-]+)", "\n".join(values))) <= set(ids), path
        of_rows += sum(one.startswith("row-") for one in ids)
    assert len(files) > 10
    assert of_rows > 100


def test_an_earlier_report_is_replaced_and_an_empty_folder_is_used(tmp_path: Path) -> None:
    out = tmp_path / "report"
    out.mkdir()
    path = saved(tmp_path, small())
    write_report([path], out, ["csv"])
    assert (out / "results.csv").exists()
    write_report([path], out)
    assert not (out / "results.csv").exists()
    assert (out / "index.html").exists()


@pytest.mark.parametrize("name", ["thesis.tex", "index.html"])
def test_a_folder_that_is_no_report_is_left_alone(tmp_path: Path, name: str) -> None:
    out = tmp_path / "precious"
    out.mkdir()
    (out / name).write_text("<!doctype html><title>my work</title>")
    with pytest.raises(BenchmarkError, match="no report of ours"):
        write_report([saved(tmp_path, small())], out)
    assert [path.name for path in out.iterdir()] == [name]
    assert "my work" in (out / name).read_text()
    with pytest.raises(BenchmarkError, match="no report of ours"):
        write_report([saved(tmp_path, small())], out / name)


def test_a_file_that_cannot_be_read_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "report"
    write_report([saved(tmp_path, small())], out)
    before = (out / "index.html").read_bytes()
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    with pytest.raises(BenchmarkError, match=r"bad\.json"):
        write_report([bad], out)
    with pytest.raises(BenchmarkError, match="no result file"):
        write_report([], out)
    assert (out / "index.html").read_bytes() == before


def test_a_file_of_schema_version_1_makes_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    page = write_report([DATA / "results-1.json"], tmp_path / "report").read_text()
    assert "builtin:demo" in page
    for reason in ("fewer than two context lengths", "no errors of layers", "no divergence of single tokens"):
        assert reason in page
    assert page.count("<figure>") == 2


def test_rows_that_were_not_run_or_not_finite_are_said_to_be_and_nothing_breaks(tmp_path: Path) -> None:
    missing = row("variant", 0).model_copy(update={"as_run": None, "speeds": [], "notes": ["too large for memory."]})
    broken = row("torch-fp16", 0).model_copy(
        update={"as_run": Drift(nll=[], kl=[], top1=[], non_finite=7), "speeds": []}
    )
    run = results(broken, missing).model_copy(update={"latency": None})
    page = write_report([saved(tmp_path, run)], tmp_path / "report", ("markdown", "csv", "json")).read_text()
    for said in ("not run", "not finite", "too large for memory.</li>", "not finite at 7 positions", "no row was run"):
        assert said in page
    assert "<figure>" not in page


def without_speed(run: Results) -> Results:
    return with_rows(run, speeds=[]).model_copy(update={"latency": None})


def with_rows(run: Results, **values: object) -> Results:
    return run.model_copy(update={"rows": [one.model_copy(update=values) for one in run.rows]})


@pytest.mark.parametrize(
    "lacking",
    [
        without_speed(small()),
        with_rows(small(), speeds=[]),
        with_rows(small(), as_run=None),
        with_rows(small(), as_run=Drift(nll=[], kl=[], top1=[], non_finite=3)),
        without_speed(with_rows(small(), as_run=None)),
        results(row("torch-fp16", 0.0001)),
    ],
    ids=["no speed", "speed of no row", "not run", "not finite", "nothing", "one row"],
)
def test_files_of_which_one_lacks_values_are_on_one_page_in_any_order(lacking: Results, tmp_path: Path) -> None:
    whole, other = saved(tmp_path, small(), "whole.json"), saved(tmp_path, lacking, "lacking.json")
    for paths in ([whole, other], [other, whole]):
        page = write_report(paths, tmp_path / "report", ("markdown", "csv", "json")).read_text()
        assert "whole.json, sha256" in page
        drawn = {path.name for path in (tmp_path / "report/plots").glob("all-*.png")}
        assert drawn >= {f"all-drift-{what}.png" for what in ("size", "decode")}


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_package_that_is_not_installed_is_named_and_tables_do_without(package: str, tmp_path: Path) -> None:
    path = saved(tmp_path, small())
    absent = f"import sys; sys.modules['{package}'] = None; from pathlib import Path\n"
    tables = "from pythia_quant.report.tables import render_table; from pythia_quant.report.files import read_files\n"
    run_tables = f"{absent}{tables}print(render_table(read_files([Path({str(path)!r})]), 'csv'))"
    assert "ppl_drift" in python(run_tables).stdout
    failed = python(f"{absent}import pythia_quant.report.write")
    assert "pip install matplotlib" in failed.stderr
    assert package in failed.stderr


def test_a_page_is_made_without_torch() -> None:
    script = "import pythia_quant.report.write, pythia_quant.report.tables, sys; sys.exit('torch' in sys.modules)"
    assert python(script).returncode == 0
