import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from mutations import COUNT, byte_mutations, damaged, distorted, refused_or_read

from pythia_quant.errors import RecipeError
from pythia_quant.recipe import load_recipe

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


def distortions(count: int) -> Iterator[bytes]:
    random_, data = random.Random(1), yaml.safe_load(SMALL)
    for _ in range(COUNT or count):
        text = yaml.dump(distorted(data, random_), default_flow_style=True, width=10**6)
        yield text.encode("utf-8", "surrogatepass")


def test_damaged_recipes_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    assert refused_or_read(load_recipe, path, byte_mutations(SMALL.encode(), 500))["read"] > 0
    counts = refused_or_read(load_recipe, path, distortions(300))
    assert counts["read"] > 10
    assert counts["refused"] > 100


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
