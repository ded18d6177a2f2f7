"""Measure our GGUF variants beside the types of llama.cpp's llama-quantize, tensor by tensor of the same type.

``python benchmarks/gguf_peers.py --work /tmp/gguf --out results.json``

The peer's blocks come from upstream's ``ggml_quantize_chunk``, which llama-quantize calls for each tensor, with and
without an importance matrix from our calibration windows. All files run in upstream llama.cpp, on the same windows.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from ctypes import c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from statistics import median

import numpy as np
import torch
from peers.reference import fp32_reference
from peers.store import Record, Store
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pythia_quant.artifacts.convert import convert
from pythia_quant.artifacts.inputs import Inputs, load_inputs
from pythia_quant.bench.conditions import OtherPrograms
from pythia_quant.bench.quality import compare_logits, run_in_layers, run_whole
from pythia_quant.bench.statistics import Estimate, differences, mean_of_windows
from pythia_quant.core import machine
from pythia_quant.core.errors import PythiaQuantError
from pythia_quant.formats.gguf.file_writer import GgufFile
from pythia_quant.formats.gguf.header import read_header
from pythia_quant.formats.gguf.llama_cpp import library
from pythia_quant.formats.gguf.metadata import keys
from pythia_quant.formats.gguf.names import find_file, is_mixed, separate, tensor_name
from pythia_quant.formats.gguf.reader import GgufWeights
from pythia_quant.formats.gguf.runtime import open_file, types_in_words
from pythia_quant.formats.gguf.vocabulary import read_vocabulary
from pythia_quant.model.architecture import EMBEDDING, NORM_OF, layer_name
from pythia_quant.model.forward import Forward, Fp32Layers, normalize, outer_input, parts, read_layer
from pythia_quant.model.source import Source
from pythia_quant.model.tokenizer import TOKENIZER
from pythia_quant.quantizers.ggml import TYPES, Packed, quantize
from pythia_quant.recipe.overrides import override
from pythia_quant.recipe.recipe import load_recipe

RECIPE = Path(__file__).parent / "gguf_peers.yaml"
PROMPT, STEPS, ROUNDS = 256, 32, 5

Importance = dict[str, Tensor]
"""The mean square of each input of a matrix, fp32 [inputs], by the matrix's name in a checkpoint."""
Pack = Callable[[str, Tensor, str], Packed]
Say = Callable[[str], object]


@torch.no_grad()
def importance(source: Source, ids: Tensor) -> Importance:
    """Return what llama-imatrix writes, for the matrices of the layers: it leaves out embeddings and head."""
    shape, reader = source.architecture, source.weights
    forward = Forward(shape, ids)
    forward.embed(reader.read(EMBEDDING))
    result: Importance = {}
    for index in range(shape.layers):
        layer = {name: tensor.float() for name, tensor in read_layer(reader, index).items()}
        for update in shape.updates:
            for name in (*update.inner, *update.outer):
                total: Tensor | float = 0.0
                for rows in parts(*ids.shape):
                    hidden = forward.hidden[rows]
                    inner = name in update.inner
                    inputs = (
                        normalize(shape, layer, NORM_OF[name], hidden)
                        if inner
                        else outer_input(shape, layer, name, hidden)
                    )
                    total = total + inputs.square().sum((0, 1))
                result[f"{layer_name(index)}.{name}.weight"] = torch.as_tensor(total) / ids.numel()
        forward.layer(layer)
    return result


