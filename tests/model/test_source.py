import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import program
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from heard import Heard
from loopback import Hub, client_environment, loopback_hub
from safetensors.torch import save_file
from tiny import TINY, byte_tokenizer, random_weights, write_checkpoint

from pythia_quant.core.errors import SourceError
from pythia_quant.core.file_hashes import sha256
from pythia_quant.model.source import open_source
from pythia_quant.model.source_name import DEMO


def test_a_folder_is_opened_and_hashed(checkpoint: Path) -> None:
    source = open_source(str(checkpoint))
    assert (source.revision, source.commit, source.architecture) == ("local", None, TINY)
    assert source.sha256 == {"model.safetensors": sha256(checkpoint / "model.safetensors")}
    assert source.tokenizer.decode(source.tokenizer.encode("héllo").ids) == "héllo"


def test_the_demo_model_ships_with_the_package_and_has_learned() -> None:
    source = open_source(DEMO)
    assert (source.architecture.layers, source.architecture.width, source.architecture.vocabulary) == (6, 128, 4096)
    assert source.architecture.parameters == 2 * 4096 * 128 + 1_189_888
    record = json.loads((source.folder / "training.json").read_text())
    assert record["held_out_perplexity"] * 20 < record["untrained_perplexity"]


def test_safetensors_are_preferred_to_a_pickle_of_the_same_tensors(checkpoint: Path) -> None:
    torch.save(random_weights(TINY, seed=1), checkpoint / "pytorch_model.bin")
    assert list(open_source(str(checkpoint)).sha256) == ["model.safetensors"]
    (checkpoint / "model.safetensors").unlink()
    assert list(open_source(str(checkpoint)).sha256) == ["pytorch_model.bin"]


def test_a_missing_shard_is_named(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    index = {"weight_map": dict.fromkeys(TINY.tensor_shapes(), "model-00001-of-00002.safetensors")}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SourceError, match=r"shard model-00001-of-00002\.safetensors is missing"):
        open_source(str(checkpoint))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adapter_config.json", r"is an adapter \(LoRA\), not a whole model.*merge it first"),
        ("model.gguf", r"holds GGUF \(model\.gguf\)"),
        ("tf_model.h5", "holds TensorFlow weights"),
    ],
)
@pytest.mark.parametrize("config", [True, False])
def test_what_is_no_checkpoint_is_named(checkpoint: Path, name: str, message: str, *, config: bool) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "adapter_model.safetensors")
    (checkpoint / name).touch()
    if not config:
        (checkpoint / "config.json").unlink()
    with pytest.raises(SourceError, match=f"(?s){message}"):
        open_source(str(checkpoint))


def test_a_file_of_an_adapter_is_named_as_such(checkpoint: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (checkpoint / name).unlink()
    (checkpoint / "adapter_config.json").touch()
    with pytest.raises(SourceError, match="is an adapter"):
        open_source(str(checkpoint / "adapter_config.json"))


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "pytorch_model.bin"])
def test_what_a_clone_without_git_lfs_leaves_is_named(checkpoint: Path, name: str) -> None:
    if name == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1000\n"
    (checkpoint / name).write_text(pointer)
    with pytest.raises(SourceError, match=f"{name}: is a pointer of git-lfs"):
        open_source(str(checkpoint))


def test_unknown_config_fields_are_a_notice(checkpoint: Path) -> None:
    fields = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(fields | {"unsloth_version": "1", "auto_map": {}}))
    heard = Heard()
    assert open_source(str(checkpoint), progress=heard).unknown_fields == ["auto_map", "unsloth_version"]
    assert len(heard.notices) == 1
    assert "auto_map, unsloth_version" in heard.notices[0]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(SourceError, match=name):
        open_source(str(checkpoint))


def test_a_tokenizer_that_does_not_fit_is_refused(checkpoint: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"extra{i}" for i in range(100)])
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    with pytest.raises(SourceError, match="357 tokens, the model's vocabulary is 272"):
        open_source(str(checkpoint))
    (checkpoint / "tokenizer.json").write_text("{}")
    with pytest.raises(SourceError, match="not a tokenizer"):
        open_source(str(checkpoint))


def test_a_folder_has_no_revisions(checkpoint: Path) -> None:
    for model in (DEMO, str(checkpoint)):
        with pytest.raises(SourceError, match="no revision 'step3000'"):
            open_source(model, "step3000")


@pytest.mark.parametrize("model", ["./missing", "/missing/folder", "a/b/c"])
def test_a_path_without_a_folder_is_refused(model: str) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        open_source(model)


