"""Continue texts with auto-gptq on a CPU, and predict every token of windows, in an environment of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from auto_gptq import AutoGPTQForCausalLM
from transformers import AutoTokenizer


@torch.inference_mode()
def main(job: dict[str, Any]) -> None:
    # Its own `generate` turns on autocast, in which fp16 fails on a CPU: hence fp32, and the model inside.
    model = AutoGPTQForCausalLM.from_quantized(job["folder"], device="cpu", torch_dtype=torch.float32).model
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    prompts = [tokenizer(text, return_tensors="pt") for text in job["prompts"]]
    length = {"max_new_tokens": job["count"], "min_new_tokens": job["count"], "do_sample": False, "pad_token_id": 0}
    added = [model.generate(**prompt, **length)[0, prompt["input_ids"].shape[1] :].tolist() for prompt in prompts]
    logits = model(input_ids=torch.tensor(job["windows"])).logits[:, :-1].float()
    np.save(Path(job["out"]) / "log_probabilities.npy", logits.log_softmax(-1).numpy())
    answer = {
        "prompts": [prompt["input_ids"][0].tolist() for prompt in prompts],
        "added": added,
        "kernel": f"auto-gptq's {type(model.gpt_neox.layers[0].attention.dense).__module__.rpartition('.')[2]}",
    }
    (Path(job["out"]) / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
