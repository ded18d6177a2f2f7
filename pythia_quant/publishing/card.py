"""The model card: what an artifact is, how to run it, how good it is; then where it comes from, and what to cite."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from pythia_quant.bench.agreement import describe_published
from pythia_quant.bench.gates import describe_gate
from pythia_quant.bench.metrics import METRICS
from pythia_quant.core.foreign_files import SIGNATURE
from pythia_quant.core.settings import VariantSettings
from pythia_quant.model import suite
from pythia_quant.model.source_name import DEMO
from pythia_quant.publishing.anonymize import public_recipe
from pythia_quant.publishing.clients import OURS, snippets
from pythia_quant.publishing.foreign_markdown import (
    PARTS,
    Original,
    code,
    fenced,
    metadata,
    plain,
    quoted,
    sections,
    split,
)
from pythia_quant.publishing.metadata import base_name, front_matter
from pythia_quant.publishing.project import Project, this_project
from pythia_quant.publishing.storage_words import TITLES, bits, storage, warnings
from pythia_quant.recipe.recipe import SOURCE_ROWS
from pythia_quant.recipe.variants import parse_variant
from pythia_quant.records.manifest import Manifest
from pythia_quant.records.results import RESULTS, Results, Row
from pythia_quant.report.facts import (
    PERCENTILES,
    latency_line,
    machine_line,
    reference_line,
    remarks,
    size_line,
    text_line,
)
from pythia_quant.report.numbers import format_value
from pythia_quant.report.tables import escape_markdown, markdown_table

_PYTHIA = """\
@misc{biderman2023pythia,
  title  = {Pythia: A Suite for Analyzing Large Language Models Across Training and Scaling},
  author = {Biderman, Stella and Schoelkopf, Hailey and Anthony, Quentin and Bradley, Herbie and O'Brien, Kyle and
            Hallahan, Eric and Khan, Mohammad Aflah and Purohit, Shivanshu and Prashanth, USVSN Sai and Raff, Edward and
            Skowron, Aviya and Sutawika, Lintang and van der Wal, Oskar},
  year   = {2023},
  eprint = {2304.01373},
  archivePrefix = {arXiv}
}"""

_GPTQ = """\
@misc{frantar2022gptq,
  title  = {GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers},
  author = {Frantar, Elias and Ashkboos, Saleh and Hoefler, Torsten and Alistarh, Dan},
  year   = {2022},
  eprint = {2210.17323},
  archivePrefix = {arXiv}
}"""

_QLORA = """\
@misc{dettmers2023qlora,
  title  = {QLoRA: Efficient Finetuning of Quantized LLMs},
  author = {Dettmers, Tim and Pagnoni, Artidoro and Holtzman, Ari and Zettlemoyer, Luke},
  year   = {2023},
  eprint = {2305.14314},
  archivePrefix = {arXiv}
}"""


def citations(settings: VariantSettings) -> str:
    """Return BibTeX of the paper on Pythia and, if the variant's method has a paper, of that one."""
    method = _QLORA if settings.format == "bnb" else ""
    if settings.calibrates or settings.takes_codes_of() is not None:
        method = _GPTQ
    return "\n\n".join(filter(None, (_PYTHIA, method)))


_HUB = "https://huggingface.co"

_DRIFT = {
    "perplexity": "perplexity", "ppl_drift": "drift", "kl": "KL", "top1": "top-1", "lambada_accuracy": "LAMBADA",
    "bits_per_weight": "a weight", "disk": "disk",
}  # fmt: skip

_SPEED = {"prefill": "prefill", "decode": "decode", "speedup_baseline": "× baseline", "memory": "peak memory"}

_AS_RUN = {"kl": "KL divergence", "ppl_drift": "perplexity drift", "top1": "top-1 agreement"}

_WEIGHTS = {"kl_weights": "KL divergence", "ppl_drift_weights": "perplexity drift"}

_LAMBADA = {"lambada_accuracy": "accuracy", "lambada_perplexity": "perplexity of the last word"}


_REFERENCE = SOURCE_ROWS[-1]
"""The row of the source in fp32, which drift is measured against."""


class Raw(str):
    """Text that is Markdown. Other text is escaped when it is put into the card."""


@dataclass(frozen=True)
class Sister:
    """Another variant of the same source, which is published together with the card's.

    Attributes:
        repo_id: the repository that it is published in.
        revision: the branch that it is published on.
        manifest: its manifest.
    """

    repo_id: str
    revision: str
    manifest: Manifest