OPEN = """
import sys
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.core.progress import Progress
from pythia_quant.model.source import open_source
class Printed(Progress):
    def step(self, what, done, total):
        print(what, file=sys.stderr)
    def notice(self, text):
        print(text)
try:
    source = open_source(sys.argv[1], sys.argv[2], Printed())
    print(source.model, source.commit, list(source.sha256), source.weights.read("embed_out.weight").shape[0])
except PythiaQuantError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with loopback_hub() as hub:
        main, early = write_checkpoint(tmp_path / "main"), write_checkpoint(tmp_path / "early")
        (early / "model.safetensors").unlink()
        torch.save(random_weights(TINY, seed=7), early / "pytorch_model.bin")
        hub.add("someone/tiny", {"main": main, "step3000": early})
        yield hub


def in_client(hub: Hub, tmp_path: Path, script: str, *arguments: str, **extra: str) -> str:
    """Run a script as in a process whose hub client talks to the loopback hub."""
    done = program.run_script(script, *arguments, environment=client_environment(hub, tmp_path / "home", **extra))
    assert "hf_secret" not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_hub_repository_is_resolved_to_a_commit_and_cached(hub: Hub, tmp_path: Path) -> None:
    commit = hub.head("someone/tiny")
    printed = in_client(hub, tmp_path, OPEN, "someone/tiny", "main")
    assert printed == f"someone/tiny {commit} ['model.safetensors'] 272\n"
    assert hub.authorizations == {"Bearer hf_secretsecretsecret"}
    hub.requests.clear()
    assert in_client(hub, tmp_path, OPEN, "someone/tiny", "main", HF_HUB_OFFLINE="1") == printed
    assert hub.requests == []


def test_a_download_tells_its_progress_and_draws_nothing(hub: Hub, tmp_path: Path) -> None:
    script = OPEN.replace("file=sys.stderr", "flush=True")
    told = in_client(hub, tmp_path, script, "someone/tiny", "main").splitlines()
    assert "downloading model.safetensors: 0 of 0 MB" in told
    assert not any("%|" in line for line in told)


def test_a_revision_with_only_a_pickle_is_read(hub: Hub, tmp_path: Path) -> None:
    printed = in_client(hub, tmp_path, OPEN, "someone/tiny", "step3000")
    assert printed == f"someone/tiny {hub.head('someone/tiny', 'step3000')} ['pytorch_model.bin'] 272\n"


def test_shards_are_downloaded_through_their_index(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "main"
    weights = list(random_weights(TINY).items())
    (folder / "model.safetensors").unlink()
    save_file(dict(weights[:9]), folder / "model-00001-of-00002.safetensors")
    save_file(dict(weights[9:]), folder / "model-00002-of-00002.safetensors")
    weight_map = {name: f"model-0000{1 + (i >= 9)}-of-00002.safetensors" for i, (name, _) in enumerate(weights)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    hub.add("someone/tiny", {"main": folder})
    printed = in_client(hub, tmp_path, OPEN, "someone/tiny", "main")
    assert "['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'] 272" in printed


def test_a_flipped_byte_in_a_download_is_found(hub: Hub, tmp_path: Path) -> None:
    hub.damage.add("model.safetensors")
    printed = in_client(hub, tmp_path, OPEN, "someone/tiny", "main")
    assert printed.startswith("SourceError") and "the download is damaged" in printed  # noqa: PT018


def test_an_adapter_on_the_hub_is_named(hub: Hub, tmp_path: Path) -> None:
    """With the config.json that some programs put beside it, and without."""
    for model, names in (("someone/lora", ()), ("someone/lora-with-config", ("config.json", "tokenizer.json"))):
        folder = tmp_path / model
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        save_file({"base_model.model.gpt_neox.lora_A.weight": torch.ones(2)}, folder / "adapter_model.safetensors")
        for name in names:
            shutil.copy(tmp_path / "main" / name, folder)
        hub.add(model, {"main": folder})
        printed = in_client(hub, tmp_path, OPEN, model, "main")
        assert "is an adapter (LoRA), not a whole model" in printed
        assert "merge it first" in printed


def test_an_old_name_is_opened_as_v0_with_a_notice(hub: Hub, tmp_path: Path) -> None:
    hub.repos["EleutherAI/pythia-70m-v0"] = hub.repos["someone/tiny"]
    printed = in_client(hub, tmp_path, OPEN, "EleutherAI/pythia-19m", "main")
    assert "those weights are EleutherAI/pythia-70m-v0 now" in printed
    assert "is not the shape of EleutherAI/pythia-70m-v0" in printed


def test_the_14m_that_was_replaced_is_opened_with_a_notice(hub: Hub, tmp_path: Path) -> None:
    shape = replace(TINY, width=128, layers=6)
    hub.add("EleutherAI/pythia-14m", {"main": write_checkpoint(tmp_path / "14m", shape)})
    notice, opened = in_client(hub, tmp_path, OPEN, "EleutherAI/pythia-14m", "main").splitlines()
    assert notice.startswith("EleutherAI/pythia-14m was replaced on 2026-02-27")
    assert opened.startswith(f"EleutherAI/pythia-14m {hub.head('EleutherAI/pythia-14m')}")


def test_a_seed_is_opened_and_one_that_the_hub_lacks_is_refused(hub: Hub, tmp_path: Path) -> None:
    shape = replace(TINY, width=768, layers=12)
    seed = "EleutherAI/pythia-160m-data-seed1"
    hub.add(seed, {"main": write_checkpoint(tmp_path / "seed", shape)})
    assert in_client(hub, tmp_path, OPEN, seed, "main").startswith(f"{seed} {hub.head(seed)}")
    printed = in_client(hub, tmp_path, OPEN, "EleutherAI/pythia-160m-weight-seed3", "main")
    assert "no such repository" in printed


@pytest.mark.parametrize(
    ("model", "revision", "extra", "expected"),
    [
        ("someone/absent", "main", {}, "no such repository"),
        ("someone/tiny", "step9", {}, "no such revision"),
        ("someone/gated", "main", {}, "restricted"),
        ("someone/tiny", "main", {"HF_HUB_OFFLINE": "1"}, "not in the cache"),
        ("some one/tiny!", "main", {}, "neither a folder here nor the name of a hub repository"),
    ],
)
def test_what_the_hub_refuses_is_said_clearly(
    hub: Hub, tmp_path: Path, model: str, revision: str, extra: dict[str, str], expected: str
) -> None:
    hub.add("someone/gated", {"main": tmp_path / "main"})
    hub.gated.add("someone/gated")
    printed = in_client(hub, tmp_path, OPEN, model, revision, **extra)
    assert printed.startswith(("SourceError", "NotCachedError")), printed
    assert expected in printed


TEXT = """
import sys
from pathlib import Path
from tokenizers import Tokenizer
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.recipe.recipe import TextSettings
from pythia_quant.texts.load import load_text
try:
    print(repr(load_text(TextSettings(dataset="some/texts", file=sys.argv[1]), None).content))
