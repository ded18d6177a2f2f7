"""Artifacts by their place on a hub: pulled, hashed, and the same as before they were published."""

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hub_user import SECRETS, SOURCE, Client
from loopback import Fault, Hub, client_environment
from program import surroundings
from transformers import AutoModelForCausalLM

from pythia_quant import pull
from pythia_quant.core.errors import PythiaQuantError

BY_NAME = """
import sys
import torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(int(sys.argv[2]))
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
with torch.no_grad():
    print(model(torch.arange(1, 25).reshape(1, 24)).logits.double().flatten().tolist())
"""
"""In a process of its own: transformers reads where the hub is and where its cache is once, as it is imported."""
PULL = """
import sys
from pythia_quant import pull
print(pull(sys.argv[1]))
"""
IDS = torch.arange(1, 25).reshape(1, 24)


def pulled(client: Client, name: str) -> str:
    """Return the folder of an artifact on the hub, or why there is none."""
    own_cache = str(client.home / "own")
    with surroundings(client_environment(client.hub, client.home, PYTHIA_QUANT_CACHE=own_cache)):
        try:
            said = str(pull(name))
        except PythiaQuantError as error:
            said = str(error)
    assert not [secret for secret in SECRETS if secret in said]
    return said


def onnx_logits(folder: Path) -> list[float]:
    """Return what onnxruntime computes, as its users run it."""
    session = onnxruntime.InferenceSession(folder / "onnx" / "model_quantized.onnx")
    past = [i for i in session.get_inputs() if "past" in i.name]
    cache = {i.name: np.zeros([1, i.shape[1], 0, i.shape[3]], np.float32) for i in past}
    feeds = {"input_ids": IDS.numpy(), "attention_mask": np.ones([1, 24], np.int64), **cache}
    logits: list[float] = session.run(["logits"], feeds)[0].astype(float).flatten().tolist()
    return logits


def transformers_logits(folder: Path) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits: list[float] = model(IDS).logits.double().flatten().tolist()
    return logits


def publish(client: Client, folder: Path, repo_id: str) -> None:
    client.succeed("publish", folder, "--repo-id", repo_id, "--yes")


@pytest.mark.parametrize("cdn", [False, True])
def test_an_onnx_artifact_comes_back_as_it_was(client: Client, hub: Hub, artifacts: Path, cdn: bool) -> None:
    hub.cdn = cdn
    publish(client, artifacts / "onnx-int8", "me/tiny-onnx")
    elsewhere = client.anew("elsewhere")
    folder = Path(pulled(elsewhere, "hf://me/tiny-onnx"))
    assert folder.is_relative_to(elsewhere.home)
    before = onnx_logits(artifacts / "onnx-int8")
    assert len(before) == 24 * 272
    assert onnx_logits(folder) == before


def test_what_was_pulled_is_not_fetched_again_and_works_offline(client: Client, hub: Hub, artifacts: Path) -> None:
    publish(client, artifacts / "onnx-int8", "me/tiny-onnx")
    pulled(client, "hf://me/tiny-onnx")
    hub.requests.clear()
    client.succeed("verify", "hf://me/tiny-onnx@main")
    assert not any("model_quantized" in request for request in hub.requests)
    command = ("generate", "hf://me/tiny-onnx", "--prompt", "a", "--max-new-tokens", "4")
    client.succeed(*command, HF_HUB_OFFLINE="1")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_transformers_loads_a_published_artifact_by_its_name(client: Client, hub: Hub, artifacts: Path) -> None:
    publish(client, artifacts / "bnb-nf4", "me/tiny-nf4")
    before = transformers_logits(artifacts / "bnb-nf4")
    assert len(before) == 24 * 272
    after = client.anew("elsewhere").python("-c", BY_NAME, "me/tiny-nf4", str(torch.get_num_threads()))
    assert json.loads(after.stdout) == before, after.stderr


def test_gptq_is_pulled_verified_and_measured_where_its_source_is_fetched(
    client: Client, hub: Hub, artifacts: Path, origin: Path, tmp_path: Path
) -> None:
    publish(client, artifacts / "gptq-int4", "me/tiny-gptq")
    elsewhere = client.anew("elsewhere")
    assert "6 files as in the manifest" in elsewhere.succeed("verify", "hf://me/tiny-gptq")
    message = elsewhere.refuse("bench", "hf://me/tiny-gptq", "--out", tmp_path / "out")
    assert "evaluation.txt" in message, "the publisher's text is named, not its folder"
    text = origin / "evaluation.txt"
    elsewhere.succeed("bench", "hf://me/tiny-gptq", "--out", tmp_path / "out", "--text", text)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["source"]["commit"] == hub.head(SOURCE)
    before = json.loads((artifacts / "results.json").read_text())
    assert drift(results, "gptq-int4") == drift(before, "gptq-int4")


def drift(results: dict[str, list[dict[str, object]]], name: str) -> object:
    (row,) = (row for row in results["rows"] if row["name"] == name)
    return row["as_run"]


