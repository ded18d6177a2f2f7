"""The KL divergence of a GGUF file from its source by llama.cpp's own server and transformers, without this project.

The server gives the log-probabilities of all tokens after a prompt, so each beginning of a window is a prompt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import xllamacpp
from tokenizers import Tokenizer
from transformers import GPTNeoXForCausalLM


def main(job: dict[str, Any]) -> dict[str, Any]:
    source = Path(job["source"])
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    ids, letter = tokenizer.encode(Path(job["text"]).read_text()).ids, tokenizer.encode("A").ids[0]
    context, count = job["context"], job["windows"]
    whole = len(ids) // context
    numbers = [(2 * index + 1) * whole // (2 * count) for index in range(count)]
    windows = [ids[number * context : (number + 1) * context] for number in numbers]
    with torch.no_grad():
        logits = GPTNeoXForCausalLM.from_pretrained(source, dtype=torch.float32)(torch.tensor(windows)).logits
    wanted = logits[:, :-1].double().log_softmax(-1)

    params = xllamacpp.CommonParams()
    params.model.path = job["file"]
    params.n_ctx, params.n_parallel, params.warmup, params.cache_prompt = 256, 1, False, False
    params.n_predict, params.cpuparams.n_threads, params.cpuparams_batch.n_threads = 1, 1, 1
    server = xllamacpp.Server(params)
    divergences = []
    for window, expected in zip(windows, wanted, strict=True):
        found = torch.stack([after(server, window[:end], expected.shape[1], letter) for end in range(1, context)])
        divergences.append(float((expected.exp() * (expected - found)).sum(-1).mean()))
    return {"kl": divergences, "imported": [name for name in sys.modules if name.startswith("pythia_quant")]}


def after(server: Any, prompt: list[int], vocabulary: int, letter: int) -> torch.Tensor:
    """Return the log-probability of every token after a prompt, fp64 [vocabulary].

    They are those before sampling. The token that is sampled has to be text, or nothing would be said of it.
    """
    request = {"prompt": prompt, "n_predict": 1, "n_probs": vocabulary, "cache_prompt": False}
    request |= {"temperature": -1, "logit_bias": [[letter, 1000.0]]}
    answer = server.handle_completions(request)
    answer = json.loads(answer) if isinstance(answer, str | bytes) else answer
    found = torch.full((vocabulary,), torch.nan, dtype=torch.float64)
    for one in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
        found[one["id"]] = one["logprob"]
    return found


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
