"""GPT-NeoX models other than Pythia, two layers wide: our arithmetic and our artifacts against transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import TINY, random_weights, write_checkpoint
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from pythia_quant.core.settings import VariantSettings
from pythia_quant.formats.bnb.reader import read as read_bnb
from pythia_quant.formats.bnb.runtime import open_bnb
from pythia_quant.formats.bnb.writer import write as write_bnb
from pythia_quant.formats.gptq.reader import read as read_gptq
from pythia_quant.formats.gptq.runtime import build_model
from pythia_quant.formats.gptq.writer import write as write_gptq
from pythia_quant.formats.job import Job, Written
from pythia_quant.formats.onnx.reader import read as read_onnx
from pythia_quant.formats.onnx.runtime import open_runtime as open_onnx
from pythia_quant.formats.onnx.writer import write as write_onnx
from pythia_quant.model.architecture import HEAD, Architecture, RopeScaling, SpecialTokens
from pythia_quant.model.config import read_config
from pythia_quant.model.forward import final_hidden_states, head_weight
from pythia_quant.model.source import open_source, open_weights
from pythia_quant.model.weights import WeightReader
from pythia_quant.recipe.onnx_variant import OnnxSettings
from pythia_quant.recipe.variants import BnbSettings, GptqSettings
from pythia_quant.runtimes.transformers import open_model

LINEAR, DYNAMIC = RopeScaling("linear", 2.0), RopeScaling("dynamic", 4.0)
SHAPES: dict[str, Architecture] = {
    "dolly-v2": replace(TINY, vocabulary=288),
    "polyglot-ko": replace(TINY, width=512, heads=16, rotary_size=16, tokens=SpecialTokens(2, (2,), 2)),
    "RedPajama-INCITE": replace(TINY, parallel_residual=False, rotary_size=32),
    "StableLM-alpha": replace(TINY, width=512, heads=32, rotary_size=4, context=128),
    "gpt-neox-20b": replace(TINY, width=512, heads=64, rotary_size=2, activation="gelu_fast"),
    "open-assistant": replace(TINY, tokens=SpecialTokens(0, (0, 3), 1)),
    "rinna": replace(TINY, parallel_residual=False, rotary_size=32, activation="relu"),
    "22 heads of 12": replace(TINY, width=264, heads=22, rotary_size=12),
    "gelu_new, linear": replace(TINY, activation="gelu_new", rope_scaling=LINEAR),
    "sequential, dynamic": replace(TINY, parallel_residual=False, rope_scaling=DYNAMIC),
}


def ids(shape: Architecture, windows: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randint(shape.vocabulary, (windows, 32), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def ours(reader: WeightReader, tokens: torch.Tensor) -> torch.Tensor:
    return final_hidden_states(reader, tokens) @ head_weight(reader).T


def in_transformers(reader: WeightReader) -> GPTNeoXForCausalLM:
    """Return transformers' own model of some weights, with a config of its own."""
    shape = reader.architecture
    scaling = shape.rope_scaling
    fields: dict[str, Any] = {
        "vocab_size": shape.vocabulary, "hidden_size": shape.width, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "intermediate_size": shape.mlp_width, "hidden_act": shape.activation,
        "max_position_embeddings": shape.context, "layer_norm_eps": shape.norm_epsilon,
        "use_parallel_residual": shape.parallel_residual, "rotary_emb_base": shape.rotary_base,
        "rotary_pct": shape.rotary_size / shape.head_size,
        "rope_scaling": {"type": scaling.kind, "factor": scaling.factor} if scaling else None,
    }  # fmt: skip
    model: GPTNeoXForCausalLM = GPTNeoXForCausalLM(GPTNeoXConfig(**fields)).eval()
    names = {name: "lm_head.weight" if name == HEAD else name for name in shape.tensor_shapes()}
    model.load_state_dict({other: reader.read(name).float() for name, other in names.items()})
    return model


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_logits_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path, SHAPES[name])
    weights, tokens = open_weights(folder), ids(SHAPES[name])
    assert weights.architecture == SHAPES[name]
    expected = in_transformers(weights)(tokens).logits
    torch.testing.assert_close(ours(weights, tokens), expected, rtol=0, atol=1e-4)
    found = open_model(folder, torch.float32).logits(tokens)  # which reads the config.json that we write
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


