"""Programs that others wrote read our artifacts, or refuse them in so many words; none computes something else.

Each program is in an environment of its own, and is run as a process of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from gptq_cases import Answer, Cases, Refusal, divergence, environment

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
VLLM_PYTHON, AUTOGPTQ_PYTHON = "PYTHIA_QUANT_VLLM_PYTHON", "PYTHIA_QUANT_AUTOGPTQ_PYTHON"

# One process with 1 GiB for keys and values; activations in 16 bits also where vLLM would round them to 8 (AMX).
VLLM_SETTINGS = environment(
    VLLM_CPU_KVCACHE_SPACE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_INT4_W4A8="0", VLLM_NO_USAGE_STATS="1"
)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return Cases(tmp_path_factory.mktemp("gptq"))


def python_of(variable: str, program: str) -> str:
    python = os.environ.get(variable)
    if python is None:
        pytest.skip(f"{program} is not tested: 'make {program}' does, in an environment of its own ({variable})")
    return python


def ask_vllm(cases: Cases, name: str) -> Answer | Refusal:
    return cases.ask(python_of(VLLM_PYTHON, "vllm"), HERE / "run_vllm.py", name, **VLLM_SETTINGS)


def ask_autogptq(cases: Cases, name: str) -> Answer | Refusal:
    return cases.ask(python_of(AUTOGPTQ_PYTHON, "autogptq"), HERE / "run_autogptq.py", name, **environment())


@pytest.mark.parametrize(
    "name",
    [
        "gptq-int4", "groups-32", "groups-64", "row", "dynamic-row", "bnb-nf4", "ct-int4", "ct-groups-32", "ct-row",
    ],
)  # fmt: skip
def test_vllm_takes(cases: Cases, name: str) -> None:
    answer = ask_vllm(cases, name)
    assert isinstance(answer, Answer), answer.said
    print(cases.check(name, answer))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("asymmetric", "Unsupported quantization config: bits=4, sym=False"),
        ("dynamic", "GPTQ group activation ordering (desc_act=True) is no longer supported"),
        ("bits-2", "Unsupported quantization config: bits=2, sym=True"),
        ("bits-3", "Unsupported quantization config: bits=3, sym=True"),
        ("bits-8", "Marlin does not support weight_bits = uint8b128"),
        ("ct-int8", "Quant type (uint8b128) not supported by CPUWNA16"),
        ("head", "There is no module or parameter named 'lm_head.qweight'"),
    ],
)
def test_vllm_refuses(cases: Cases, name: str, says: str) -> None:
    refusal = ask_vllm(cases, name)
    assert isinstance(refusal, Refusal), "it runs: compare its answer"
    assert says in refusal.said, refusal.said


@pytest.mark.parametrize(
    "name",
    [
        "gptq-int4", "groups-32", "groups-64", "row", "dynamic-row", "asymmetric", "dynamic", "bits-2", "bits-3",
        "bits-3-dynamic", "bits-8",
    ],
)  # fmt: skip
def test_autogptq_takes(cases: Cases, name: str) -> None:
    answer = ask_autogptq(cases, name)
    assert isinstance(answer, Answer), answer.said
    print(cases.check(name, answer))


def test_autogptq_gives_random_values_to_a_quantized_head(cases: Cases) -> None:
    """It leaves `embed_out` unquantized and does not miss its weight: so docs/gptq.md and the caveat say."""
    answer = ask_autogptq(cases, "head")
    assert isinstance(answer, Answer), answer.said
    ours = cases.ours("head").logits(cases.windows)[:, :-1].log_softmax(-1)
    assert divergence(ours, answer.log_probabilities) > 1000
