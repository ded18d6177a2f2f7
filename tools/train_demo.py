"""Train the demo model: `python tools/train_demo.py --out DIR` (about half an hour on two cores).

It is a GPT-NeoX with the body of pythia-14m (6 layers, width 128, 4 heads), a context of 512 and a byte-level BPE
tokenizer of 4,096 tokens. Both are trained on the text of :mod:`pythia_quant.texts.builtin` without its held-out
documents.
"""

from __future__ import annotations

import copy
import json
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from pythia_quant.core.compat import has_bf16_products
from pythia_quant.model.architecture import Architecture
from pythia_quant.texts.builtin import documents, held_out_text
from pythia_quant.texts.windows import encode, windows

VOCABULARY, CONTEXT, END_OF_TEXT = 4096, 512, "<|endoftext|>"
PEAK_LEARNING_RATE, FINAL_SHARE, WARMUP_STEPS, WEIGHT_DECAY = 3e-3, 0.05, 100, 0.1


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Train a byte-level BPE tokenizer of 4,096 tokens; token 0 is ``<|endoftext|>``, as in Pythia."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def perplexity(model: GPTNeoXForCausalLM, rows: torch.Tensor) -> float:
    """Return the perplexity of `model` on `rows` (int64 [windows, context]), context - 1 predictions a row."""
    model.eval()
    with torch.no_grad():
        losses = [model(input_ids=batch, labels=batch).loss.item() * len(batch) for batch in rows.split(8)]
    model.train()
    return math.exp(sum(losses) / len(rows))


def learning_rate(step: int, steps: int) -> float:
    """Return the learning rate of a step: a linear warm-up, then a cosine down to 5 % of the peak."""
    if step < WARMUP_STEPS:
        return PEAK_LEARNING_RATE * (step + 1) / WARMUP_STEPS
    cosine = 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / (steps - WARMUP_STEPS)))
    return PEAK_LEARNING_RATE * (FINAL_SHARE + (1 - FINAL_SHARE) * cosine)


def train(
    model: GPTNeoXForCausalLM,
    stream: torch.Tensor,
    held_out: torch.Tensor,
    steps: int,
    batch: int,
    at_step: Callable[[int], object],
) -> None:
    """Train `model` on windows of `stream`, int64 [tokens], at random places; print its perplexity every 250 steps.

    `at_step` is called with the number of steps done, from 0 on.
    """
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95))
    at_step(0)
    for step in track(range(steps), description="training"):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        starts = torch.randint(len(stream) - CONTEXT, (batch,))
        rows = torch.stack([stream[i : i + CONTEXT] for i in starts.tolist()])
        with torch.autocast(
            "cpu", dtype=torch.bfloat16, enabled=has_bf16_products()
        ):  # elsewhere it is 30 times as slow
            loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        at_step(step + 1)
        if step % 250 == 249:
            print(
                f"step {step + 1}: loss {loss.item():.3f}, held-out perplexity {perplexity(model, held_out[:40]):.2f}"
            )


def write(model: GPTNeoXForCausalLM, architecture: Architecture, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the model in fp16, and its tokenizer, as a hub serves them."""
    copy.deepcopy(model).half().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(architecture.config(), indent=2) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, object] = {f"{kind}_token": END_OF_TEXT for kind in ("bos", "eos", "unk")}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT}
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def main(
    out: Annotated[Path, typer.Option(help="Folder to write the model to.")],
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 2500,
    batch: Annotated[int, typer.Option(help="Windows a step.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of weights and batches.")] = 0,
    save_at: Annotated[list[int] | None, typer.Option(help="Also write OUT/step<N> after N steps; repeatable.")] = None,
) -> None:
    """Train the demo model and write it, its tokenizer and `training.json` to OUT."""
    torch.manual_seed(seed)
    every = documents()
    training = [d for d in every if not d.held_out]
    tokenizer = train_tokenizer([d.text for d in training])
    end = np.array([0], dtype=np.int64)
    stream = torch.from_numpy(np.concatenate([part for d in training for part in (encode(tokenizer, d.text), end)]))
    held_out = torch.from_numpy(windows(encode(tokenizer, held_out_text(tokenizer)), CONTEXT))
    print(f"{len(stream):,} training tokens, {len(held_out)} held-out windows of {CONTEXT}")

    architecture = Architecture(
        layers=6, width=128, heads=4, mlp_width=512, vocabulary=VOCABULARY, context=CONTEXT, rotary_size=8,
        rotary_base=10000, norm_epsilon=1e-5,
    )  # fmt: skip
    config = GPTNeoXConfig(**architecture.config())
    model = GPTNeoXForCausalLM(config).float()
    untrained = perplexity(model, held_out[:100])

    def save_step(step: int) -> None:
        if step in (save_at or ()):
            write(model, architecture, tokenizer, out / f"step{step}")

    train(model, stream, held_out, steps, batch, save_step)
    write(model, architecture, tokenizer, out)
    record = {
        "python": platform.python_version(),
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "training_tokens_in_text": len(stream),
        "held_out_windows": len(held_out),
        "untrained_perplexity": round(untrained, 2),
        "held_out_perplexity": round(perplexity(model.float(), held_out[:100]), 3),
        "held_out_documents": [d.name for d in every if d.held_out],
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print({key: value for key, value in record.items() if key != "held_out_documents"})


if __name__ == "__main__":
    typer.run(main)
