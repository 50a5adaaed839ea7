"""The plots of a report, drawn with matplotlib from a table's rows.

A mark that stands for a row bears an SVG id that begins with ``PLOT-point-INDEX``, INDEX being the
row's place among the rows given; the report makes links of them.
"""

import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator

from .table import COLUMNS, Row

__all__ = ["INK", "LINE", "Plot", "draw"]

#: Colours of text and of grids; the HTML report replaces them by those of its theme.
INK, LINE = "#24292e", "#d1d5da"
#: Colours that stay apart for colour-blind eyes, on white and on black.
_PALETTE = (
    "#2f7fc1", "#e08a00", "#1c9e77", "#c45a9e", "#7a6fd0", "#d2512f", "#8a8f98", "#4fb3d9",
)  # fmt: skip
_MARKERS = {"ws": "o", "os": "s"}
_LINES: dict[str, Any] = {"ws": "-", "os": "--"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a $ in a table means itself
    "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "axes.edgecolor": LINE, "grid.color": LINE, "grid.linewidth": 0.6,
    "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "font.size": 9, "legend.frameon": False, "savefig.dpi": 150,
}  # fmt: skip

Indexed = tuple[int, Row]


@dataclass(frozen=True)
class Plot:
    """A plot, or why there is none.

    Attributes
    ----------
    name : str
        Stem of its files.
    title, caption : str
        What it shows, and how to read it.
    svg, png : bytes
        The files; empty if there is nothing to draw.
    missing : str
        A sentence that says so then.
    """

    name: str
    title: str
    caption: str
    svg: bytes = b""
    png: bytes = b""
    missing: str = ""


class _NothingToDrawError(Exception):
    """The table has no data for a plot; says what is missing."""


def draw(rows: Sequence[Row]) -> list[Plot]:
    """Draw all plots of a table; the same rows give the same bytes (with the same matplotlib)."""
    measured = [(i, row) for i, row in enumerate(rows) if row["flow__status"] == "ok"]
    pes = dict.fromkeys(row["design__pe"] for row in rows)
    colours = {pe: _PALETTE[i % len(_PALETTE)] for i, pe in enumerate(pes)}
    found = []
    for name, title, function in (
        ("pareto", "Performance per area against energy", _pareto),
        ("area", "Area", _area),
        ("power", "Power at the shortest period", _power),
        ("fmax", "Clock by array size", _fmax),
        ("luts", "Look-up tables per PE", _luts),
    ):
        # For the while of a plot, nobody's matplotlibrc counts.
        with style.context(["default", {**_STYLE, "svg.hashsalt": name}]):
            try:
                figure, caption = function(name, measured, colours)
            except _NothingToDrawError as error:
                found.append(Plot(name, title, "", missing=f"{title} is not drawn: {error}."))
                continue
            FigureCanvasAgg(figure)
            svg, png = io.BytesIO(), io.BytesIO()
            figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
            figure.savefig(png, format="png", metadata={"Software": None})
        found.append(Plot(name, title, caption, svg.getvalue(), png.getvalue()))
    return found


# ---- the plots -----------------------------------------------------------------------------------


def _pareto(name: str, rows: list[Indexed], colours: Mapping[str, str]) -> tuple[Figure, str]:
    energy, words = _energy_column(rows, "mac")
    rows = _cells([item for item in rows if item[1]["perf__area"] and item[1][energy]])
    if not rows:
        raise _NothingToDrawError("no row has both perf__area and an energy")
    panels = _panels(rows)
    figure, axes = _figure(len(panels))
    for ax, (target, items) in zip(axes, panels.items(), strict=True):
        ax.set(title=target, xscale="log", yscale="log")
        ax.set(xlabel="energy per product [pJ]", ylabel="products per second and area [GMAC/s/mm²]")
        front = _front([(row[energy], row["perf__area"]) for _, row in items])
        ax.plot(*zip(*front, strict=True), color=INK, linewidth=1, linestyle=":", zorder=1)
        for index, row in items:
            (mark,) = ax.plot(
                row[energy], row["perf__area"], linestyle="", markersize=8,
                color=colours[row["design__pe"]], marker=_MARKERS.get(row["design__dataflow"], "D"),
            )  # fmt: skip
            mark.set_gid(f"{name}-point-{index}")
        _log_ticks(ax)
    _legend(figure, rows, colours, front=True)
    return figure, f"Up and left is better. Energy {words}. {_unit_words(rows)}"


def _area(name: str, rows: list[Indexed], _: Mapping[str, str]) -> tuple[Figure, str]:
    parts = {
        "flip-flops": "design__instance__area__sequential",
        "logic": "design__instance__area__combinational",
    }
    rows = _cells([(i, r) for i, r in rows if None not in [r[column] for column in parts.values()]])
    if not rows:
        raise _NothingToDrawError("no row has an area of flip-flops and of logic")
    figure = _bars(name, rows, {
        word: [row[column] for _, row in rows] for word, column in parts.items()
    }, "area [µm²]")  # fmt: skip
    return figure, _unit_words(rows)


