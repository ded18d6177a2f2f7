"""What tensors cost alone: planted ones are found, each number is that of a whole forward pass, and work goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import PLANTED, planted_recipe
from torch import Tensor

from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.core.console import progress_console
from pythia_quant.core.errors import RecipeError
from pythia_quant.core.progress import SILENT, Progress, Steps
from pythia_quant.model.forward import final_hidden_states, head_weight
from pythia_quant.quantizers import blocks
from pythia_quant.recipe.recipe import Recipe
from pythia_quant.tune import sensitivity
from pythia_quant.tune.alone import equalized_layer
from pythia_quant.tune.effect import Effects
from pythia_quant.tune.job import open_inputs, tunable
from pythia_quant.tune.records import Sensitivity
from pythia_quant.tune.sensitivity import Search, find_sensitivities
from pythia_quant.tune.texts import TextChoice, search_and_selection


def search_of(folder: Path, variant: str, recipe: Recipe | None = None) -> Search:
    recipe = recipe or planted_recipe(folder)
    with Steps(1, progress_console) as steps:
        inputs = open_inputs(recipe, [variant], steps)
    text, _ = search_and_selection(inputs, TextChoice(search_windows=16), SILENT)
    return Search(inputs, variant, text, folder / "found")


@pytest.mark.parametrize(("variant", "option"), [("onnx-int8", "int4/32"), ("gguf-q4", "q4_0")])
def test_planted_tensors_cost_most_and_the_prediction_ranks_alike(tmp_path: Path, variant: str, option: str) -> None:
    found = find_sensitivities(search_of(tmp_path, variant), SILENT)
    costs = {key: cells[option].value for key, cells in found.table().items() if key.startswith("layers.")}
    worst = sorted(costs, key=lambda key: -costs[key])[:2]
    assert {f"gpt_neox.{key}.weight" for key in worst} == set(PLANTED)
    assert found.rank_correlation is not None
    assert found.rank_correlation > 0.9
    assert not list((tmp_path / "found").glob("search-*"))
    predicted = {key: cells[option].predicted for key, cells in found.table().items() if key in costs}
    for key in worst:  # to second order; the errors are small
        assert predicted[key] == pytest.approx(costs[key], rel=0.6)


def test_a_cost_is_the_divergence_of_a_whole_forward_pass(tmp_path: Path) -> None:
    search = search_of(tmp_path, "onnx-int8")
    found = find_sensitivities(search, SILENT).table()["layers.0.attention.dense"]["int4/32"].kl
    source, ids = search.inputs.source.weights, torch.from_numpy(search.text.windows)
    layer = equalized_layer(source, 0)
    name = "attention.dense.weight"
    layer[name] = blocks.quantize(layer[name], 32, 4).dequantize()

    class Changed:
        architecture = source.architecture

        def read(self, tensor: str) -> Tensor:
            prefix = "gpt_neox.layers.0."
            return layer[tensor.removeprefix(prefix)] if tensor.startswith(prefix) else source.read(tensor)

    p, q = (
        (final_hidden_states(each, ids) @ head_weight(source).T).double().log_softmax(-1)
        for each in (source, Changed())
    )
    kl = (p.exp() * (p - q)).sum(-1)
    positions = Effects(source, ids, tmp_path / "none").positions
    np.testing.assert_allclose(found, kl[:, positions].mean(1), rtol=1e-3)


class _Stop(Progress):
    def __init__(self, after: str) -> None:
        self.after, self.seen = after, list[str]()

    def step(self, what: str, done: int, total: int) -> None:  # noqa: ARG002
        self.seen.append(what)
        if what == self.after:
            raise KeyboardInterrupt


def test_after_a_kill_it_goes_on_and_finds_the_same(tmp_path: Path) -> None:
    search = search_of(tmp_path, "onnx-int8")
    with pytest.raises(KeyboardInterrupt):
        find_sensitivities(search, _Stop("measured layers.1.attention.dense"))
    second = _Stop("never")
    resumed = find_sensitivities(search, second)
    # The tensor that it stopped at was measured, but its cells were not yet written.
    measured = [what for what in second.seen if what.startswith("measured ")]
    assert measured[0] == "measured layers.1.attention.dense"
    assert not any(what.startswith("states") for what in second.seen)
    whole = find_sensitivities(replace(search, folder=tmp_path / "whole"), SILENT)

    def numbers(each: Sensitivity) -> dict[str, dict[str, list[float]]]:
        return {key: {name: cell.kl for name, cell in cells.items()} for key, cells in each.table().items()}

    assert numbers(resumed) == numbers(whole)
    third = _Stop("never")
    assert find_sensitivities(search, third) == resumed
    assert third.seen == []


def test_a_prediction_measures_nothing_but_the_head(tmp_path: Path) -> None:
    found = find_sensitivities(replace(search_of(tmp_path, "onnx-int8"), measures=False), SILENT)
    assert found.way == "predicted"
    assert found.rank_correlation is None
    assert all(bool(cell.kl) == (row.tensor == "head") for row in found.tensors for cell in row.cells)


def test_texts_have_nothing_in_common(tmp_path: Path) -> None:
    recipe = planted_recipe(tmp_path)
    with Steps(1, progress_console) as steps:
        inputs: Inputs = open_inputs(recipe, ["gguf-q4"], steps)
    search, selection = search_and_selection(inputs, TextChoice(search_windows=8, selection_windows=8), SILENT)
    every = [search.windows, selection.windows, inputs.calibration, inputs.evaluation]
    rows = [row.tobytes() for part in every for row in part]
    assert len(set(rows)) == len(rows)


def test_several_selection_texts_give_as_many_windows_each(tmp_path: Path) -> None:
    recipe = planted_recipe(tmp_path)
    paths = []
    for name, step in (("one", 15485863), ("two", 32452843)):
        paths.append(tmp_path / f"{name}.txt")
        paths[-1].write_text("".join(f"{name} {i * step % 99989:d}, " for i in range(400)))
    with Steps(1, progress_console) as steps:
        inputs = open_inputs(recipe, ["onnx-int8"], steps)
    choice = TextChoice(search_windows=8, selection=tuple(paths), selection_windows=16)
    _, selection = search_and_selection(inputs, choice, SILENT)
    texts = [inputs.source.tokenizer.decode(row) for row in selection.windows]
    assert [("one" in text, "two" in text) for text in texts] == [(True, False)] * 8 + [(False, True)] * 8
    assert selection.record.name == f"{paths[0]} + {paths[1]}"


def test_variants_without_options_are_refused(tmp_path: Path) -> None:
    recipe = planted_recipe(tmp_path)
    assert tunable(recipe, []) == ["onnx-int8", "gguf-q4"]
    with pytest.raises(RecipeError, match="tensors of it have no options"):
        tunable(recipe, ["bnb-nf4"])


def test_what_another_version_of_the_code_has_found_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = replace(search_of(tmp_path, "onnx-int8"), measures=False)
    found = find_sensitivities(search, SILENT)
    monkeypatch.setattr(sensitivity, "NUMERICS", sensitivity.NUMERICS + 1)
    again = _Stop("never")
    assert find_sensitivities(search, again).key != found.key
    assert again.seen
