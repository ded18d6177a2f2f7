"""What others made is fetched from a hub: which files, once, and nothing outside the folder."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
from gguf_models import write_gguf
from hub_user import SECRETS, Client
from loopback import Hub, client_environment
from program import surroundings
from tiny import TINY, random_weights

from pythia_quant.artifacts.pull_foreign import pull_foreign
from pythia_quant.core.errors import PythiaQuantError

GPTQ = {
    "config.json": b"{}", "quantize_config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"same",
    "modeling_evil.py": b"code", "README.md": b"card", "onnx/model.onnx": b"graph",
}  # fmt: skip
GRAPHS = {
    "config.json": b"{}", "onnx/model.onnx": b"graph", "onnx/model.onnx_data": b"data", "onnx/other.onnx": b"graph 2",
}  # fmt: skip


def pulled(client: Client, place: str, **extra: str) -> Path | str:
    """Return what was fetched, or why nothing was."""
    own_cache = str(client.home / "own")
    with surroundings(client_environment(client.hub, client.home, PYTHIA_QUANT_CACHE=own_cache, **extra)):
        try:
            return pull_foreign(place)
        except PythiaQuantError as error:
            said = str(error)
    assert not [secret for secret in SECRETS if secret in said]
    return said


def files(folder: Path | str) -> set[str]:
    assert isinstance(folder, Path), folder
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_weights_are_fetched_once_with_what_is_read_beside_them(client: Client, hub: Hub) -> None:
    hub.put("me/theirs", "main", GPTQ)
    folder = pulled(client, "hf://me/theirs")
    assert files(folder) == {"config.json", "quantize_config.json", "model.safetensors"}
    hub.requests.clear()
    assert pulled(client, f"hf://me/theirs@{hub.head('me/theirs')}") == folder
    assert not hub.requests  # a commit never changes
    assert pulled(client, "hf://me/theirs") == folder
    assert not any("model.safetensors" in request for request in hub.requests)


def test_one_graph_of_several_is_fetched_with_its_data(client: Client, hub: Hub) -> None:
    hub.put("me/graphs", "main", GRAPHS)
    said = str(pulled(client, "hf://me/graphs"))
    assert "several files" in said
    assert "onnx/other.onnx" in said
    file = pulled(client, "hf://me/graphs/onnx/model.onnx")
    assert isinstance(file, Path)
    assert file.read_bytes() == b"graph"
    assert files(file.parents[1]) == {"config.json", "onnx/model.onnx", "onnx/model.onnx_data"}
    hub.requests.clear()
    assert pulled(client, f"hf://me/graphs@{hub.head('me/graphs')}/onnx/model.onnx") == file
    assert not hub.requests


def test_the_one_file_of_a_commit_is_there_offline(client: Client, hub: Hub) -> None:
    hub.put("me/one", "main", {"config.json": b"{}", "model-Q4_K.gguf": b"file", "README.md": b"card"})
    place = f"hf://me/one@{hub.head('me/one')}"
    file = pulled(client, place)
    assert isinstance(file, Path)
    assert file.name == "model-Q4_K.gguf"
    hub.requests.clear()
    assert pulled(client, place, HF_HUB_OFFLINE="1") == file
    assert not hub.requests


def test_bench_measures_offline_what_was_fetched_before(client: Client, hub: Hub, origin: Path, tmp_path: Path) -> None:
    """A repository of one GGUF file has no config.json, so huggingface_hub's cache knows nothing of it offline."""
    file = write_gguf(tmp_path / "tiny-F16.gguf", TINY, random_weights(TINY), gguf.GGMLQuantizationType.F16)
    hub.put("me/one", "main", {file.name: file.read_bytes()})
    place = f"hf://me/one@{hub.head('me/one')}"
    options = ("--source", origin / "tiny", "--recipe", origin / "tiny.yaml", "--out", tmp_path / "out")
    assert "is not in the cache and the hub cannot be reached" in client.refuse(
        "bench", "hf://me/one", *options, HF_HUB_OFFLINE="1"
    )
    pulled(client, place)
    hub.requests.clear()
    assert "one-tiny-F16" in client.succeed("bench", place, *options, HF_HUB_OFFLINE="1")
    assert not hub.requests


@pytest.mark.parametrize("token", ["hf_secretsecretsecret", None], ids=["token", "none"])
def test_access_that_is_missing_is_one_error_that_says_what_to_do(
    client: Client, hub: Hub, origin: Path, tmp_path: Path, token: str | None
) -> None:
    hub.put("me/gated", "main", GPTQ)
    hub.gated.add("me/gated")
    hub.add("else/private", {"main": origin / "tiny"}, private=True)
    options = ("--source", origin / "tiny", "--recipe", origin / "tiny.yaml", "--out", tmp_path / "out")
    for place in ("hf://me/gated", "hf://me/gated/onnx/model.onnx"):
        said = " ".join(client.refuse("bench", place, *options, HF_TOKEN=token).split())
        assert "access to this repository is restricted" in said
        assert "ask for access on its page, then: hf auth login, or set HF_TOKEN" in said
    if token:  # which is in no line of the log
        logged = client.run("--debug", "bench", "hf://me/gated", *options, HF_TOKEN=token)
        assert (logged.returncode, "HTTP Request" in logged.stderr) == (2, True)
    said = " ".join(client.refuse("bench", "hf://else/private", *options, HF_TOKEN=token).split())
    assert "no such repository, or it is private" in said
    assert "if it is yours: hf auth login, or set HF_TOKEN" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("hf://me/absent", "no such repository"),
        ("hf://me/graphs@step9", "no such revision"),
        ("hf://me/graphs/onnx/absent.onnx", "there is no onnx/absent.onnx"),
        ("hf://me/graphs/../../model.onnx", "names no file of a repository"),
        ("hf://me/graphs//model.onnx", "names no file of a repository"),
        ("hf://me/empty", "holds nothing that is measured"),
    ],
)
def test_what_is_not_there_is_one_error(client: Client, hub: Hub, place: str, said: str) -> None:
    hub.put("me/graphs", "main", GRAPHS)
    hub.put("me/empty", "main", {"README.md": b"card", "model.py": b"code"})
    assert said in str(pulled(client, place))
    assert not list((client.home / "own").rglob("*.onnx"))


def test_a_damaged_download_leaves_nothing(client: Client, hub: Hub) -> None:
    hub.put("me/theirs", "main", GPTQ)
    hub.damage = {"model.safetensors"}
    assert "damaged" in str(pulled(client, "hf://me/theirs"))
    assert not list((client.home / "own").rglob("config.json"))
    hub.damage = set()
    assert "model.safetensors" in files(pulled(client, "hf://me/theirs"))
