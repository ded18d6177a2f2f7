"""What a Python program types: load, generate, logits, quantize, run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from program import succeed
from shared import linked
from tiny import write_checkpoint, write_texts

import pythia_quant as pq
from pythia_quant.artifacts.artifact import verify_files
from pythia_quant.bench.subject import Subject
from pythia_quant.recipe.methods import METHODS

VARIANTS = ("bnb-nf4", "gptq-int4", "onnx-int8", "onnx-fp32")


@pytest.fixture(scope="module")
def folder(converted: Path) -> Path:
    return converted / "out" / "tiny" / "local"


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_that_bench_measures(folder: Path, variant: str) -> None:
    artifact = pq.load(str(folder / variant))
    ids = torch.cat([artifact.encode("an even eval"), artifact.encode("of two texts")])
    assert ids.shape == (2, 12)
    logits = artifact.logits(ids)
    assert (logits.dtype, logits.shape) == (torch.float32, (2, 12, 272))
    subject = Subject(name=variant, folder=folder / variant, settings=artifact.settings)
    assert torch.equal(logits, subject.open_runtime(torch.get_num_threads()).logits(ids))
    before = logits.clone()
    artifact.logits(ids.flip(0))
    assert torch.equal(logits, before), "a later call does not write into an earlier one's result"


def test_generate_adds_what_the_command_prints(folder: Path) -> None:
    artifact = pq.load(folder / "onnx-fp32")
    printed = succeed("generate", folder / "onnx-fp32", "--prompt", "abc", "--max-new-tokens", "5")
    assert f"abc{artifact.generate('abc', 5)}\n" == printed
    sampled = [artifact.generate("abc", 8, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert artifact.runtime is artifact.runtime, "the model is loaded once"
    assert artifact.tokenizer.decode(artifact.encode("abc")[0].tolist()) == "abc"


BAD_IDS: list[tuple[Callable[[pq.Artifact], object], str]] = [
    (lambda _: [[1, 2]], "is a list; a tensor of int64"),
    (lambda artifact: artifact.encode("abc")[0], r"is torch.int64 \[3\]; a tensor"),
    (lambda artifact: artifact.encode("abc").int(), "is torch.int32"),
    (lambda artifact: artifact.encode(""), r"is torch.int64 \[1, 0\]"),
    (lambda artifact: artifact.encode("a" * 33), "has 33 tokens a window, and the model's context is 32"),
    (lambda artifact: artifact.encode("abc") + 272, "the model's tokens are 0 to 271"),
    (lambda artifact: -artifact.encode("abc"), "has -"),
]


@pytest.mark.parametrize(("ids", "message"), BAD_IDS)
def test_ids_that_are_no_windows_are_refused(folder: Path, ids: Callable[[pq.Artifact], object], message: str) -> None:
    artifact = pq.load(folder / "onnx-fp32")
    with pytest.raises(pq.ArgumentError, match=f"^ids: .*{message}"):
        artifact.logits(ids(artifact))  # type: ignore[arg-type]


def test_an_artifact_is_shown_in_a_line_and_in_notebooks_as_a_table(folder: Path) -> None:
    artifact = pq.load(folder / "onnx-int8")
    assert repr(artifact).startswith(f"Artifact('{folder}/onnx-int8': onnx-int8 (onnx), ")
    assert "bits a weight" in repr(artifact)
    words: list[str] = []
    parser = HTMLParser()
    parser.handle_data = words.append  # type: ignore[method-assign, assignment]
    parser.feed(artifact._repr_html_())
    assert {"folder", str(artifact.folder), "variant", "onnx-int8 (onnx)"} <= set(words)


def test_a_folder_of_artifacts_is_named_with_its_artifacts(folder: Path) -> None:
    with pytest.raises(pq.ArtifactError, match="several artifacts\n  give one of: bnb-nf4, gptq-int4, onnx-fp32, onn"):
        pq.load(folder)
    with pytest.raises(pq.ArtifactError, match="no artifact of ours"):
        pq.load(str(folder / "nothing"))


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model and texts of its own."""
    place = tmp_path_factory.mktemp("quantized")
    write_checkpoint(place / "mine")
    write_texts(place)
    return place