SEQUENTIAL = replace(TINY, parallel_residual=False, activation="relu", rope_scaling=LINEAR, width=128, heads=2)
PARALLEL = replace(TINY, activation="gelu_new", rope_scaling=DYNAMIC, width=128, heads=2)


@pytest.mark.parametrize("shape", [SEQUENTIAL, PARALLEL], ids=["sequential", "parallel"])
@pytest.mark.parametrize("settings", [{}, {"bits": 8}, {"correction": "bias"}, {"correction": "none"}], ids=str)
@torch.no_grad()
def test_gptq_artifacts_compute_what_transformers_does(
    tmp_path: Path, shape: Architecture, settings: dict[str, object]
) -> None:
    source = open_weights(write_checkpoint(tmp_path / "source", shape))
    chosen = GptqSettings.model_validate({"format": "gptq", "group_size": 32, **settings})
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    tokens, calibration = ids(shape), ids(shape, 16, seed=1)
    written = write_gptq(Job(source, chosen, artifact, tokens, calibration))
    reader = read_gptq(artifact)
    expected = in_transformers(reader)(tokens).logits
    torch.testing.assert_close(written.logits, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours(reader, tokens), expected, rtol=0, atol=1e-4)
    run = build_model(reader)(tokens).logits.float()
    if chosen.bits == 8:  # dequantized to fp32, but for the head's inputs in fp16
        torch.testing.assert_close(run, expected, rtol=0, atol=0.01 * float(expected.std()))
    else:  # the kernel computes in bf16
        assert (run - expected).std() < 0.02 * expected.std()
    for note in written.notes["linears"].values():  # type: ignore[attr-defined]
        assert note["relative_error"] < note["relative_error_rounding"]


@torch.no_grad()
def test_gptq_of_a_sequential_model_is_nearer_to_it_than_rounding(tmp_path: Path) -> None:
    source = open_weights(write_checkpoint(tmp_path / "source", SEQUENTIAL))
    tokens, calibration = ids(SEQUENTIAL, 8), ids(SEQUENTIAL, 64, seed=1)
    expected = ours(source, tokens)
    errors = {}
    for correction, sweeps in (("full", 2), ("none", 0)):
        artifact = tmp_path / correction
        artifact.mkdir()
        # Damped almost wholly, a solve makes up for nothing, which is rounding to nearest.
        damping = 0.01 if correction == "full" else 0.999
        fields = {"bits": 3, "group_size": 32, "correction": correction, "sweeps": sweeps, "damping": damping}
        settings = GptqSettings.model_validate({"format": "gptq", **fields})
        write_gptq(Job(source, settings, artifact, tokens, calibration))
        errors[correction] = float((ours(read_gptq(artifact), tokens) - expected).square().mean())
    assert errors["full"] < 0.8 * errors["none"]


