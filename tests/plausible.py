"""Result files as a benchmark of several models on two machines would leave them; the numbers are made up."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime

from pythia_quant.bench.gates import evaluate_gates
from pythia_quant.recipe.measurement import GateSettings
from pythia_quant.records.manifest import SourceRecord, TextRecord
from pythia_quant.records.protocols import LambadaProtocol, LatencyProtocol, Protocol
from pythia_quant.records.results import (
    Drift,
    Lambada,
    LayerError,
    Machine,
    Quantile,
    Results,
    Row,
    Samples,
    Speed,
    SpeedProcess,
)

EPYC = Machine(
    cpu="AMD EPYC 9R14", instruction_sets=["avx2", "avx512f", "avx512_vnni", "avx512_bf16"], cores=2,
    memory_bytes=8_240_000_000, system="Linux 6.1.0 x86_64",
    versions={"python": "3.11.7", "torch": "2.13.0+cpu", "transformers": "5.23.0", "onnxruntime": "1.31.1"},
)  # fmt: skip
GRAVITON = Machine(
    cpu="ARM Neoverse-V1", instruction_sets=["neon", "asimddp", "sve", "i8mm"], cores=8,
    memory_bytes=33_100_000_000, system="Linux 6.8.0 aarch64",
    versions={"python": "3.12.3", "torch": "2.13.0+cpu", "transformers": "5.23.0", "onnxruntime": "1.31.1"},
)  # fmt: skip
LATENCY = LatencyProtocol(
    prompts=[32, 128, 512, 1024], contexts=[16, 128, 512, 1024, 1984], decoded=64, repetitions=10, warm_up=2, rounds=3
)
MODELS = {"14m": (6, 14_067_712), "70m": (6, 70_426_624), "160m": (12, 162_322_944), "410m": (24, 405_334_016)}


@dataclass(frozen=True)
class Kind:
    """A row's name, bits a layer weight, KL divergence (nat), and speed against fp32 in decode and prefill."""

    name: str
    bits: float
    kl: float
    decode: float
    prefill: float
    quantized: bool = True


KINDS = (
    Kind("torch-fp16", 16, 6e-6, 1.0, 0.2, quantized=False),
    Kind("torch-bf16", 16, 4e-4, 1.1, 1.4, quantized=False),
    Kind("torch-fp32", 32, 1e-11, 0.9, 1.0, quantized=False),
    Kind("bnb-nf4", 4.13, 2.8e-2, 0.55, 0.8),
    Kind("gptq-int4", 4.16, 1.3e-2, 1.3, 0.9),
    Kind("onnx-int8", 8.25, 4.6e-4, 3.6, 2.1),
    Kind("onnx-int8-dynamic", 8.06, 5.2e-4, 3.1, 2.6),
    Kind("onnx-int4", 4.25, 1.33e-2, 5.3, 1.9),
    Kind("onnx-fp32", 32, 2e-11, 1.7, 1.8, quantized=False),
)


def results(size: str = "160m", machine: Machine = EPYC, revision: str = "main") -> Results:
    """Return a full result file of one Pythia model."""
    layers, parameters = MODELS[size]
    chance = random.Random(f"{size} {machine.cpu} {revision}")
    protocol = Protocol(context=2048, windows=48)
    reference = [chance.gauss(3.1, 0.2) for _ in range(protocol.windows)]
    rows = [_row(kind, reference, parameters, layers, machine, chance) for kind in KINDS]
    measured = Results(
        tool="pythia-quant 0.1.0", created=datetime(2026, 11, 21, 10, 34, tzinfo=UTC), baseline="torch-fp16",
        machine=machine, latency=LATENCY, protocol=protocol, reference_nll=reference, rows=rows,
        lambada=LambadaProtocol(file="lambada_test_en.jsonl", sha256="4aa8d02cd17c7191" * 4, examples=200),
        source=SourceRecord(
            model=f"EleutherAI/pythia-{size}", revision=revision, commit="50f5173d932e8e61f858120bcb800b97af589f46",
            sha256={"model.safetensors": "d320c3a87566c694" * 4}, parameters=parameters,
        ),
        text=TextRecord(name="WikiText-2 raw, test split", sha256="97750409821d2da8" * 4, tokens=98_560, bytes=432_100),
    )  # fmt: skip
    limits = {
        "gptq-int4": GateSettings(max_ppl_drift=2.0, min_top1=80.0),
        "bnb-nf4": GateSettings(max_ppl_drift=1.0, min_top1=80.0),
        "onnx-int8": GateSettings(max_ppl_drift=0.5, min_top1=97.0, min_speedup=1.1),
        "onnx-int4": GateSettings(max_ppl_drift=1.4, min_top1=80.0),
    }
    return measured.model_copy(update={"gates": evaluate_gates(measured, limits)})


