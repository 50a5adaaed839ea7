"""The designs that we build on first-class boards."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .catalog import BOARDS, Board

__all__ = [
    "RESOURCES",
    "Design",
    "all_designs",
    "designs_of",
    "markdown",
]

#: What a design takes of its FPGA, in the order of the table.
RESOURCES = ("lut", "ff", "bram", "dsp")
_FILE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Design:
    """An accelerator for a board.

    Attributes
    ----------
    board : Board
    clock_mhz : float
        Of the core.
    options : dict
        Of the accelerator; what they leave out is as :meth:`.Board.complete` has it.
    """

    board: Board
    clock_mhz: float
    options: dict[str, Any]


@cache
def all_designs() -> tuple[Design, ...]:
    """Return all designs."""
    with _FILE.open("rb") as file:
        found = tomllib.load(file)["design"]
    return tuple(Design(BOARDS[d["board"]], d["clock_mhz"], d["options"]) for d in found)


def designs_of(board: Board) -> list[Design]:
    """Return the designs for a board, the one for whoever asks for nothing else first."""
    return [design for design in all_designs() if design.board is board]


def markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the README's table of rows as :func:`.read_rows` gives them."""
    lines = [
        "| board | PE | rows × cols | MHz (reached) | LUT | FF | BRAM | DSP | GOPS | measured |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["board"], row["pe"], f"{row['rows']} × {row['cols']}"]
        cells.append(f"{row['clock_mhz']} ({row['fmax_mhz']})")
        for name in RESOURCES:
            used, available = int(row[f"{name}_used"]), int(row[f"{name}_available"])
            cells.append(f"{used:,} ({used / available:.0%})" if available else "–")
        cells += [f"{float(row[f'gops_{kind}']):,g}" for kind in ("peak", "measured")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
