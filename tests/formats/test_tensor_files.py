"""What readers check of an artifact before anything native sees it, damage by damage."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, helper, numpy_helper
from safetensors.torch import load_file, save_file

from pythia_quant.core.errors import ArtifactError, PythiaQuantError
from pythia_quant.formats.bnb.reader import read as read_bnb
from pythia_quant.formats.bnb.runtime import open_bnb
from pythia_quant.formats.gptq.reader import read as read_gptq
from pythia_quant.formats.onnx.data_file import find_model
from pythia_quant.formats.onnx.graph_check import open_model

DENSE = "gpt_neox.layers.1.attention.dense"
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return copies of artifacts by their variant."""
    return lambda variant: Path(shutil.copytree(made / variant, tmp_path / variant))


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_tensors(folder: Path, edit: Callable[[Tensors], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def edit_fields(**fields: Any) -> Callable[[Tensors], object]:
    """Change what the JSON beside a bitsandbytes weight says."""

    def edit(tensors: Tensors) -> None:
        name = f"{DENSE}.weight.quant_state.bitsandbytes__nf4"
        content = json.dumps(json.loads(bytes(tensors[name].tolist())) | fields).encode()
        tensors[name] = torch.tensor(list(content), dtype=torch.uint8)

    return edit


def replace(name: str, tensor: torch.Tensor) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize(
    "edit",
    [
        edit_fields(quant_type="fp4"),
        edit_fields(blocksize=0),
        edit_fields(blocksize=64.0),
        edit_fields(shape=[2**31, 2**31]),
        edit_fields(shape=[64, 64, 1]),
        edit_fields(dtype="__loader__"),
        edit_fields(nested_blocksize=1),
        edit_fields(nested_dtype="load"),
        edit_fields(nested_offset=float("nan")),
        edit_fields(nested_offset="x"),
        edit_fields(more=1),
        replace(f"{DENSE}.weight.quant_state.bitsandbytes__nf4", torch.zeros(5, dtype=torch.uint8)),
        replace(f"{DENSE}.weight.quant_state.bitsandbytes__nf4", torch.zeros(5)),
        replace(f"{DENSE}.weight.quant_state.bitsandbytes__fp4", torch.zeros(5, dtype=torch.uint8)),
        replace(f"{DENSE}.weight.absmax", torch.zeros(1, dtype=torch.uint8)),
        replace(f"{DENSE}.weight.nested_absmax", torch.zeros(0)),
        replace(f"{DENSE}.weight.nested_quant_map", torch.zeros(255)),
        replace(f"{DENSE}.weight.quant_map", torch.zeros(16, dtype=torch.float16)),
        replace(f"{DENSE}.weight", torch.zeros(1, 1, dtype=torch.uint8)),
        replace(f"{DENSE}.bias", torch.zeros(63)),
        replace("strange", torch.zeros(1)),
    ],
)
def test_bitsandbytes_tensors(copy: Callable[[str], Path], edit: Callable[[Tensors], object]) -> None:
    folder = copy("bnb-nf4")
    edit_tensors(folder, edit)
    for opener in (read_bnb, lambda folder: open_bnb(folder, 1)):
        with pytest.raises(ArtifactError, match=r"model\.safetensors|bnb-nf4:"):
            opener(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": "strange"},
        {"dtype": "float16"},  # but the compute dtype is another
        {"quantization_config": 5},
        {"quantization_config": {"bnb_4bit_quant_type": 5}},
        {"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}},
        {"hidden_size": 128},
        {"num_hidden_layers": 3},
        {"vocab_size": 10_000_000},
    ],
)
def test_bitsandbytes_config(copy: Callable[[str], Path], fields: dict[str, Any]) -> None:
    folder = copy("bnb-nf4")
    edit_config(folder, **fields)
    with pytest.raises(PythiaQuantError):
        read_bnb(folder)


def test_an_adapter_beside_an_artifact_is_refused(copy: Callable[[str], Path]) -> None:
    """transformers would load the model that it names, where peft is installed."""
    folder = copy("bnb-nf4")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere", "peft_type": "LORA"}')
    with pytest.raises(ArtifactError, match=r"holds adapter_config\.json"):
        open_bnb(folder, 1)


@pytest.mark.parametrize(
    "fields",
    [{"bits": "4"}, {"bits": 4.0}, {"bits": True}, {"bits": 5}, {"bits": 8}, {"group_size": 64}, {"group_size": "32"},
     {"lm_head": 0}, {"lm_head": True}, {"quant_method": None}, {"bits": [4]}],
)  # fmt: skip
def test_gptq_config(copy: Callable[[str], Path], fields: dict[str, Any]) -> None:
    folder = copy("gptq-int4")
    quantization = json.loads((folder / "config.json").read_text())["quantization_config"]
    edit_config(folder, quantization_config=quantization | fields)
    with pytest.raises(ArtifactError):
        read_gptq(folder)


def test_gptq_groups_are_of_the_same_size(copy: Callable[[str], Path]) -> None:
    """The kernel takes them to be; others it would multiply by the wrong scales."""
    folder = copy("gptq-int4")
    for groups in (torch.zeros(64, dtype=torch.int32), torch.full((64,), 2, dtype=torch.int32)):
        edit_tensors(folder, replace(f"{DENSE}.g_idx", groups))
        with pytest.raises(ArtifactError, match="does not give each of 2 groups as many inputs"):
            read_gptq(folder).read(f"{DENSE}.weight")


def node(model: ModelProto, operator: str) -> Any:
    return next(node for node in model.graph.node if node.op_type == operator)


def tensor(model: ModelProto, name: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def shift_tables(model: ModelProto, by: float) -> None:
    table = tensor(model, "rotary_cosines")
    table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table) + np.float32(by), table.name))