def _row(
    kind: Kind, reference: list[float], parameters: int, layers: int, machine: Machine, chance: random.Random
) -> Row:
    embeddings = 0.45 * (14_067_712 / parameters) ** 0.35 if kind.quantized else 0.0
    bits = kind.bits * (1 - embeddings) + 16 * embeddings
    kl = kind.kl * (14_000_000 / parameters) ** 0.25 * chance.uniform(0.85, 1.15)
    as_run = _drift(kl, reference, chance)
    examples = 200
    return Row(
        name=kind.name, quantized=kind.quantized, runtime=_runtime(kind.name), bits_per_weight=bits,
        disk_bytes=round(parameters * bits / 8), manifest_sha256="ab12cd34" * 8 if kind.quantized else None,
        weights=_drift(0.96 * kl, reference, chance) if kind.quantized else None, as_run=as_run,
        speeds=[_speed(kind, threads, parameters, bits, machine, chance) for threads in _threads(machine)],
        lambada=Lambada(
            log_likelihood=[-chance.expovariate(0.4) for _ in range(examples)],
            greedy=[chance.random() < 0.35 for _ in range(examples)],
        ),
        layers=[
            LayerError(alone=math.sqrt(kl) * chance.uniform(0.5, 0.7), after=math.sqrt(kl) * (0.3 + 0.7 * i / layers))
            for i in range(layers)
        ] if kind.quantized else [],
        notes=["prefill falls back to a kernel without VNNI"] if kind.name == "bnb-nf4" else [],
    )  # fmt: skip


def _runtime(name: str) -> str:
    if name.startswith("onnx"):
        return "onnxruntime 1.31.1, CPUExecutionProvider, MatMulNBits"
    return f"transformers 5.23.0, torch 2.13.0+cpu, {name.rpartition('-')[2]}, sdpa"


def _drift(kl: float, reference: list[float], chance: random.Random) -> Drift:
    tokens = [kl * math.exp(chance.gauss(-1.1, 1.6)) for _ in range(4000)]
    histogram = [0] * 140
    for value in tokens:
        histogram[min(139, max(0, math.floor((math.log10(value) + 12) * 10)))] += 1
    tokens.sort()
    agreement = 1 - min(0.4, 0.9 * math.sqrt(kl))
    return Drift(
        nll=[value + 0.6 * kl + chance.gauss(0, 0.15 * math.sqrt(kl) / 4) for value in reference],
        kl=[kl * chance.uniform(0.8, 1.2) for _ in reference],
        top1=[min(1.0, agreement + chance.gauss(0, 0.004)) for _ in reference],
        top5=[min(1.0, agreement + 0.02 + chance.gauss(0, 0.003)) for _ in reference],
        kl_quantiles=[
            Quantile(share=share, value=(q := tokens[round(share * 3999)]), low=0.93 * q, high=1.08 * q)
            for share in (0.5, 0.9, 0.99)
        ],
        kl_histogram=histogram,
    )


def _threads(machine: Machine) -> list[int]:
    counts = [count for count in (1, 2, 4, 8) if count <= machine.cores]
    return [machine.cores, *(count for count in counts if count != machine.cores)]


def _speed(kind: Kind, threads: int, parameters: int, bits: float, machine: Machine, chance: random.Random) -> Speed:
    fast = kind.decode * (3.0 if machine is GRAVITON else 1.0) * threads**0.7
    token = parameters * 32 / 8 / 2.2e10 / fast + 2e-4
    prefill = parameters * 2 / 9e10 / kind.prefill / threads**0.9
    processes = [
        SpeedProcess(
            load_seconds=0.3 + parameters / 8e8 * chance.uniform(0.9, 1.1),
            first_token_seconds=prefill * 32 * chance.uniform(1.0, 1.3),
            prefill=[Samples(tokens=n, seconds=_jitter(prefill * n, 10, chance)) for n in LATENCY.prompts],
            decode=[Samples(tokens=n, seconds=_jitter(token * (1 + n / 3000), 62, chance)) for n in LATENCY.contexts],
            start_rss_bytes=310_000_000,
            peak_rss_bytes=340_000_000 + round(parameters * bits / 8 * chance.uniform(1.1, 1.2)),
            read_bytes_per_second=2.2e10, others=0.01,
        )
        for _ in range(LATENCY.rounds)
    ]  # fmt: skip
    disturbed = "other programs took 9 % of the processors" if kind.name == "torch-bf16" and threads == 2 else ""
    return Speed(threads=threads, weight_bytes=round(parameters * bits / 8), processes=processes, disturbed=disturbed)


def _jitter(seconds: float, count: int, chance: random.Random) -> list[float]:
    return [seconds * (1 + abs(chance.gauss(0, 0.05))) for _ in range(count)]
