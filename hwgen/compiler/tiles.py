"""How an output is cut into what one run makes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Tile", "rectangles", "strips"]


@dataclass(frozen=True)
class Tile:
    """Pixels of an output, in two loops.

    Attributes
    ----------
    first : (row, column)
        Of the first pixel.
    counts : (inner, outer)
        Iterations of the loops.
    moves : two of (rows, columns)
        How far each iteration of the inner, the outer loop goes on.
    backwards : bool
        The inner loop's results come in reverse.
    """

    first: tuple[int, int]
    counts: tuple[int, int]
    moves: tuple[tuple[int, int], tuple[int, int]]
    backwards: bool = False

    def strides(self, width: int) -> tuple[int, int]:
        """Return how many pixels further each iteration's result is, in rows of ``width``."""
        inner, outer = (y * width + x for y, x in self.moves)
        return -inner if self.backwards else inner, outer

    def pixels(self, width: int) -> npt.NDArray[np.int64]:
        """Return the places of the results, (outer, inner), counted in rows of ``width``."""
        inner, outer = self.strides(width)
        first = self.first[0] * width + self.first[1]
        if self.backwards:
            first -= inner * (self.counts[0] - 1)
        steps = np.arange(self.counts[1])[:, None] * outer + np.arange(self.counts[0]) * inner
        return first + steps


def rectangles(height: int, width: int, most: int, *, rows_apart: bool = False) -> list[Tile]:
    """Cut an output into rectangles of at most so many pixels.

    Parameters
    ----------
    rows_apart : bool
        That is the limit for each row, not for all rows of a tile.
    """
    cols = min(width, most)
    rows = height if rows_apart else min(height, max(1, most // width))
    return [
        Tile((y, x), (min(cols, width - x), min(rows, height - y)), ((0, 1), (1, 0)))
        for y in range(0, height, rows)
        for x in range(0, width, cols)
    ]


def strips(height: int, width: int, pixels: int) -> list[Tile]:
    """Cut an output into passes of so many pixels side by side, or fewer at the edge.

    A strip has one pass for each place across it; it goes down or to the right, whichever takes
    fewer passes. An output of one row or column is one strip of all its full passes, and the rest.
    """
    passes_down = height * -(-width // pixels)
    passes_right = width * -(-height // pixels)
    along, across = (0, 1), (1, 0)
    length, breadth = width, height
    if passes_right < passes_down:
        along, across, length, breadth = across, along, height, width

    def strip(start: int, count: int, passes: int, apart: tuple[int, int]) -> Tile:
        first = (along[0] * start, along[1] * start)
        return Tile(first, (count, passes), (along, apart), backwards=True)

    if breadth > 1:
        return [
            strip(start, min(pixels, length - start), breadth, across)
            for start in range(0, length, pixels)
        ]
    whole, rest = divmod(length, pixels)
    found = []
    if whole:
        found.append(strip(0, pixels, whole, (along[0] * pixels, along[1] * pixels)))
    if rest:
        found.append(strip(whole * pixels, rest, 1, across))
    return found