@pytest.mark.parametrize(
    "edit",
    [
        lambda model: setattr(node(model, "Gelu"), "op_type", "Relu"),
        lambda model: setattr(node(model, "Gelu"), "domain", "elsewhere"),
        lambda model: model.graph.node.append(helper.make_node("Identity", ["logits"], ["more"])),
        lambda model: model.graph.node.pop(),
        lambda model: setattr(node(model, "GroupQueryAttention").attribute[0], "i", 2**40),
        lambda model: model.graph.output.pop(),
        lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", 99),
        lambda model: setattr(model.opset_import[0], "version", 99),
        lambda model: model.functions.add(name="f"),
        lambda model: model.graph.initializer.append(tensor(model, "one")),
        lambda model: tensor(model, "one").dims.append(2**62),
        lambda model: setattr(tensor(model, "one"), "raw_data", b""),
        lambda model: tensor(model, "rotary_sines").dims.__setitem__(0, 2**40),
        lambda model: shift_tables(model, 0.1),
        lambda model: tensor(model, "head.codes").dims.__setitem__(0, -1),
        lambda model: tensor(model, "head.codes").dims.__setitem__(0, 2**62),
        lambda model: setattr(tensor(model, "head.codes"), "data_type", 99),
        lambda model: setattr(tensor(model, "head.codes"), "data_type", 3),
        lambda model: tensor(model, "head.codes").external_data.pop(),
        lambda model: setattr(tensor(model, "head.codes").external_data[1], "value", "9" * 40),
        lambda model: setattr(tensor(model, "head.codes"), "name", "other"),
        lambda model: setattr(tensor(model, "head.codes"), "data_location", 0),
    ],
)
def test_onnx_graphs(copy: Callable[[str], Path], edit: Callable[[ModelProto], object]) -> None:
    folder = copy("onnx-int8")
    path = find_model(folder)
    model = onnx.load(path, load_external_data=False)
    edit(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError):
        open_model(folder)


def test_rotary_tables_may_differ_in_their_last_bits(copy: Callable[[str], Path]) -> None:
    folder = copy("onnx-int8")
    path = find_model(folder)
    model = onnx.load(path, load_external_data=False)
    shift_tables(model, 1e-6)
    path.write_bytes(model.SerializeToString())
    open_model(folder)


@pytest.mark.parametrize("fields", [{"vocab_size": 273}, {"num_hidden_layers": 1}, {"num_attention_heads": 4},
                                    {"max_position_embeddings": 10_000_000}, {"layer_norm_eps": 0.5},
                                    {"tie_word_embeddings": True}, {"attention_bias": False},
                                    {"quantization_config": {"quant_method": "gptq"}}])  # fmt: skip
def test_onnx_config_and_graph_belong_together(copy: Callable[[str], Path], fields: dict[str, Any]) -> None:
    folder = copy("onnx-int8")
    edit_config(folder, **fields)
    with pytest.raises(PythiaQuantError):
        open_model(folder)
