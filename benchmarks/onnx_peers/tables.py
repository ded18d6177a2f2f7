"""Tables of a result file. All statistics are computed here, from the raw samples."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import protocol
from peers.store import Record
from rich.console import Console
from rich.table import Table
from sizes import SizeStore

from pythia_quant.bench.conditions import ALLOWED_SHARE
from pythia_quant.bench.statistics import spread


def print_size(store: SizeStore, size: str, names: list[str], console: Console) -> None:
    """Print what was measured of one size: a row a subject."""
    table = Table(title=f"{size}, random weights", title_justify="left", box=None, pad_edge=False, padding=(0, 1))
    table.add_column("")
    for heading in (
        "decode\nms/token", "10–90 %", "of the\nlimit", "prefill\ntok/s", "load\ns", "peak\nMB", "in all\nMB",
        "anon\nMB", "files\nMB", "convert\ns", "writer\ns", "peak\nGB", "others\n%",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    failures = []
    for name in names:
        rounds = [record for record in store.rounds(size, name).values() if "failed" not in record]
        conversion = store.conversions(size).get(name, {})
        if rounds:
            table.add_row(name, *_cells(rounds, conversion))
        for record in (conversion, *store.rounds(size, name).values()):
            if "failed" in record:
                failures.append(f"{name}: {record['failed']}")
                break
    console.print(table)
    for failure in failures:
        console.print(failure, style="red", markup=False)


def _cells(rounds: list[Record], conversion: Record) -> list[str]:
    low, middle, high = spread([1e3 * seconds for record in rounds for seconds in record["decode_seconds"]])
    return [
        f"{middle:.2f}",
        f"{low:.2f}–{high:.2f}",
        f"{median(map(share_of_limit, rounds)):.0%}",
        f"{median(map(_prefill_rate, rounds)):,.0f}",
        f"{median(record['load_seconds'] for record in rounds):.2f}",
        *(f"{median(map(get, rounds)) / 1e6:,.0f}" for get in (peak, _field("peak_bytes"), _field("anonymous_bytes"))),
        f"{rounds[0]['model_bytes'] / 1e6:,.0f}",
        f"{conversion['seconds']:.1f}" if "seconds" in conversion else "",
        f"{conversion['phases']['write']:.1f}" if "phases" in conversion else "",
        f"{conversion['peak_bytes'] / 1e9:.2f}" if "peak_bytes" in conversion else "",
        "/".join(
            f"{100 * others:.0f}" for others in (max(each["others"] for each in rounds), conversion.get("others", 0))
        ),
    ]


def _field(name: str) -> Callable[[Record], float]:
    return lambda record: float(record[name])


def peak(record: Record) -> float:
    """Return the bytes held at the peak above what the process held before the model was loaded."""
    return float(record["peak_bytes"] - record["held_bytes"])


def decode(record: Record) -> float:
    """Return the median seconds of a token."""
    return float(median(record["decode_seconds"]))


def prefill(record: Record) -> float:
    """Return the median seconds of a prompt."""
    return float(median(record["prefill_seconds"]))


def _prefill_rate(record: Record) -> float:
    return protocol.PREFILL_TOKENS / prefill(record)


def share_of_limit(record: Record) -> float:
    """Return the time that reading the weights takes at the speed memory was read, over the time a token took."""
    fastest = max(record["bandwidth"].values())
    return float(record["bytes_per_token"] / fastest / decode(record))


def print_ratios(store: SizeStore, sizes: list[str], variants: list[str], peers: list[str], console: Console) -> None:
    """Print each of our variants against each peer, paired by round: below 1, ours takes less."""
    for variant in variants:
        table = Table(title=f"{variant} ÷ peer: median of the rounds (least–most)", title_justify="left", box=None)
        table.add_column("")
        measures = {"decode": decode, "prefill": prefill, "peak memory": peak}
        for size in sizes:
            for measure in measures:
                table.add_column(f"{size}\n{measure}", justify="right")
        for peer in peers:
            cells = [_ratio(store, size, variant, peer, get) for size in sizes for get in measures.values()]
            if any(cells):
                table.add_row(peer, *cells)
        console.print(table)


def _ratio(store: SizeStore, size: str, variant: str, peer: str, get: Callable[[Record], float]) -> str:
    mine, theirs = store.rounds(size, variant), store.rounds(size, peer)
    ratios = [
        get(mine[number]) / get(theirs[number])
        for number in mine
        if number in theirs and "failed" not in mine[number] and "failed" not in theirs[number]
    ]
    return f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else ""


def print_conditions(store: SizeStore, console: Console) -> None:
    """Print what the numbers belong to, and what the columns mean."""
    conditions: dict[str, Any] = store.data["conditions"]
    console.print(
        f"\n{conditions['cpu']}, {conditions['threads']} threads. Decode: {protocol.DECODE_TOKENS} tokens after "
        f"{protocol.PROMPT_TOKENS}, greedy, samples of all rounds; prefill: {protocol.PREFILL_TOKENS} tokens.\n"
        "Of the limit: time to read the weights once, at the speed memory was read just before, ÷ decode time; above "
        "100 % the model fits a cache better.\n"
        "Peak: VmHWM less what the process held before the model was loaded; in all: VmHWM; anon: RssAnon after "
        "decoding, which no other process can share.\n"
        "Convert: wall time of a fresh process, and its peak (PSS, children too). Ours: opening source and texts, "
        "writing, checking and hashing; writer: that part alone, in a run of its own.\n"
        "Others: the most processor time that anything else took in a round / in the conversion; above "
        f"{ALLOWED_SHARE:.0%} it disturbed."
    )
    for size in store.sizes().values():
        for name, rounds in size.get("rounds", {}).items():
            notes = next((record["notes"] for record in rounds.values() if "notes" in record), "")
            console.print(f"{name}: {notes}", style="dim", markup=False)
        break
