"""Result files compared by `compare`."""

import json
from pathlib import Path

from measured import results, row
from program import refuse, run, succeed

from pythia_quant.records.results import Results


def save(folder: Path, *files: tuple[str, Results]) -> list[Path]:
    paths = [folder / name for name, _ in files]
    for path, (_, content) in zip(paths, files, strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_text(content.model_dump_json())
    return paths


def test_files_are_called_by_their_names(tmp_path: Path) -> None:
    before = results(row("torch-fp16", 0), row("variant", 0.01))
    after = results(row("torch-fp16", 0), row("variant", 0.02), row("new", 0))
    paths = save(tmp_path, ("monday.json", before), ("friday/results.json", after), ("same.json", before))
    done = run("compare", *paths)
    assert done.returncode == 3
    assert [line for line in done.stdout.splitlines() if line.startswith("before:")] == [
        "before: monday.json, after: friday", "before: monday.json, after: same.json",
    ]  # fmt: skip
    assert "Only friday has new." in done.stdout
    data = json.loads(run("compare", *paths, "--json").stdout)
    assert [(one["before"], one["after"]) for one in data] == [("monday.json", "friday"), ("monday.json", "same.json")]
    assert {change["verdict"] for change in data[1]["changes"]} == {"same"}
    single = json.loads(succeed("compare", paths[0], paths[2], "--json"))
    assert single == data[1]


def test_a_file_that_cannot_be_compared_is_named(tmp_path: Path) -> None:
    one = results(row("torch-fp16", 0))
    other = one.model_copy(update={"text": one.text.model_copy(update={"sha256": "another"})})
    paths = save(tmp_path, ("one.json", one), ("same.json", one), ("other.json", other))
    assert "one.json and other.json: the results were measured on another text" in refuse("compare", *paths)
    longer = one.model_copy(update={"protocol": one.protocol.model_copy(update={"context": one.protocol.context + 1})})
    (path,) = save(tmp_path, ("longer.json", longer))
    printed = " ".join(refuse("compare", paths[0], path).split())
    assert f"by another protocol: context {one.protocol.context} and {one.protocol.context + 1} measure" in printed
