"""How fast artifacts are in headless Chromium, beside our own runtime, and beside GGUF in wllama, in one run.

``python benchmarks/web_speed/measure.py --tokenizer tokenizer.json --sizes 70m 160m --threads 1 2``

Weights are random, in the real shapes. A browser and a native row have the same number of threads, and each reads the
same 128 tokens and then 48 more, one by one. Times are of a second round, those of tokens medians; a ratio is native time
over browser time. The last column says how often both find the same token the likeliest, and how far the last logits are
apart, in standard deviations of the logits.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path += [str(HERE.parent), str(HERE.parents[1] / "tests")]

from browser import Browser, chromium  # noqa: E402 - the tests' own driver
from random_checkpoint import architecture_of, write_checkpoint  # noqa: E402 - beside this folder

from pythia_quant.artifacts.artifact import open_artifact  # noqa: E402
from pythia_quant.formats.table import format_of  # noqa: E402
from pythia_quant.web import local_server  # noqa: E402
from pythia_quant.web.site import write_site  # noqa: E402

PROMPT, NEW, CONTEXT = 128, 48, 256
WLLAMA = "@wllama/wllama@3.13.0"
WLLAMA_SHA512 = "ZvoRdQAn+E+18EvQ9qS036gudiI9rbZRBJgG/qNICPPwrA0Y6SMMdbziz/j7K/0WxcbJlhaRraVIYsnEy732NA=="
"""Of the tarball, in base64, as npm writes it. Only this benchmark uses the package."""
ONNX = {
    "onnx-int8": "weights: int8, block_size: 64, activations: int8, embeddings: int8, head: int8",
    "onnx-int8-dynamic": "weights: int8-channel, block_size: 64, activations: int8, embeddings: int8, head: int8",
    "onnx-int4": "weights: int4, block_size: 64, activations: int8, embeddings: int8, head: int8",
    "onnx-fp32": "weights: fp32, activations: fp32, embeddings: fp32, head: fp32",
}
GGUF = {
    "gguf-q8": "weights: q8_0, embeddings: q8_0, head: q8_0, quantizer: nearest",
    "gguf-q4": "weights: q4_0, embeddings: q8_0, head: q8_0, quantizer: nearest",
}


def artifacts(size: str, work: Path, tokenizer: Path) -> dict[str, Path]:
    """Convert a random checkpoint, unless that was done; return the folder of each variant."""
    source, out, recipe = work / size, work / f"{size}-artifacts", work / f"{size}.yaml"
    if not source.exists():
        write_checkpoint(architecture_of(size), source, tokenizer)
    lines = [f"  {name}: {{format: onnx, {text}}}" for name, text in ONNX.items()]
    lines += [f"  {name}: {{format: gguf, {text}}}" for name, text in GGUF.items()]
    text = f"schema: 1\nsource: {{model: {source}}}\nevaluation: {{text: {{builtin: held-out}}, context: 128}}\n"
    recipe.write_text(f"{text}variants:\n" + "\n".join(lines) + "\n")
    command = [sys.executable, "-m", "pythia_quant", "convert", str(recipe), "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {path.parent.name: path.parent for path in out.rglob("pythia_quant.json")}


def wllama(cache: Path) -> Path:
    """Return the folder of wllama's modules, which npm fetches once."""
    folder = cache / "package" / "esm"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", WLLAMA, "--silent", "--ignore-scripts", "--pack-destination", str(cache)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (tarball,) = cache.glob("*.tgz")
        if base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode() != WLLAMA_SHA512:
            raise SystemExit(f"{tarball}: its SHA-512 is not the recorded one")
        with tarfile.open(tarball) as archive:
            archive.extractall(cache, filter="data")
    return folder


def prompt_ids(folder: Path) -> tuple[str, list[int]]:
    """Return a text of exactly so many tokens as a prompt has, and these."""
    tokenizer = open_artifact(folder).tokenizer
    words = "the ship of the sea and a man in the house with his old dog that was not there when she came " * 20
    ids = list(tokenizer.encode(words, add_special_tokens=False).ids[:PROMPT])
    text = tokenizer.decode(ids)
    assert tokenizer.encode(text, add_special_tokens=False).ids == ids
    return text, ids


