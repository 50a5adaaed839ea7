"""What was measured of boards: two tables that stand beside this file."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hwgen.generate import write_files

__all__ = ["DESIGNS", "FITS", "read_rows", "write_rows"]

#: The largest arrays, as `hwgen fit` found them (`python benchmarks/fits.py`).
FITS = Path(__file__).with_name("fits.csv")
#: What `python benchmarks/bitstreams.py` found of our designs.
DESIGNS = Path(__file__).with_name("designs.csv")


def read_rows(table: Path) -> list[dict[str, str]]:
    """Return the rows of a table; none if it is not there."""
    if not table.exists():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(table: Path, rows: Iterable[Mapping[str, Any]], order: Iterable[str]) -> None:
    """Write the rows, one for each board and PE, in one step.

    Parameters
    ----------
    table : Path
    rows : iterable of mapping
        With ``board``, ``pe`` and the same other columns; of two of a board and a PE the later one
        counts.
    order : iterable of str
        The boards, first to last.
    """
    places = {board: place for place, board in enumerate(order)}
    latest = {(row["board"], row["pe"]): row for row in rows}
    found = sorted(latest.values(), key=lambda row: places[row["board"]])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(found[0]))
    writer.writeheader()
    writer.writerows(found)
    write_files(table.parent, {table.name: text.getvalue()}, force=True)
