"""Continue texts with vLLM on a CPU, and predict every token of windows, in an environment of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vllm import LLM, SamplingParams
from vllm.platforms import current_platform


def main(job: dict[str, Any]) -> None:
    provide_product()
    llm = LLM(model=job["folder"], dtype="bfloat16", enforce_eager=True, max_logprobs=-1)
    greedy = SamplingParams(temperature=0, max_tokens=job["count"], ignore_eos=True)
    continued = llm.generate(job["prompts"], greedy, use_tqdm=False)
    everything = SamplingParams(max_tokens=1, prompt_logprobs=-1, detokenize=False, flat_logprobs=True)
    predicted = llm.generate([{"prompt_token_ids": window} for window in job["windows"]], everything, use_tqdm=False)
    probabilities = np.stack([log_probabilities(one.prompt_logprobs) for one in predicted])
    np.save(Path(job["out"]) / "log_probabilities.npy", probabilities)
    answer = {
        "prompts": [one.prompt_token_ids for one in continued],
        "added": [list(one.outputs[0].token_ids) for one in continued],
        "kernel": "vLLM, with our product in place of the one for AVX-512" if stood_in else "vLLM",
    }
    (Path(job["out"]) / "answer.json").write_text(json.dumps(answer))


def log_probabilities(flat: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return those of a prompt's tokens but the first, [tokens - 1, vocabulary]. A token's own one is there twice."""
    rows = []
    for start, end in zip(flat.start_indices[1:], flat.end_indices[1:], strict=True):
        row = np.full(len(set(flat.token_ids[start:end])), np.nan, np.float32)
        row[flat.token_ids[start:end]] = flat.logprobs[start:end]
        rows.append(row)
    return np.stack(rows)


def provide_product() -> None:
    """If vLLM has no product of 4-bit weights for this processor, put one in torch in its place.

    The wheel has it for AVX-512 only. The rest of vLLM does not notice: it reads, repacks and calls as ever.
    """
    current_platform.import_kernels()
    if not hasattr(torch.ops._C, "cpu_gemm_wna16"):
        library.define(
            "cpu_gemm_wna16(Tensor input, Tensor weight, Tensor(a!) output, Tensor scales, Tensor? zeros, "
            "Tensor? bias, int pack_factor, str isa) -> ()"
        )
        library.impl("cpu_gemm_wna16", product, "CPU")


library = torch.library.Library("_C", "FRAGMENT")
stood_in: set[str] = set()


def product(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    output: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    bias: torch.Tensor | None,
    pack_factor: int,
    isa: str,
) -> None:
    """Multiply by a weight that vLLM has repacked: blocks of 16 outputs, in each a row of 2 words for every input."""
    stood_in.add("product")
    width = weight.shape[1] // 2
    words = weight.view(-1, width, 2).transpose(0, 1).reshape(width, -1)
    each = width // len(scales)
    weights = unpack(words).float().sub(8 if zeros is None else unpack(zeros).repeat_interleave(each, 0))
    result = inputs.float() @ (weights * scales.float().repeat_interleave(each, 0))
    output.copy_(result if bias is None else result + bias.float())


def unpack(words: torch.Tensor) -> torch.Tensor:
    """Unpack 4-bit numbers from int32 words, the first from the lowest bits, along the last dimension."""
    return torch.stack([words >> shift & 15 for shift in range(0, 32, 4)], dim=-1).flatten(-2)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
