"""What moved between two tables, and whether it got worse: the gate after an RTL change."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hwgen.errors import UserError

from .table import COLUMNS, Row, canonical, identity, labels

__all__ = ["METRICS", "Comparison", "Metric", "Move", "Point", "compare"]


@dataclass(frozen=True)
class Metric:
    """A column that is compared.

    Attributes
    ----------
    column : str
        Its name.
    word : str
        What sentences call it.
    up_is_worse : bool
        Whether more of it is worse.
    timing : bool
        Whether it follows from the clock, whose spread over seeds is its noise too.
    same_as : str
        The column that says the same in other words; where that is measured, this one is left out.
    """

    column: str
    word: str
    up_is_worse: bool = True
    timing: bool = False
    same_as: str = ""


def _energies() -> Iterable[Metric]:
    for operands in ("uniform", "trained"):
        for activity in ("zero_delay", "glitch"):
            end = f"{operands}__{activity}"
            words = f"on {operands} operands" + (", glitches" if activity == "glitch" else "")
            yield Metric(f"energy__mac__{end}", f"energy/MAC ({words})")
            yield Metric(
                f"energy__cycle__{end}", f"energy/cycle ({words})", same_as=f"energy__mac__{end}"
            )


#: All that is compared. Derived figures are left out where what they derive from stands.
METRICS = (
    Metric("design__lut__count", "LUT"),
    Metric("design__ff__count", "FF"),
    Metric("design__carry__count", "carry"),
    Metric("design__dsp__count", "DSP"),
    Metric("design__bram__count", "BRAM"),
    Metric("design__instance__area", "area"),
    Metric("timing__fmax", "fmax", up_is_worse=False, timing=True),
    Metric("timing__period", "period", timing=True, same_as="timing__fmax"),
    Metric("perf__area", "perf/area", up_is_worse=False, timing=True),
    Metric("perf", "perf", up_is_worse=False, timing=True, same_as="timing__fmax"),
    Metric("power__leakage", "leakage"),
    *_energies(),
)

#: Provenance that may explain a move; a difference is said once, with the number of its points.
_CIRCUMSTANCES = {
    "flow__tools": "tools",
    "flow__library_sha256": "library",
    "flow__seeds": "seeds",
    "flow__source": "source",
}
_UNITS = {column.name: column.unit for column in COLUMNS}
#: So many names stand in a line of text; JSON has all.
_SHOWN = 10


@dataclass(frozen=True)
class Move:
    """A metric of a point that changed.

    Attributes
    ----------
    metric : Metric
        Which one.
    old, new : float or None
        The values, in the column's unit; None if not measured.
    percent : float or None
        The change against the old value; None where that is 0 or either is not measured.
    noise : float
        The floor below which a change means nothing, in percent; 0 for deterministic metrics.
    verdict : str
        ``"regression"``: worse by more than threshold and noise, or no longer measured.
        ``"worse"``, ``"better"``: in that direction, beyond the noise. ``"noise"``: within it.
        ``"new"``: measured only now.
    """

    metric: Metric
    old: float | None
    new: float | None
    percent: float | None
    noise: float
    verdict: str

    def __str__(self) -> str:
        if self.new is None:
            return f"{self.metric.word} no longer measured"
        if self.old is None:
            return f"{self.metric.word} measured for the first time"
        if self.percent is None:
            return f"{self.old:g} → {self.new:g} {self.metric.word}"
        words = f"{_signed(self.percent)} % {self.metric.word}"
        return words + (" (within noise)" if self.verdict == "noise" else "")


@dataclass(frozen=True)
class Point:
    """A point of both tables that changed: its status, or else its metrics.

    Attributes
    ----------
    label : str
        Its name.
    identity : tuple
        The values of its identity columns.
    old_status, new_status : str
        How its measurement ended.
    message : str
        Why, in the new table.
    mapping : str
        ``old → new`` if another mapping was kept, else empty.
    moves : tuple of Move
        Its metrics that changed, if the status did not.
    """

    label: str
    identity: tuple[Any, ...]
    old_status: str
    new_status: str
    message: str
    mapping: str
    moves: tuple[Move, ...]

    @property
    def regressions(self) -> list[str]:
        """What of it got worse beyond the threshold."""
        if self.old_status == "ok" and self.new_status != "ok":
            return [f"{self.label}: {self._status}"]
        return [f"{self.label}: {move}" for move in self.moves if move.verdict == "regression"]

    @property
    def _status(self) -> str:
        why = f" ({self.message})" if self.message else ""
        return f"{self.old_status} → {self.new_status}{why}"

    def parts(self) -> list[tuple[str, bool]]:
        """Return what changed, in words, each with whether it is a regression."""
        if self.old_status != self.new_status:
            return [(self._status, self.old_status == "ok")]
        parts = [(str(move), move.verdict == "regression") for move in self.moves]
        return parts + ([(f"mapping {self.mapping}", False)] if self.mapping else [])

    def __str__(self) -> str:
        return f"{self.label}: {', '.join(words for words, _ in self.parts())}"


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found.

    Attributes
    ----------
    threshold : float
        In percent.
    compared : int
        Number of points in both tables.
    points : tuple of Point
        Those that changed.
    appeared, vanished : tuple of str
        Names of the points of only the new, and of only the old table.
    notes : tuple of str
        What else differs: tools, library, seeds, RTL.
    """

    threshold: float
    compared: int
    points: tuple[Point, ...]
    appeared: tuple[str, ...]
    vanished: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def regressions(self) -> list[str]:
        """What got worse beyond the threshold, one sentence each; empty if the gate is open."""
        return [words for point in self.points for words in point.regressions]

    @property
    def summary(self) -> str:
        """One sentence."""
        return (
            f"{_count(self.compared, 'point')} compared, {len(self.points)} changed, "
            f"{_count(len(self.regressions), 'regression')} beyond {self.threshold:g} %"
        )

    def _others(self) -> list[str]:
        lines = []
        for what, names in (("appeared", self.appeared), ("vanished", self.vanished)):
            if names:
                more = f", ... {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                lines.append(
                    f"{_count(len(names), 'point')} {what}: {', '.join(names[:_SHOWN])}{more}"
                )
        return lines

    def text(self) -> str:
        """Return lines for a terminal; those of regressions begin with an exclamation mark."""
        lines = [f"{'!' if point.regressions else ' '} {point}" for point in self.points]
        return "\n".join([*self.notes, *lines, *self._others(), self.summary]) + "\n"

    def markdown(self) -> str:
        """Return the same as Markdown, regressions bold."""
        lines = [f"**{_escaped(self.summary)}**", ""]
        if self.points:
            lines += ["| point | what changed |", "|---|---|"]
        for point in self.points:
            parts = (
                f"**{_escaped(words)}**" if regression else _escaped(words)
                for words, regression in point.parts()
            )
            lines.append(f"| {_escaped(point.label)} | {', '.join(parts)} |")
        lines += ["", *(f"- {_escaped(line)}" for line in [*self.notes, *self._others()])]
        return "\n".join(lines).strip() + "\n"

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "threshold_percent": self.threshold,
            "compared": self.compared,
            "regressions": self.regressions,
            "points": [
                {
                    "label": point.label,
                    "identity": dict(zip(_IDENTITY, point.identity, strict=True)),
                    "old_status": point.old_status,
                    "new_status": point.new_status,
                    "message": point.message,
                    "mapping": point.mapping,
                    "moves": [
                        {
                            "column": move.metric.column,
                            "unit": _UNITS[move.metric.column],
                            "old": move.old,
                            "new": move.new,
                            "percent": move.percent,
                            "noise_percent": move.noise,
                            "verdict": move.verdict,
                        }
                        for move in point.moves
                    ],
                }
                for point in self.points
            ],
            "appeared": list(self.appeared),
            "vanished": list(self.vanished),
            "notes": list(self.notes),
        }


