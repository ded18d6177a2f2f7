"""How the gates of a measurement end a command."""

from __future__ import annotations

import typer

from pythia_quant.records.results import Results

GATE_FAILED, GATE_UNDECIDED = 3, 4
"""Exit codes of a finished measurement in which a gate failed, or one is undecided."""


def exit_by_gates(*results: Results) -> None:
    """End with the exit code of the worst gate of all results; return when all passed."""
    outcomes = {gate.outcome for one in results for gate in one.gates}
    if "failed" in outcomes:
        raise typer.Exit(GATE_FAILED)
    if "undecided" in outcomes:
        raise typer.Exit(GATE_UNDECIDED)
