import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from mutations import COUNT, as_json, byte_mutations, damaged, distortions, outcomes, refused_or_read
from tiny import TINY

from pythia_quant.core.errors import RecipeError
from pythia_quant.core.foreign_files import read_ordinary
from pythia_quant.core.progress import SILENT
from pythia_quant.recipe.overrides import fit_context, override
from pythia_quant.recipe.recipe import load_recipe, parse_recipe

SMALL = """\
schema: 1
source: {model: a/b}
calibration: {text: {file: x}, seed: 1}
evaluation: {text: {builtin: training}, windows: 4}
variants:
  n: {format: bnb}
  g: {format: gptq, group_size: 32}
  o: {format: onnx, codes: g, weights: int4, block_size: 32}
gates: {o: {max_kl: 5mnat}}
basis: {calibration.seed: 'assumed: x'}
"""


SHORT = """\
schema: 1
source: {model: a/b}
evaluation: {text: {builtin: training}}
variants: {n: {format: bnb}}
"""


def use(data: Any) -> None:
    """Make a recipe of data, and do with it what is done before a model is opened."""
    recipe = parse_recipe(data, {}, Path("r.yaml"))
    recipe.check_suite()
    recipe.calibrates()
    changed = fit_context(override(recipe, model="a/c", context=16), TINY, SILENT)
    json.dumps(changed.canonical(), allow_nan=False).encode()


def test_distorted_recipes_are_read_or_refused() -> None:
    found = distortions(yaml.safe_load(SMALL), COUNT)
    counts = outcomes(use, (data for data in found if b"\\ud800" not in as_json(data)))  # which no file gives
    assert min(counts["read"], counts["refused"]) > COUNT // 20


def test_damaged_recipes_are_read_or_refused(tmp_path: Path) -> None:
    """Fewer: PyYAML takes some milliseconds for a recipe."""
    path, count = tmp_path / "recipe.yaml", COUNT // 4
    assert refused_or_read(load_recipe, path, byte_mutations(SHORT.encode(), count))["read"] > 0
    assert refused_or_read(load_recipe, path, byte_mutations(SMALL.encode(), count))["refused"] > count // 2
    flow = (
        yaml.dump(data, default_flow_style=True, width=10**6).encode("utf-8", "surrogatepass")
        for data in distortions(yaml.safe_load(SHORT), count, seed=1)
    )
    assert refused_or_read(load_recipe, path, flow)["refused"] > count // 2


def test_a_byte_order_mark_is_no_content_and_other_encodings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.encode())
    assert load_recipe(path).lines["schema",] == 1
    path.write_text(SMALL, encoding="utf-16")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(path)


def test_only_ordinary_files_of_a_recipes_size_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * 300_000)
    for name, message in (
        ("pipe.yaml", "is no file"),
        (".", "is no file"),
        ("large.yaml", "too many"),
        ("x" * 300 + ".yaml", "name too long"),
    ):
        with pytest.raises(RecipeError, match=message):
            load_recipe(tmp_path / name)


def test_the_engine_damages_what_it_is_given() -> None:
    changed = [damaged(SMALL.encode(), random.Random(seed)) != SMALL.encode() for seed in range(100)]
    assert sum(changed) > 90


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux's")
def test_files_of_the_kernel_that_only_look_ordinary_are_read_within_limits() -> None:
    """They say that they are empty; /proc/kmsg, which root may open, waits for messages without end."""
    for name in ("/proc/self/status", "/proc/kmsg", "/proc/self/mem"):
        with pytest.raises(RecipeError):
            load_recipe(name)
    with pytest.raises(RecipeError, match="too many for what it is"):
        read_ordinary(Path("/proc/self/status"), 10, RecipeError)
