from __future__ import annotations

import ast
import contextlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import huggingface_hub
import onnx_models
import pytest
import torch
from program import run_script
from tiny import TINY
from tokenizers import Tokenizer

from pythia_quant.core.settings import VariantSettings
from pythia_quant.formats.bnb.runtime import open_bnb
from pythia_quant.formats.bnb.writer import write as write_bnb
from pythia_quant.formats.job import Job
from pythia_quant.formats.onnx.runtime import open_runtime
from pythia_quant.model.source import open_source
from pythia_quant.publishing.clients import CLIENTS, OURS, SERVER, Client, snippets
from pythia_quant.recipe.onnx_variant import OnnxSettings
from pythia_quant.recipe.variants import BnbSettings, GptqSettings
from pythia_quant.runtimes.protocol import generate

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, VariantSettings] = {
    "bnb": BnbSettings(format="bnb"),
    "gptq": GptqSettings(format="gptq"),
    "onnx": OnnxSettings(format="onnx"),
}
GRAPH = "onnx/model_quantized.onnx"
CLIENTS_PAGE = (ROOT / "docs" / "clients.md").read_text()
WORDS = " ".join(CLIENTS_PAGE.split())
MAKEFILE = (ROOT / "Makefile").read_text()
TESTED = [client for client in CLIENTS if client.tested]


def names(settings: VariantSettings, revision: str = "main") -> list[str]:
    return [snippet.name.partition(",")[0] for snippet in snippets(settings, "me/repo", revision, GRAPH)]


def code(settings: VariantSettings, name: str, repo: str = "me/repo", revision: str = "main") -> str:
    return next(one.code for one in snippets(settings, repo, revision, GRAPH) if one.name == name)


def test_every_format_names_the_programs_that_read_it() -> None:
    assert names(SETTINGS["bnb"]) == ["pythia-quant", "curl", "transformers", "vLLM", "SGLang"]
    assert names(SETTINGS["gptq"]) == ["pythia-quant", "curl", "transformers", "vLLM", "SGLang", "Docker Model Runner"]
    others = ["onnxruntime", "onnxruntime-genai", "transformers.js", "optimum"]
    assert names(SETTINGS["onnx"]) == ["pythia-quant", "curl", *others]


@pytest.mark.parametrize(
    ("settings", "others"),
    [
        ({"head": "quantized"}, []),
        ({"symmetric": False}, ["transformers", "SGLang"]),
        ({"bits": 3}, ["transformers", "SGLang"]),
        ({"bits": 8}, ["transformers", "vLLM", "SGLang"]),
        ({"activation_order": "dynamic"}, ["transformers", "SGLang"]),
        ({"group_size": "row"}, ["vLLM", "SGLang", "Docker Model Runner"]),
        ({"group_size": "row", "activation_order": "dynamic"}, ["vLLM", "SGLang", "Docker Model Runner"]),
    ],
    ids=str,
)
def test_no_program_is_named_that_refuses_the_settings(settings: dict[str, Any], others: list[str]) -> None:
    """What vLLM takes is what `make vllm` finds; for 8 bits it has a kernel on a GPU only, which we did not try."""
    chosen = GptqSettings(format="gptq", **settings)
    assert names(chosen) == ["pythia-quant", "curl", *others]
    tested = [one.name for one in snippets(chosen, "me/repo", "main", GRAPH) if one.tested]
    assert ("vLLM" in tested) == (chosen.bits == 4 and "vLLM" in others)


def test_docker_is_not_suggested_on_a_cpu() -> None:
    shown = [one.name for one in snippets(SETTINGS["gptq"], "me/repo", "main", GRAPH) if "docker" in one.code]
    assert all("Linux with an NVIDIA GPU" in name for name in shown)


PACKAGES = {
    "transformers": "transformers ", "onnxruntime": "onnxruntime tokenizers huggingface_hub",
    "onnxruntime-genai": "onnxruntime-genai huggingface_hub", "optimum": "optimum-onnx onnxruntime",
}  # fmt: skip
"""What the code of each program imports; others are dependencies of these."""


def test_what_a_program_needs_is_installed_first() -> None:
    for settings in SETTINGS.values():
        for snippet in snippets(settings, "me/repo", "main", GRAPH):
            if "Docker" in snippet.name:
                assert not snippet.install
                continue
            assert snippet.install.startswith("npm install " if snippet.language == "js" else "pip install ")
            if snippet.language == "python":
                assert f"pip install {PACKAGES[snippet.name]}" in snippet.install


def test_a_branch_is_named_or_the_program_is_left_out() -> None:
    assert "Docker Model Runner" not in names(SETTINGS["gptq"], "step3000")
    for settings in SETTINGS.values():
        for snippet in snippets(settings, "me/repo", "step 3000", GRAPH):
            assert "step 3000" in snippet.code
        assert not any("revision" in snippet.code for snippet in snippets(settings, "me/repo", "main", GRAPH))


