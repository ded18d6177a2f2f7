"""Draw the picture of a result file: `python benchmarks/picture.py artifacts/demo/builtin/results.json demo.png`."""

from __future__ import annotations

import sys
from pathlib import Path

from pythia_quant.records.results import load_results
from pythia_quant.report.plots import plot_results

if __name__ == "__main__":
    plot_results(load_results(Path(sys.argv[1])), Path(sys.argv[2]))
