"""The hard models of `benchmarks/hardness` that compute the function of the checkpoint that they are made from."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pythia_quant.model.forward import final_hidden_states, head_weight
from pythia_quant.model.source import open_weights


@pytest.mark.parametrize("kind", ["gains", "values"])
def test_a_hard_model_computes_the_same_with_numbers_32_times_as_uneven(
    kind: str, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    from hardness.models import SAME_FUNCTION, write_model

    assert kind in SAME_FUNCTION
    write_model(str(checkpoint), kind, tmp_path / kind)
    plain, hard = open_weights(checkpoint), open_weights(tmp_path / kind)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, plain.architecture.vocabulary, (2, 16)))
    was, now = (final_hidden_states(each, ids) @ head_weight(each).T for each in (plain, hard))
    torch.testing.assert_close(now, was, atol=1e-4, rtol=0)
    ratios = [
        (hard.read(name).float() / plain.read(name).float()).nan_to_num(nan=1.0)
        for name in plain.architecture.tensor_shapes()
    ]
    assert max(float(ratio.max()) for ratio in ratios) > 31
    assert min(float(ratio.min()) for ratio in ratios) < 1 / 31


def test_the_same_seed_gives_the_same_hard_model(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    from hardness.models import write_model

    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        write_model(str(checkpoint), "damaged", tmp_path / name, seed)
    one, again, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "again", "other"))
    assert one == again != other


def test_the_table_averages_draws_and_pairs_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    from hardness.tables import table

    def row(method: str, draw: int, more: float) -> dict[str, object]:
        kl = [1e-3 * (window + more) for window in range(8)]
        return {
            "model": "demo", "method": method, "calibration": "c4", "windows": 8, "draw": draw,
            "texts": {"web": {"weights": kl}},
        }  # fmt: skip

    records = [row("plain", 0, 0.0), row("plain", 1, 1.0), row("ours", 0, -1.0), row("ours", 1, -1.5)]
    # The standard deviation of 0 … 7 is √6, and t of 7 degrees of freedom is 2.365: 2.365 √6 / √8 = 2.05.
    assert "| demo | plain | 8 c4 | 4.00 ± 2.05 (3.50 … 4.50) |" in table(records, "weights")
    against = table(records, "weights", "plain")
    assert "| demo | ours | 8 c4 | -1.75 ± 0.00 (-2.50 … -1.00) |" in against
    assert "| demo | plain |" not in against
