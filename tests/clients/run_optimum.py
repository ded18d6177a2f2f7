"""Continue texts with optimum's ORTModelForCausalLM, in an environment of its own."""

from __future__ import annotations

import json
import sys
from typing import Any

from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer


def main(job: dict[str, Any]) -> dict[str, Any]:
    model = ORTModelForCausalLM.from_pretrained(job["folder"], file_name=job["model"])
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])

    def added(texts: str | list[str]) -> list[list[int]]:
        inputs = tokenizer(texts, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=job["count"])
        return [row[inputs["input_ids"].shape[1] :].tolist() for row in output]

    single = [added(text)[0] for text in job["prompts"]]
    return {
        "prompts": [tokenizer(text)["input_ids"] for text in job["prompts"]],
        "added": single,
        "texts": [tokenizer.decode(tokens) for tokens in single],
        "batch": added(job["batch"]),
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
