"""Export a checkpoint with optimum, as its users do, quantize the graph, and merge it with one that has no past."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from optimum.onnx.graph_transformations import merge_decoders
from optimum.onnxruntime import ORTModelForCausalLM, ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig


def main(source: str, out: Path) -> dict[str, str]:
    model = ORTModelForCausalLM.from_pretrained(source, export=True)
    model.save_pretrained(out / "exported")
    quantizer = ORTQuantizer.from_pretrained(out / "exported")
    quantizer.quantize(AutoQuantizationConfig.avx2(is_static=False, per_channel=False), out / "quantized")
    # optimum 2 makes no merged decoder, whose two parts were exports of their own; it still merges what it is given.
    with_past, without = (onnx.load(out / "exported" / "model.onnx") for _ in range(2))
    for value in [one for one in without.graph.input if one.name.startswith("past_key_values")]:
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        empty = np.zeros((1, dims[1], 0, dims[3]), np.float32)
        without.graph.initializer.append(numpy_helper.from_array(empty, value.name))
        without.graph.input.remove(value)
    (out / "merged").mkdir()
    for name in [one.name for one in without.graph.initializer if one.name.startswith("past_key_values")]:
        for node in without.graph.node:
            node.input[:] = [f"empty.{name}" if one == name else one for one in node.input]
    for one in without.graph.initializer:
        if one.name.startswith("past_key_values"):
            one.name = f"empty.{one.name}"
    merge_decoders(without, with_past, save_path=out / "merged" / "decoder_model_merged.onnx")
    return {"exported": "exported", "quantized": "quantized", "merged": "merged/decoder_model_merged.onnx"}


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    print(json.dumps(main(job["source"], Path(job["out"]))))
