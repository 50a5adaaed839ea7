"""The table of measurements: its columns, and its canonical text.

A row is a plain dictionary from column name to value. A number that was not measured is None; a
text that does not apply is empty. Names of results follow METRICS2.1, the vocabulary of OpenROAD's
and LibreLane's reports, where that has a word for them.
"""

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

from hwgen.errors import UserError
from hwgen.generate import write_files

__all__ = [
    "COLUMNS",
    "STATUSES",
    "Column",
    "Row",
    "canonical",
    "identity",
    "label",
    "labels",
    "read_table",
    "table_text",
    "units_text",
    "write_parquet",
    "write_table",
]

Row = dict[str, Any]

#: How a measurement can end.
STATUSES = ("ok", "does-not-fit", "unroutable", "timeout", "failed")
#: Digits kept of a floating-point number: finer than any measurement, coarse enough for a diff.
DIGITS = 5


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes
    ----------
    name : str
        In the file's first line, and in rows.
    unit : str
        What its numbers count; empty for texts and plain numbers.
    kind : str
        ``"identity"``: says which point a row is; no two rows agree in all of these.
        ``"result"``: what was found. ``"provenance"``: what it was found with.
    type : type
        ``str``, ``int`` or ``float``.
    meaning : str
        One line.
    """

    name: str
    unit: str
    kind: Literal["identity", "result", "provenance"]
    type: type
    meaning: str


def _energy(per: str, operands: str, activity: str) -> Column:
    words = {
        "cycle": "clock cycle",
        "mac": "product",
        "uniform": "uniformly random operands",
        "trained": "the quick start's trained layer",
        "zero_delay": "without glitches",
        "glitch": "glitches included",
    }
    return Column(
        f"energy__{per}__{operands}__{activity}", "pJ", "result", float,
        f"energy of one {words[per]} on {words[operands]}, {words[activity]}; without leakage",
    )  # fmt: skip


#: All columns, in the order of the file.
COLUMNS: tuple[Column, ...] = (
    Column(
        "design__unit", "", "identity", str, "what was measured: pe (one cell), array, accelerator"
    ),
    Column("design__pe", "", "identity", str, "the processing element, as `hwgen list` names it"),
    Column(
        "design__pe_options",
        "",
        "identity",
        str,
        "what differs from that preset, or from an accelerator's defaults: a=1 b=2",
    ),
    Column("design__rows", "", "identity", int, "rows of PEs (1 for unit pe)"),
    Column("design__cols", "", "identity", int, "columns of PEs (1 for unit pe)"),
    Column("design__dataflow", "", "identity", str, "ws or os: weight- or output-stationary"),
    Column("design__lanes", "", "identity", int, "products per PE and cycle"),
    Column("design__pipeline", "", "identity", int, "registers inside a PE"),
    Column("design__accumulator_bits", "bit", "identity", int, "width of the sums"),
    Column("flow__target", "", "identity", str, "device or library, as `hwgen targets` names it"),
    Column("flow__method", "", "identity", str, "flat, or hierarchical (composed of definitions)"),
    Column("flow__objective", "", "identity", str, "the mapping kept is the best for this"),
    Column("flow__status", "", "result", str, "how it ended: " + ", ".join(STATUSES)),
    Column("flow__message", "", "result", str, "why, unless ok"),
    Column("flow__mapping", "", "result", str, "the mapping that was kept"),
    Column("design__lut__count", "cell", "result", int, "look-up tables, carries' included"),
    Column("design__ff__count", "cell", "result", int, "flip-flops"),
    Column("design__carry__count", "cell", "result", int, "carry cells"),
    Column("design__dsp__count", "cell", "result", int, "multiplier blocks"),
    Column("design__bram__count", "cell", "result", int, "block memories"),
    Column("timing__fmax", "MHz", "result", float, "highest clock, the median over seeds"),
    Column("timing__fmax__min", "MHz", "result", float, "that of the worst seed"),
    Column("timing__fmax__max", "MHz", "result", float, "that of the best seed"),
    Column("timing__period", "ns", "result", float, "shortest clock period"),
    Column("timing__critical_path", "", "result", str, "where the longest path begins and ends"),
    Column("design__instance__area", "um^2", "result", float, "cell area"),
    Column("design__instance__area__sequential", "um^2", "result", float, "that of flip-flops"),
    Column("design__instance__area__combinational", "um^2", "result", float, "that of the rest"),
    Column("power__leakage", "uW", "result", float, "power of the idle circuit, clock stopped"),
    *(
        _energy(per, operands, activity)
        for per in ("cycle", "mac")
        for operands in ("uniform", "trained")
        for activity in ("zero_delay", "glitch")
    ),
    Column("design__macs_per_cycle", "", "result", int, "products per clock cycle"),
    Column("perf__area", "GMAC/s/mm^2", "result", float, "products per second and area (ASIC)"),
    Column("perf", "GMAC/s", "result", float, "products per second at the highest clock"),
    Column("flow__area_error", "%", "result", float, "area of hierarchical against flat"),
    Column("flow__seeds", "", "provenance", str, "seeds of placement: 1 2 3"),
    Column("flow__rtl_sha256", "", "provenance", str, "SHA-256 of the unit's Verilog"),
    Column(
        "flow__inputs_sha256",
        "",
        "provenance",
        str,
        "SHA-256 of all that decides the row: Verilog, flow, tools, library, seeds",
    ),
    Column("flow__library_sha256", "", "provenance", str, "SHA-256 of the Liberty file"),
    Column("flow__tools", "", "provenance", str, "tools and versions"),
    Column("flow__command", "", "provenance", str, "the command that makes the row again"),
    Column("flow__source", "", "provenance", str, "measured or predicted"),
)

_BY_NAME = {column.name: column for column in COLUMNS}
_IDENTITY = tuple(column.name for column in COLUMNS if column.kind == "identity")


# ---- rows ----------------------------------------------------------------------------------------


def identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells a row from all others: the values of its identity columns, in order."""
    return tuple(row[name] for name in _IDENTITY)