@pytest.fixture
def _products_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have bitsandbytes multiply in the compute dtype on every CPU: what is lost to bf16 would hide what is wrong."""
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False, raising=False)


@pytest.mark.usefixtures("_products_in_fp32")
def test_bitsandbytes_artifacts_compute_what_was_meant(tmp_path: Path) -> None:
    source = open_weights(write_checkpoint(tmp_path / "source", SEQUENTIAL))
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    tokens = ids(SEQUENTIAL)
    written = write_bnb(Job(source, BnbSettings(format="bnb", compute_dtype="float32"), artifact, tokens))
    assert read_config(artifact / "config.json", quantized=True) == SEQUENTIAL
    torch.testing.assert_close(open_bnb(artifact, 1).logits(tokens), written.logits, rtol=0, atol=1e-4)


def test_a_checkpoint_with_wrapped_names_runs_as_a_baseline(tmp_path: Path) -> None:
    weights = {f"_orig_mod.{name}": tensor for name, tensor in random_weights(TINY).items()}
    plain = open_model(write_checkpoint(tmp_path / "plain"), torch.float32).logits(ids(TINY))
    wrapped = open_model(write_checkpoint(tmp_path / "wrapped", TINY, weights), torch.float32).logits(ids(TINY))
    torch.testing.assert_close(wrapped, plain, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("_products_in_fp32")
@torch.no_grad()
def test_tied_embeddings_in_every_format(tmp_path: Path) -> None:
    """The checkpoint has no head of its own, as transformers saves it; every artifact has one."""
    shape = replace(TINY, width=128, heads=2, tied=True)
    weights = {name: tensor for name, tensor in random_weights(shape).items() if name != HEAD}
    folder = write_checkpoint(tmp_path / "source", shape, weights)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    source, tokens = open_weights(folder), ids(shape)
    expected = GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits
    torch.testing.assert_close(ours(source, tokens), expected, rtol=0, atol=1e-4)

    def written(name: str, write: Callable[[Job[Any]], Written], settings: VariantSettings) -> tuple[Path, Tensor]:
        artifact = tmp_path / name
        artifact.mkdir()
        return artifact, write(Job(source, settings, artifact, tokens, ids(shape, 16, seed=1))).logits

    fp32 = OnnxSettings(format="onnx", weights="fp32", activations="fp32", embeddings="fp32", head="fp32")
    artifact, _ = written("onnx", write_onnx, fp32)
    torch.testing.assert_close(open_onnx(artifact, 1).logits(tokens), expected, rtol=0, atol=1e-4)

    artifact, meant = written("bnb", write_bnb, BnbSettings(format="bnb", compute_dtype="float32"))
    torch.testing.assert_close(open_bnb(artifact, 1).logits(tokens), meant, rtol=0, atol=1e-4)
    torch.testing.assert_close(in_transformers(read_bnb(artifact))(tokens).logits, meant, rtol=0, atol=1e-4)

    for head, limit in (("fp16", 0.02), ("quantized", 0.03)):
        settings = GptqSettings.model_validate({"format": "gptq", "bits": 8, "group_size": 32, "head": head})
        artifact, meant = written(f"gptq, head {head}", write_gptq, settings)
        torch.testing.assert_close(in_transformers(read_gptq(artifact))(tokens).logits, meant, rtol=0, atol=1e-4)
        assert (build_model(read_gptq(artifact))(tokens).logits - expected).std() < limit * expected.std()
        fields = json.loads((artifact / "config.json").read_text())
        assert not fields["tie_word_embeddings"], "its head is its own: tied, it would be left unread"


@torch.no_grad()
def test_codes_solved_for_a_sequential_model_run_in_onnx(tmp_path: Path) -> None:
    shape = replace(SEQUENTIAL, activation="gelu_new", rope_scaling=DYNAMIC)
    source, tokens = open_weights(write_checkpoint(tmp_path / "source", shape)), ids(shape)
    solved, taken = tmp_path / "gptq", tmp_path / "onnx"
    solved.mkdir()
    taken.mkdir()
    write_gptq(Job(source, GptqSettings(format="gptq", group_size=32), solved, tokens, ids(shape, 16, seed=1)))
    fields = {"codes": "gptq", "weights": "int4", "block_size": 32, "activations": "fp32"}
    settings = OnnxSettings.model_validate({"format": "onnx", **fields, "embeddings": "fp32", "head": "fp32"})
    write_onnx(Job(source, settings, taken, tokens, codes=read_gptq(solved)))
    # The head and the embeddings are the source's, in fp16 there and in fp32 here, which is the same.
    expected = in_transformers(read_gptq(solved))(tokens).logits
    torch.testing.assert_close(ours(read_onnx(taken), tokens), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(open_onnx(taken, 1).logits(tokens), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("prefix", ["module.", "base_model.model.", "module.base_model.model._orig_mod."])
def test_shards_with_wrapped_names_are_opened_and_run(tmp_path: Path, prefix: str) -> None:
    plain = write_checkpoint(tmp_path / "plain")
    folder = write_checkpoint(tmp_path / "wrapped")
    weights = {prefix + name: tensor for name, tensor in random_weights(TINY).items()}
    (folder / "model.safetensors").unlink()
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    places = {name: shards[index >= 9] for index, name in enumerate(weights)}
    for shard in shards:
        save_file({name: tensor for name, tensor in weights.items() if places[name] == shard}, folder / shard)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    source = open_source(str(folder))
    assert list(source.sha256) == shards
    assert torch.equal(source.weights.read(HEAD), weights[prefix + HEAD])
    tokens = ids(TINY)
    expected = open_model(plain, torch.float32).logits(tokens)
    torch.testing.assert_close(open_model(folder, torch.float32).logits(tokens), expected, rtol=0, atol=1e-6)