def test_a_program_that_logs_everything_logs_no_secret(client: Client, hub: Hub, artifacts: Path) -> None:
    hub.cdn = True
    publish(client, artifacts / "onnx-int8", "me/tiny-onnx")
    hub.faults.append(Fault("GET", "/cdn/", status=503))
    script = f"import logging; logging.basicConfig(level=logging.DEBUG)\n{PULL}"
    done = client.anew("elsewhere").python("-c", script, "hf://me/tiny-onnx", HF_DEBUG="1")
    assert "httpcore2.http11:receive_response_headers.complete" in done.stderr, "it is logged"


def test_a_flipped_byte_is_found_and_not_kept(client: Client, hub: Hub, artifacts: Path) -> None:
    publish(client, artifacts / "onnx-int8", "me/tiny-onnx")
    for name in ("onnx/model_quantized.onnx_data", "tokenizer.json", "pythia_quant.json"):
        hub.damage, elsewhere = {name}, client.anew(Path(name).name)
        assert "damaged" in pulled(elsewhere, "hf://me/tiny-onnx")
        assert not list((elsewhere.home / "own").rglob("pythia_quant.json"))
    hub.damage = set()
    elsewhere.succeed("verify", "hf://me/tiny-onnx")


def test_a_file_altered_on_the_hub_is_found(client: Client, hub: Hub, artifacts: Path) -> None:
    publish(client, artifacts / "onnx-int8", "me/tiny-onnx")
    good = hub.head("me/tiny-onnx")
    hub.put("me/tiny-onnx", "main", {"config.json": b"{}"})
    assert "config.json: has 2 bytes on the hub" in client.refuse("verify", "hf://me/tiny-onnx")
    assert Path(pulled(client, f"hf://me/tiny-onnx@{good}")).is_dir()
    hub.put("me/tiny-onnx", "main", {"config.json": (artifacts / "onnx-int8" / "config.json").read_bytes()})
    hub.put("me/tiny-onnx", "main", {}, delete=["tokenizer.json"])
    assert "tokenizer.json is missing" in pulled(client, "hf://me/tiny-onnx")


@pytest.mark.parametrize("name", ["../outside", "/"])
def test_a_manifest_cannot_write_outside_the_folder(
    client: Client, hub: Hub, artifacts: Path, name: str, tmp_path: Path
) -> None:
    manifest = json.loads((artifacts / "onnx-int8" / "pythia_quant.json").read_text())
    manifest["files"][name] = manifest["files"]["config.json"]
    hub.put("me/evil", "main", {"pythia_quant.json": json.dumps(manifest).encode()})
    assert "is no path within the artifact" in client.refuse("verify", "hf://me/evil")
    assert not list(tmp_path.rglob("outside*"))


def test_what_is_no_artifact_on_a_hub_is_told_so(client: Client, hub: Hub, tmp_path: Path) -> None:
    said = {
        f"hf://{SOURCE}": "so this is no artifact of ours",
        "hf://me/absent": "no such repository",
        f"hf://{SOURCE}@step9": "no such revision",
        "hf://nothing": "is no name of a repository",
    }
    for name, message in said.items():
        assert message in client.refuse("generate", name, "--prompt", "a")


@pytest.mark.parametrize(
    "fault", [Fault("GET", "onnx_data", cut=5000), Fault("GET|HEAD", "tokenizer.json", status=503)], ids=["cut", "503"]
)
def test_a_download_that_breaks_off_goes_on(client: Client, hub: Hub, artifacts: Path, fault: Fault) -> None:
    publish(client, artifacts / "onnx-int8", "me/tiny-onnx")
    hub.faults.append(fault)
    assert Path(pulled(client.anew("elsewhere"), "hf://me/tiny-onnx")).is_dir()
    assert fault.times == 0


def test_a_recipe_runs_on_a_hub_model_end_to_end(
    client: Client, hub: Hub, artifacts: Path, tmp_path: Path, origin: Path
) -> None:
    """What was published says how to make it again, and that gives the same weights."""
    publish(client, artifacts / "onnx-int8", "me/tiny-onnx")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(hub.files("me/tiny-onnx")["recipe.yaml"])
    for text in ("calibration.txt", "evaluation.txt"):
        (tmp_path / text).write_bytes((origin / text).read_bytes())
    client.anew("elsewhere").succeed("convert", recipe, "--only", "onnx-int8", "--out", tmp_path / "again")
    commit = hub.head(SOURCE)
    again = tmp_path / "again" / "someone--tiny" / commit / "onnx-int8"
    card = hub.files("me/tiny-onnx")["README.md"].decode()
    for digest, name in re.findall(r"^([0-9a-f]{64})  (\S+)$", card, re.MULTILINE):
        if name != "model.safetensors":
            assert digest == json.loads((again / "pythia_quant.json").read_text())["files"][name]["sha256"], name