def _power(name: str, rows: list[Indexed], _: Mapping[str, str]) -> tuple[Figure, str]:
    energy, words = _energy_column(rows, "cycle")
    rows = _cells(
        [(i, r) for i, r in rows if None not in (r["power__leakage"], r[energy]) and _period(r)]
    )
    if not rows:
        raise _NothingToDrawError("no row has leakage, energy per cycle and a period")
    leakage = [row["power__leakage"] for _, row in rows]
    dynamic = [1000 * row[energy] / _period(row) for _, row in rows]  # pJ / ns = mW
    figure = _bars(name, rows, {
        "leakage": leakage,
        "dynamic": dynamic,
    }, "power [µW]")  # fmt: skip
    return figure, f"Energy {words}, at the shortest period. {_unit_words(rows)}"


def _fmax(name: str, rows: list[Indexed], colours: Mapping[str, str]) -> tuple[Figure, str]:
    rows = [(i, row) for i, row in rows if _period(row)]
    panels = {
        target: items for target, items in _panels(rows).items()
        if len({_size(row) for _, row in items}) > 1
    }  # fmt: skip
    if not panels:
        raise _NothingToDrawError("no target has clocks of two sizes")
    figure, axes = _figure(len(panels))
    for ax, (target, items) in zip(axes, panels.items(), strict=True):
        sizes = sorted({_size(row) for _, row in items}, key=lambda s: (s[0] * s[1], s))
        places = {size: place for place, size in enumerate(sizes)}
        lines: defaultdict[tuple[object, ...], list[Indexed]] = defaultdict(list)
        for index, row in items:
            lines[tuple(row[column] for column in _SERIES)].append((index, row))
        for line in lines.values():
            line.sort(key=lambda item: places[_size(item[1])])
            row = line[0][1]
            colour = colours[row["design__pe"]]
            ax.plot(
                [places[_size(row)] for _, row in line], [_clock(row) for _, row in line],
                color=colour, linestyle=_LINES.get(row["design__dataflow"], "-."), linewidth=1.2,
            )  # fmt: skip
            for index, row in line:
                place, clock = places[_size(row)], _clock(row)
                low, high = row["timing__fmax__min"], row["timing__fmax__max"]
                if low is not None and high is not None:
                    spread = [[max(0.0, clock - low)], [max(0.0, high - clock)]]
                    ax.errorbar(place, clock, spread, color=colour, capsize=2.5, linewidth=1)
                (mark,) = ax.plot(
                    place, clock, color=colour, markersize=6,
                    marker=_MARKERS.get(row["design__dataflow"], "D"),
                )  # fmt: skip
                mark.set_gid(f"{name}-point-{index}")
        ax.set(title=target, ylabel="clock [MHz]", xlabel="array")
        ax.set_xticks(range(len(sizes)), ["pe" if s == (0, 0) else f"{s[0]}×{s[1]}" for s in sizes])
        ax.set_xlim(-0.3, len(sizes) - 0.7)
        ax.set_ylim(bottom=0)
    _legend(figure, [item for items in panels.values() for item in items], colours)
    return figure, "Medians; bars are the least and the highest of the seeds."


def _luts(name: str, rows: list[Indexed], _: Mapping[str, str]) -> tuple[Figure, str]:
    rows = _cells([item for item in rows if item[1]["design__lut__count"] is not None])
    if not rows:
        raise _NothingToDrawError("no row has look-up tables")
    figure = _bars(name, rows, {
        "LUTs": [
            row["design__lut__count"] / (row["design__rows"] * row["design__cols"])
            for _, row in rows
        ]
    }, "LUTs per PE")  # fmt: skip
    return figure, _unit_words(rows, divided=True)


# ---- what they share -----------------------------------------------------------------------------

#: Rows that agree in these are one line over the sizes; sums grow with the rows.
_SERIES = [
    column.name for column in COLUMNS if column.kind == "identity" and column.name not in
    ("design__unit", "design__rows", "design__cols", "design__accumulator_bits")
]  # fmt: skip
#: What tells bars of one PE apart, the most telling first.
_APART = [
    "design__dataflow", "flow__objective", "flow__method", "design__lanes", "design__pipeline",
    "design__accumulator_bits", "design__rows", "design__cols",
]  # fmt: skip


def _panels(rows: Iterable[Indexed]) -> dict[str, list[Indexed]]:
    """Return rows by target."""
    panels: defaultdict[str, list[Indexed]] = defaultdict(list)
    for item in rows:
        panels[item[1]["flow__target"]].append(item)
    return dict(sorted(panels.items()))


def _cells(rows: list[Indexed]) -> list[Indexed]:
    """Return the rows of single PEs; if there are none, those of the largest array there is."""
    cells = [item for item in rows if item[1]["design__unit"] == "pe"]
    largest = max((_size(row) for _, row in rows), default=None)
    return cells or [item for item in rows if _size(item[1]) == largest]


def _unit_words(rows: list[Indexed], *, divided: bool = False) -> str:
    row = rows[0][1]
    if row["design__unit"] == "pe":
        return "Of one PE with its registers."
    words = f"Of arrays of {row['design__rows']}×{row['design__cols']} PEs"
    return words + (", divided by their number." if divided else ".")