def label(row: Mapping[str, Any]) -> str:
    """Return a row's short name, such as ``int8 4×4 ws ecp5-85k``; others may share it."""
    shape = "pe" if row["design__unit"] == "pe" else f"{row['design__rows']}×{row['design__cols']}"
    words = (
        row["design__pe"], row["design__pe_options"], shape, row["design__dataflow"],
        row["flow__target"],
    )  # fmt: skip
    return " ".join(word for word in words if word)


def labels(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[Any, ...], str]:
    """Return a name of each row by identity; where short ones collide, what differs is added."""
    groups: defaultdict[str, dict[tuple[Any, ...], None]] = defaultdict(dict)
    for row in rows:
        groups[label(row)][identity(row)] = None
    found = {}
    for name, points in groups.items():
        differ = [i for i in range(len(_IDENTITY)) if len({point[i] for point in points}) > 1]
        for point in points:
            more = [f"{_IDENTITY[i].rpartition('__')[2]}={point[i]}" for i in differ]
            found[point] = " ".join([name, *more])
    return found


def canonical(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return rows as a table holds them: sorted, every column there, numbers rounded.

    Numbers keep 5 significant digits; texts lose line breaks and repeated blanks.

    Raises
    ------
    TypeError, ValueError
        If a column is unknown, a value is of the wrong kind, not finite or missing where it must
        not, or two rows are of the same point.
    """
    found: dict[tuple[Any, ...], Row] = {}
    for given in rows:
        for name in given:
            if name not in _BY_NAME:
                raise ValueError(f"column must be one of COLUMNS, not {name!r}")
        row = {column.name: _rounded(column, given.get(column.name)) for column in COLUMNS}
        _check(row)
        if identity(row) in found:
            raise ValueError(f"rows must differ in an identity column, not be twice {label(row)}")
        found[identity(row)] = row
    return [found[key] for key in sorted(found, key=_natural)]


def _rounded(column: Column, value: Any) -> Any:
    """Return a value as the table holds it."""
    wrong = TypeError(f"{column.name} must be {_KINDS[column.type]}, not {value!r}")
    if column.type is str:
        if not isinstance(value, str | None):
            raise wrong
        return " ".join((value or "").split())
    if value is None:
        return None
    if column.type is int:
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise wrong
        return int(value)
    if not isinstance(value, Real) or isinstance(value, bool):
        raise wrong
    if not math.isfinite(value):
        raise ValueError(f"{column.name} must be finite, not {value!r}")
    return float(f"{float(value):.{DIGITS}g}") + 0.0  # never -0


_KINDS = {str: "text", int: "an integer", float: "a finite number"}


def _check(row: Row) -> None:
    """Check what other modules rely on in a row whose values are of the right kinds."""
    for name in _IDENTITY:
        if row[name] is None or (row[name] == "" and name != "design__pe_options"):
            raise ValueError(f"{name} must be given")
    if row["flow__status"] not in STATUSES:
        raise ValueError(
            f"flow__status must be one of {', '.join(STATUSES)}, not {row['flow__status']!r}"
        )


def _natural(key: Sequence[Any]) -> list[Any]:
    """Return a sort key in which int8 is before int16."""
    return [
        [(part.isdigit(), int(part) if part.isdigit() else part)
         for part in re.split(r"([0-9]+)", value)]
        if isinstance(value, str) else value
        for value in key
    ]  # fmt: skip


# ---- text ----------------------------------------------------------------------------------------


def table_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as canonical CSV: the same rows, in any order, give the same bytes."""
    lines = ([_text(value) for value in row.values()] for row in canonical(rows))
    return _csv([list(_BY_NAME), *lines])


def units_text() -> str:
    """Return the text of ``units.csv``, which stands beside tables: column, unit, meaning."""
    return _csv([["column", "unit", "meaning"], *([c.name, c.unit, c.meaning] for c in COLUMNS)])


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as canonical CSV, replacing the file in one step.

    Raises
    ------
    TypeError, ValueError
        If a row is not as :func:`canonical` wants it.
    UserError
        If the file cannot be written.
    """
    write_files(path.parent, {path.name: table_text(rows)}, force=True)


def read_table(path: Path) -> list[Row]:
    """Read a table that :func:`write_table` wrote, or that was edited by hand.

    Columns and rows may stand in any order.

    Raises
    ------
    UserError
        If the file is missing or no such table, with line, column and value.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"table {path} must be a readable CSV file: {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"table {path} must be text in UTF-8: {error}") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: dict[tuple[Any, ...], int] = {}
    rows = []
    try:
        header = next(reader, [])
        _check_header(path, header)
        for fields in reader:
            where = f"table {path}, line {reader.line_num}"
            if len(fields) != len(header):
                raise UserError(f"{where}: must have {len(header)} fields, not {len(fields)}")
            texts = dict(zip(header, fields, strict=True))
            try:
                row = {name: _value(column, texts[name]) for name, column in _BY_NAME.items()}
                _check(row)
            except ValueError as error:
                raise UserError(f"{where}: {error}") from error
            first = lines.setdefault(identity(row), reader.line_num)
            if first != reader.line_num:
                raise UserError(f"{where}: must be another point than line {first}: {label(row)}")
            rows.append(row)
    except csv.Error as error:
        raise UserError(f"table {path}, line {reader.line_num}: must be CSV: {error}") from error
    return sorted(rows, key=lambda row: _natural(identity(row)))


def _check_header(path: Path, header: list[str]) -> None:
    for what, names in (
        ("unknown", [name for name in header if name not in _BY_NAME]),
        ("missing", [name for name in _BY_NAME if name not in header]),
        ("repeated", [name for name in _BY_NAME if header.count(name) > 1]),
    ):
        if names:
            shown = ", ".join(repr(name) for name in names[:5]) + (", ..." if names[5:] else "")
            raise UserError(
                f"table {path}, line 1: must name the columns of a table of hwgen, "
                f"but of these is {what}: {shown}"
            )


def _value(column: Column, text: str) -> Any:
    """Parse a field; ValueError names column and text."""
    if column.type is str:
        return text
    if text == "":
        return None
    try:
        value = int(text) if column.type is int else float(text)
        if not math.isfinite(value):
            raise ValueError
    except (ValueError, OverflowError) as error:
        kind = _KINDS[column.type]
        raise ValueError(f"{column.name} must be {kind} or empty, not {text[:60]!r}") from error
    return value


def _text(value: Any) -> str:
    """Return a canonical value as a field."""
    if value is None:
        return ""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _csv(lines: Iterable[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


# ---- Parquet -------------------------------------------------------------------------------------


def write_parquet(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as a Parquet file; each field's metadata holds its ``unit`` and ``meaning``.

    Raises
    ------
    TypeError, ValueError
        If a row is not as :func:`canonical` wants it.
    UserError
        If pyarrow is not installed, or the file cannot be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("pyarrow must be installed: pip install 'hwgen[parquet]'") from error
    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema(
        [
            pyarrow.field(
                column.name, kinds[column.type],
                metadata={"unit": column.unit, "meaning": column.meaning},
            )
            for column in COLUMNS
        ]
    )  # fmt: skip
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(canonical(rows), schema=schema), sink)
    write_files(path.parent, {path.name: sink.getvalue().to_pybytes()}, force=True)
