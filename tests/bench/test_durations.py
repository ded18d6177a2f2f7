"""The estimate of the time left, on what the steps of runs took."""

import numpy as np
import pytest

from pythia_quant.artifacts.inputs import Inputs
from pythia_quant.bench.durations import conversion_steps, measurement_steps, work_of
from pythia_quant.bench.subject import SOURCE_DTYPES
from pythia_quant.core.time_left import ExpectedStep, TimeLeft
from pythia_quant.model.source import open_source
from pythia_quant.model.source_name import DEMO
from pythia_quant.recipe.recipe import load_recipe
from pythia_quant.records.manifest import TextRecord

CONVERSIONS = ("bnb-nf4", "gptq-int4", "onnx-int8", "onnx-int8-dynamic", "onnx-fp32", "onnx-int4")
ROWS = (*SOURCE_DTYPES.values(), *CONVERSIONS[:4], "onnx-int4", "onnx-fp32")
ON_A_BUSY_MACHINE = (
    [17.6, 63.0, 4.8, 3.9, 4.4, 4.3],
    [23.2, 82.2, 28.6, 28.7, 49.4, 64.5, 72.8, 65.5, 62.1, 91.7, 20.2],
    [26.0, 20.0, 20.9, 26.5, 26.4, 12.9, 14.4, 11.6, 12.6],
    [25.2, 18.6, 22.6, 29.8, 25.4, 13.3, 11.8, 12.5, 12.7],
)
"""The seconds of conversions, of reference, drifts and waiting, and of two rounds of speed: the recipe demo on two
processors that other programs shared."""
ON_A_QUIET_MACHINE = (
    [15, 26, 2, 2, 2, 2],
    [4, 20, 5, 6, 17, 12, 17, 16, 16, 15, 1],
    [12, 8, 8, 13, 9, 6, 4, 4, 8],
    [10, 8, 9, 10, 10, 4, 5, 4, 4],
)
"""The same on two other, newer processors without other programs."""


def demo() -> Inputs:
    recipe, text = load_recipe("demo"), TextRecord(name="", sha256="", tokens=1, bytes=1)
    source = open_source(DEMO, "main")
    return Inputs(recipe, source, np.zeros((120, 512), np.int64), text, np.zeros((128, 512), np.int64), None)


def steps_of(inputs: Inputs) -> list[ExpectedStep]:
    variants = inputs.recipe.variants()
    rows = {name: variants.get(name) for name in ROWS}
    return [
        *conversion_steps(work_of(inputs), {name: variants[name] for name in CONVERSIONS}, ()),
        *measurement_steps(work_of(inputs), rows, ROWS, None, [2]),
    ]


@pytest.mark.parametrize("run", [ON_A_BUSY_MACHINE, ON_A_QUIET_MACHINE])
def test_after_a_third_the_estimate_is_within_30_percent_of_the_truth(run: tuple[list[float], ...]) -> None:
    steps, took = steps_of(demo()), [seconds for part in run for seconds in part]
    left = TimeLeft()
    left.expect(steps)
    errors = {}
    for number, (step, seconds) in enumerate(zip(steps, took, strict=True), 1):
        assert left.begin(step.name) is step
        left.end(step, seconds)
        estimate, truth = left.left(None, 0.0, None), sum(took[number:])
        done = 1 - truth / sum(took)
        if estimate is not None and 0.25 < done < 0.9:
            errors[step.name] = estimate / truth - 1
    assert len(errors) > 10
    assert max(map(abs, errors.values())) < 0.3, errors


@pytest.mark.parametrize("slower", [0.3, 1.0, 4.0])
def test_the_estimate_takes_the_speed_of_the_machine_from_its_first_steps(slower: float) -> None:
    steps, left = steps_of(demo()), TimeLeft()
    left.expect(steps)
    for step in steps[:8]:
        assert left.begin(step.name) is step
        left.end(step, slower * step.seconds)
    assert left.left(None, 0.0, None) == pytest.approx(slower * sum(step.seconds for step in steps[8:]), rel=0.01)


def test_what_grows_with_the_model_takes_longer_and_speed_needs_memory_for_the_whole_model() -> None:
    inputs = demo()
    variants = inputs.recipe.variants(["onnx-int8"])
    few = {
        step.name
        for step in measurement_steps(work_of(inputs), {"torch-fp32": None, **variants}, ["onnx-int8"], 5, [2, 1])
    }
    assert {name for name in few if "torch-fp32" in name} == {"drift of torch-fp32"}
    assert {"LAMBADA of onnx-int8", "speed of onnx-int8, round 2 of 2", "speed of onnx-int8, 1 threads"} <= few
    there, made = (conversion_steps(work_of(inputs), variants, there)[0] for there in (["onnx-int8"], []))
    assert there.name == "checking onnx-int8"
    assert there.seconds < made.seconds / 3


def test_steps_whose_results_are_there_teach_nothing() -> None:
    left = TimeLeft()
    cached, to_come = (
        [ExpectedStep(f"cached {index}", 2.0, "drift") for index in range(3)],
        ExpectedStep("new", 20.0, "drift"),
    )
    left.expect([*cached, to_come])
    for step in cached:
        left.begin(step.name)
        left.end(step, 0.01)
    assert left.predict(to_come) == to_come.seconds
