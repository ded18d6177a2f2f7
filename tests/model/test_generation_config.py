"""Special tokens and generation settings of a fine-tune, from its files into an artifact's."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import write_checkpoint, write_recipe
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from pythia_quant import convert, load_inputs, load_recipe
from pythia_quant.core.errors import SourceError
from pythia_quant.model.architecture import SpecialTokens
from pythia_quant.model.config import read_config
from pythia_quant.model.generation_config import read_model
from pythia_quant.model.source import open_source


def edit(path: Path, **fields: Any) -> None:
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | fields))


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({}, None, SpecialTokens(0, (0,), None)),
        ({"eos_token_id": [0, 2]}, None, SpecialTokens(0, (0, 2), None)),
        ({"eos_token_id": 5}, None, SpecialTokens(0, (5,), None)),
        ({"eos_token_id": None, "bos_token_id": -1}, None, SpecialTokens(None, (), None)),
        ({"pad_token_id": 1}, {"eos_token_id": [0, 5]}, SpecialTokens(0, (0, 5), 1)),
        ({"pad_token_id": 1}, {"eos_token_id": None, "pad_token_id": 3}, SpecialTokens(0, (), 3)),
        ({}, {"pad_token_id": 272}, SpecialTokens(0, (0,), None)),  # which the model does not have
    ],
)
def test_generation_config_is_obeyed_before_config(
    checkpoint: Path, config: dict[str, Any], generation: dict[str, Any] | None, expected: SpecialTokens
) -> None:
    edit(checkpoint / "config.json", **config)
    if generation is not None:
        edit(checkpoint / "generation_config.json", **generation)
        theirs = GenerationConfig.from_pretrained(checkpoint).eos_token_id
        if "eos_token_id" in generation:
            assert theirs == generation["eos_token_id"]
    assert read_model(checkpoint).tokens == expected


def test_a_config_that_names_no_token_has_transformers_defaults(checkpoint: Path) -> None:
    fields = json.loads((checkpoint / "config.json").read_text())
    kept = {name: value for name, value in fields.items() if not name.endswith("_token_id")}
    (checkpoint / "config.json").write_text(json.dumps(kept))
    theirs, ours = AutoConfig.from_pretrained(checkpoint), read_config(checkpoint / "config.json").tokens
    assert (ours.begin, ours.end, ours.pad) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)


def test_damage_is_refused(checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").write_text('{"eos_token_id": 272}')
    with pytest.raises(SourceError, match=r"generation_config\.json: eos_token_id is 272"):
        open_source(str(checkpoint))
    (checkpoint / "generation_config.json").write_text('{"temperature": NaN}')
    with pytest.raises(SourceError, match=r"generation_config\.json: holds a number that is not finite"):
        open_source(str(checkpoint))
    (checkpoint / "generation_config.json").write_text("[")
    with pytest.raises(SourceError, match=r"generation_config\.json: is not JSON"):
        open_source(str(checkpoint))


TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


@pytest.mark.fresh_processes
def test_an_artifact_keeps_what_a_chat_model_was_saved_with(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    folder = write_checkpoint(tmp_path / "tiny")
    edit(folder / "config.json", pad_token_id=1)
    saved = {"eos_token_id": [0, 5], "temperature": 0.7, "top_p": 0.9, "do_sample": True, "_from_model_config": True}
    edit(folder / "generation_config.json", **saved)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tools.jinja").write_text("tools")
    (folder / "additional_chat_templates/.tools.jinja").write_text("an editor's copy, which no manifest lists")
    (folder / "added_tokens.json").write_text('{"<|endoftext|>": 0}')
    inputs = load_inputs(load_recipe(recipe), only=["onnx-fp32"])
    artifact = convert(inputs, "onnx-fp32", tmp_path / "out").folder

    tokenizer = AutoTokenizer.from_pretrained(artifact)
    assert tokenizer.chat_template == {"default": TEMPLATE, "tools": "tools"}
    assert (artifact / "added_tokens.json").read_bytes() == (folder / "added_tokens.json").read_bytes()
    config, generation = AutoConfig.from_pretrained(artifact), GenerationConfig.from_pretrained(artifact)
    for found in (config, generation):
        assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == (0, [0, 5], 1)
    assert (generation.do_sample, generation.temperature, generation.top_p) == (True, 0.7, 0.9)
    assert read_model(artifact, quantized=True).tokens == SpecialTokens(0, (0, 5), 1)
    genai = json.loads((artifact / "genai_config.json").read_text())
    assert [genai["model"][f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [0, [0, 5], 1]
    assert genai["search"] == {
        "do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_length": 32, "past_present_share_buffer": True,
    }  # fmt: skip