def test_a_model_is_quantized_without_a_recipe(quantized: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    artifact = pq.quantize(
        str(quantized / "mine"),
        method="gptq-int4",
        bits=3,
        group_size=32,
        out=str(quantized / "out"),
        text=str(quantized / "evaluation.txt"),
        calibration=str(quantized / "calibration.txt"),
        progress=lambda what, done, total: calls.append((what, done, total)),
    )
    assert artifact.folder == quantized / "out/mine/local/gptq-int3-g32"
    verify_files(artifact)
    assert artifact.settings.model_dump()["bits"] == 3
    assert calls[0] == ("opening source and texts", 0, 2)
    assert ("converting gptq-int3-g32", 1, 2) in calls
    recipe = pq.load_recipe(artifact.folder.parent / "gptq-int3-g32.yaml")
    assert recipe.id == artifact.manifest.recipe_id, "the recipe beside the artifact is the one it was made by"
    again = pq.convert(pq.load_inputs(recipe), "gptq-int3-g32", quantized / "out")
    assert again.manifest == artifact.manifest, "and makes the same artifact, which is there"


def test_progress_is_a_line_a_step_where_there_is_no_terminal(
    quantized: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"method": "onnx-int8", "out": quantized / "out", "text": quantized / "evaluation.txt"}
    for progress in (False, True):
        pq.quantize(quantized / "mine", **arguments, progress=progress)  # type: ignore[arg-type]
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 3 * progress, "two steps, and that the text is short"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "gptq-int5"}, "there is no method 'gptq-int5'; did you mean 'gptq-int"),
        ({"bits": 5}, "gptq has no 5 bits; choose from: 2, 3, 4, 8"),
        ({"method": "bnb-nf4", "bits": 3}, "has 4 bits and no choice"),
        ({"method": "bnb-nf4", "group_size": 32}, "has blocks of 64 and no choice"),
        ({"group_size": 128}, "--group-size: 128 does not divide the model's widths 64 and 256; choose from: 32, 64"),
        ({"group_size": 48}, "--group-size: .*48 is not possible"),
        ({"revision": "step5"}, "is not a hub repository, so it has no revision 'step5'"),
    ],
)
def test_what_a_method_does_not_have_is_refused(
    quantized: Path, arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    arguments = {"out": tmp_path / "out", "text": quantized / "evaluation.txt", "progress": False, **arguments}
    with pytest.raises(pq.PythiaQuantError, match=message):
        pq.quantize(quantized / "mine", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_recipe_is_run_and_its_results_written(whole_run: Path, tmp_path: Path) -> None:
    finished = linked(whole_run, tmp_path / "run")
    recipe = finished / "without-speed.yaml"
    recipe.write_text((finished / "tiny.yaml").read_text().replace("rounds: 1", "rounds: 0"))
    results = pq.run(
        str(recipe),
        str(finished / "out"),
        only="onnx-int8",
        settings={"evaluation.windows": 3},
        threads=1,
        progress=False,
    )
    assert results.names == ["torch-fp16", "torch-bf16", "torch-fp32", "onnx-int8"]
    assert results.protocol.windows == 3
    assert results["onnx-int8"]["kl"].low < results["onnx-int8"]["kl"].high
    assert pq.Results.load(finished / "out/tiny/local") == results
    artifact = pq.load(finished / "out/tiny/local/onnx-int8")
    path = tmp_path / "elsewhere" / "measured.json"
    inputs = pq.load_inputs(pq.load_recipe(recipe), convert=False)
    benchmarked = pq.benchmark(inputs, [artifact], str(path), options=pq.Options([1]))
    assert pq.load_results(path) == benchmarked, "benchmark writes what it measured"
    assert list(path.parent.iterdir()) == [path]


def test_every_method_has_settings_that_a_recipe_takes() -> None:
    from pythia_quant.recipe.methods import recipe_of_method

    for method in METHODS:
        for model in ("demo", "EleutherAI/pythia-410m-deduped", "/"):
            recipe, name = recipe_of_method(model, method)
            assert name == method
            kind = method.partition("-")[0]
            assert recipe.variants([name])[name].format == {"ct": "compressed-tensors"}.get(kind, kind)


def test_load_needs_no_torch(folder: Path) -> None:
    code = f"import sys, pythia_quant; pythia_quant.load({str(folder / 'onnx-int8')!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
