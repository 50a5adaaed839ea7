"""A report of a table: plots as PNG and SVG, and one HTML file that needs nothing else.

``index.html`` holds the table as JSON, the plots as SVG and its own script; a policy in it forbids
the browser any request. What comes from the table reaches the page as JSON or as the text of a
node, never as markup.
"""

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from hwgen.errors import UserError
from hwgen.generate import check_output, write_files

from .table import COLUMNS, STATUSES, Row, canonical, identity, labels

__all__ = ["PLOTS", "report_html", "write_report"]

#: Stems of the plots' files.
PLOTS = ("pareto", "area", "power", "fmax", "luts")


def write_report(
    table_path: Path, rows: Iterable[Mapping[str, Any]], output: Path, *, force: bool = False
) -> list[Path]:
    """Write the report of a table; the same rows give the same bytes with the same matplotlib.

    Parameters
    ----------
    table_path : Path
        Where the rows are from; its name becomes the title.
    rows : iterable of mapping
        Rows as :func:`~synth.table.read_table` returns them.
    output : Path
        Folder, made if need be, for ``index.html`` and, of each plot that the table has data for,
        ``NAME.png`` and ``NAME.svg``.
    force : bool
        Replace files of these names.

    Returns
    -------
    list of Path
        The files, ``index.html`` first.

    Raises
    ------
    UserError
        If matplotlib is not installed, the table is empty, a file exists, or the folder cannot be
        written.
    TypeError, ValueError
        If a row is not as :func:`~synth.table.canonical` wants it.
    """
    rows = canonical(rows)
    if not rows:
        raise UserError(f"table {table_path} must have at least one row to report")
    names = ["index.html", *(f"{name}.{end}" for name in PLOTS for end in ("png", "svg"))]
    check_output(output, names, force=force)
    try:
        from .plots import draw
    except ImportError as error:
        raise UserError("matplotlib must be installed: pip install 'hwgen[report]'") from error
    plots = draw(rows)
    contents: dict[str, str | bytes] = {"index.html": report_html(table_path.name, rows, plots)}
    for plot in plots:
        if plot.svg:
            contents |= {f"{plot.name}.png": plot.png, f"{plot.name}.svg": plot.svg}
    return write_files(output, contents, force=force)


def report_html(title: str, rows: Sequence[Row], plots: Sequence[Any]) -> str:
    """Return the page of canonical rows and their :class:`~synth.plots.Plot`."""
    names = labels(rows)
    data = {
        "columns": [{**asdict(column), "type": column.type.__name__} for column in COLUMNS],
        "labels": [names[identity(row)] for row in rows],
        "rows": [[row[column.name] for column in COLUMNS] for row in rows],
        "statuses": STATUSES,
    }
    parts = {
        "TITLE": html.escape(title),
        "VERSION": html.escape(version("hwgen")),
        "PLOTS": "\n".join(_figure(plot) for plot in plots if plot.svg),
        "MISSING": "\n".join(
            f"<li>{html.escape(plot.missing)}</li>" for plot in plots if plot.missing
        ),
        # "<" is all that could end the script element that holds the data.
        "DATA": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
    }
    template = files("synth").joinpath("report.html").read_text(encoding="utf-8")
    return re.sub(r"@@([A-Z]+)@@", lambda match: parts[match[1]], template)


def _figure(plot: Any) -> str:
    """Return a plot as markup, in the page's colours."""
    from .plots import INK, LINE

    # matplotlib escapes the texts in its SVG. XML and DOCTYPE lines have no place in HTML.
    svg = plot.svg.decode()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for colour, theme in ((INK, "currentColor"), (LINE, "var(--line)"), ("#ffffff", "none")):
        svg = svg.replace(colour, theme)
    title = html.escape(plot.title)
    svg = svg.replace("<svg ", f'<svg role="group" aria-label="{title}" ', 1)
    width, height = map(float, svg.partition('viewBox="0 0 ')[2].partition('"')[0].split())
    wide = "wide" if width > 2.6 * height else ""
    return (
        f'<figure id="{plot.name}" class="{wide}">'
        f"<figcaption><h3>{title}</h3><p>{html.escape(plot.caption)} "
        f'<a href="{plot.name}.svg">SVG</a> <a href="{plot.name}.png">PNG</a></p></figcaption>'
        f'<div class="plot">{svg}</div></figure>'
    )
