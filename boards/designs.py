"""The designs that we build on first-class boards, and what was measured of them."""

import csv
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .catalog import BOARDS, MEASURED, Board

__all__ = ["DESIGNS", "Design", "all_designs", "designs_of", "read_measured"]

#: What is built.
DESIGNS = Path(__file__).with_suffix(".toml")


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
    with DESIGNS.open("rb") as file:
        found = tomllib.load(file)["design"]
    return tuple(Design(BOARDS[d["board"]], d["clock_mhz"], d["options"]) for d in found)


def designs_of(board: Board) -> list[Design]:
    """Return the designs for a board, the one for whoever asks for nothing else first."""
    return [design for design in all_designs() if design.board is board]


def read_measured() -> list[dict[str, str]]:
    """Return the rows of what was measured."""
    with MEASURED.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
