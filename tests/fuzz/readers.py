"""What is read of others' files and requests: whole examples of each, and how one is read.

A reader returns, or refuses with one of the errors that a user sees as a message. All else is a finding.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from gguf_models import write_gguf
from onnx import TensorProto, helper
from safetensors.torch import save
from tiny import TINY, byte_tokenizer, random_weights

from pythia_quant.artifacts.artifact import open_artifact
from pythia_quant.core.array_file import load_array
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.core.foreign_files import MANIFEST
from pythia_quant.formats.gguf.header import read_header
from pythia_quant.formats.gptq.reader import read as read_gptq
from pythia_quant.formats.onnx.foreign_graph import read_graph
from pythia_quant.formats.tensor_files import read_artifact_config
from pythia_quant.model.config import read_config
from pythia_quant.model.generation_config import GENERATION_CONFIG, read_model, read_settings, settings_to_write
from pythia_quant.model.pickled import read_pickle
from pythia_quant.model.suite import parse_revisions
from pythia_quant.model.tokenizer import TOKENIZER, open_tokenizer, tokenize
from pythia_quant.model.weights import WeightFiles, weight_file_names
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.records.results import load_results
from pythia_quant.serve.refusals import Refusal
from pythia_quant.serve.requests import ChatRequest, CompletionRequest, parse
from pythia_quant.texts.lambada import read_passages
from pythia_quant.texts.load import read_text
from pythia_quant.tune.budget import parse_budget

REFUSED = (PythiaQuantError, Refusal)
SMALL = replace(TINY, layers=1, width=8, heads=1, mlp_width=16, vocabulary=16, context=8, rotary_size=2)
RECIPES = (
    b"schema: 1\nsource: {model: a/b}\nevaluation: {text: {builtin: training}}\nvariants: {n: {format: bnb}}\n",
    b"schema: 1\nsource: {model: a/b}\ncalibration: {text: {file: x}, seed: 1}\n"
    b"evaluation: {text: {builtin: training}}\n"
    b"variants:\n  g: {format: gptq, group_size: 32}\n  o: {format: onnx, codes: g, weights: int4, block_size: 32}\n"
    b"gates: {o: {max_kl: 5mnat}}\n",
)
GPTQ = {"bits": 4, "group_size": 32, "sym": True, "desc_act": False, "quant_method": "gptq"}


@dataclass(frozen=True)
class Reader:
    """What one kind of input is read by.

    Attributes:
        name: of the file in the scratch folder that holds the input; empty if it is not read from a file.
        examples: whole inputs.
        read: reads the file of that name in a folder, or the bytes themselves.
        beside: other files in the folder.
    """

    name: str
    examples: Callable[[Path], list[bytes]]
    read: Callable[[Path], object] | Callable[[bytes], object]
    beside: Callable[[Path], object] | None = None

    def in_folder(self, folder: Path) -> Callable[[bytes], bool]:
        """Return what reads an input in a scratch folder, says whether it was not refused, and raises findings."""
        if self.beside:
            self.beside(folder)
        path = folder / self.name

        def read(content: bytes) -> bool:
            given: Any = content
            if self.name:
                path.write_bytes(content)
                given = path
            try:
                self.read(given)
            except REFUSED:
                return False
            return True

        return read


def _json(*examples: object) -> Callable[[Path], list[bytes]]:
    return lambda _: [json.dumps(example).encode() for example in examples]


def _weights(path: Path) -> None:
    weights = WeightFiles([path], SMALL)
    for name in SMALL.tensor_shapes():
        weights.read(name)


def _pickles(_: Path) -> list[bytes]:
    found = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save({"a": torch.ones(2, 3).half()}, buffer, _use_new_zipfile_serialization=zipped)
        found.append(buffer.getvalue())
    return found


def _array(_: Path) -> list[bytes]:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((2, 3, 4), dtype=np.float16))
    return [buffer.getvalue()]


def _graph(_: Path) -> list[bytes]:
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens", 4])
    table = helper.make_tensor("table", TensorProto.FLOAT, [4, 4], [0.0] * 16)
    node = helper.make_node("Gather", ["table", "input_ids"], ["logits"])
    graph = helper.make_graph([node], "g", [ids], [logits], [table])
    outside = helper.make_graph([node], "g", [ids], [logits], [onnx.TensorProto.FromString(table.SerializeToString())])
    tensor = outside.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "m.data"), ("offset", "0"), ("length", "64")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    opset = [helper.make_opsetid("", 21)]
    return [helper.make_model(each, opset_imports=opset).SerializeToString() for each in (graph, outside)]


def _gguf(folder: Path) -> list[bytes]:
    path = write_gguf(folder / "whole.gguf", SMALL, random_weights(SMALL))
    return [path.read_bytes()]


def _manifest(_: Path) -> list[bytes]:
    from card_inputs import manifest

    from pythia_quant.publishing.anonymize import serialized

    return [serialized(manifest("onnx-int8"))]


def _tokenizer(_: Path) -> list[bytes]:
    fields = json.loads(byte_tokenizer().to_str())
    vocabulary = fields["model"]["vocab"]
    fields["model"]["vocab"] = {token: vocabulary[token] for token in ("<|endoftext|>", "a", "b", "Ġ")}
    return [json.dumps(fields).encode()]


def _use_tokenizer(path: Path) -> None:
    tokenizer = open_tokenizer(path, TINY.vocabulary)
    tokenizer.decode(tokenize(tokenizer, "a b, é\u3042").ids)


def _results(_: Path) -> list[bytes]:
    return [(Path(__file__).parents[1] / "data" / "results-1.json").read_bytes()]


def _generation(path: Path) -> None:
    settings_to_write(read_settings(path.parent), read_model(path.parent))


def _with_config(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(TINY.config()))


def _as_text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda content: read(content.decode(errors="replace"))


READERS: dict[str, Reader] = {
    "recipe": Reader("recipe.yaml", lambda _: list(RECIPES), load_recipe),
    "config": Reader("config.json", _json(TINY.config()), read_config),
    "generation": Reader(
        GENERATION_CONFIG,
        _json({"eos_token_id": [0, 2], "do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 0.9}),
        _generation,
        _with_config,
    ),
    "index": Reader("model.json", _json({"weight_map": {"a": "m-1.safetensors"}}), weight_file_names),
    "safetensors": Reader("model.safetensors", lambda _: [save(random_weights(SMALL))], _weights),
    "pickle": Reader("pytorch_model.bin", _pickles, read_pickle),
    "tokenizer": Reader(TOKENIZER, _tokenizer, _use_tokenizer),
    "manifest": Reader(MANIFEST, _manifest, lambda path: open_artifact(path.parent).recipe()),
    "gptq": Reader(
        "config.json",
        _json(TINY.config() | {"dtype": "float16", "quantization_config": GPTQ}),
        lambda path: (read_artifact_config(path.parent), read_gptq(path.parent)),
    ),
    "results": Reader("results.json", _results, load_results),
    "gguf": Reader("model.gguf", _gguf, read_header),
    "onnx": Reader("model.onnx", _graph, read_graph, lambda folder: (folder / "m.data").write_bytes(bytes(64))),
    "rows": Reader("rows.jsonl", lambda _: [b'{"text": "one"}\n{"text": null}\n\n{"text": "\\u00e9"}\n'], read_text),
    "passages": Reader(
        "lambada.jsonl", lambda _: [b'{"text": "one two three"}\n{"text": "four five"}\n'], read_passages
    ),
    "array": Reader(
        "states.npy", _array, lambda path: load_array(path, np.float16, (2, None, 4), PythiaQuantError, mapped=True)
    ),
    "completion": Reader(
        "",
        _json({"prompt": ["a", "b"], "max_tokens": 3, "stop": ["x"], "stream": True, "logprobs": 2, "seed": 1}),
        lambda body: parse(CompletionRequest, body),
    ),
    "chat": Reader(
        "",
        _json({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "temperature": 0.5}),
        lambda body: parse(ChatRequest, body),
    ),
    "limits": Reader(
        "", lambda _: [b"max_kl: 5 mnat, min_top1: 95 %"], _as_text(lambda text: parse_budget(text, None, None))
    ),
    "size": Reader("", lambda _: [b"60MB", b"1.5GiB"], _as_text(lambda text: parse_budget(None, text, None))),
    "revisions": Reader(
        "",
        lambda _: [b"step512,step1000..step3000", b"step0..step8000/10", b"all"],
        _as_text(lambda text: parse_revisions(text, [0, 512, 1000, 2000, 3000, 8000])),
    ),
}
"""By a short name."""
