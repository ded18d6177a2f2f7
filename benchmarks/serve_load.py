"""Load a server as others do: ``python benchmarks/serve_load.py ARTIFACT --guidellm .venv/share/load/bin/guidellm``.

guidellm (vllm-project), in an environment of its own, keeps 1, 4 and 16 requests of 64 and 32 tokens at the server, and
counts. Then as many clients ask for greedy texts of their own, which are compared with those asked for alone. Install
it with ``python -m venv .venv/share/load && .venv/share/load/bin/pip install guidellm==0.8.1 torch==2.13.0``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from openai import OpenAI

CLIENTS = (1, 4, 16)
PROMPT_TOKENS, NEW_TOKENS = 64, 32


def load(guidellm: Path, artifact: Path, model: str, address: str, clients: int, count: int) -> dict[str, Any]:
    """Run guidellm with so many requests at once; return its metrics."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = {
            "--backend": f"kind=openai_http,target={address},model={model},request_format=/v1/completions",
            "--profile": f"kind=concurrent,streams={clients}",
            "--tokenizer": f"kind=hf_auto,model={artifact.absolute()}",
            "--data": f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={NEW_TOKENS}",
            "--constraint": f"kind=max_requests,count={count}",
            "--output": f"kind=json,path={report}",
        }
        command = [
            str(guidellm.absolute()),
            "run",
            *(part for pair in options.items() for part in pair),
            "--disable-console",
        ]
        subprocess.run(command, check=True, cwd=folder, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True)
        metrics: dict[str, Any] = json.loads(report.read_text())["benchmarks"][0]["metrics"]
    return metrics


def line(clients: int, metrics: dict[str, Any], mixed: int) -> str:
    """Return a line of the table."""
    totals = metrics["request_totals"]
    rate = metrics["output_tokens_per_second"]["successful"]["mean"]
    first = metrics["time_to_first_token_ms"]["successful"]["percentiles"]
    whole = metrics["request_latency"]["successful"]["percentiles"]
    cells = [
        clients,
        totals["successful"],
        f"{rate:,.0f}",
        *(f"{first[name]:,.0f}" for name in ("p50", "p95")),
        *(f"{1000 * whole[name]:,.0f}" for name in ("p50", "p95", "p99")),
        totals["errored"],
        mixed,
    ]
    return f"| {' | '.join(map(str, cells))} |"


def count_mixed(model: str, url: str, clients: int, count: int) -> int:
    """Return how many of `count` greedy texts differ from those that are made when nobody else asks."""
    client = OpenAI(base_url=url, api_key="none", max_retries=0)

    def ask(number: int) -> str:
        prompt = f"class A{number % 24}:\n    def f"
        parts = client.completions.create(model=model, prompt=prompt, max_tokens=24, temperature=0, stream=True)
        return "".join(part.choices[0].text for part in parts if part.choices)

    alone = [ask(number) for number in range(24)]
    with ThreadPoolExecutor(clients) as pool:
        return sum(text != alone[number % 24] for number, text in enumerate(pool.map(ask, range(count))))


def main() -> None:
    """Start a server, load it, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--guidellm", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=100)
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "pythia_quant", "serve", str(arguments.artifact), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        said = json.loads(child.stdout.readline())
        model, url = said["model"], said["url"]
        print("| clients | requests | tokens/s | first token p50 | p95 | whole p50, ms | p95 | p99 | lost | mixed up |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        try:
            for clients in CLIENTS:
                address = url.removesuffix("/v1")
                metrics = load(arguments.guidellm, arguments.artifact, model, address, clients, arguments.requests)
                print(line(clients, metrics, count_mixed(model, url, clients, arguments.requests)), flush=True)
        finally:
            child.terminate()


if __name__ == "__main__":
    main()
