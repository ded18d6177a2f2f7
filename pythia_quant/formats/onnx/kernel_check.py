"""Check whether ONNX Runtime's integer kernels are exact on this machine, and choose others if they are not.

x86 CPUs without VNNI multiply uint8 by int8 with an instruction that adds two products in 16 bits. 2 · 255 · 127 does
not fit, and is cut off at 32,767 without an error. Products with weights of 7 bits fit; weights in blocks have other
kernels. ``benchmarks/portability`` measures all kinds of weights on many kinds of CPUs.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.onnx.library import ort
from pythia_quant.formats.onnx.nodes import MICROSOFT
from pythia_quant.recipe.onnx_variant import OnnxSettings

Array = npt.NDArray[Any]

_AS_THEY_ARE: tuple[tuple[str, str], ...] = ()
# With this entry ONNX Runtime converts int8 weights beyond -64..64 to uint8, for which every x86 CPU has exact but
# slower kernels. It would do so on CPUs with VNNI, too, which do not need it.
_IN_32_BITS = (("session.x64quantprecision", "1"),)

_ROWS = (1, 9)  # a token at a time and many at once, which may have kernels of their own
_COLUMNS, _INPUTS = 32, 64


def exact_session_entries(settings: OnnxSettings, path: Path) -> dict[str, str]:
    """Return the entries of a session's configuration with which this machine computes exactly. Most need none.

    Args:
        settings: the artifact's settings.
        path: the path of its model, for the message.

    Raises:
        ArtifactError: no entries make the products exact.
    """
    if not _fills_8_bits(settings):
        return {}
    for entries in (_AS_THEY_ARE, _IN_32_BITS):
        if not saturates(entries):
            return dict(entries)
    raise ArtifactError(
        "ONNX Runtime cuts off sums of products of this artifact's 8-bit integers on this CPU",
        where=str(path),
        hint="convert again with int7-channel in place of int8-channel, or run it on a CPU with VNNI (or on ARM)",
    )


@cache
def saturates(entries: tuple[tuple[str, str], ...] = _AS_THEY_ARE) -> bool:
    """Multiply the largest integers with ONNX Runtime's kernel for this machine; return whether sums were cut off.

    This takes a few milliseconds, once in a process.

    Args:
        entries: entries of the session's configuration.
    """
    weights = _largest_weights()
    session = _session(weights, entries)
    for rows in _ROWS:
        codes = np.full((rows, _INPUTS), 255, np.uint8)
        (computed,) = session.run(None, {"codes": codes})
        if overflows(computed, codes.astype(np.int64) @ weights.astype(np.int64)):
            return True
    return False


def overflows(computed: Array, exact: Array) -> bool:
    """Return whether results in fp32 differ from the exact integers, which have at most the 24 bits that fp32 holds."""
    return not np.array_equal(computed, exact)


def _fills_8_bits(settings: OnnxSettings) -> bool:
    """Return whether the settings have products of uint8 with int8 of the whole range."""
    chosen = {settings.weights, settings.head, *(tensor.weights for tensor in settings.tensors.values())}
    return "int8-channel" in chosen


def _largest_weights() -> Array:
    """Return int8 [inputs, columns]: columns of one sign, which have the largest sums, and columns of both signs."""
    signs = np.ones((_INPUTS, _COLUMNS), np.int8)
    signs[:, 1::4] = -1
    signs[1::2, 2::4] = -1
    signs[2::4, 3::4] = signs[3::4, 3::4] = -1
    return 127 * signs


def _session(weights: Array, entries: tuple[tuple[str, str], ...]) -> ort.InferenceSession:
    constants = {
        "weights": weights,
        "one": np.array(1, np.float32),
        "scales": np.ones(weights.shape[1], np.float32),
        "zero_point": np.array(0, np.uint8),
    }
    inputs = ["codes", "weights", "one", "scales", "zero_point"]
    graph = helper.make_graph(
        [helper.make_node("MatMulIntegerToFloat", inputs, ["products"], domain=MICROSOFT)],
        "probe",
        [helper.make_tensor_value_info("codes", TensorProto.UINT8, ["rows", len(weights)])],
        [helper.make_tensor_value_info("products", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in entries:
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
