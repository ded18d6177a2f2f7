"""Continue texts with onnxruntime-genai."""

from __future__ import annotations

import json
import sys
from typing import Any

import onnxruntime_genai as og


def main(job: dict[str, Any]) -> dict[str, Any]:
    model = og.Model(job["folder"])
    tokenizer = og.Tokenizer(model)

    def added(tokens: Any, rows: int, length: int) -> list[list[int]]:
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=length + job["count"], batch_size=rows)
        generator = og.Generator(model, params)
        generator.append_tokens(tokens)
        while not generator.is_done():
            generator.generate_next_token()
        return [generator.get_sequence(row)[length:].tolist() for row in range(rows)]

    prompts = [tokenizer.encode(text) for text in job["prompts"]]
    single = [added(prompt, 1, len(prompt))[0] for prompt in prompts]
    length = len(tokenizer.encode(job["batch"][0]))
    return {
        "prompts": [prompt.tolist() for prompt in prompts],
        "added": single,
        "texts": [tokenizer.decode(tokens) for tokens in single],
        "batch": added(tokenizer.encode_batch(job["batch"]), len(job["batch"]), length),
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
