"""Quantize a model in two ways, compare both with intervals, plot the drift of each layer, and plan a publication.

python examples/two_variants.py                                # the demo model; a minute or two
python examples/two_variants.py pythia-160m --windows 20       # from the hub
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt

import pythia_quant as pq

VARIANTS = ["gptq-int4", "onnx-int8"]


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="demo", help="a recipe file, or the name of one that ships")
    parser.add_argument("--windows", type=int, default=20, help="windows of text to measure on")
    parser.add_argument("--out", default="artifacts", help="folder for artifacts")
    arguments = parser.parse_args()

    # Without rounds, no speed is measured: that takes longer than everything else.
    settings = {"evaluation.windows": arguments.windows, "latency.rounds": 0}
    results = pq.run(arguments.recipe, arguments.out, only=VARIANTS, settings=settings)

    for name in VARIANTS:
        kl = results[name]["kl"]
        print(f"{name}: KL {kl.value:.2f} {kl.unit}, {kl.interval} from {kl.low:.2f} to {kl.high:.2f}")

    frame = results.to_frame()
    drift = frame[frame["metric"].isin(["kl", "top1", "bits_per_weight"])]
    print(drift[["row", "metric", "value", "low", "high", "unit"]].to_string(index=False))

    figure, axes = plt.subplots()
    for name in VARIANTS:
        axes.plot([layer.after for layer in results.row(name).layers], marker="o", label=name)
    axes.set(xlabel="layer", ylabel="relative error of the hidden states", yscale="log")
    axes.legend()
    figure.savefig(Path(arguments.out) / "drift-by-layer.png", dpi=150)

    # A dry run: nothing is sent. `pq.publish(pq.make_plan(publication))` would send it.
    folder = next(Path(arguments.out).glob(f"*/*/{VARIANTS[1]}"))
    publication = pq.prepare_publication(
        folder, "me/{model}-{variant}", base="none", despite_gate="an example, measured on few windows"
    )
    print(f"{publication.target.repo_id} would have: {', '.join(publication.files)}")


if __name__ == "__main__":
    main()