_IDENTITY = [column.name for column in COLUMNS if column.kind == "identity"]


def compare(
    old_rows: Iterable[Mapping[str, Any]],
    new_rows: Iterable[Mapping[str, Any]],
    threshold: float = 2.0,
) -> Comparison:
    """Compare two tables point by point.

    A change of the clock, and of what follows from it, counts only beyond the noise: half the
    spread over seeds, ``(max - min) / 2 / median``, of that table where it is larger. All other
    metrics are the same in each run. Improvements, new points and vanished points are told, but are
    no regressions: the new table may well be a small part of the old one.

    Parameters
    ----------
    old_rows, new_rows : iterable of mapping
        Rows as :func:`~synth.table.read_table` returns them.
    threshold : float
        What may get worse, in percent, at least 0.

    Raises
    ------
    UserError
        If the threshold is not such a number, or the tables have no point in common.
    TypeError, ValueError
        If a row is not as :func:`~synth.table.canonical` wants it, not finite for one.
    """
    if not (math.isfinite(threshold) and threshold >= 0):
        raise UserError(f"threshold must be a number of percent, at least 0, not {threshold!r}")
    old = {identity(row): row for row in canonical(old_rows)}
    new = {identity(row): row for row in canonical(new_rows)}
    both = [key for key in new if key in old]
    if not both:
        raise UserError(
            f"the tables must have points in common, but none of the {len(old)} and "
            f"{len(new)} points is in both"
        )
    names = labels([*old.values(), *new.values()])
    points = (_point(names[key], old[key], new[key], threshold) for key in both)
    return Comparison(
        threshold=threshold,
        compared=len(both),
        points=tuple(point for point in points if point is not None),
        appeared=tuple(names[key] for key in new if key not in old),
        vanished=tuple(names[key] for key in old if key not in new),
        notes=tuple(_notes([(old[key], new[key]) for key in both])),
    )


