"""Files that an interrupted call left, cut short or damaged: one clear error, or made anew."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from heard import Heard
from mutations import COUNT, byte_mutations, distortions, json_mutations, outcomes, refused_or_read
from safetensors.torch import save
from tiny import write_checkpoint

from pythia_quant.bench.measurements import _sealed, _unsealed, as_record
from pythia_quant.bench.reference import open_reference
from pythia_quant.core.array_file import load_array
from pythia_quant.core.errors import BenchmarkError, PythiaQuantError, QuantizationError
from pythia_quant.core.progress import SILENT
from pythia_quant.formats.solving.work_folder import WorkFolder
from pythia_quant.model.forward import Fp32Layers
from pythia_quant.model.source import open_weights
from pythia_quant.records.results import Lambada
from pythia_quant.runtimes.protocol import States, final_states

IDS = torch.arange(128).view(4, 32)


def test_damaged_states_of_conversions_are_read_or_refused(tmp_path: Path) -> None:
    notes = {"attention.dense": {"relative_error": 0.1, "relative_error_rounding": 0.2, "order": "static"}}
    tensors = {"layers.0.attention.dense.scales": torch.ones(2, 3), "layers.0.attention.dense.g_idx": torch.arange(6)}
    progress = WorkFolder(tmp_path)
    progress.save_layer(0, tensors, notes)
    count = COUNT // 4
    progress.reach(1)
    state = json.loads((tmp_path / "reached.json").read_text())
    reached = refused_or_read(lambda _: WorkFolder(tmp_path), tmp_path / "reached.json", json_mutations(state, count))
    assert reached["refused"] > count // 4
    (tmp_path / "reached.json").write_text(json.dumps(state))
    assert WorkFolder(tmp_path).notes(0) == notes
    counts = refused_or_read(lambda _: progress.notes(0), tmp_path / "layer-0.json", json_mutations(notes, count))
    assert min(counts["read"], counts["refused"]) > count // 20
    contents = byte_mutations(save(tensors), count)
    counts = refused_or_read(lambda _: list(progress.tensors(0)), tmp_path / "layer-0.safetensors", contents)
    assert counts["refused"] > count // 4


def test_damaged_arrays_are_read_or_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((2, 3, 4), dtype=np.float16))

    def read(path: Path) -> None:
        for mapped in (False, True):
            assert load_array(path, np.float16, (2, None, 4), PythiaQuantError, mapped=mapped).shape[2] == 4

    path = tmp_path / "states.npy"
    path.write_bytes(buffer.getvalue())
    read(path)
    counts = refused_or_read(read, path, byte_mutations(buffer.getvalue(), COUNT // 4))
    assert min(counts["read"], counts["refused"]) > COUNT // 100


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"-1", b'{"layers": true}', b'{"layers": 1}', b"[]"])
def test_what_says_how_far_a_conversion_got_is_a_number_of_layers(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "reached.json").write_bytes(content)
    with pytest.raises(QuantizationError, match="remove the folder to begin that anew"):
        WorkFolder(tmp_path)


@pytest.mark.parametrize("name", ["layer-0.safetensors", "layer-0.json", "before-1/original.npy"])
def test_a_flipped_bit_in_what_a_conversion_has_solved_is_refused(tmp_path: Path, name: str) -> None:
    """Its values would be read: the check after a conversion compares the artifact with nothing else."""
    work = WorkFolder(tmp_path)
    work.save_layer(0, {"scales": torch.ones(2, 3)}, {"order": "static"})
    np.save(work.make_before(1) / "original.npy", np.ones(3, dtype=np.float16))
    work.reach(1)
    assert WorkFolder(tmp_path).solved_layers == 1
    content = bytearray((tmp_path / name).read_bytes())
    content[-3] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(QuantizationError, match="holds other files than were written there"):
        WorkFolder(tmp_path)


def test_states_that_are_cut_short_are_no_zeros(tmp_path: Path) -> None:
    states = States(tmp_path / "hidden", 2, 3, 4, torch.float32)
    states.write(slice(0, 2), torch.ones(2, 3, 4))
    assert states.read(slice(1, 2)).sum() == 12
    with states.path.open("r+b") as file:
        file.truncate(90)
    with pytest.raises(BenchmarkError, match="is cut short"):
        states.read(slice(1, 2))


def test_damaged_measurements_are_read_or_refused() -> None:
    whole = {"log_likelihood": [-1.0, -2.0], "greedy": [True, False]}
    parts = (part for part in distortions(whole, COUNT // 4) if isinstance(part, dict))
    counts = outcomes(lambda part: as_record(Lambada, part, Path("work")), parts)
    assert min(counts["read"], counts["refused"]) > COUNT // 50


def test_measurements_of_an_interrupted_call_carry_their_hash(tmp_path: Path) -> None:
    (tmp_path / "drift.json").write_text(_sealed(b'{"nll": 1.5}'))
    assert _unsealed(tmp_path / "drift.json") == {"nll": 1.5}
    (tmp_path / "drift.json").write_text(_sealed(b'{"nll": 1.5}').replace("1.5", "1.4"))
    with pytest.raises(BenchmarkError, match="is not as it was written"):
        _unsealed(tmp_path / "drift.json")


@pytest.mark.parametrize("name", ["ids.npy", "head.npy", "hidden", "known"])
def test_a_kept_reference_that_is_not_whole_is_made_anew(tmp_path: Path, name: str) -> None:
    weights = open_weights(write_checkpoint(tmp_path / "tiny"))
    folder = tmp_path / "kept"

    def made() -> list[float]:
        return open_reference(weights, {"a": "b"}, IDS, SILENT, folder).nll

    before = made()
    kept = next(path for path in folder.iterdir() if path.is_dir())
    with (kept / name).open("r+b") as file:
        file.truncate((kept / name).stat().st_size - 4)
    assert made() == before
    (kept / name).unlink()
    assert made() == before
    content = bytearray((kept / name).read_bytes())
    content[-5] ^= 1
    (kept / name).write_bytes(content)
    (kept / "states-1").touch()
    assert made() == before
    assert bytes(content) != (kept / name).read_bytes()
    assert {path.name for path in kept.iterdir()} == {"ids.npy", "head.npy", "hidden", "known", "sha256.json"}


def test_states_that_an_interrupted_call_left_are_gone_on_from_if_they_are_whole(tmp_path: Path) -> None:
    model, told = Fp32Layers(open_weights(write_checkpoint(tmp_path / "tiny"))), Heard()
    whole = final_states(model, IDS, tmp_path).read(slice(0, 4))
    (last,) = tmp_path.glob("states-3-*")
    (tmp_path / f"states-1-{'0' * 64}").write_bytes(b"left by a kill")
    assert torch.equal(final_states(model, IDS, tmp_path, told).read(slice(0, 4)), whole)
    assert not told.steps, "nothing is computed again"
    assert list(tmp_path.glob("states-*")) == [last]
    last.write_bytes(bytes(last.stat().st_size))
    assert torch.equal(final_states(model, IDS, tmp_path, told).read(slice(0, 4)), whole)