except PythiaQuantError as error:
    print(type(error).__name__, error)
"""


def test_texts_come_from_dataset_repositories(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "plain.txt").write_text("plain text")
    pq.write_table(pa.table({"text": ["a\n", "", "b\n"]}), folder / "rows.parquet")
    hub.add("some/texts", {"main": folder}, kind="dataset")
    assert in_client(hub, tmp_path, TEXT, "plain.txt") == "'plain text'\n"
    assert in_client(hub, tmp_path, TEXT, "rows.parquet") == "'a\\n\\n\\n\\n\\nb\\n'\n"
    assert "has no file absent.txt" in in_client(hub, tmp_path, TEXT, "absent.txt")


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (5, r"ends a text with token 0 \('<\|endoftext\|>'\), the model with 5"),
        (0, "has no token '</s>'"),
    ],
)
def test_another_models_tokenizer_is_known_by_the_end_of_its_texts(checkpoint: Path, end: int, message: str) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"eos_token_id": end, "bos_token_id": end}))
    if end == 0:
        (checkpoint / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    with pytest.raises(SourceError, match=message):
        open_source(str(checkpoint))


PASSAGES = """
import sys
from pathlib import Path
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.recipe.measurement import LambadaSettings
from pythia_quant.texts.lambada import load_passages
try:
    settings = LambadaSettings(dataset="some/passages", file=sys.argv[1], examples=2)
    found = load_passages(settings)
    print(found.name, found.examples, found.sha256)
except PythiaQuantError as error:
    print(type(error).__name__, error)
"""


def test_passages_come_from_dataset_repositories(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "passages"
    folder.mkdir()
    content = "".join(json.dumps({"text": f"the word {i}"}) + "\n" for i in range(3))
    (folder / "test.jsonl").write_text(content)
    (folder / "broken.jsonl").write_text(content + "{")
    hub.add("some/passages", {"main": folder}, kind="dataset")
    digest = hashlib.sha256(content.encode()).hexdigest()
    assert in_client(hub, tmp_path, PASSAGES, "test.jsonl") == f"some/passages test.jsonl 2 {digest}\n"
    assert "broken.jsonl:4: is not JSON" in in_client(hub, tmp_path, PASSAGES, "broken.jsonl")
    assert "CorpusError dataset some/passages@main: has no file absent" in in_client(hub, tmp_path, PASSAGES, "absent")


def test_a_link_that_leaves_the_folder_is_not_followed(checkpoint: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("my key")
    link = checkpoint / "special_tokens_map.json"
    link.symlink_to(secret)
    with pytest.raises(SourceError, match=r"special_tokens_map\.json is a link that leads out"):
        open_source(str(checkpoint))
    link.unlink()
    (checkpoint / "model.safetensors").rename(checkpoint / "moved")
    (checkpoint / "model.safetensors").symlink_to(checkpoint / "moved")  # within, by an absolute path
    assert open_source(str(checkpoint)).sha256
