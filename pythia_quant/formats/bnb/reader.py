"""Read the weights of a bitsandbytes artifact, dequantized to fp32."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pythia_quant.core.errors import ArtifactError
from pythia_quant.formats.bnb.library import bitsandbytes, settings_of
from pythia_quant.formats.bnb.quant_state import check_fields, fields_name, is_fields, layout
from pythia_quant.formats.tensor_files import AGAIN, check_tensors, list_tensors, read_artifact_config, read_tensor
from pythia_quant.model.architecture import LINEARS, Architecture
from pythia_quant.recipe.variants import BnbSettings


class BnbWeights:
    """The dequantized weights of an artifact folder; one tensor is in memory at a time.

    Opening checks every name, shape and dtype, and the fields that describe each quantized weight.

    Attributes:
        architecture: the model's shape.
        settings: the variant's settings, which say how the weights are stored.
    """

    def __init__(self, folder: Path, architecture: Architecture, settings: BnbSettings) -> None:
        self.architecture, self.settings, self._folder = architecture, settings, folder
        self._stored = list_tensors(folder)
        expected: dict[str, tuple[str, tuple[int, ...]]] = {}
        quantized = {name: shape for name, shape in architecture.tensor_shapes().items() if _is_quantized(name)}
        for name, shape in architecture.tensor_shapes().items():
            if name in quantized:
                expected |= {f"{name}{suffix}": part for suffix, part in layout(shape, settings).items()}
                fields = f"{name}{fields_name(settings)}"
                if fields in self._stored and is_fields(*self._stored[fields][1:]):
                    expected[fields] = self._stored[fields][1:]
                else:
                    raise ArtifactError(f"{fields} is missing or no JSON", where=str(folder), hint=AGAIN)
            else:
                expected[name] = (_DTYPES[settings.compute_dtype], shape)
        check_tensors(self._stored, expected, folder)
        for name, shape in quantized.items():
            fields = f"{name}{fields_name(settings)}"
            check_fields(self._tensor(fields), fields, shape, settings, str(self._stored[fields].file))

    def read(self, name: str) -> Tensor:
        stored = self._tensor(name)
        if not _is_quantized(name):
            return stored.float()
        prefix = f"{name}."
        parts = {key.removeprefix(prefix): self._tensor(key) for key in self._stored if key.startswith(prefix)}
        functional = bitsandbytes().functional
        state = functional.QuantState.from_dict(parts, device=stored.device)
        state.dtype = torch.float32
        weight: Tensor = functional.dequantize_4bit(stored, state)
        return weight

    def _tensor(self, name: str) -> Tensor:
        return read_tensor(name, self._stored[name])


def _is_quantized(name: str) -> bool:
    return name.endswith(".weight") and name.removesuffix(".weight").endswith(LINEARS)


_DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


def read(folder: Path) -> BnbWeights:
    """Open an artifact's weights.

    Raises:
        ArtifactError: a file is missing or damaged, or a tensor differs from what ``config.json`` says.
        SourceError: ``config.json`` is not that of a GPT-NeoX.
    """
    config = read_artifact_config(folder)
    return BnbWeights(folder, config.architecture, settings_of(config, folder))
