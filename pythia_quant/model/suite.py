"""The Pythia suite as data: sizes, families, seeds, revisions, and the names it had before January 2023.

Sources: the model cards and README of EleutherAI/pythia, its models/*.yml, and arXiv 2304.01373, table 1; of the
PolyPythias their cards and arXiv 2503.09543. Every count here is recomputed from its shape by the tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pythia_quant.core.errors import SourceError
from pythia_quant.core.text import short

ORGANIZATION = "EleutherAI"

CONTEXT = 2048

LAST_STEP = 143_000


@dataclass(frozen=True)
class Size:
    """One model size and its published parameter counts (including and excluding both embedding matrices).

    The largest learning rate is that of models/*.yml; of 1b, README and cards round it to 3e-4.
    """

    name: str
    layers: int
    width: int
    heads: int
    vocabulary: int
    parameters: int
    non_embedding_parameters: int
    max_learning_rate: float


SIZES = {
    size.name: size
    for size in (
        Size("14m", 6, 128, 4, 50304, 14_067_712, 1_189_888, 1e-3),
        Size("31m", 6, 256, 8, 50304, 30_494_720, 4_739_072, 1e-3),
        Size("70m", 6, 512, 8, 50304, 70_426_624, 18_915_328, 1e-3),
        Size("160m", 12, 768, 12, 50304, 162_322_944, 85_056_000, 6e-4),
        Size("410m", 24, 1024, 16, 50304, 405_334_016, 302_311_424, 3e-4),
        Size("1b", 16, 2048, 8, 50304, 1_011_781_632, 805_736_448, 2.5e-4),
        Size("1.4b", 24, 2048, 16, 50304, 1_414_647_808, 1_208_602_624, 2e-4),
        Size("2.8b", 32, 2560, 32, 50304, 2_775_208_960, 2_517_652_480, 1.6e-4),
        Size("6.9b", 32, 4096, 32, 50432, 6_857_302_016, 6_444_163_072, 1.2e-4),
        Size("12b", 36, 5120, 40, 50688, 11_846_072_320, 11_327_027_200, 1.2e-4),
    )
}

FAMILIES = ("", "-deduped", "-v0", "-deduped-v0")
"""Suffixes of a repository's name: trained on the Pile, on the deduplicated Pile, and the first release of each."""

_SIZES_BEFORE_2023 = {
    "19m": "70m", "125m": "160m", "350m": "410m", "800m": "1b", "1.3b": "1.4b", "2.7b": "2.8b", "6.7b": "6.9b",
    "13b": "12b",
}  # fmt: skip


SeedKind = Literal["run", "weight", "data"]
"""What a seed of the PolyPythias changes: the whole run, only the first weights, or only the order of the data."""

_SEED_SUFFIXES: dict[SeedKind, str] = {"run": "-seed", "weight": "-weight-seed", "data": "-data-seed"}

_SEEDS: dict[SeedKind, tuple[tuple[str, ...], int]] = {
    "run": (("14m", "31m", "70m", "160m", "410m"), 9), "weight": (("160m",), 3), "data": (("160m",), 3),
}  # fmt: skip
"""The sizes that have seeds, and the last seed; the first is 1. The families themselves have the seed 1234."""

_UNCONFIRMED = (f"{ORGANIZATION}/pythia-160m-weight-seed3",)
"""Seeds that the cards of others name, and of which we know neither a card nor a thread that has opened them."""


@dataclass(frozen=True)
class Member:
    """One repository of the suite.

    Attributes:
        size: its size.
        family: the suffix of its family; empty for a seed, whose text is the Pile.
        seed: the seed of the PolyPythias; None for the families themselves.
        seed_kind: what the seed changes; None without a seed.
    """

    size: Size
    family: str
    seed: int | None = None
    seed_kind: SeedKind | None = None

    @property
    def repo_id(self) -> str:
        """Name of the repository on the hub."""
        seed = f"{_SEED_SUFFIXES[self.seed_kind]}{self.seed}" if self.seed_kind else ""
        return f"{ORGANIZATION}/pythia-{self.size.name}{self.family}{seed}"

    @property
    def confirmed(self) -> bool:
        """Whether more than the cards of other repositories says that the hub has it."""
        return self.repo_id not in _UNCONFIRMED

    @property
    def steps(self) -> tuple[int, ...]:
        """Training steps published as branches ``step<N>``; the v0 families lack those before step 1000."""
        early = () if self.family.endswith("-v0") else (0, *(2**i for i in range(10)))
        return early + tuple(range(1000, LAST_STEP + 1, 1000))


def members() -> list[Member]:
    """Return every repository of the suite: the families, then the seeds. The v0 families have no 14m and 31m."""
    families = [
        Member(size, family)
        for family in FAMILIES
        for size in SIZES.values()
        if not (family.endswith("-v0") and size.name in ("14m", "31m"))
    ]
    return families + [
        Member(SIZES[size], "", seed, kind)
        for kind, (sizes, last) in _SEEDS.items()
        for size in sizes
        for seed in range(1, last + 1)
    ]


_NOTICES = {
    "pythia-14m": "was replaced on 2026-02-27 by a model trained on the Pile; its weights before that, trained on the "
    "deduplicated Pile, are EleutherAI/pythia-14m-deduped now",
    "pythia-31m": "was trained on the deduplicated Pile, as its card says; its seeds were trained on the Pile",
    **{
        f"pythia-160m-weight-seed{seed}": "does not continue from its own step0, as EleutherAI/pythia issue 203 reports"
        for seed in (1, 2)
    },
}
"""What the users of a repository should know, by its name: from the cards of the first two, and from a thread."""


def resolve(repo_id: str) -> tuple[str, str | None]:
    """Map a repository name from before January 2023 to the one that serves those weights now.

    Returns:
        The repository to use, and a notice when it is not `repo_id` itself, or not what its name says.
    """
    organization, _, name = repo_id.rpartition("/")
    if organization != ORGANIZATION or not name.startswith("pythia-"):
        return repo_id, None
    if name in _NOTICES:
        return repo_id, f"{repo_id} {_NOTICES[name]}"
    size, dash, rest = name.removeprefix("pythia-").partition("-")
    if size not in _SIZES_BEFORE_2023:
        return repo_id, None
    family = f"-{rest.removesuffix('v0').removesuffix('-')}" if dash and rest != "v0" else ""
    current = f"{ORGANIZATION}/pythia-{_SIZES_BEFORE_2023[size]}{family}-v0"
    return current, f"{repo_id} is a name from before January 2023; those weights are {current} now"


def find(repo_id: str) -> Member | None:
    """Return the suite's member called `repo_id` (an old name included), or None for a model outside the suite."""
    current, _ = resolve(repo_id)
    return next((member for member in members() if member.repo_id == current), None)


def step_of(revision: str) -> int | None:
    """Return N of a revision ``step<N>``, None for any other."""
    step = re.fullmatch("step([0-9]{1,9})", revision)
    return int(step[1]) if step else None


def closest(step: int, steps: Iterable[int]) -> int:
    """Return the one of `steps` that is nearest to `step`."""
    return min(steps, key=lambda published: abs(published - step))


def check_revision(repo_id: str, revision: str) -> None:
    """Refuse ``step<N>`` where the suite never published that step. Other revisions and models pass.

    Raises:
        SourceError: naming the nearest published step.
    """
    member, step = find(repo_id), step_of(revision)
    if member is None or step is None or step in member.steps:
        return
    raise SourceError(
        f"{member.repo_id} was never published at {revision}",
        hint=f"the nearest published revision is step{closest(step, member.steps)}; there are {len(member.steps)}",
    )


@dataclass(frozen=True)
class KnownFault:
    """Published steps without weights, or with those of another revision, as a thread on GitHub reports them.

    Attributes:
        repositories: the repositories with the fault.
        steps: the steps with the fault.
        serves: the revision whose weights these steps serve; None if they have no weights.
        issue: the thread.
        shard: the only shard with the fault, counted from 1; None when all shards have it.
    """

    repositories: tuple[str, ...]
    steps: frozenset[int]
    serves: str | None
    issue: str
    shard: int | None = None


_EARLY = tuple(member.repo_id for member in members() if 0 in member.steps and member.seed is None)

KNOWN_FAULTS = (
    KnownFault(
        ("EleutherAI/pythia-2.8b",),
        frozenset(
            {0, *(2**i for i in range(10)), *range(1000, 53_001, 1000), *range(60_000, 140_001, 10_000)}
            | {55_000, 65_000, 103_000}
        ),
        "main",
        "EleutherAI/pythia issue 205",
    ),
    KnownFault(
        ("EleutherAI/pythia-2.8b",),
        frozenset({54_000, *range(56_000, 60_000, 1000), *range(61_000, 65_000, 1000)}),
        f"step{LAST_STEP}",
        "EleutherAI/pythia issue 205",
    ),
    KnownFault(("EleutherAI/pythia-12b",), frozenset({50_000, 58_000}), "main", "EleutherAI/pythia issue 206", shard=1),
    # Not an upload's fault: warm-up begins with a learning rate of 0, so the first update changes nothing
    # (EleutherAI/gpt-neox issue 1373). Of step 2 the thread gives no cause.
    KnownFault(_EARLY, frozenset({1}), "step0", "EleutherAI/pythia issue 83"),
    KnownFault(_EARLY, frozenset({2}), "step0", "EleutherAI/pythia issue 198"),
    *(
        KnownFault((f"{ORGANIZATION}/pythia-410m-seed{seed}",), frozenset({step}), None, "EleutherAI/pythia issue 202")
        for seed, step in ((9, 40_000), (6, 88_000), (2, 111_000))
    ),
)
"""Faults that others reported; they are not checked again here. The first one that fits a revision is shown."""


def known_fault(repo_id: str, revision: str) -> KnownFault | None:
    """Return what is known to be wrong with the weights of a revision, None when nothing is."""
    step = step_of(revision)
    return next((fault for fault in KNOWN_FAULTS if repo_id in fault.repositories and step in fault.steps), None)


def fault_notice(repo_id: str, revision: str) -> str:
    """Return one sentence about :func:`known_fault`; empty when nothing is known."""
    fault = known_fault(repo_id, revision)
    if fault is None:
        return ""
    if fault.serves is None:
        return f"{repo_id}@{revision} is known to have no weights ({fault.issue})"
    part = f"shard {fault.shard} of " if fault.shard else ""
    return f"{repo_id}@{revision} is known to serve {part}the weights of {fault.serves} ({fault.issue})"


_RANGE = re.compile(r"(?:all|step(\d{1,9})\.\.step(\d{1,9}))(?:/([1-9]\d{0,8}))?", re.ASCII)

_FORMS = "give one such as step1000..step3000, step1000..step143000/10 (every tenth of them), or all"


def names_several(text: str) -> bool:
    """Say whether `text` is more than the name of one revision: a list or a range."""
    return "," in text or _is_range(text)


def parse_revisions(text: str, published: Sequence[int] | None) -> list[str]:
    """Return the revisions that `text` names, each once: ``step0,step512``, ``step1000..step3000``, ``all``.

    A range has both its ends and the published steps between; with ``/10`` the first of them and every tenth after it.

    Args:
        text: revisions and ranges, with commas between.
        published: the steps there are, ascending; None when they are not known.

    Raises:
        SourceError: a step was not published (the nearest is named), a range is none, or `published` is not known.
    """
    return list(dict.fromkeys(one for item in text.split(",") for one in _revisions(item.strip(), published)))


def printed_steps(steps: Iterable[int], published: Iterable[int]) -> str:
    """Return steps as a short text such as ``0–512, 1000–53000, 55000``: ranges are of neighbours in `published`.

    The early steps, powers of two, and the later ones are never in one range.
    """
    place = {step: index for index, step in enumerate(sorted(published))}
    runs: list[list[int]] = []
    for step in sorted(steps):
        last = runs[-1][-1] if runs else None
        if last is not None and place[step] == place[last] + 1 and (last < 1000) == (step < 1000):
            runs[-1].append(step)
        else:
            runs.append([step])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _is_range(text: str) -> bool:
    return ".." in text or text.partition("/")[0] == "all"


def _revisions(item: str, published: Sequence[int] | None) -> list[str]:
    if not item:
        raise SourceError("a list of revisions has an empty place", hint="give one such as step0,step512")
    if not _is_range(item):
        step = step_of(item)
        if published is not None and step is not None:
            _check(step, published)
        return [item]
    parts = _RANGE.fullmatch(item)
    if parts is None:
        raise SourceError(f"{short(item)} is no range of revisions", hint=_FORMS)
    if published is None:
        raise SourceError(
            f"{short(item)} needs to know which steps there are, and the model is not of the suite",
            hint="give a list such as step0,step512; pythia-quant source MODEL --steps all shows what a hub has",
        )
    first, last = (int(end) if end else None for end in parts.group(1, 2))
    if first is None or last is None:
        within = list(published)
    else:
        _check(first, published)
        _check(last, published)
        if first > last:
            raise SourceError(f"{short(item)} ends before it begins", hint=_FORMS)
        within = [step for step in published if first <= step <= last]
    return [f"step{step}" for step in within[:: int(parts[3] or 1)]]


def _check(step: int, published: Sequence[int]) -> None:
    if step not in published:
        raise SourceError(
            f"step{step} was never published",
            hint=f"the nearest published revision is step{closest(step, published)}; there are {len(published)}",
        )
