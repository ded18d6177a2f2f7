"""Publishing against a hub on loopback: what is uploaded, and what is refused before that."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub_user import SOURCE, Client
from loopback import Hub, User
from program import succeed
from tiny import TINY, write_checkpoint, write_recipe

from pythia_quant.artifacts.artifact import open_artifact
from pythia_quant.artifacts.convert import convert
from pythia_quant.artifacts.inputs import load_inputs
from pythia_quant.core.file_hashes import sha256
from pythia_quant.publishing.sample import sample_output
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.records.results import load_results, save_results

ONNX = ("publish", "--repo-id", "me/tiny-onnx", "--yes")


def test_one_commit_has_everything_and_the_second_time_nothing_is_sent(
    client: Client, hub: Hub, artifacts: Path
) -> None:
    folder = artifacts / "onnx-int8"
    printed = client.succeed(*ONNX, folder)
    assert "11 files, read back and compared" in printed
    created, published = reversed(hub.commits("me/tiny-onnx"))
    assert (created.parent, published.parent) == (None, created.oid)
    files = hub.files("me/tiny-onnx")
    manifest = json.loads(files["pythia_quant.json"])
    ours = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del ours["pythia_quant.json"]  # less the folders of the publisher
    assert {name: files[name] for name in ours} == ours
    assert set(files) - set(ours) == {
        ".gitattributes", "README.md", "pythia_quant.json", "results.json", "recipe.yaml",
    }  # fmt: skip
    (row,) = (row for row in json.loads(files["results.json"])["rows"] if row["quantized"])
    assert (row["name"], row["manifest_sha256"]) == (
        "onnx-int8",
        hashlib.sha256(files["pythia_quant.json"]).hexdigest(),
    )
    assert manifest["source"]["model"] == SOURCE
    assert hub.authorizations >= {"Bearer hf_secretsecretsecret"}
    hub.writes.clear()
    assert "was there already" in client.succeed(*ONNX, folder)
    assert hub.writes == []
    assert hub.head("me/tiny-onnx") == published.oid


def test_nothing_published_names_a_folder_of_the_publisher(client: Client, hub: Hub, artifacts: Path) -> None:
    results = load_results(artifacts / "results.json")
    text = results.text.model_copy(update={"name": "/tmp/with/bench/--text.txt"})
    save_results(results.model_copy(update={"text": text}), artifacts / "results.json")
    client.succeed(*ONNX, artifacts / "onnx-int8")
    for name, content in hub.files("me/tiny-onnx").items():
        assert b"/tmp/" not in content, name
        assert str(Path.home()).encode() + b"/" not in content, name


def test_a_dry_run_writes_nothing_and_shows_files_and_card(client: Client, hub: Hub, artifacts: Path) -> None:
    printed = client.succeed("publish", artifacts / "onnx-int8", "--repo-id", "me/tiny-onnx", "--dry-run")
    assert "onnx/model_quantized.onnx_data" in printed
    assert "base_model_relation: quantized" in printed
    assert "## Original model description" in printed
    assert hub.writes == []
    assert "me/tiny-onnx" not in hub.repos


def test_offline_a_plan_needs_no_hub_and_publishing_says_so(client: Client, hub: Hub, artifacts: Path) -> None:
    command = ("publish", artifacts / "onnx-int8", "--repo-id", "me/tiny-onnx")
    client.succeed(*command, "--dry-run")  # the source's card is cached then
    hub.requests.clear()
    planned = client.succeed(*command, "--dry-run", HF_HUB_OFFLINE="1")
    assert "(HF_HUB_OFFLINE is set)" in planned
    assert planned.count("not compared") == 11
    assert "HF_HUB_OFFLINE is set" in client.refuse(*command, "--yes", HF_HUB_OFFLINE="1")
    assert hub.requests == []


def test_a_dry_run_without_a_network_says_what_it_could_not_look_up(
    client: Client, hub: Hub, artifacts: Path, tmp_path: Path
) -> None:
    command = ("publish", artifacts / "onnx-int8", "--repo-id", "me/tiny-onnx")
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    planned = client.succeed(*command, "--dry-run", **nobody)
    assert "(the hub cannot be reached)" in planned
    assert planned.count("not compared") == 11
    assert f"not looked up: the card of {SOURCE}, with its license and its limitations: " in planned
    assert "\n## How good it is\n" in planned
    assert "hub cannot be reached" in client.refuse(*command, "--yes", **nobody)
    rename_source(artifacts, "/tmp/no/folder")
    planned = client.succeed(*command, "--dry-run", "--base-model", SOURCE, **nobody)
    assert f"not looked up: whether {SOURCE} has the source's weights: " in planned
    assert hub.requests == []


def test_the_card_is_written_to_a_file_and_nothing_is_published(
    client: Client, hub: Hub, artifacts: Path, tmp_path: Path
) -> None:
    command = ("publish", artifacts / "onnx-int8", "--repo-id", "me/tiny-onnx", "--card-out", tmp_path / "new" / "a.md")
    printed = client.succeed(*command)
    assert printed.endswith("a.md.\nNothing was published.\n")
    assert "base_model" not in printed, "the card is in the file"
    card = (tmp_path / "new" / "a.md").read_text()
    assert hub.writes == []
    client.succeed(*ONNX, artifacts / "onnx-int8")
    assert hub.files("me/tiny-onnx")["README.md"].decode() == card
    message = client.refuse("publish", "--all", artifacts, "--repo-id", "me/{variant}", "--card-out", tmp_path / "b.md")
    assert "--card-out: takes one artifact" in message
    assert "is a folder" in client.refuse(*command[:-1], tmp_path)
    assert not (tmp_path / "b.md").exists()


def test_a_plan_for_a_new_branch_leaves_main_alone(client: Client, hub: Hub, artifacts: Path) -> None:
    client.succeed(*ONNX, artifacts / "onnx-int8")
    before = hub.head("me/tiny-onnx")
    client.succeed(*ONNX, artifacts / "gptq-int4", "--revision", "gptq")
    assert hub.head("me/tiny-onnx") == before
    assert "model.safetensors" in hub.files("me/tiny-onnx", "gptq")
    assert not any(name.startswith("onnx/") for name in hub.files("me/tiny-onnx", "gptq"))
    assert 'revision="gptq"' in hub.files("me/tiny-onnx", "gptq")["README.md"].decode()


def test_another_artifact_replaces_the_former_and_leaves_what_is_not_ours(
    client: Client, hub: Hub, artifacts: Path
) -> None:
    client.succeed(*ONNX, artifacts / "onnx-int8")
    hub.put("me/tiny-onnx", "main", {"picture.png": b"png"})
    client.succeed(*ONNX, artifacts / "gptq-int4")
    files = hub.files("me/tiny-onnx")
    assert files["picture.png"] == b"png"
    assert "model.safetensors" in files
    assert not {name for name in files if name.startswith(("onnx/", "genai"))}


def test_a_repository_of_something_else_is_not_touched(client: Client, hub: Hub, artifacts: Path) -> None:
    hub.users["hf_secretsecretsecret"] = User("me")
    client.succeed(*ONNX, artifacts / "onnx-int8")
    hub.put("me/tiny-onnx", "main", {"model.gguf": b"x"}, delete=["pythia_quant.json"])
    hub.writes.clear()
    assert "holds something else: config.json" in client.refuse(*ONNX, artifacts / "onnx-int8")
    assert hub.writes == []


def test_private_is_private_or_refused(client: Client, hub: Hub, artifacts: Path) -> None:
    client.succeed(*ONNX, artifacts / "onnx-int8", "--private")
    assert hub.repos["me/tiny-onnx"].private
    client.succeed("publish", artifacts / "gptq-int4", "--repo-id", "me/open", "--yes")
    message = client.refuse("publish", artifacts / "gptq-int4", "--repo-id", "me/open", "--yes", "--private")
    assert "me/open: is there and is public" in message


def test_all_artifacts_below_a_folder_go_where_the_pattern_says(client: Client, hub: Hub, artifacts: Path) -> None:
    everything = ("publish", "--all", artifacts.parent.parent, "--yes", "--repo-id")
    assert "would both be there" in client.refuse(*everything, "me/{model}")
    assert hub.writes == []
    printed = client.succeed(*everything, "me/{model}-{variant}")
    assert printed.count("read back and compared") == 3
    assert {"me/tiny-bnb-nf4", "me/tiny-gptq-int4", "me/tiny-onnx-int8"} < set(hub.repos)
    card = hub.files("me/tiny-onnx-int8")["README.md"].decode().partition("## Other variants")[2]
    assert "(https://huggingface.co/me/tiny-bnb-nf4)" in card
    assert "(https://huggingface.co/me/tiny-gptq-int4)" in card
    assert "me/tiny-onnx-int8)" not in card.partition("\n## ")[0]


def test_a_branch_made_after_main_has_nothing_of_it(client: Client, hub: Hub, artifacts: Path) -> None:
    step = artifacts.with_name("step3000")
    step.mkdir()
    (artifacts / "gptq-int4").rename(step / "gptq-int4")
    shutil.rmtree(artifacts / "bnb-nf4")
    results = artifacts / "results.json"
    alter_manifest(step / "gptq-int4", results, lambda manifest: manifest["source"].update(revision="step3000"))
    shutil.copy(results, step)
    client.succeed("publish", "--all", artifacts.parent, "--repo-id", "me/tiny", "--revision", "{revision}", "--yes")
    assert "onnx/model_quantized.onnx" in hub.files("me/tiny")
    files = hub.files("me/tiny", "step3000")
    assert "model.safetensors" in files
    assert not any(name.startswith("onnx/") for name in files)


def test_what_does_not_verify_or_was_not_measured_is_refused(client: Client, hub: Hub, artifacts: Path) -> None:
    altered = artifacts / "onnx-int8" / "config.json"
    altered.write_text(altered.read_text().replace("{", "{ ", 1))
    assert "config.json was changed since the conversion" in client.refuse(*ONNX, artifacts / "onnx-int8")
    (artifacts / "results.json").unlink()
    assert "there is no result for exactly these bytes" in client.refuse(*ONNX, artifacts / "gptq-int4")
    assert "me/tiny-onnx" not in hub.repos


def test_an_earlier_result_of_the_same_bytes_is_found(client: Client, hub: Hub, artifacts: Path) -> None:
    results = load_results(artifacts / "results.json")
    later = results.model_copy(update={"rows": results.rows[:3], "gates": []})
    save_results(later, artifacts / "results.json")
    assert "read back and compared" in client.succeed(*ONNX, artifacts / "onnx-int8")
    message = client.refuse(*ONNX, artifacts / "onnx-int8", "--results", artifacts / "results.json")
    assert "no result for exactly these bytes in" in message


@pytest.mark.parametrize("outcome", ["failed", "undecided"])
def test_a_gate_that_did_not_pass_is_refused_or_stands_on_the_card(
    client: Client, hub: Hub, artifacts: Path, outcome: str
) -> None:
    results = load_results(artifacts / "results.json")
    gates = [gate.model_copy(update={"outcome": outcome}) for gate in results.gates]
    (artifacts / "results.json").write_text(results.model_copy(update={"gates": gates}).model_dump_json())
    assert f"of onnx-int8 {outcome}" in client.refuse(*ONNX, artifacts / "onnx-int8")
    reason = "a study of | what fails"
    client.succeed(*ONNX, artifacts / "onnx-int8", "--despite-gate", reason)
    card = hub.files("me/tiny-onnx")["README.md"].decode()
    assert "a study of \\| what fails" in card
    assert outcome in card


def test_the_base_of_a_folder_is_what_holds_the_same_weights(
    client: Client, hub: Hub, origin: Path, artifacts: Path, tmp_path: Path
) -> None:
    folder = artifacts / "onnx-int8"
    rename_source(artifacts, str(origin / "tiny"))
    assert "--base-model OWNER/NAME" in client.refuse(*ONNX, folder)
    other = shutil.copytree(origin / "tiny", tmp_path / "other")
    (other / "model.safetensors").write_bytes(b"other weights")
    hub.add("someone/other", {"main": other})
    message = client.refuse(*ONNX, folder, "--base-model", "someone/other")
    assert "model.safetensors, from which this was made, has other content" in message
    assert "no such repository" in client.refuse(*ONNX, folder, "--base-model", "someone/absent")
    assert "no name of a repository" in client.refuse(*ONNX, folder, "--base-model", "tiny")
    client.succeed(*ONNX, folder, "--base-model", SOURCE)
    files = hub.files("me/tiny-onnx")
    source = json.loads(files["pythia_quant.json"])["source"]
    assert (source["model"], source["commit"]) == (SOURCE, hub.head(SOURCE))
    assert str(origin).encode() not in b"".join(files.values())
    assert f"model: {SOURCE}\n  revision: {hub.head(SOURCE)}" in files["recipe.yaml"].decode()
    client.succeed("publish", folder, "--repo-id", "me/alone", "--yes", "--base-model", "none")
    assert "base_model" not in hub.files("me/alone")["README.md"].decode().split("---")[1]
    assert str(origin).encode() not in b"".join(hub.files("me/alone").values())


def alter_manifest(folder: Path, results: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Alter what an artifact says of itself, and have its result belong to that."""
    path = folder / "pythia_quant.json"
    manifest, before = json.loads(path.read_text()), sha256(path)
    change(manifest)
    path.write_text(json.dumps(manifest))
    results.write_text(results.read_text().replace(before, sha256(path)))


