"""What `source` says of the revisions of models on a hub on loopback."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hub_user import Client
from loopback import Fault, Hub, loopback_hub
from loopback.store import Blob, Repo

from pythia_quant.model import suite

FAULTY, SHARDED, OTHER = "EleutherAI/pythia-2.8b", "EleutherAI/pythia-12b", "someone/other"
SHARDS = [f"pytorch_model-0000{i}-of-00003.bin" for i in (1, 2, 3)]

MANY = """
import json, sys
from pythia_quant.cli.main import app, main
for arguments in json.loads(sys.argv[1]):
    try:
        main(lambda: app(arguments, standalone_mode=False))
    except SystemExit as stop:
        print(stop.code, file=sys.stderr)
"""

OPEN = """
import sys
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.core.progress import Notices
from pythia_quant.model.source import open_source
from rich.console import Console
for revision in sys.argv[2:]:
    try:
        open_source(sys.argv[1], revision, Notices(Console()))
    except PythiaQuantError as error:
        print(error)
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Run a hub whose repositories have weights of some bytes."""
    with loopback_hub() as hub:
        yield hub


def lfs(**files: str) -> dict[str, Blob]:
    return {name: Blob(content.encode(), lfs=True) for name, content in files.items()}


def shards(*contents: str) -> dict[str, Blob]:
    return lfs(**dict(zip(SHARDS, contents, strict=True)))


def put(hub: Hub, name: str, branches: dict[str, dict[str, Blob]]) -> Repo:
    repo = hub.repos[name] = Repo()
    for branch, tree in branches.items():
        repo.commit(branch, tree | {"config.json.md": Blob(branch.encode())}, branch)
    return repo


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def downloads(hub: Hub) -> list[str]:
    return [request for request in hub.requests if "/resolve/" in request]


def put_faulty(hub: Hub) -> None:
    """Put the steps of pythia-2.8b as issue 205 found them, with more faults of our own."""
    member = suite.find(FAULTY)
    assert member is not None
    of_main, of_last = suite.KNOWN_FAULTS[:2]
    branches = {"main": "final"} | {f"step{step}": f"own {step}" for step in member.steps}
    branches |= {f"step{step}": "final" for step in of_main.steps}
    branches |= {f"step{step}": "second" for step in (*of_last.steps, 143_000)}
    branches |= {"step68000": "own 66000", "step102000": "final"}
    del branches["step77000"]
    put(
        hub,
        FAULTY,
        {name: lfs(**{"model.safetensors": text}) for name, text in branches.items()} | {"step71000": {}},
    )


def test_gaps_and_duplicates_of_a_whole_model_are_told_with_what_is_known(client: Client, hub: Hub) -> None:
    put_faulty(hub)
    printed = client.succeed("source", FAULTY, "--steps", "all")
    table, _, findings = printed.partition(f"\n{FAULTY}: ")
    lines = table.splitlines()
    assert len(lines) == 1 + 1 + 154 - 2
    assert max(map(len, lines)) <= 100
    assert f"{digest('own 66000')[:16]}…" in table
    assert findings == (
        "153 of 154 steps are on the hub; findings: 5\n"
        "no branch: step 77000\n"
        "  not known to us\n"
        "no complete weights: step 71000\n"
        "  not known to us\n"
        "the same weights: main, steps 0–512, 1000–53000, 55000, 60000, 65000, 70000, 80000, 90000, 100000, 102000, "
        "103000, 110000, 120000, 130000, 140000\n"
        "  known: EleutherAI/pythia issue 205; not known to us: step 102000\n"
        "the same weights: steps 54000, 56000–59000, 61000–64000, 143000\n"
        "  known: EleutherAI/pythia issue 205\n"
        "the same weights: steps 66000, 68000\n"
        "  not known to us\n"
    )
    assert downloads(hub) == []
    assert hub.writes == []
    # One for the branches, one for the files of each.
    assert len(hub.requests) == 1 + 154


def test_a_step_without_weights_is_told_with_the_thread_that_reports_it(client: Client, hub: Hub) -> None:
    model = "EleutherAI/pythia-410m-seed9"
    put(hub, model, {
        "main": lfs(**{"model.safetensors": "final"}), "step39000": lfs(**{"model.safetensors": "own"}),
        "step40000": {}, "step41000": {},
    })  # fmt: skip
    printed = client.succeed("source", model, "--steps", "step39000..step41000")
    assert printed.endswith(
        "no complete weights: steps 40000, 41000\n"
        "  known: EleutherAI/pythia issue 202; not known to us: step 41000\n"
    )  # fmt: skip
    printed = client.succeed("source", model, "--steps", "step40000,step42000")
    assert "no branch: step 42000\n  not known to us\nno complete weights: step 40000\n  known: " in printed
    assert printed.endswith("EleutherAI/pythia issue 202\n")


def test_json_has_every_hash_and_finding(client: Client, hub: Hub) -> None:
    put(
        hub,
        SHARDED,
        {
            "main": shards("first", "second", "third"),
            "step49000": shards("a1", "a2", "a3"),
            "step50000": shards("first", "b2", "b3"),
            "step58000": shards("first", "c2", "c3"),
            "step143000": shards("first", "second", "third"),
        },
    )
    repo = put(
        hub,
        OTHER,
        {
            "main": lfs(**{"model.safetensors": "end"}),
            "step1": lfs(**{"pytorch_model.bin": "pickle 1"}),
            "step2": lfs(**{"model.safetensors": "tensors", "pytorch_model.bin": "pickle 2"}),
            "step3": lfs(**{"model.safetensors": "tensors", "pytorch_model.bin": "pickle 1"}),
            "step4": {"pytorch_model.bin": Blob(b"small")},
            "step5": lfs(**{"pytorch_model.bin": "small"}),
            "step6": lfs(**{"pytorch_model.bin": "denied"}),
            "step7": lfs(**{SHARDS[0]: "alone", SHARDS[2]: "alone too"}),
            "step10": lfs(**{"model.safetensors": "end", "model-00001-of-00001.safetensors": "not read"}),
            "draft": {},
        },
    )
    hub.faults.append(Fault("GET", f"/tree/{repo.branches['step6']}", status=403))
    calls = [
        ("source", SHARDED, "--steps", "step49000,step50000,step58000,step143000"),
        ("source", OTHER, "--steps", "all"),
        ("source", OTHER, "--steps", "step1..step10/4"),
        ("source", OTHER),
    ]
    done = client.python("-c", MANY, json.dumps([[*call, "--json"] for call in calls] + [["source", OTHER]]))
    assert all(line.startswith("[1/1] reading ") for line in done.stderr.splitlines())
    printed = done.stdout
    found: list[dict[str, Any]] = []
    for _ in calls:
        value, length = json.JSONDecoder().raw_decode(printed)
        found.append(value)
        printed = printed[length:].lstrip()
    sharded, other, some, main = found

    assert sharded["revisions"][1]["files"][0] == {"name": SHARDS[0], "bytes": 2, "sha256": digest("a1")}
    (finding,) = sharded["findings"]
    assert (finding["kind"], finding["files"]) == ("the same file", [SHARDS[0]])
    assert finding["revisions"] == ["main", "step50000", "step58000", "step143000"]
    assert (finding["known"], finding["unknown"]) == (["EleutherAI/pythia issue 206"], [])

    assert [one["name"] for one in other["revisions"]] == ["main", *(f"step{i}" for i in (1, 2, 3, 4, 5, 6, 7, 10))]
    told = {(one["kind"], *one["revisions"]): one for one in other["findings"]}
    assert set(told) == {
        ("cannot be read", "step6"),
        ("no complete weights", "step7"),
        ("the same weights", "step1", "step2", "step3"),
        ("the same weights", "step4", "step5"),
    }
    assert "403" in told["cannot be read", "step6"]["why"]
    assert told["the same weights", "step1", "step2", "step3"]["differing"] == ["pickle"]
    hashes = {one["name"]: [file["sha256"] for file in one["files"]] for one in other["revisions"]}
    assert hashes["step4"] == [digest("small")]
    # Only what git itself holds has to be downloaded to be hashed.
    assert {request.rsplit("/", 1)[1] for request in downloads(hub)} == {"pytorch_model.bin"}
    assert {repo.branches["step4"]} == {request.split("/")[4] for request in downloads(hub)}

    assert [one["name"] for one in some["revisions"]] == ["main", "step1", "step5"]
    assert some["findings"] == []
    end = {"name": "model.safetensors", "bytes": 3, "sha256": digest("end")}
    assert main["revisions"] == [{"name": "main", "commit": repo.branches["main"], "files": [end], "problem": ""}]
    assert printed == f"{OTHER} main, commit {repo.branches['main']}\n{digest('end')}  model.safetensors, 0.0 MB\n"


def test_refusals_are_clear_and_opening_a_known_fault_says_so(client: Client, hub: Hub) -> None:
    put_faulty(hub)
    put(hub, OTHER, {"main": {}})
    calls = [
        ("source", "someone/absent"),
        ("source", "./folder"),
        ("source", FAULTY, "--steps", "step3100"),
        ("source", FAULTY, "--steps", "step0,main"),
        ("source", OTHER, "--steps", "all"),
    ]
    done = client.python("-c", MANY, json.dumps(calls))
    said = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("[1/1] "))
    errors = said.split("error: ")[1:]
    assert [error.splitlines()[-1] for error in errors] == ["2"] * 5
    for error, expected in zip(
        errors,
        (
            "no such repository",
            "no name of a repository",
            "nearest published revision is step3000",
            "'main' is no step",
            "has no branches step<N>",
        ),
        strict=True,
    ):
        assert expected in error
    hub.requests.clear()
    printed = client.python("-c", OPEN, FAULTY, "step3000", "step54000", "step66000", "step143000").stdout
    assert [line for line in printed.splitlines() if "known" in line] == [
        f"{FAULTY}@step3000 is known to serve the weights of main (EleutherAI/pythia issue 205)",
        f"{FAULTY}@step54000 is known to serve the weights of step143000 (EleutherAI/pythia issue 205)",
    ]
    assert printed.count("has no config.json") == 4
    assert len(hub.requests) == 8, "config.json and, without one, whether it is an adapter"
