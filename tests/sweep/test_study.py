"""Study files: what they may say, and one clear error for what they may not."""

import os
import re
from pathlib import Path

import pytest
from program import run
from studies import STUDY, write_study

from pythia_quant.core.errors import StudyError
from pythia_quant.model.schedule import learning_rate, tokens_seen
from pythia_quant.model.suite import SIZES
from pythia_quant.sweep.sources import study_sources
from pythia_quant.sweep.study import Study, load_preset, load_study, shipped_studies


def study(folder: Path, sources: str, rest: str = "recipe: by-size\n") -> Study:
    path = folder / "study.yaml"
    path.write_text(f"schema: 1\n{rest}sources:\n{sources}")
    return load_study(path)


def test_sizes_families_seeds_and_revisions_are_expanded(tmp_path: Path) -> None:
    chosen = study(
        tmp_path,
        "  - {sizes: [70m, 160m], families: [plain, deduped], revisions: 'step0,step1000..step3000'}\n"
        "  - {sizes: [14m], seeds: [0, 3], revisions: main}\n"
        "  - {sizes: [160m], seeds: [2], seeds_of: data, revisions: step512}\n",
    )
    sources = study_sources(chosen)
    assert len(sources) == 2 * 2 * 4 + 2 + 1
    names = {source.name for source in sources}
    assert {"EleutherAI/pythia-160m-deduped@step2000", "EleutherAI/pythia-14m", "EleutherAI/pythia-14m-seed3"} <= names
    assert sources[-1].name == "EleutherAI/pythia-160m-data-seed2@step512"
    first = sources[3]
    assert (first.step, first.tokens, first.seed, first.family) == (3000, tokens_seen(3000), 0, "plain")
    assert first.learning_rate == learning_rate(SIZES["70m"], 3000)
    assert sources[-2].step == 143_000


def test_revisions_are_thinned_at_equal_distances_of_the_logarithm(tmp_path: Path) -> None:
    sources = study_sources(study(tmp_path, "  - {sizes: [14m], revisions: all, log_spaced: 6}\n"))
    steps = [source.step for source in sources]
    # log(143,001) / 5 = 2.374: e^2.374 - 1 = 9.7, e^4.748 - 1 = 114, e^7.12 - 1 = 1238, e^9.5 - 1 = 13,308
    assert steps == [0, 8, 128, 1000, 13_000, 143_000]


BY_SIZE = [
    ("{sizes: [150m]}", "no size of the suite"),
    ("{sizes: [14m], revisions: step5}", "step5"),
    ("{sizes: [6.9b], seeds: [1]}", "the suite has no 6.9b plain with the run seed"),
    ("{sizes: [14m], families: [v0]}", "the suite has no 14m v0"),
    ("{sizes: [14m], model: x}", "either sizes of the suite, or one model"),
    ("{sizes: [14m], seed: 3}", "seed describes a model"),
    ("{model: ./nothing}", "needs the size of each model"),
    ("{sizes: [14m], revision: step0}", "unknown key 'revision'"),
]
OTHERS = [
    ("recipe: nonsense", ":2", "there is no recipe"),
    ("recipe: demo\nvariants: [gptq]", ":3", "there is no variant"),
    ("recipe: demo\nsettings: {evaluation.window: 3}", ":3", "window"),
    ("recipe: demo\nkeep: everything", ":3", "results"),
    ("recipe: demo\ndevice: gpu", ":3", "cuda"),
    ("recipe: demo\nlambada: true", ":3", "names no passages"),
]


@pytest.mark.parametrize(
    ("source", "rest", "where", "what"),
    [(source, "recipe: by-size", ":4", what) for source, what in BY_SIZE]
    + [("{sizes: [14m]}", *other) for other in OTHERS],
)
def test_what_cannot_be_is_refused_with_its_line(tmp_path: Path, source: str, rest: str, where: str, what: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"schema: 1\n{rest}\nsources:\n  - {source}\n")
    done = run("sweep", path, "--dry-run", "--out", tmp_path / "out", environment=_offline(tmp_path))
    assert done.returncode == 2, done.stderr
    message = done.stderr[done.stderr.index("error:") :]
    assert what in message
    assert f"study.yaml{where}" in message
    assert not (tmp_path / "out").exists()


def _offline(folder: Path) -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}


def test_a_store_that_cannot_be_written_and_arguments_that_contradict_are_refused(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    (tmp_path / "file").touch()
    on_a_gpu = path.with_name("gpu.yaml")
    on_a_gpu.write_text(f"{STUDY}device: cuda\n")
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        ((path, "--store", tmp_path / "file" / "store"), "cannot be"),
        ((path, "--store", "nonsense://bucket"), "cannot be opened"),
        ((), "STUDY"),
        ((path, "--preset", "seeds"), "STUDY"),
        (("--preset", "sedes"), "seeds"),
        ((path, "--address", "auto"), "--engine ray"),
        ((tmp_path / "none.yaml",), "none.yaml"),
        ((on_a_gpu,), "there is no GPU here"),
    ]
    for arguments, what in cases:
        done = run("sweep", *arguments, "--out", tmp_path / "out")
        assert (done.returncode, what in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_are_of_the_suite(name: str) -> None:
    sources = study_sources(load_preset(name))
    assert len(sources) > 5
    assert all(source.model.startswith("EleutherAI/pythia-") for source in sources)
    with pytest.raises(StudyError, match="there is no study"):
        load_preset(f"{name}x")


def test_the_examples_are_studies(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "studies.md"
    examples = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(examples) == 2
    for example in (STUDY, *examples):
        (tmp_path / "study.yaml").write_text(example)
        assert load_study(tmp_path / "study.yaml").settings.keep == "results"