def render_card(
    manifest: Manifest,
    results: Results,
    *,
    repo_id: str,
    revision: str = "main",
    original: str | None,
    despite_gate: str = "",
    sample: str = "",
    sisters: Sequence[Sister] = (),
    signed: bool = False,
    project: Project | None = None,
) -> str:
    """Return the card as Markdown with front matter.

    Args:
        manifest: the manifest that is published beside the card.
        results: the results that are published beside it, with the variant's row and those of the unquantized source.
        repo_id: the repository that it is published in.
        revision: the branch that it is published on.
        original: the source's own card, which is quoted; None if the source has none.
        despite_gate: the reason to publish although a gate failed or is undecided; empty if all gates passed.
        sample: the text that our runtime printed for the card's first command; empty if it was not run.
        sisters: the other variants that are published together with this one.
        signed: whether a signature and a statement of origin are published, too.
        project: this project; by default, the installed package.
    """
    settings = parse_variant(manifest.settings)
    project = project or this_project()
    results = _concerning(results, manifest.variant)
    row = results.row(manifest.variant)
    before = split(original) if original is not None else Original("", "")
    url = results_url(repo_id, revision)
    front = front_matter(manifest, results, settings, metadata(before.front), repo_id=repo_id, results_url=url)
    base = base_name(manifest)
    graph = next((name for name in manifest.files if name.endswith(".onnx")), "")
    programs = list(snippets(settings, repo_id, revision, graph, project))
    return _environment().get_template("card.md.jinja").render(
        front=Raw(front.to_yaml()), title=repo_id.rpartition("/")[2], repo_id=repo_id, revision=revision,
        manifest=manifest, settings=settings, results=results, row=row, format=TITLES[settings.format],
        base=base, base_url=Raw(_commit_url(base, manifest)), demo=manifest.source.model == DEMO,
        run=_values_line(row, results, _AS_RUN), weights=_values_line(row, results, _WEIGHTS),
        lambada=_values_line(row, results, _LAMBADA), published=describe_published(results),
        fp16_bytes=2 * manifest.source.parameters, outside=_share_outside_layers(manifest), bits=bits(settings),
        storage=storage(settings), warnings=warnings(settings),
        drift_table=Raw(markdown_table(results, _measured(_DRIFT, results))),
        speed_table=Raw(markdown_table(results, _measured(_SPEED, results))) if _any_speed(results) else "",
        text_line=text_line(results), reference_line=reference_line(results), latency_line=latency_line(results),
        size_line=size_line(results), machine_line=machine_line(results), percentiles=PERCENTILES,
        remarks=remarks(results), describe_gate=describe_gate, despite_gate=despite_gate,
        project=project, ours=next(one for one in programs if one.name == OURS), sample=sample,
        memory=_memory_line(row), signed=_check_commands(repo_id, revision) if signed else "",
        others=[one for one in programs if one.name != OURS], sisters=[_sister_line(one) for one in sisters],
        recipe=public_recipe(manifest),
        file_hashes=_hashes({name: file.sha256 for name, file in manifest.files.items()}),
        versions=", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        commands=_commands(manifest.variant, repo_id, revision), citations=citations(settings),
        parts=PARTS, quotations=sections(before.body), has_original=original is not None, before=before,
    )  # fmt: skip


def results_url(repo_id: str, revision: str) -> str:
    """Return the address of the result file of a published artifact, with its raw samples."""
    return f"{_HUB}/{quote(repo_id)}/blob/{quote(revision, safe='')}/{RESULTS}"


def _environment() -> Environment:
    environment = Environment(  # noqa: S701 - Markdown, not HTML: what is not Raw is escaped by finalize
        loader=PackageLoader("pythia_quant.publishing", "."), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, finalize=_escape,
    )  # fmt: skip
    environment.filters |= {
        "code": lambda text: Raw(code(text)),
        "fenced": _fenced,
        "quoted": lambda text: Raw(quoted(text)),
        "hashes": _hashes,
        "raw": Raw,
        "count": lambda number: f"{number:,}",
        "mb": lambda count: f"{count / 1e6:,.1f} MB",
    }
    return environment


def _escape(value: object) -> str:
    return value if isinstance(value, Raw) else escape_markdown(plain(str(value)))


def _fenced(text: str, language: str) -> Raw:
    return Raw(fenced(text, language))


