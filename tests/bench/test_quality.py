import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from heard import Heard
from tiny import TINY, random_weights, write_checkpoint
from torch import Tensor
from transformers import GPTNeoXForCausalLM

from pythia_quant.bench import reference as references
from pythia_quant.bench.quality import compare_logits, layer_errors, measure_drift, run_in_layers, run_whole
from pythia_quant.bench.reference import Reference, open_reference
from pythia_quant.bench.subject import Subject
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.core.progress import SILENT
from pythia_quant.model.forward import Fp32Layers
from pythia_quant.model.source import open_weights
from pythia_quant.runtimes.protocol import final_states
from pythia_quant.runtimes.transformers import open_model
from pythia_quant.runtimes.transformers_layers import TorchLayers

IDS = torch.randint(TINY.vocabulary, (4, TINY.context), generator=torch.Generator().manual_seed(1))


def made(checkpoint: Path, folder: Path) -> Reference:
    return open_reference(open_weights(checkpoint), {"model.safetensors": "hash"}, IDS, SILENT, folder)


def test_perplexity_equals_twelve_lines_of_transformers(checkpoint: Path, tmp_path: Path) -> None:
    ours = math.exp(sum(made(checkpoint, tmp_path / "kept").nll) / len(IDS))
    model = GPTNeoXForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    total, count = 0.0, 0
    for row in IDS:
        with torch.no_grad():
            logits = model(row[None]).logits[0, :-1]
        picked = torch.log_softmax(logits.double(), -1)[torch.arange(len(row) - 1), row[1:]]
        total -= picked.sum().item()
        count += len(row) - 1
    assert math.exp(total / count) == pytest.approx(ours, rel=1e-6)


def test_drift_equals_transformers_on_both_sides(checkpoint: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", weights=random_weights(TINY, seed=1))
    found = compare_logits(
        made(checkpoint, tmp_path / "kept"),
        {
            "self": run_in_layers(Fp32Layers(open_weights(checkpoint)), IDS, tmp_path / "a", ""),
            "other": run_whole(open_model(other, torch.float32).logits, IDS),
        },
    )
    assert max(found["self"].kl) < 1e-10
    assert found["self"].top5 == [1.0] * 4
    with torch.no_grad():
        p, q = (
            GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32)(IDS).logits[:, :-1].double().log_softmax(-1)
            for folder in (checkpoint, other)
        )
    kl = (p.exp() * (p - q)).sum(-1)
    np.testing.assert_allclose(found["other"].kl, kl.mean(1).numpy(), rtol=1e-5)
    np.testing.assert_allclose(found["other"].kl_quantiles[1].value, np.quantile(kl.numpy(), 0.9), rtol=1e-5)
    np.testing.assert_allclose(found["other"].top1, (p.argmax(-1) == q.argmax(-1)).double().mean(1).numpy())


def test_what_is_kept_is_found_by_content(checkpoint: Path, tmp_path: Path) -> None:
    heard = Heard()

    def make(hashes: str, ids: Tensor) -> Reference:
        return open_reference(open_weights(checkpoint), {"model.safetensors": hashes}, ids, heard, tmp_path)

    first = make("one", IDS)
    computed = len(heard.steps)
    assert make("one", IDS.clone()).folder == first.folder
    assert len(heard.steps) == computed > 0
    others = {first.folder, make("two", IDS).folder, make("one", IDS[:2]).folder}
    assert len(others) == 3