def rename_source(artifacts: Path, folder: str) -> None:
    """Make the artifact one of a folder, as its conversion would have recorded it."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["source"] |= {"model": folder, "revision": "local", "commit": None}
        manifest["recipe"]["source"] = {"model": folder, "revision": "main"}

    alter_manifest(artifacts / "onnx-int8", artifacts / "results.json", change)


def test_without_a_terminal_nothing_is_published_unasked(client: Client, hub: Hub, artifacts: Path) -> None:
    message = client.refuse("publish", artifacts / "onnx-int8", "--repo-id", "me/tiny-onnx")
    assert "add --yes" in message
    assert hub.writes == []


def test_a_sample_is_what_the_first_command_of_the_card_prints(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    write_checkpoint(tmp_path / "tiny", replace(TINY, context=64))
    artifact = convert(load_inputs(load_recipe(recipe), only=["onnx-fp32"]), "onnx-fp32", tmp_path / "out")
    printed = succeed("generate", artifact.folder, "--prompt", "Once upon a time", "--max-new-tokens", "40")
    lines = printed.removesuffix("\n").split("\n")
    assert sample_output(artifact).split("\n") == lines[:6] + ["…"] * (len(lines) > 6)
    assert sample_output(artifact).startswith("Once upon a time")
    (artifact.folder / "tokenizer.json").unlink()
    assert sample_output(open_artifact(artifact.folder)) == ""


def test_json_has_the_plan_and_the_outcome(client: Client, hub: Hub, artifacts: Path) -> None:
    command = ("publish", artifacts / "onnx-int8", "--repo-id", "me/tiny-{variant}", "--json")
    (planned,) = json.loads(client.succeed(*command, "--dry-run"))
    assert (planned["repo_id"], planned["branch"], planned["variant"]) == ("me/tiny-onnx-int8", "main", "onnx-int8")
    assert {file["state"] for file in planned["files"]} == {"new"}
    assert planned["create_repo"] is True
    assert planned["published"] is None
    assert hub.writes == []
    assert "--json: asks no question" in client.refuse(*command)
    (done,) = json.loads(client.succeed(*command, "--yes"))
    assert done["published"]["commit"] == hub.head("me/tiny-onnx-int8")
    assert done["published"]["uploaded"] == len(done["files"])
    (again,) = json.loads(client.succeed(*command, "--yes"))
    assert (again["nothing_to_do"], again["published"]["uploaded"]) == (True, 0)
