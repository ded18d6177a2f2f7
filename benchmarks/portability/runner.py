"""Run ONNX models from a list of jobs. Needs numpy and onnxruntime only, because it also runs under emulated CPUs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort


def run(job: dict[str, Any]) -> None:
    """Run one model on inputs that are stacked along a first axis, and save its results, stacked alike.

    Args:
        job: paths of ``model``, ``inputs`` (.npz) and ``result`` (.npy); ``entries`` of the session's configuration.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in job["entries"].items():
        options.add_session_config_entry(key, value)
    session = ort.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
    name = session.get_outputs()[0].name
    with np.load(job["inputs"]) as stacked:
        inputs = dict(stacked)
    count = len(next(iter(inputs.values())))
    results = [session.run([name], {key: value[i] for key, value in inputs.items()})[0] for i in range(count)]
    np.save(job["result"], np.stack(results))


if __name__ == "__main__":
    for each in json.loads(Path(sys.argv[1]).read_text()):
        run(each)
