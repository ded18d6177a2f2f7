"""Rounds, repeats, what counts as disturbed, and how many bytes a token reads."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import gptq_models
import onnx
import onnx_models
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from tiny import write_checkpoint

from pythia_quant.bench.speed import disturbance, measure_speeds, weight_bytes
from pythia_quant.bench.speed_plan import latency_protocol, speed_steps
from pythia_quant.bench.subject import Subject
from pythia_quant.core.errors import ArtifactError
from pythia_quant.core.progress import Step, Steps
from pythia_quant.formats.bnb.writer import write as write_bnb
from pythia_quant.formats.job import Job
from pythia_quant.formats.onnx.data_file import find_model
from pythia_quant.model.architecture import EMBEDDING
from pythia_quant.model.source import open_weights
from pythia_quant.recipe.measurement import LatencySettings
from pythia_quant.recipe.variants import BnbSettings
from pythia_quant.records.protocols import LatencyProtocol
from pythia_quant.records.results import Samples, SpeedProcess

PROTOCOL = LatencyProtocol(prompts=[16], contexts=[24], decoded=6, repetitions=4, warm_up=2, rounds=2)


def process(
    prefill: Sequence[float] = (1.0,),
    decode: Sequence[float] = (0.1,),
    others: float = 0.0,
    read: float | None = None,
) -> SpeedProcess:
    return SpeedProcess(
        load_seconds=1.0,
        first_token_seconds=0.5,
        prefill=[Samples(tokens=16, seconds=list(prefill))],
        decode=[Samples(tokens=24, seconds=list(decode))],
        start_rss_bytes=1,
        peak_rss_bytes=2,
        read_bytes_per_second=read,
        others=others,
    )


class Recorded(Steps):
    """Keeps the names of the steps."""

    def __init__(self, total: int) -> None:
        super().__init__(total, Console(file=StringIO()))
        self.names: list[str] = []

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        self.names.append(name)
        with super().step(name) as progress:
            yield progress


class Bench:
    """Measures nothing: takes down what it is asked for, and says that others took so much each time."""

    def __init__(self, *others: float, quiet: bool = True) -> None:
        self.others, self.quiet = list(others), quiet
        self.asked: list[tuple[str, int]] = []
        self.prompts: list[list[int]] = []
        self.waits: list[float] = []

    def measure(
        self, subject: Subject, prompt: Sequence[int], _protocol: LatencyProtocol, threads: int, _size: int
    ) -> SpeedProcess:
        share = self.others[min(len(self.asked), len(self.others) - 1)]
        self.asked.append((subject.name, threads))
        self.prompts.append(list(prompt))
        return process(others=share)

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return self.quiet

    def run(self, folder: Path, rows: int, threads: list[int], rounds: int = 2) -> tuple[Any, list[str]]:
        subjects = [Subject(name=name, folder=folder, dtype="float16") for name in "abc"[:rows]]
        steps = Recorded(speed_steps(rows, rounds, len(threads) - 1))
        with steps:
            protocol = PROTOCOL.model_copy(update={"rounds": rounds})
            speeds = measure_speeds(subjects, range(7), protocol, threads, steps, measure=self.measure, wait=self.wait)
        assert len(steps.names) == speed_steps(rows, rounds, len(threads) - 1)
        return speeds, steps.names


@pytest.mark.parametrize(
    ("context", "prompts", "contexts", "decoded"),
    [
        (2048, [128, 512, 2048], [128, 384, 896, 1920], 64),
        (1024, [128, 512], [128, 384, 896], 64),
        (512, [128, 512], [128, 384], 64),
        (194, [128], [128], 64),
        (193, [128], [96], 64),
        (100, [50], [50], 48),
        (32, [16], [16], 14),
        (2, [1], [1], 1),
    ],
)
def test_lengths_fit_the_model(context: int, prompts: list[int], contexts: list[int], decoded: int) -> None:
    protocol = latency_protocol(LatencySettings(rounds=5), context)
    assert (protocol.prompts, protocol.contexts, protocol.decoded) == (prompts, contexts, decoded)
    assert max(contexts) + protocol.warm_up + decoded <= context
    assert protocol.rounds == 5


def test_lengths_of_the_recipe_are_taken_in_order_and_once() -> None:
    settings = LatencySettings(prompts=[300, 20, 300], contexts=[400, 5])
    protocol = latency_protocol(settings, 512)
    assert (protocol.prompts, protocol.contexts, protocol.decoded) == ([20, 300], [5, 400], 64)


def test_each_round_begins_with_another_row_and_other_thread_counts_follow_once(checkpoint: Path) -> None:
    bench = Bench(0.0)
    speeds, names = bench.run(checkpoint, 3, [2, 1])
    assert [f"{name}{threads}" for name, threads in bench.asked] == [
        *["a2", "b2", "c2"],
        *["b2", "c2", "a2"],
        *["c1", "a1", "b1"],
    ]
    assert names[0] == "waiting until nothing else runs"
    assert names[1] == "speed of a, round 1 of 2"
    assert names[4] == "speed of b, round 2 of 2"
    assert names[7] == "speed of c, 1 threads"
    assert [[(speed.threads, len(speed.processes)) for speed in row] for row in speeds] == [[(2, 2), (1, 1)]] * 3
    assert {speed.device for row in speeds for speed in row} == {"cpu"}
    assert bench.waits == [20.0]


def test_a_short_text_begins_again(checkpoint: Path) -> None:
    bench = Bench(0.0)
    bench.run(checkpoint, 1, [2])
    assert bench.prompts[0] == [*range(7), *range(7), *range(7), 0, 1, 2]


def test_what_others_disturbed_is_repeated_and_the_least_disturbed_kept(checkpoint: Path) -> None:
    bench = Bench(0.3, 0.2, 0.25, 0.01)
    [[speed]], _ = bench.run(checkpoint, 1, [2])
    assert len(bench.asked) == 3 + 1
    assert [kept.others for kept in speed.processes] == [0.2, 0.01]
    assert speed.disturbed == "other programs took 20% of the processors"


def test_nothing_is_repeated_that_is_undisturbed_or_would_be_disturbed_again(checkpoint: Path) -> None:
    [[speed]], _ = (repeated := Bench(0.3, 0.02)).run(checkpoint, 1, [2], rounds=1)
    assert len(repeated.asked) == 2
    assert speed.disturbed == ""
    [[speed]], _ = (never := Bench(0.3, quiet=False)).run(checkpoint, 1, [2], rounds=1)
    assert len(never.asked) == 1
    assert speed.disturbed == "other programs took 30% of the processors"


def noise(seed: int, middle: float, relative: float = 0.03) -> list[float]:
    generator = random.Random(seed)
    return [middle * generator.lognormvariate(0, relative) for _ in range(40)]


def test_a_quiet_machine_is_not_called_disturbed() -> None:
    for seed in range(200):
        drifting = [process(noise(3 * seed + i, 1.0 + 0.03 * i), read=1e10 - 0.5e9 * i, others=0.04) for i in range(3)]
        assert disturbance(drifting) == ""
    assert disturbance([process()]) == ""
    assert disturbance([]) == ""


def test_processes_that_disagree_are_named_with_how_much_and_where() -> None:
    alike = [process(noise(i, 1.0, 0.001)) for i in range(2)]
    slow = process(noise(9, 1.3, 0.001))
    assert disturbance([*alike, slow]) == "samples of the 3 processes disagree by 30% in prefill of 16 tokens"
    assert disturbance([slow, *alike]) == disturbance([*alike, slow])
    fast = process(noise(9, 1.0, 0.001), decode=noise(9, 0.08, 0.001))
    assert disturbance([*alike, fast]).endswith("disagree by 25% in decoding after 24 tokens")


def test_processes_whose_own_samples_scatter_as_much_agree() -> None:
    wide = [process(prefill=[0.8, 0.9, 1.0, 1.1, 1.2, 1.3]), process(prefill=[1.0, 1.1, 1.2, 1.3, 1.4, 1.5])]
    assert disturbance(wide) == ""


def test_memory_that_was_read_at_different_speeds_disturbs() -> None:
    assert disturbance([process(read=1e10), process(read=0.86e10)]) == ""
    assert (
        disturbance([process(read=1e10), process(read=0.95e10), process(read=0.84e10)])
        == "memory was read at 8.4 to 10 GB/s"
    )
    both = disturbance([process(read=1e10, others=0.2), process(read=0.5e10)])
    assert both == "other programs took 20% of the processors; memory was read at 5 to 10 GB/s"


@pytest.mark.parametrize(("dtype", "bytes_each"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_a_source_reads_all_but_its_embeddings_in_the_dtype_it_is_run_in(
    tmp_path: Path, dtype: str, bytes_each: int
) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    layer = 64 * 192 + 192 + 64 * 64 + 64 + 2 * 64 * 256 + 256 + 64 + 4 * 64
    expected = bytes_each * (2 * layer + 2 * 64 + 272 * 64)
    assert weight_bytes(Subject(name="", folder=folder, dtype=dtype)) == expected


def test_a_bitsandbytes_artifact_reads_all_of_its_file_but_the_embeddings(checkpoint: Path, tmp_path: Path) -> None:
    settings = BnbSettings(format="bnb")
    write_bnb(Job(open_weights(checkpoint), settings, tmp_path, torch.zeros(1, 2, dtype=torch.int64)))
    tensors = load_file(tmp_path / "model.safetensors")
    subject = Subject(name="", folder=tmp_path, settings=settings.model_dump(mode="json"))
    assert weight_bytes(subject) == sum(tensor.nbytes for name, tensor in tensors.items() if name != EMBEDDING)
    save_file(tensors | {"surprise": torch.ones(1, dtype=torch.float64)}, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match="surprise is F64, which we do not write"):
        weight_bytes(subject)


def test_a_gptq_artifact_reads_all_of_its_file_but_the_embeddings(tmp_path: Path) -> None:
    options: dict[str, Any] = {"head": "quantized", "group_size": 32}
    quick: dict[str, Any] = {"calibration": gptq_models.CALIBRATION[:12], "sweeps": 0, "correction": "none"}
    gptq_models.convert(gptq_models.source(tmp_path / "source"), tmp_path / "artifact", **quick, **options)
    subject = Subject(name="", folder=tmp_path / "artifact", settings={"format": "gptq", **options})
    tensors = load_file(tmp_path / "artifact" / "model.safetensors")
    assert weight_bytes(subject) == sum(tensor.nbytes for name, tensor in tensors.items() if name != EMBEDDING)


@pytest.mark.parametrize(
    "options",
    [{}, {"embeddings": "int4", "block_size": 32}, {"embeddings": "fp32"}, {"weights": "int4", "head": "fp32"}],
    ids=str,
)
def test_an_onnx_artifact_reads_all_of_its_tensors_but_the_embeddings(tmp_path: Path, options: dict[str, Any]) -> None:
    onnx_models.convert(onnx_models.source(tmp_path / "source"), tmp_path / "artifact", **options)
    settings = {"format": "onnx", "activations": "fp32", **options}
    subject = Subject(name="", folder=tmp_path / "artifact", settings=settings)
    graph = onnx.load(find_model(tmp_path / "artifact"), load_external_data=False).graph
    sizes = {
        tensor.name: sum(int(entry.value) for entry in tensor.external_data if entry.key == "length")
        for tensor in graph.initializer
    }
    expected = sum(size for name, size in sizes.items() if not name.startswith("embeddings."))
    assert 0 < expected < sum(sizes.values())
    assert weight_bytes(subject) == expected