def _hashes(digests: Mapping[str, str]) -> Raw:
    """Return hashes as ``sha256sum --check`` reads them."""
    return Raw(fenced("\n".join(f"{digest}  {' '.join(name.split())}" for name, digest in digests.items())))


def _commands(variant: str, repo_id: str, revision: str) -> str:
    """Return the commands that make the artifact again from the recipe that is published with it."""
    at = f" --revision {shlex.quote(revision)}" if revision != "main" else ""
    return (
        f"hf download {shlex.quote(repo_id)} recipe.yaml{at} --local-dir .\n"
        f"pythia-quant run recipe.yaml --only {shlex.quote(variant)}"
    )


def _check_commands(repo_id: str, revision: str) -> str:
    """Return the commands that check the signature: ours, and those of the library that made it."""
    at, branch = (f"@{revision}", f" --revision {shlex.quote(revision)}") if revision != "main" else ("", "")
    return (
        f"pythia-quant verify {shlex.quote(f'hf://{repo_id}{at}')} --key signing.pub\n\n"
        f"hf download {shlex.quote(repo_id)}{branch} --local-dir here\n"
        f"model_signing verify key here --signature here/{SIGNATURE} --public-key signing.pub"
    )


def _concerning(results: Results, variant: str) -> Results:
    """Return results with the rows of the baseline, the variant and the reference, in this order, and no others."""
    names = dict.fromkeys([results.baseline, variant, _REFERENCE])
    rows = [row for name in names for row in results.rows if row.name == name]
    return results.model_copy(update={"rows": rows})


def _memory_line(row: Row) -> str:
    """Return how much memory the processes of a measurement took at most; empty if none was run."""
    if not row.speeds:
        return ""
    processes = row.speeds[0].processes
    peak = max(process.peak_rss_bytes for process in processes)
    model = max(process.peak_rss_bytes - process.start_rss_bytes for process in processes)
    device = max((process.peak_device_bytes or 0 for process in processes), default=0)
    on_device = f", and {device / 1e6:,.0f} MB of the accelerator's" if device else ""
    return f"{peak / 1e6:,.0f} MB, of which the model and its run take {model / 1e6:,.0f} MB{on_device}"


def _sister_line(sister: Sister) -> Raw:
    """Return one item of the list of variants."""
    manifest, at_branch = sister.manifest, sister.revision != "main"
    settings = parse_variant(manifest.settings)
    url = f"{_HUB}/{quote(sister.repo_id)}" + (f"/tree/{quote(sister.revision, safe='')}" if at_branch else "")
    words = ", ".join(
        filter(None, (TITLES[settings.format], bits(settings), f"{manifest.bytes_on_disk / 1e6:,.1f} MB"))
    )
    name = f"{sister.repo_id}@{sister.revision}" if at_branch else sister.repo_id
    return Raw(f"[{_escape(name)}]({url}) ({code(manifest.variant)}): {words}")


def _measured(columns: Mapping[str, str], results: Results) -> dict[str, str]:
    """Return the columns in which at least one row has a value."""
    rows = results.rows
    return {key: label for key, label in columns.items() if any(METRICS[key].value_of(row, results) for row in rows)}


def _any_speed(results: Results) -> bool:
    return any(row.speeds for row in results.rows)


def _values_line(row: Row, results: Results, labels: Mapping[str, str]) -> str:
    """Return a row's values with intervals and units in one line; values that were not measured are left out."""
    parts = []
    for key, label in labels.items():
        metric = METRICS[key]
        value = metric.value_of(row, results)
        if value is not None:
            text, interval = format_value(metric, row, value)
            between = f" ± {interval[1:]}" if interval.startswith("±") else f" ({interval})" if interval else ""
            parts.append(f"{label} {text}{between} {metric.unit}".rstrip() if text[-1].isdigit() else f"{label} {text}")
    return ", ".join(parts)


def _share_outside_layers(manifest: Manifest) -> float:
    """Return the share of the parameters that embeddings and head have; 0 if the model is not one of the suite."""
    member = suite.find(manifest.source.model)
    if member is None or member.size.parameters != manifest.source.parameters:
        return 0
    return 1 - member.size.non_embedding_parameters / member.size.parameters


def _commit_url(base: str | None, manifest: Manifest) -> str:
    return f"{_HUB}/{quote(base)}/tree/{quote(manifest.source.commit or '', safe='')}" if base else ""
