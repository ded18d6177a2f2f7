import re

import pytest

from pythia_quant.core.errors import SourceError
from pythia_quant.model import suite
from pythia_quant.model.architecture import Architecture


@pytest.mark.parametrize("size", suite.SIZES.values(), ids=lambda size: size.name)
def test_published_parameter_counts_follow_from_the_shape(size: suite.Size) -> None:
    v, d, layers = size.vocabulary, size.width, size.layers
    assert size.parameters == 2 * v * d + layers * (12 * d**2 + 13 * d) + 2 * d
    assert size.non_embedding_parameters == size.parameters - 2 * v * d
    shape = Architecture(layers, d, size.heads, 4 * d, v, 2048, d // size.heads // 4, 1e4, 1e-5)
    assert (shape.parameters, shape.non_embedding_parameters) == (size.parameters, size.non_embedding_parameters)
    elements = 0
    for tensor_shape in shape.tensor_shapes().values():
        product = 1
        for extent in tensor_shape:
            product *= extent
        elements += product
    assert elements == size.parameters


def test_the_families_have_the_sizes_and_revisions_that_were_published() -> None:
    members = [member for member in suite.members() if member.seed is None]
    assert len(members) == 10 + 10 + 8 + 8
    counts = {member.family: len(member.steps) for member in members}
    assert counts == {"": 154, "-deduped": 154, "-v0": 143, "-deduped-v0": 143}
    assert members[0].steps[:12] == (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)


def test_the_polypythias_have_the_seeds_that_were_published() -> None:
    seeds = [member for member in suite.members() if member.seed is not None]
    names = [member.repo_id.removeprefix("EleutherAI/pythia-") for member in seeds]
    assert len(set(names)) == len(names) == 5 * 9 + 3 + 3
    assert [name for name in names if name.startswith("160m")] == [
        *(f"160m-seed{seed}" for seed in range(1, 10)),
        *(f"160m-{kind}-seed{seed}" for kind in ("weight", "data") for seed in (1, 2, 3)),
    ]
    assert {len(member.steps) for member in seeds} == {154}
    assert {member.size.name for member in seeds} == {"14m", "31m", "70m", "160m", "410m"}
    assert [member.repo_id for member in suite.members() if not member.confirmed] == [
        "EleutherAI/pythia-160m-weight-seed3"
    ]


def test_a_seed_is_found_by_its_name() -> None:
    found = suite.find("EleutherAI/pythia-160m-data-seed2")
    assert found is not None
    assert (found.seed, found.seed_kind, found.size.parameters) == (2, "data", 162_322_944)
    for absent in ("160m-seed10", "160m-seed0", "1b-seed1", "70m-data-seed1", "160m-deduped-seed1", "19m-seed1"):
        assert suite.find(f"EleutherAI/pythia-{absent}") is None
    with pytest.raises(SourceError, match="step3000"):
        suite.check_revision("EleutherAI/pythia-14m-seed1", "step3100")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pythia-14m", "replaced on 2026-02-27 .* are EleutherAI/pythia-14m-deduped now"),
        ("pythia-31m", "deduplicated Pile"),
        ("pythia-160m-weight-seed1", "does not continue from its own step0.*issue 203"),
    ],
)
def test_a_repository_that_is_not_what_its_name_says_has_a_notice(name: str, told: str) -> None:
    resolved, notice = suite.resolve(f"EleutherAI/{name}")
    assert resolved == f"EleutherAI/{name}"
    assert re.search(told, notice or "")
    assert suite.resolve(f"someone/{name}") == (f"someone/{name}", None)
    assert suite.resolve("EleutherAI/pythia-14m-deduped")[1] is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("EleutherAI/pythia-19m", "EleutherAI/pythia-70m-v0"),
        ("EleutherAI/pythia-350m-deduped", "EleutherAI/pythia-410m-deduped-v0"),
        ("EleutherAI/pythia-13b-deduped-v0", "EleutherAI/pythia-12b-deduped-v0"),
        ("EleutherAI/pythia-1.3b-v0", "EleutherAI/pythia-1.4b-v0"),
    ],
)
def test_a_name_from_before_2023_resolves_to_v0_with_a_notice(old: str, new: str) -> None:
    resolved, notice = suite.resolve(old)
    assert resolved == new
    assert notice is not None and old in notice and new in notice  # noqa: PT018
    assert suite.find(old) is not None


@pytest.mark.parametrize("name", ["EleutherAI/pythia-160m", "someone/pythia-19m", "EleutherAI/gpt-neo-125m", "local"])
def test_other_names_stay_as_they_are(name: str) -> None:
    assert suite.resolve(name) == (name, None)


def test_a_step_that_was_never_published_is_refused_with_the_nearest() -> None:
    suite.check_revision("EleutherAI/pythia-160m", "step3000")
    suite.check_revision("someone/else", "step3")
    with pytest.raises(SourceError, match="step3000"):
        suite.check_revision("EleutherAI/pythia-160m", "step3100")
    with pytest.raises(SourceError, match="step1000"):
        suite.check_revision("EleutherAI/pythia-160m-v0", "step512")


def test_known_faults_are_as_many_as_the_threads_count() -> None:
    of_main, of_the_last, shards, first, second, *holes = suite.KNOWN_FAULTS
    assert (len(of_main.steps), len(of_the_last.steps)) == (76, 9)  # and step143000 itself: 86
    assert not of_main.steps & of_the_last.steps
    assert (sorted(shards.steps), shards.shard) == ([50_000, 58_000], 1)
    assert len(first.repositories) == len(second.repositories) == 20
    assert len(holes) == 3
    for fault in suite.KNOWN_FAULTS:
        for repo_id in fault.repositories:
            member = suite.find(repo_id)
            assert member is not None
            assert fault.steps < set(member.steps)


@pytest.mark.parametrize(
    ("repo_id", "revision", "serves"),
    [
        ("EleutherAI/pythia-2.8b", "step1", "main"),
        ("EleutherAI/pythia-2.8b", "step53000", "main"),
        ("EleutherAI/pythia-2.8b", "step54000", "step143000"),
        ("EleutherAI/pythia-2.8b", "step66000", None),
        ("EleutherAI/pythia-2.8b", "step143000", None),
        ("EleutherAI/pythia-2.8b", "main", None),
        ("EleutherAI/pythia-2.8b-deduped", "step53000", None),
        ("EleutherAI/pythia-14m", "step1", "step0"),
        ("EleutherAI/pythia-14m", "step0", None),
        ("someone/pythia-14m", "step1", None),
    ],
)
def test_whose_weights_a_revision_is_known_to_serve(repo_id: str, revision: str, serves: str | None) -> None:
    fault = suite.known_fault(repo_id, revision)
    assert (fault.serves if fault else None) == serves


@pytest.mark.parametrize(("seed", "step"), [(9, 40_000), (6, 88_000), (2, 111_000)])
def test_steps_without_weights_are_told(seed: int, step: int) -> None:
    repo_id = f"EleutherAI/pythia-410m-seed{seed}"
    notice = f"{repo_id}@step{step} is known to have no weights (EleutherAI/pythia issue 202)"
    assert suite.fault_notice(repo_id, f"step{step}") == notice
    assert suite.fault_notice(repo_id, f"step{step + 1000}") == ""


@pytest.mark.parametrize(
    ("revision", "step"),
    [("step0", 0), ("step143000", 143_000), ("main", None), ("step", None), ("step²", None), ("step-1", None)],
)
def test_a_step_is_read_from_its_revision(revision: str, step: int | None) -> None:
    assert suite.step_of(revision) == step
