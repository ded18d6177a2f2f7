"""Write the folder of a report: it is complete or absent."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from pythia_quant.core.errors import BenchmarkError
from pythia_quant.core.files import recover, scratch_folder
from pythia_quant.report.files import ResultFile, read_files
from pythia_quant.report.tables import SUFFIXES, TableFormat, render_table
from pythia_quant.report.theme import LIGHT, Look, row_styles

try:
    from matplotlib.figure import Figure

    from pythia_quant.report.document import PAGE, check_replaceable
    from pythia_quant.report.figures import FIRST_TITLES, PLOTS, overview_plots
    from pythia_quant.report.inline import Mark, inline_svg
    from pythia_quant.report.page import MARKER, DrawnPlot, Illustrations, plot_marks, render_page
    from pythia_quant.report.style import write_figure
except ImportError as missing:
    raise BenchmarkError(
        f"a report needs packages that are not here ({missing})", hint="pip install matplotlib"
    ) from missing


def write_report(paths: Sequence[Path], out: Path, formats: Collection[TableFormat] = ()) -> Path:
    """Write a page about result files with its plots as SVG and PNG, and tables in `formats`; return the page's path.

    `out` appears when all files are written. It replaces an earlier report there, and nothing else.

    Raises:
        BenchmarkError: a result file cannot be read, or `out` holds something else than a report.
        StorageError: `out` cannot be written.
    """
    files = read_files(paths)
    recover(out)
    check_replaceable(out, MARKER)
    with scratch_folder(out) as scratch:
        for form in formats:
            (scratch / f"results.{SUFFIXES[form]}").write_text(render_table(files, form), encoding="utf-8", newline="")
        (scratch / PAGE).write_text(_page(files, scratch / "plots"), encoding="utf-8", newline="\n")
    return out / PAGE


def _page(files: Sequence[ResultFile], folder: Path) -> str:
    """Draw all plots, write them to `folder`, and return the page that shows them."""
    folder.mkdir()
    contents = [file.results for file in files]
    styles = row_styles(contents)
    look = Look(LIGHT, styles)

    def save_plot(name: str, title: str, caption: str, figure: Figure, shown: Sequence[ResultFile]) -> DrawnPlot:
        marks: dict[str, Mark] = {}
        for index, file in enumerate(shown):
            marks |= plot_marks(file, styles, partial(look.id_of, file=index))
        svg = write_figure(figure, folder, name)
        return DrawnPlot(title in FIRST_TITLES, title, caption, inline_svg(svg, name, title, marks))

    overview_figures = overview_plots(contents, look) if len(files) > 1 else []
    overview = [
        save_plot(f"all-{key}", title, caption, figure, files) for key, title, figure, caption in overview_figures
    ]
    illustrations = []
    for file in files:
        drawn, missing = [], []
        for plot in PLOTS:
            if figure := plot.draw(file.results, look):
                caption = plot.caption(file.results)
                drawn.append(save_plot(f"{file.slug}-{plot.key}", plot.title, caption, figure, [file]))
            else:
                missing.append((plot.title, plot.absent))
        illustrations.append(Illustrations(drawn, missing))
    return render_page(files, styles, overview, illustrations)