def _size(row: Row) -> tuple[int, int]:
    """Return rows and columns; 0, 0 for a single PE."""
    return (0, 0) if row["design__unit"] == "pe" else (row["design__rows"], row["design__cols"])


def _period(row: Row) -> float:
    """Return the period in ns; 0 if it was not measured."""
    return float(
        row["timing__period"] or (1000 / row["timing__fmax"] if row["timing__fmax"] else 0)
    )


def _clock(row: Row) -> float:
    """Return the clock in MHz of a row that has a period or a clock."""
    return float(row["timing__fmax"] or 1000 / row["timing__period"])


def _energy_column(rows: list[Indexed], per: str) -> tuple[str, str]:
    """Return the energy that most rows have, the most telling first, and words for it."""
    choices = {
        f"energy__{per}__{operands}__{activity}": f"on {operands_words}, glitches {glitches}"
        for activity, glitches in (("glitch", "included"), ("zero_delay", "left out"))
        for operands, operands_words in (
            ("uniform", "uniformly random operands"), ("trained", "a trained layer"),
        )
    }  # fmt: skip
    column = max(choices, key=lambda name: sum(row[name] is not None for _, row in rows))
    return column, choices[column]


def _front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other beats in both: less of the first, more of the second."""
    front: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def _figure(panels: int, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """Return a figure of panels, up to three in a row; the height of one is in inches."""
    columns = min(3, panels)
    lines = math.ceil(panels / columns)
    figure = Figure(figsize=(1.2 + 4.0 * columns, 0.4 + height * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for ax in axes[panels:]:
        ax.remove()
    return figure, axes[:panels]


def _log_ticks(ax: Axes) -> None:
    """Write ticks of logarithmic axes as plain numbers, and enough of them."""
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        axis.set_major_formatter(plain)
    ax.minorticks_off()
    ax.margins(0.12)


def _legend(
    figure: Figure, rows: list[Indexed], colours: Mapping[str, str], *, front: bool = False
) -> None:
    """Say which colour is which PE, and which mark which dataflow."""
    pes = dict.fromkeys(row["design__pe"] for _, row in rows)
    dataflows = sorted({row["design__dataflow"] for _, row in rows}, reverse=True)
    marks = [Line2D([], [], color=colours[pe], marker="o", linestyle="", label=pe) for pe in pes]
    if len(dataflows) > 1:
        marks += [
            Line2D(
                [],
                [],
                color=INK,
                label=flow,
                marker=_MARKERS.get(flow, "D"),
                linestyle=_LINES.get(flow, "-."),
            )
            for flow in dataflows
        ]
    if front:
        marks.append(Line2D([], [], color=INK, linestyle=":", label="Pareto front"))
    figure.legend(handles=marks, loc="outside right upper")


def _bars(
    name: str, rows: list[Indexed], parts: Mapping[str, Sequence[float]], label: str
) -> Figure:
    """Draw a stack of parts per row, a panel per target."""
    values = {index: [part[i] for part in parts.values()] for i, (index, _) in enumerate(rows)}
    panels = _panels(rows)
    longest = max(len(items) for items in panels.values())
    figure, axes = _figure(len(panels), height=1.1 + 0.27 * longest)
    for ax, (target, items) in zip(axes, panels.items(), strict=True):
        whole = max(sum(values[index]) for index, _ in items)
        for place, (index, _) in enumerate(items):
            left = 0.0
            for part, value in enumerate(values[index]):
                (bar,) = ax.barh(place, value, left=left, color=_PALETTE[part], height=0.72)
                bar.set_gid(f"{name}-point-{index}-{part}")
                left += value
            ax.text(left + 0.015 * whole, place, _short(left), va="center", fontsize=8)
        ax.set(title=target, xlabel=label)
        ax.set_yticks(range(len(items)), _names([row for _, row in items]))
        ax.set_ylim(longest - 0.4, -0.6)  # bars are as thick in every panel
        ax.set_xlim(0, 1.18 * whole or 1)
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", length=0)
    if len(parts) > 1:
        handles = [
            Line2D([], [], color=colour, linewidth=7, label=word)
            for colour, word in zip(_PALETTE, parts, strict=False)
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=len(parts))
    return figure


def _short(value: float) -> str:
    """Return a number of three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _names(rows: list[Row]) -> list[str]:
    """Return a name of each row of one target: the PE, and as much else as tells rows apart."""
    names = [f"{row['design__pe']} {row['design__pe_options']}".strip() for row in rows]
    for column in _APART:
        groups: defaultdict[str, set[object]] = defaultdict(set)
        for name, row in zip(names, rows, strict=True):
            groups[name].add(row[column])
        word = "" if column in ("design__dataflow", "flow__objective", "flow__method") else (
            column.rpartition("__")[2] + "="
        )  # fmt: skip
        names = [
            f"{name} {word}{row[column]}" if len(groups[name]) > 1 else name
            for name, row in zip(names, rows, strict=True)
        ]
    return names