def _point(label: str, old: Row, new: Row, threshold: float) -> Point | None:
    """Compare a point; None if nothing changed."""
    moves: list[Move] = []
    if old["flow__status"] == new["flow__status"]:
        moves = [move for metric in METRICS if (move := _move(metric, old, new, threshold))]
    mappings = [row["flow__mapping"] for row in (old, new)]
    point = Point(
        label=label,
        identity=identity(new),
        old_status=old["flow__status"],
        new_status=new["flow__status"],
        message=new["flow__message"],
        mapping="" if mappings[0] == mappings[1] else " → ".join(mappings),
        moves=tuple(moves),
    )
    return point if point.parts() else None


def _move(metric: Metric, old_row: Row, new_row: Row, threshold: float) -> Move | None:
    """Compare a metric; None if it did not change, or if another one says the same."""
    old, new = old_row[metric.column], new_row[metric.column]
    if old == new:
        return None
    noise = max(_spread(old_row), _spread(new_row)) if metric.timing else 0.0
    if new is None:
        return Move(metric, old, new, None, noise, "regression")
    if metric.same_as and None not in (old_row[metric.same_as], new_row[metric.same_as]):
        return None
    if old is None:
        return Move(metric, old, new, None, noise, "new")
    worse = (new > old) == metric.up_is_worse
    # Rounded, so that 1.0 -> 1.1 is not more than 10 %.
    percent = None if old == 0 else round(100 * (new - old) / abs(old), 6)
    size = math.inf if percent is None else abs(percent)
    if size <= noise:
        verdict = "noise"
    elif worse:
        verdict = "regression" if size > threshold else "worse"
    else:
        verdict = "better"
    return Move(metric, old, new, percent, noise, verdict)


def _spread(row: Row) -> float:
    """Return half the spread of the clock over seeds, in percent of the median."""
    low, middle, high = (row[f"timing__fmax{end}"] for end in ("__min", "", "__max"))
    if None in (low, middle, high) or not middle:
        return 0.0
    return float(round(100 * (high - low) / 2 / middle, 6))


def _notes(pairs: list[tuple[Row, Row]]) -> Iterable[str]:
    """Say which circumstances differ, and in how many points."""
    for column, word in _CIRCUMSTANCES.items():
        found = Counter((old[column], new[column]) for old, new in pairs)
        for (before, after), count in found.items():
            if before != after:
                yield (
                    f"other {word} in {_count(count, 'point')}: "
                    f"{before or 'none'} → {after or 'none'}"
                )
    changed = sum(old["flow__rtl_sha256"] != new["flow__rtl_sha256"] for old, new in pairs)
    yield f"RTL changed in {changed} of {_count(len(pairs), 'point')}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _signed(percent: float) -> str:
    """Return +3.1, −0.4, and of small numbers two digits."""
    size = f"{abs(percent):.1f}" if abs(percent) >= 0.05 else f"{abs(percent):.2g}"
    return ("−" if percent < 0 else "+") + size


def _escaped(text: str) -> str:
    """Return text that means itself in a cell of a Markdown table."""
    for character in "\\|*_`[]<>":
        text = text.replace(character, "\\" + character)
    return text
