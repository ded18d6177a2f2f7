"""Tables of a result file. All statistics are computed here, from the raw samples."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from peers.store import Record
from rich.console import Console
from rich.table import Table

from pythia_quant.bench.conditions import ALLOWED_SHARE
from pythia_quant.bench.statistics import Estimate, differences, mean_of_windows


def print_all(data: Record, console: Console) -> None:
    """Print all that a result file holds."""
    rows = {name: row for name, row in data.get("rows", {}).items() if "drift" in row}
    for bits in sorted({row["bits"] for row in rows.values()}, reverse=True):
        chosen = {name: row for name, row in rows.items() if row["bits"] == bits}
        _print_drift(f"{bits} bits", chosen, data["reference_nll"], console)
        for title, field in (("KL, mnat", "kl"), ("ln perplexity, 1e-3", "nll")):
            _print_differences(f"{bits} bits, {title}: ours less the other", chosen, field, console)
    if timings := data.get("timings"):
        _print_timings(timings, console)
    for name, row in data.get("rows", {}).items():
        if "failed" in row:
            console.print(f"{name}: {row['failed']}", style="red", markup=False)
    _print_conditions(data["conditions"], console)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1), min_width=len(title))
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _print_drift(title: str, rows: dict[str, Record], reference: list[float], console: Console) -> None:
    table = _table(title, "ln ppl\n1e-3", "KL\nmnat", "top-1\n%", "calibrated\nin", "took\ns")
    for name, row in rows.items():
        drift = row["drift"]
        if drift["non_finite"]:
            table.add_row(name, f"{drift['non_finite']:,} logits are not finite")
            continue
        top1 = mean_of_windows([100 * share for share in drift["top1"]])
        seconds = row.get("phases", {}).get("quantize", row.get("seconds"))
        table.add_row(
            name,
            _thousandths(mean_of_windows(differences(drift["nll"], reference))),
            _thousandths(mean_of_windows(drift["kl"])),
            f"{top1.value:.2f} ± {top1.error:.2f}",
            row.get("dtype", ""),
            "" if seconds is None else f"{seconds:.0f}",
        )
    console.print(table)


def _print_differences(title: str, rows: dict[str, Record], field: str, console: Console) -> None:
    """Print how much more our first two rows drift than each of the others, paired by window."""
    samples = {name: row["drift"][field] for name, row in rows.items() if not row["drift"]["non_finite"]}
    mine = [name for name in samples if rows[name]["ours"]][:2]
    others = [name for name in samples if name not in mine]
    if not mine or not others:
        return
    table = _table(title, *mine)
    for other in others:
        table.add_row(
            other, *(_thousandths(mean_of_windows(differences(samples[name], samples[other]))) for name in mine)
        )
    console.print(table)


def _thousandths(value: Estimate) -> str:
    return f"{1e3 * value.value:+.3f} ± {1e3 * value.error:.3f}"


_Measure = Callable[[Record], float]
_MEASURES: dict[str, _Measure] = {
    "process\ns": lambda record: float(record["seconds"]),
    "conversion\ns": lambda record: sum(
        seconds for phase, seconds in record["phases"].items() if phase not in ("open", "check")
    ),
    "peak\nMB": lambda record: record["peak_bytes"] / 1e6,
    "above\nimports, MB": lambda record: (record["peak_bytes"] - record["held_bytes"]) / 1e6,
}


def _print_timings(timings: dict[str, dict[str, Record]], console: Console) -> None:
    table = _table("Quantization: medians of the rounds", *_MEASURES, "phases, s", "others\n%", "rounds")
    measured: dict[str, dict[str, Record]] = {}
    for name, rounds in timings.items():
        good = {number: record for number, record in rounds.items() if "seconds" in record}
        for number, record in rounds.items():
            if "failed" in record:
                console.print(f"{name}, round {number}: {record['failed']}", style="red", markup=False)
        if not good:
            continue
        measured[name] = good
        records = list(good.values())
        cells = [f"{median(map(measure, records)):,.1f}" for measure in _MEASURES.values()]
        phases = [
            f"{phase} {median(record['phases'][phase] for record in records):.1f}" for phase in records[0]["phases"]
        ]
        disturbed = max(record["others"] for record in records)
        table.add_row(name, *cells, ", ".join(phases), f"{100 * disturbed:.0f}", str(len(good)))
    console.print(table)
    ratios = _table("Ours ÷ theirs within a round: median (least–most)", *_MEASURES)
    for name, mine in measured.items():
        for other, theirs in measured.items():
            if next(iter(mine.values()))["ours"] and not next(iter(theirs.values()))["ours"]:
                ratios.add_row(f"{name} ÷ {other}", *(_ratio(mine, theirs, get) for get in _MEASURES.values()))
    if ratios.row_count:
        console.print(ratios)
    console.print(
        "Process: a fresh one from start to end, imports included; ours opens source and texts, checks and hashes too. "
        "Conversion: ours write, which reads the source and saves; theirs load, quantize and save.\n"
        "Peak: VmHWM, and less what was held with libraries imported. Others: the most processor time that anything "
        f"else took; above {ALLOWED_SHARE:.0%} it disturbed."
    )


def _ratio(mine: dict[str, Record], theirs: dict[str, Record], measure: _Measure) -> str:
    ratios = [measure(mine[number]) / measure(theirs[number]) for number in mine if number in theirs]
    return f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else ""


def _print_conditions(conditions: Record, console: Console) -> None:
    console.print(
        f"\n{conditions['cpu']}, {conditions['threads']} threads. {conditions['model']}; calibration "
        f"{_windows(conditions['calibration'])}, evaluation {_windows(conditions['evaluation'])}. "
        "± standard error, from window means; differences are paired by window.",
        markup=False,
    )


def _windows(record: Record) -> str:
    return f"{record['shape'][0]} windows of {record['shape'][1]} of {record['text']}"