def test_references_not_used_for_a_day_make_room(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, recent = made(checkpoint, tmp_path), None
    os.utime(old.folder, (1e9, 1e9))
    recent = open_reference(open_weights(checkpoint), {"a": "b"}, IDS, SILENT, tmp_path)
    assert old.folder.exists()
    monkeypatch.setattr(references, "MOST_CACHE_BYTES", 1)
    open_reference(open_weights(checkpoint), {"c": "d"}, IDS, SILENT, tmp_path)
    assert (old.folder.exists(), recent.folder.exists()) == (False, True)


def test_a_reference_that_does_not_fit_on_the_disk_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    many = IDS[:1].expand(2**40, -1)
    with pytest.raises(BenchmarkError, match="GB are free"):
        references._check_space(tmp_path, open_weights(checkpoint), many)


def test_a_folder_that_cannot_be_written_is_named(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchmarkError, match="file/kept: the reference cannot be kept"):
        made(checkpoint, tmp_path / "file" / "kept")


def test_an_interrupted_run_through_the_layers_goes_on(checkpoint: Path, tmp_path: Path) -> None:
    class Stop(BaseException):
        pass

    model, folder = Fp32Layers(open_weights(checkpoint)), tmp_path / "states"
    folder.mkdir()

    def stop(done: int) -> None:
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        final_states(model, IDS, folder, Heard(stop))
    heard = Heard()
    found = final_states(model, IDS, folder, heard)
    assert [done for _, done, _ in heard.steps] == [2]
    whole = tmp_path / "whole"
    whole.mkdir()
    assert torch.equal(found.read(slice(0, 4)), final_states(model, IDS, whole).read(slice(0, 4)))
    assert [path.name.rpartition("-")[0] for path in folder.iterdir()] == ["states-3"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_source_run_layer_by_layer_gives_what_it_gives_whole(
    checkpoint: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    whole = open_model(checkpoint, dtype)
    layers = TorchLayers(open_weights(checkpoint), dtype)
    of = run_in_layers(layers, IDS, tmp_path / "states", "")
    for window in range(len(IDS)):
        expected = whole.logits(IDS[window : window + 1])[0]
        torch.testing.assert_close(
            of(window)(slice(0, 32)), expected, rtol=0, atol=0.05 if dtype != torch.float32 else 1e-5
        )
    assert layers.description == f"{whole.description}, layer by layer"


def test_errors_of_layers_are_where_they_were_made(checkpoint: Path, tmp_path: Path) -> None:
    weights = random_weights(TINY)
    weights["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"] *= 1.05
    off = write_checkpoint(tmp_path / "off", weights=weights)
    first, second = layer_errors(open_weights(checkpoint), open_weights(off), IDS)
    assert (first.alone, first.after) == (0, 0)
    assert 0.005 < second.alone < 0.05
    assert 0 < second.after < second.alone


def test_a_layer_that_adds_nothing_has_no_error_or_an_infinite_one(checkpoint: Path, tmp_path: Path) -> None:
    weights = random_weights(TINY)
    for part in ("attention.dense", "mlp.dense_4h_to_h"):
        for kind in ("weight", "bias"):
            weights[f"gpt_neox.layers.1.{part}.{kind}"] *= 0
    without = open_weights(write_checkpoint(tmp_path / "without", weights=weights))
    assert layer_errors(without, without, IDS)[1].alone == 0
    assert layer_errors(without, open_weights(checkpoint), IDS)[1].alone == float("inf")


def test_a_row_is_measured_whole_layer_by_layer_or_not_at_all(checkpoint: Path, tmp_path: Path) -> None:
    kept = made(checkpoint, tmp_path / "kept")
    subject = Subject(name="torch-fp32", folder=checkpoint, dtype="float32").model_dump(mode="json")

    def row(whole: bool) -> dict[str, object]:
        scratch = str(tmp_path / f"scratch-{whole}")
        return measure_drift(subject, str(checkpoint), str(kept.folder), scratch, 2, whole=whole)

    one, other = row(whole=True), row(whole=False)
    assert "layer by layer" in str(other["runtime"])
    assert one["weights"] is None
    for drift in (one["as_run"], other["as_run"]):
        assert isinstance(drift, dict)
        assert max(drift["kl"]) < 1e-10


def test_memory_does_not_grow_with_the_text(checkpoint: Path, tmp_path: Path) -> None:
    script = (
        "import sys, torch; from pathlib import Path; from pythia_quant.bench.latency import peak_rss;"
        "from pythia_quant.bench.reference import open_reference; from pythia_quant.model.source import open_weights;"
        "from pythia_quant.core.progress import SILENT; torch.set_num_threads(1);"
        "ids = torch.randint(272, (int(sys.argv[3]), 32), generator=torch.Generator().manual_seed(1));"
        "open_reference(open_weights(Path(sys.argv[1])), {}, ids, SILENT, Path(sys.argv[2])); print(peak_rss())"
    )

    def peak(windows: int) -> int:
        command = [sys.executable, "-c", script, str(checkpoint), str(tmp_path), str(windows)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    few, many = peak(256), peak(4096)
    states = 4 * (4096 - 256) * 32 * TINY.width  # 31 MB
    assert many - few < states / 2