def upstream(importances: Importance | None) -> Pack:
    """Return the function that rounds a matrix as llama-quantize does."""
    chunk = library().ggml_quantize_chunk
    chunk.restype = c_size_t
    chunk.argtypes = [c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p]

    def pack(name: str, weight: Tensor, kind: str) -> Packed:
        block, (rows, columns) = TYPES[kind], weight.shape
        weight = weight.float().contiguous()
        data = torch.empty(rows, columns // block.block * block.size, dtype=torch.uint8)
        weights = None if importances is None else importances.get(name)
        pointer = None if weights is None else weights.float().contiguous().data_ptr()
        written = chunk(block.code, weight.data_ptr(), data.data_ptr(), 0, rows, columns, pointer)
        if written != data.numel():
            raise SystemExit(f"llama.cpp writes {written} bytes of {name} as {kind}, not {data.numel()}")
        return Packed(kind, data)

    return pack


def write_model(path: Path, source: Source, types: dict[str, str], pack: Pack) -> Path:
    """Write a GGUF file of a source whose matrices have the given types."""
    shape = source.architecture
    values = keys(shape, read_vocabulary(source.folder / TOKENIZER, shape.vocabulary))
    tensors = {name: (types[name], form) for name, form in shape.tensor_shapes().items()}
    with closing(GgufFile(path, values, tensors)) as file:
        for name, (kind, form) in tensors.items():
            tensor = source.weights.read(name).half().float()  # llama-quantize is given the f16 file
            tensor = separate(tensor, shape) if is_mixed(name) else tensor
            file.add(name, tensor if len(form) == 1 else pack(name, tensor, kind))
    return path


def write_imatrix(path: Path, importances: Importance) -> None:
    """Write an importance matrix in llama-imatrix's older form, ``.dat``."""
    with path.open("wb") as file:
        file.write(struct.pack("<i", len(importances)))
        for name, values in importances.items():
            stored = tensor_name(name).encode()
            file.write(struct.pack("<i", len(stored)) + stored + struct.pack("<ii", 1, len(values)))
            file.write(values.numpy().astype("<f4").tobytes())


def program_file(ours: Path) -> Path:
    """Return where the file of a llama-quantize is written beside one of the same types."""
    return ours.with_suffix(".program.gguf")


def differing(program: Path, f16: Path, ours: Path, kind: str, matrix: Path | None) -> Record:
    """Run a llama-quantize; return in how many tensors its bytes are others than those of a file, and their number."""
    out = program_file(ours)
    options = ["--pure", "--output-tensor-type", "q8_0", "--token-embedding-type", "q8_0"]
    options += ["--imatrix", str(matrix), "--ignore-imatrix-rules"] if matrix else []
    command = [str(program), *options, str(f16), str(out), kind.upper()]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    if ran.returncode or not out.exists():
        return {"failed": (ran.stderr or ran.stdout)[-400:]}
    mine, theirs = read_header(ours).tensors, read_header(out).tensors
    files = np.memmap(ours, np.uint8, "r"), np.memmap(out, np.uint8, "r")
    count, others = 0, []
    for name, place in mine.items():
        other = theirs[name]
        if len(place.shape) == 1:
            continue
        count += 1
        first, second = (
            file[each.offset : each.offset + each.size] for file, each in zip(files, (place, other), strict=True)
        )
        if place.kind != other.kind or not np.array_equal(first, second):
            others.append(name if place.kind == other.kind else f"{name}: {place.kind} is {other.kind}")
    return {"tensors": count, "others": others}


def measure(inputs: Inputs, files: dict[str, Path], store: Store, work: Path, threads: int, say: Say) -> None:
    """Measure the drift of each file that the result file does not have."""
    source, ids = inputs.source, torch.from_numpy(inputs.evaluation)
    reference = fp32_reference(source, ids, work)
    store.data["reference_nll"] = reference.nll
    for name, path in files.items():
        if name in store.data.setdefault("rows", {}):
            continue
        say(f"{name}: drift")
        weights = GgufWeights(path, source.architecture, read_header(path))
        runtime = open_file(path, source.architecture, threads, types_in_words(weights.places))
        with tempfile.TemporaryDirectory(dir=work) as states:
            layers = run_in_layers(Fp32Layers(weights), ids, Path(states), name)
            logits = {"as_run": run_whole(runtime.logits, ids), "weights": layers}
            drifts = compare_logits(reference, logits)
        kinds = {tensor: place.kind for tensor, place in weights.places.items()}
        size = sum(place.size for place in weights.places.values())
        store.data["rows"][name] = {
            "kinds": kinds, "bytes": size, "runtime": runtime.description,
            **{part: drift.model_dump() for part, drift in drifts.items()},
        }  # fmt: skip
        store.save()


def measure_speed(inputs: Inputs, files: dict[str, Path], store: Store, threads: int, say: Say) -> None:
    """Time prompts and single tokens of all files in turn."""
    ids = torch.from_numpy(inputs.evaluation)[0]
    prompt = min(PROMPT, len(ids) - STEPS)
    shape = inputs.source.architecture
    runtimes = {name: open_file(path, shape, threads, "") for name, path in files.items()}
    others = OtherPrograms()
    found: dict[str, dict[str, list[float]]] = {name: {"prefill": [], "decode": []} for name in files}
    for number in range(ROUNDS + 1):
        say(f"speed, round {number} of {ROUNDS}")
        for name, runtime in runtimes.items():
            started = time.perf_counter()
            runtime.prefill(ids[:prompt], len(ids))
            prefilled = time.perf_counter()
            for token in ids[prompt : prompt + STEPS]:
                runtime.step(int(token))
            if number:  # the first round warms up
                found[name]["prefill"].append(prompt / (prefilled - started))
                found[name]["decode"].append(1e3 * (time.perf_counter() - prefilled) / STEPS)
    store.data["speed"] = found | {"others": others.share()}
    store.save()


def print_all(data: Record, console: Console) -> None:
    """Print all that a result file holds."""
    table = Table("row", "MB", "KL as run\nmnat", "KL weights\nmnat", "ln ppl as run\n1e-3", "ratio to it", "less it",
                  "prefill\ntok/s", "decode\nms", box=None)  # fmt: skip
    rows = data["rows"]
    for name, row in rows.items():
        same = [other for other in rows if rows[other]["kinds"] == row["kinds"] and other.startswith("llama.cpp")]
        peer = rows[min(same, key=lambda other: sum(rows[other]["as_run"]["kl"]))]["as_run"]["kl"] if same else None
        kl = row["as_run"]["kl"]
        compared = peer is not None and not name.startswith("llama.cpp")
        speed = data.get("speed", {}).get(name)
        table.add_row(
            name,
            f"{row['bytes'] / 1e6:.3f}",
            _thousandths(mean_of_windows(kl)),
            _thousandths(mean_of_windows(row["weights"]["kl"])),
            _thousandths(mean_of_windows(differences(row["as_run"]["nll"], data["reference_nll"]))),
            f"{sum(kl) / sum(peer):.3f}" if compared and peer else "",
            _thousandths(mean_of_windows(differences(kl, peer))) if compared and peer else "",
            f"{median(speed['prefill']):,.0f}" if speed else "",
            f"{median(speed['decode']):.2f}" if speed else "",
        )
    console.print(table)
    for name, result in data.get("program", {}).items():
        text = result.get("failed") or f"{len(result['others'])} of {result['tensors']} tensors have other bytes"
        console.print(f"{name} beside the program: {text}", markup=False)
    if "speed" in data:
        console.print(f"Others took {data['speed']['others']:.0%} of the processors while speed was measured.")
    console.print(f"{data['conditions']}; ± standard error from batches of neighbouring windows", markup=False)


def _thousandths(value: Estimate) -> str:
    return f"{1e3 * value.value:.3f} ± {1e3 * value.error:.3f}"


def _measure(given: argparse.Namespace, console: Console) -> Record:
    work: Path = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(given.threads)
    recipe = override(load_recipe(given.recipe), model=given.model, text=given.text, calibration=given.calibration)
    inputs = load_inputs(recipe)
    source, shape = inputs.source, inputs.source.architecture
    conditions = {
        "cpu": machine.cpu(), "threads": given.threads, "model": source.name, "source": source.sha256,
        "calibration": list(inputs.calibration.shape), "evaluation": list(inputs.evaluation.shape),
    }  # fmt: skip
    store = Store(given.out, conditions)
    made = {name: folder for name, _, folder in (each.partition("=") for each in given.artifact)}
    importances = importance(source, torch.from_numpy(inputs.calibration))
    matrix, f16 = work / "imatrix.dat", work / "f16.gguf"
    write_imatrix(matrix, importances)
    dimensions = shape.tensor_shapes()
    halves = {name: "f16" if len(form) == 2 else "f32" for name, form in dimensions.items()}
    write_model(f16, source, halves, lambda _, tensor, kind: quantize(tensor, kind))
    files: dict[str, Path] = {"f16": f16}
    for variant in given.only or recipe.variants():
        started = time.perf_counter()
        folder = Path(made[variant]) if variant in made else convert(inputs, variant, work / "artifacts").folder
        console.print(f"{variant}: made in {time.perf_counter() - started:.0f} s")
        file = find_file(folder)
        files[variant] = file
        stored = read_header(file).tensors
        kinds = {name: stored[tensor_name(name)].kind for name in dimensions}
        kind = file.stem.rpartition("-")[2].lower()
        for label, weights in (("", None), (" imatrix", importances)):
            peer = f"llama.cpp {kind}{label}"
            if peer in files or (weights and kind == "q8_0"):  # which takes no notice of importance
                continue
            files[peer] = write_model(work / f"{peer.replace(' ', '-')}.gguf", source, kinds, upstream(weights))
            if given.llama_quantize:
                compared = differing(given.llama_quantize, f16, files[peer], kind, matrix if weights else None)
                store.data.setdefault("program", {})[peer] = compared
                if 2 * len(compared.get("others", ())) > compared.get("tensors", 0):  # a fork's own way, no ties
                    files[f"{peer}, program"] = program_file(files[peer])
    measure(inputs, files, store, work, given.threads, console.print)
    if not given.no_speed:
        measure_speed(inputs, files, store, given.threads, console.print)
    return store.data


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python benchmarks/gguf_peers.py", description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="checkpoint folder or builtin:demo; default: the recipe's")
    parser.add_argument("--text", type=Path, metavar="FILE", help="to evaluate on; default: the recipe's")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="to calibrate on; default: the recipe's")
    parser.add_argument("--recipe", type=Path, default=RECIPE, metavar="FILE", help="our variants, and the windows")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="only these variants, and their peers")
    parser.add_argument("--artifact", nargs="+", default=[], metavar="VARIANT=FOLDER", help="converted already")
    parser.add_argument("--llama-quantize", type=Path, metavar="FILE", help="a program whose bytes are compared, too")
    parser.add_argument("--work", type=Path, help="folder for files that are made meanwhile")
    parser.add_argument("--out", type=Path, metavar="FILE", help="result file, JSON")
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--no-speed", action="store_true", help="measure quality only")
    parser.add_argument("--print", type=Path, metavar="FILE", help="print a result file, and do nothing else")
    given = parser.parse_args()
    if not given.print and not (given.work and given.out):
        parser.error("--work and --out are needed, or --print")
    console = Console(width=max(150, Console().width))
    try:
        data = json.loads(given.print.read_text()) if given.print else _measure(given, console)
    except PythiaQuantError as error:
        console.print(str(error), style="red", markup=False)
        return 2
    print_all(data, console)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
