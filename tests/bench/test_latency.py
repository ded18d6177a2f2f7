"""One measuring process: what it returns, how often it repeats, and that its peak is the model's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import TINY, random_weights, write_checkpoint

from pythia_quant.bench.latency import repeat
from pythia_quant.bench.speed import measure_in_fresh_process
from pythia_quant.bench.subject import Subject
from pythia_quant.core.errors import BenchmarkError
from pythia_quant.records.protocols import LatencyProtocol

pytestmark = [pytest.mark.measures_time, pytest.mark.fresh_processes]
PROTOCOL = LatencyProtocol(prompts=[16, 64], contexts=[8, 32], decoded=6, repetitions=4, warm_up=2, rounds=1)


class Clock:
    """Goes on by so many seconds each time something is run."""

    def __init__(self, *durations: float) -> None:
        self.now, self.durations, self.runs = 100.0, list(durations), 0

    def __call__(self) -> float:
        return self.now

    def run(self) -> None:
        self.now += self.durations[min(self.runs, len(self.durations) - 1)]
        self.runs += 1


def test_a_fresh_process_returns_all_samples_and_a_peak_that_is_the_model_s(tmp_path: Path) -> None:
    shape = replace(TINY, layers=4, width=512, heads=8, mlp_width=2048, context=128)
    folder = write_checkpoint(tmp_path / "50 MB in fp32", shape, random_weights(shape))
    subject = Subject(name="torch-fp32", folder=folder, dtype="float32")
    # The buffer that is read afterwards is eight times the model: it must not show in the peak.
    measured = measure_in_fresh_process(subject, list(range(64)), PROTOCOL, 2, 400_000_000)
    assert [(part.tokens, len(part.seconds)) for part in measured.prefill] == [(16, 4), (64, 4)]
    assert [(part.tokens, len(part.seconds)) for part in measured.decode] == [(8, 6), (32, 6)]
    assert measured.first_token_seconds is not None
    assert min(measured.first_token_seconds, measured.load_seconds, *measured.decode[0].seconds) > 0
    assert shape.parameters * 4 == 51_556_352
    assert 50e6 < measured.peak_rss_bytes - measured.start_rss_bytes < 250e6
    assert measured.peak_device_bytes is None
    assert measured.read_bytes_per_second
    assert measured.others is not None
    assert 0 <= measured.others <= 1


def test_what_goes_wrong_there_is_said_with_the_row_s_name(tmp_path: Path) -> None:
    subject = Subject(name="unknown", folder=tmp_path, dtype="none of torch's")
    with pytest.raises(BenchmarkError, match=r"^measuring the speed of unknown: .*failed with exit code 1"):
        measure_in_fresh_process(subject, [0], PROTOCOL, 1, 1000)


def test_what_is_quick_is_repeated_as_often_as_the_protocol_says() -> None:
    clock = Clock(5.0, 3.0, 0.1, 0.2, 0.3, 0.4)
    assert repeat(clock.run, PROTOCOL, clock) == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("duration", "warm_up", "samples"),
    [
        (1.5, 2, 4),  # 9 seconds in all
        (2.5, 2, 3),  # 10 seconds are over with the second; three are wanted
        (12.0, 1, 3),
        (29.0, 1, 2),  # 60 seconds are over with the second
        (400.0, 1, 1),
    ],
)
def test_what_takes_long_is_repeated_less(duration: float, warm_up: int, samples: int) -> None:
    clock = Clock(duration)
    assert repeat(clock.run, PROTOCOL, clock) == pytest.approx([duration] * samples)
    assert clock.runs == warm_up + samples


def test_without_warm_up_the_first_run_counts() -> None:
    clock = Clock(7.0, 1.0)
    assert repeat(clock.run, PROTOCOL.model_copy(update={"warm_up": 0}), clock) == pytest.approx([7.0, 1.0, 1.0, 1.0])