def native(folder: Path, ids: list[int], threads: int) -> dict[str, Any]:
    """Measure our own runtime in a fresh process; as `_native` does."""
    job = json.dumps({"folder": str(folder), "ids": ids, "threads": threads})
    done = subprocess.run([sys.executable, __file__, "--native", job], check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _native(job: dict[str, Any]) -> None:
    import torch  # noqa: PLC0415 - only this process needs it

    torch.set_num_threads(job["threads"])
    artifact = open_artifact(Path(job["folder"]))
    runtime = format_of(artifact.settings).open_runtime(artifact.folder, job["threads"])
    first, times, tokens, logits = 0.0, [], [], None
    for _ in range(2):
        started = time.perf_counter()
        logits = runtime.prefill(torch.tensor(job["ids"]), PROMPT + NEW)
        first, times, tokens = 1000 * (time.perf_counter() - started), [], []
        for _ in range(NEW):
            started = time.perf_counter()
            tokens.append(int(logits.argmax()))
            logits = runtime.step(tokens[-1])
            times.append(1000 * (time.perf_counter() - started))
    assert logits is not None
    print(json.dumps({"first": first, "token": statistics.median(times), "tokens": tokens, "logits": logits.tolist()}))


def in_browser(browser: Browser, call: str, job: dict[str, Any]) -> dict[str, Any]:
    """Call a function of the page, and return its result."""
    browser.run(f"{call}({json.dumps(job)}); 0")
    browser.wait("window.result !== null")
    result: dict[str, Any] = browser.run("window.result")
    return result


def difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Say how often both find the same token likeliest, and how far the last logits are apart."""
    same = sum(a == b for a, b in zip(one["tokens"], other["likeliest"], strict=True))
    apart = [(a - b) ** 2 for a, b in zip(one["logits"], other["logits"], strict=True)]
    scale = statistics.pstdev(one["logits"])
    return f"{same} of {NEW}, {(sum(apart) / len(apart)) ** 0.5 / scale:.1e}"


def measure(size: str, folders: dict[str, Path], threads: int, site: Path) -> None:
    """Print the lines of one size and number of threads."""
    text, ids = prompt_ids(folders["onnx-int8"])
    server = local_server.open_site_server(0)
    server.RequestHandlerClass = partial(local_server._Handler, directory=str(site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://{local_server.HOST}:{server.server_address[1]}/page.html"
    models = {name.removeprefix(f"{size}-"): name for name in json.loads((site / "site.json").read_text())["models"]}
    for variant, folder in folders.items():
        here = native(folder, ids, threads)
        with tempfile.TemporaryDirectory() as profile, chromium("chromium", Path(profile)) as browser:
            browser.open(address, 800)
            browser.wait("window.loaded === true")
            if variant in ONNX:
                job = {"name": models[variant], "threads": threads, "ids": ids, "tokens": here["tokens"]}
                found = in_browser(browser, "measureOnnx", job)
            else:
                shutil.copyfile(next(folder.glob("*.gguf")), site / "model.gguf")
                job = {"path": "model.gguf", "threads": threads, "prompt": text, "count": NEW, "context": CONTEXT}
                found = in_browser(browser, "measureGguf", job)
        if "error" in found:
            print(f"| {size} | {threads} | {variant} | {found['error'][:200]} |", flush=True)
            continue
        ratio = here["token"] / found["token"], here["first"] / found["first"]
        cells = [
            size, threads, variant, f"{here['token']:.2f}", f"{found['token']:.2f}", f"{ratio[0]:.2f}",
            f"{here['first']:.0f}", f"{found['first']:.0f}", f"{ratio[1]:.2f}", f"{found['load']:.0f}",
            difference(here, found) if "likeliest" in found else "",
        ]  # fmt: skip
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    server.shutdown()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json of a Pythia repository")
    parser.add_argument("--sizes", nargs="+", default=["70m", "160m"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--variants", nargs="+", default=[*ONNX, *GGUF])
    parser.add_argument("--work", type=Path, default=Path(".venv/share/web-speed"))
    parser.add_argument("--native", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.native:
        _native(json.loads(given.native))
        return
    given.work.mkdir(parents=True, exist_ok=True)
    modules = wllama(Path(".venv/share/wllama"))
    print(
        "| shape | threads | kind | native ms/token | browser | ratio | native first, ms | browser | ratio | load, ms | same tokens, logits apart |"
    )
    print("|---" * 11 + "|")
    for size in given.sizes:
        found = artifacts(size, given.work.absolute(), given.tokenizer)
        folders = {name: found[name] for name in given.variants}
        site = given.work / f"{size}-site"
        shutil.rmtree(site, ignore_errors=True)
        write_site([open_artifact(folder) for name, folder in found.items() if name in ONNX], site)
        for name in ("page.html", "page.js", "onnx.js"):
            shutil.copyfile(HERE / name, site / name)
        shutil.copytree(modules, site / "wllama")
        for threads in given.threads:
            measure(size, folders, threads, site)


if __name__ == "__main__":
    main()
