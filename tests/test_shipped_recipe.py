"""A recipe that ships with the package, on a hub that has what it names: from the download to what was published."""

import json
import re
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hub_user import Client
from loopback import Hub
from tiny import random_weights, write_checkpoint

from pythia_quant.model import suite
from pythia_quant.model.architecture import Architecture
from pythia_quant.recipe.recipe import shipped_recipes

SIZE = suite.SIZES["14m"]
SHAPE = Architecture(
    layers=SIZE.layers, width=SIZE.width, heads=SIZE.heads, mlp_width=4 * SIZE.width, vocabulary=SIZE.vocabulary,
    context=suite.CONTEXT, rotary_size=SIZE.width // SIZE.heads // 4, rotary_base=10000.0, norm_epsilon=1e-5,
)  # fmt: skip


def test_a_shipped_recipe_runs_from_download_to_pulling_back(client: Client, hub: Hub, tmp_path: Path) -> None:
    weights = random_weights(SHAPE, scale=0.02)
    weights["embed_out.weight"][257:] = weights["embed_out.weight"][0] = 0  # it is to write bytes, and not to end
    model = write_checkpoint(tmp_path / "14m", SHAPE, weights)
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\nPythia-14M\n")
    hub.add("EleutherAI/pythia-14m", {"main": model})
    texts = tmp_path / "wikitext" / "wikitext-2-raw-v1"
    texts.mkdir(parents=True)
    for name, word, count in (("train", "calm", 4_000), ("test", "eval", 40)):
        rows = [f"{i * 7919 % 100003} {word}" for i in range(count)]
        pq.write_table(pa.table({"text": rows}), texts / f"{name}-00000-of-00001.parquet")
    hub.add("Salesforce/wikitext", {"main": texts.parent}, kind="dataset")
    (tmp_path / "lambada" / "data").mkdir(parents=True)
    passages = "".join(json.dumps({"text": f"one passage and its last word {i}"}) + "\n" for i in range(3))
    (tmp_path / "lambada" / "data" / "lambada_test.jsonl").write_text(passages)
    (tmp_path / "lambada" / "eval.yaml").write_text("tasks: [{id: lambada}]\n")
    hub.add("EleutherAI/lambada_openai", {"main": tmp_path / "lambada"}, kind="dataset")
    recipe = tmp_path / "pythia-14m.yaml"  # speed has its own tests
    quick = (
        shipped_recipes()["pythia-14m"].read_text().partition("\ngates:")[0].replace("context: 2048", "context: 128")
    )
    limits = "gates:\n  onnx-int8: {max_ppl_drift: 50}\n"
    recipe.write_text(f"{quick}\nlatency: {{rounds: 0}}\n{limits}")

    client.succeed("run", recipe, "--only", "onnx-int8", "--out", tmp_path / "out")
    artifact = tmp_path / "out" / "EleutherAI--pythia-14m" / "main" / "onnx-int8"
    client.succeed("publish", artifact, "--repo-id", "team/pythia-14m-onnx-int8", "--yes")
    files = hub.files("team/pythia-14m-onnx-int8")
    card = files["README.md"].decode()
    assert "base_model: EleutherAI/pythia-14m" in card
    assert ".eval_results/lambada.yaml" not in files, "three passages are not the benchmark"

    elsewhere = client.anew("elsewhere")
    assert "7 files as in the manifest" in elsewhere.succeed("verify", "hf://team/pythia-14m-onnx-int8")
    install, _, ours = re.findall(r"```sh\n(.*?)\n```", card, re.DOTALL)[0].partition("\n")
    plain = re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)[0]
    assert install.startswith("pip install")
    continued = elsewhere.succeed(*shlex.split(ours)[1:])
    assert len(continued) > 30
    printed = client.anew("third").python("-c", f"import os; os.chdir({str(tmp_path)!r})\n{plain}").stdout
    # Random weights: after some tokens two are about as likely, and kernels differ in the last bit.
    assert printed[:26] == continued[:26]
