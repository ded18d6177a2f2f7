"""A GPTQ artifact whose scales and biases can be trained, and its teacher, the source; both in memory, in fp32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pythia_quant.formats.gptq.reader import GptqWeights
from pythia_quant.model.architecture import EMBEDDING, FINAL_NORM, HEAD, Architecture, layer_name
from pythia_quant.model.forward import layer_forward, layer_tensor_names
from pythia_quant.model.weights import WeightReader


@dataclass(frozen=True)
class Teacher:
    """The tensors of a model.

    Attributes:
        shape: the model's.
        tensors: fp32, by their names in a checkpoint.
    """

    shape: Architecture
    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, source: WeightReader) -> Teacher:
        """Read a checkpoint."""
        return cls(
            source.architecture, {name: source.read(name).float() for name in source.architecture.tensor_shapes()}
        )

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits, fp32 [windows, tokens, vocabulary], of ids, int64 [windows, tokens]."""
        return _logits(self.shape, self.tensors, ids)


class Student:
    """The tensors of a GPTQ artifact, of which scales and biases can be trained.

    A scale is trained as a factor on the one that is stored, so that one rate suits all.

    Args:
        artifact: the artifact's weights.

    Attributes:
        trained: the tensors that an optimizer changes.
    """

    def __init__(self, artifact: GptqWeights) -> None:
        self.shape = artifact.architecture
        self._fixed: dict[str, Tensor] = {}
        self._steps: dict[str, Tensor] = {}
        self._scales: dict[str, Tensor] = {}
        self._groups: dict[str, Tensor] = {}
        self._factors: dict[str, Tensor] = {}
        self._biases: dict[str, Tensor] = {}
        for name in self.shape.tensor_shapes():
            if artifact.is_quantized(name):
                stored = artifact.quantized(name)
                self._groups[name], self._scales[name] = stored.groups.long(), stored.scales.float()
                self._steps[name] = stored.codes.float() - stored.zeros.float()[:, self._groups[name]]
                self._factors[name] = torch.ones_like(self._scales[name]).requires_grad_()
            elif name.endswith(".bias") and "layernorm" not in name:
                self._biases[name] = artifact.read(name).requires_grad_()
            else:
                self._fixed[name] = artifact.read(name)
        self.trained = [*self._factors.values(), *self._biases.values()]

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits, see :meth:`Teacher.logits`; gradients reach what is trained."""
        weights = {
            name: steps * (self._scales[name] * self._factors[name])[:, self._groups[name]]
            for name, steps in self._steps.items()
        }
        return _logits(self.shape, self._fixed | self._biases | weights, ids)

    @torch.no_grad()
    def store(self) -> None:
        """Round what is trained to fp16, as a file stores it."""
        for name, factor in self._factors.items():
            factor.copy_((self._scales[name] * factor).half().float() / self._scales[name])
        for bias in self._biases.values():
            bias.copy_(bias.half().float())


def _logits(shape: Architecture, tensors: dict[str, Tensor], ids: Tensor) -> Tensor:
    hidden = F.embedding(ids, tensors[EMBEDDING])
    for index in range(shape.layers):
        layer = {name: tensors[f"{layer_name(index)}.{name}"] for name in layer_tensor_names(shape)}
        hidden = layer_forward(shape, layer, hidden)
    gain, bias = tensors[f"{FINAL_NORM}.weight"], tensors[f"{FINAL_NORM}.bias"]
    return F.layer_norm(hidden, (shape.width,), gain, bias, shape.norm_epsilon) @ tensors[HEAD].T


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Return the KL divergence of each token in nat, fp32 [...], of logits, fp32 [..., vocabulary]."""
    expected = teacher.log_softmax(-1)
    return (expected.exp() * (expected - student.log_softmax(-1))).sum(-1)


@torch.no_grad()
def window_means(teacher: Teacher, student: Student | Teacher, ids: Tensor) -> list[float]:
    """Return the mean KL of every window in nat; ids are int64 [windows, tokens]."""
    return [
        float(divergence(teacher.logits(window[None]), student.logits(window[None]))[:, :-1].mean()) for window in ids
    ]
