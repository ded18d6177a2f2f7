"""A model with a few large residual channels that it was trained to have, as real Pythias from 410m up have them.

A checkpoint is trained on for some hundred steps with two losses: the cross entropy of the next token, and how far some
channels are, after every layer and on every token, from a value of their own that is 30 times the median magnitude of
all. So the model works with these channels, while those of :mod:`hardness.models` were made large from outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hardness.models import CHANNELS_OF_RESIDUAL, Tensors, choose, layer_of, save
from pythia_quant.model.architecture import EMBEDDING, FINAL_NORM, HEAD, Architecture
from pythia_quant.model.forward import layer_forward
from pythia_quant.model.source import open_source
from pythia_quant.texts.windows import encode

OUTLIER = 30.0
"""The magnitude of the chosen channels, as a multiple of the median magnitude of the residual stream before."""
WEIGHT = 0.5
"""The weight of the loss of the outliers beside the cross entropy, nats a token."""
RAMP = 0.5
"""The share of the steps in which the wanted magnitude grows to its end."""
STEPS_BETWEEN_SAVES = 50


@dataclass(frozen=True)
class Training:
    """How a model is trained on. The same settings give the same bytes on the same processor and threads.

    Attributes:
        steps: of the optimizer.
        batch: windows a step.
        context: tokens a window.
        rate: the peak of the learning rate, which falls to 0 along a cosine.
        seed: of the channels, their signs and the batches.
    """

    steps: int = 200
    batch: int = 4
    context: int = 256
    rate: float = 1e-3
    seed: int = 0


def write_finetuned(base: str, text: str, folder: Path, training: Training, say: Callable[[str], object]) -> None:
    """Train a checkpoint on and write it in fp16, unless it is there. A stopped training goes on where it was.

    Args:
        base: the checkpoint, as :func:`~pythia_quant.model.source.open_source` takes it.
        text: the training text.
        folder: where the model will be; ``FOLDER.pt`` beside it holds the state meanwhile.
        training: how it is trained.
        say: called with the losses now and then.
    """
    if folder.exists():
        return
    source = open_source(base)
    shape = source.architecture
    tensors = {name: source.weights.read(name).float().requires_grad_() for name in shape.tensor_shapes()}
    optimizer = torch.optim.AdamW(tensors.values(), lr=training.rate, betas=(0.9, 0.95), weight_decay=0.0)
    tokens = torch.from_numpy(encode(source.tokenizer, text))
    draw = torch.Generator().manual_seed(training.seed)
    chosen = choose(shape.width, CHANNELS_OF_RESIDUAL, draw)
    signs = 2.0 * torch.randint(2, chosen.shape, generator=draw) - 1
    with torch.no_grad():
        median = torch.stack(_run(shape, tensors, _batch(tokens, training, 0))[0]).abs().median()
    state = folder.with_suffix(".pt")
    for step in range(_restore(state, tensors, optimizer), training.steps):
        share = (step + 1) / training.steps
        for group in optimizer.param_groups:
            group["lr"] = training.rate * min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * share))
        wanted = signs * median * (1 + (OUTLIER - 1) * min(1.0, share / RAMP))
        ids = _batch(tokens, training, step)
        hidden, logits = _run(shape, tensors, ids)
        entropy = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        distance = torch.stack([(each[..., chosen] / wanted - 1).square().mean() for each in hidden]).mean()
        (entropy + WEIGHT * distance).backward()
        torch.nn.utils.clip_grad_norm_(tensors.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % STEPS_BETWEEN_SAVES == 0:
            losses = f"{entropy.item():.3f} nat a token, outliers off by {distance.item():.3f}"
            say(f"{folder.name}, step {step + 1}: {losses}")
            _keep(state, tensors, optimizer, step + 1)
    save(source, {name: tensor.detach() for name, tensor in tensors.items()}, folder)
    state.unlink(missing_ok=True)


def _keep(state: Path, tensors: Tensors, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Write the state of a training after some steps; after a crash, the file is as before."""
    partial = state.with_suffix(".partial")
    torch.save({"tensors": tensors, "optimizer": optimizer.state_dict(), "steps": steps}, partial)
    partial.rename(state)


def _restore(state: Path, tensors: Tensors, optimizer: torch.optim.Optimizer) -> int:
    """Read the state of a training, if there is one, and return how many steps it has done."""
    if not state.exists():
        return 0
    kept = torch.load(state, weights_only=True)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(kept["tensors"][name])
    optimizer.load_state_dict(kept["optimizer"])
    return int(kept["steps"])


def _batch(tokens: Tensor, training: Training, step: int) -> Tensor:
    """Draw the windows of a step, int64 [batch, context]; they depend on nothing but the seed and the step."""
    draw = torch.Generator().manual_seed(training.seed * 1_000_003 + step)
    starts = torch.randint(len(tokens) - training.context, (training.batch,), generator=draw)
    return torch.stack([tokens[start : start + training.context] for start in starts.tolist()])


def _run(shape: Architecture, tensors: Tensors, ids: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the residual stream after every layer, fp32 [windows, tokens, width] each, and the logits."""
    hidden = [F.embedding(ids, tensors[EMBEDDING])]
    for index in range(shape.layers):
        hidden.append(layer_forward(shape, layer_of(tensors, index), hidden[-1]))
    gain, bias = tensors[f"{FINAL_NORM}.weight"], tensors[f"{FINAL_NORM}.bias"]
    normed = F.layer_norm(hidden[-1], (shape.width,), gain, bias, shape.norm_epsilon)
    return hidden[1:], normed @ tensors[HEAD].T