def target(name: str) -> str:
    """Return the lines of a target of the Makefile."""
    return str(re.findall(rf"^{name}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[0])


@pytest.mark.parametrize("client", TESTED, ids=lambda client: f"{client.format} {client.name}")
def test_versions_are_those_that_are_tested(client: Client) -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    separate = {
        "optimum": dict(re.findall(r"([\w.-]+)==([\d.]+)", target("optimum"))),
        "vLLM": dict(re.findall(r"([\w.-]+)==([\d.]+)", target("vllm"))),
        "transformers.js": {"transformers.js": re.findall(r"@huggingface/transformers@([\d.]+)", MAKEFILE)[0]},
    }
    installed = separate.get(client.name.partition(",")[0], pins)
    for package, version in client.tested.items():
        assert f"{package} {version}" in WORDS or f"{package}, tested with {version}" in WORDS
        if package in installed:
            assert f"{installed[package]}.".startswith(f"{version}.")
        else:
            assert package in ("optimum", "gptqmodel")


@pytest.mark.parametrize(
    ("name", "language"), [("onnxruntime-genai", "python"), ("transformers.js", "js"), ("optimum", "python")]
)
def test_code_is_that_of_the_readme(name: str, language: str) -> None:
    """Which is run by other tests; apart from the folder, the prompt and the tokens to add."""
    block = next(
        shown
        for shown in re.findall(rf"```{language}\n(.*?)```", CLIENTS_PAGE, re.DOTALL)
        if {"onnxruntime-genai": "og.Model", "transformers.js": "@huggingface", "optimum": "ORTModel"}[name] in shown
    )
    block = block.replace('folder = "artifacts/demo/builtin/onnx-int8"\n', "").replace(
        '"artifacts/demo/builtin/onnx-int8"', "folder"
    )
    for ours, readme in (
        ("Once upon a time", "import os"), ("max_new_tokens=40", "max_new_tokens=38"),
        ("max_new_tokens: 40", "max_new_tokens: 38"), ('"me/repo"', "'./artifacts/demo/builtin/onnx-int8'"),
    ):  # fmt: skip
        block = block.replace(readme, ours)
    shown = code(SETTINGS["onnx"], name).splitlines()
    assert [line for line in block.splitlines() if line] == [
        line for line in shown if line and "snapshot_download" not in line
    ]


@pytest.mark.parametrize("repo", ["me/repo", 'me/a"b', "me/$(rm -rf x)", "me/a'; x", "me/a\\", "me/$repo"])
def test_names_are_literals(repo: str) -> None:
    for settings in SETTINGS.values():
        for snippet in snippets(settings, repo, f"{repo}-branch", GRAPH):
            if snippet.language == "python":
                texts = {node.value for node in ast.walk(ast.parse(snippet.code)) if isinstance(node, ast.Constant)}
                assert {repo, f"{repo}-branch"} <= texts
            elif snippet.language == "sh":
                echoed = ["sh", "-c", f"printf '%s\\n' {snippet.code.replace('&&', '').replace(chr(10), ' ')}"]
                words = subprocess.run(echoed, capture_output=True, text=True, check=True).stdout.splitlines()
                assert f"hf://{repo}@{repo}-branch" in words if snippet.name in (OURS, SERVER) else repo in words


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    onnx_models.convert(onnx_models.source(folder / "source"), folder / "artifact", activations="int8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / "source" / name, folder / "artifact")
    return folder / "artifact"


def run(source: str, folder: Path) -> str:
    """Run Python code in a folder and return what it prints, less the last line's end."""
    with contextlib.chdir(folder):
        done = run_script(source)
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


def test_code_for_onnxruntime_continues_as_our_runtime_does(
    onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the download is replaced: the folder is there already."""
    shutil.copytree(onnx, tmp_path / "repo")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda _repo, local_dir: local_dir)
    printed = run(code(SETTINGS["onnx"], "onnxruntime"), tmp_path)
    tokenizer = Tokenizer.from_file(str(onnx / "tokenizer.json"))
    prompt = tokenizer.encode("Once upon a time").ids
    assert printed == tokenizer.decode(prompt + generate(open_runtime(onnx, 1), torch.tensor(prompt), 40, ()))


def test_code_for_bitsandbytes_continues_as_our_runtime_does(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "me" / "repo"
    folder.mkdir(parents=True)
    settings = BnbSettings(format="bnb", compute_dtype="float32")
    write_bnb(Job(open_source(str(checkpoint)).weights, settings, folder, onnx_models.PROBE % TINY.vocabulary))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoint / name, folder)
    source = code(SETTINGS["bnb"], "transformers").replace("max_new_tokens=40", "max_new_tokens=12")
    printed = run(source, tmp_path)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompt = tokenizer.encode("Once upon a time").ids
    added = generate(open_bnb(folder, 1), torch.tensor(prompt), 12, ())
    assert printed == tokenizer.decode(prompt + added, skip_special_tokens=False)
