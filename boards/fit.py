"""The largest array that a board holds at a clock, found by mapping and routing."""

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hwgen.errors import UserError
from synth.store import Store
from testbench.tools import JobFailed

from .build import Build, Built, Say, attempt, describe_path, map_build

__all__ = ["RATIOS", "fit"]

_COLUMNS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64)
#: Rows for each column: columns cost more than rows, because each has its own post-processing, and
#: these let activations be aligned.
RATIOS = (1, 2, 4)


def fit(
    build: Build, given: Mapping[str, Any], store: Store, say: Say,
    columns: Sequence[int] = _COLUMNS,
) -> tuple[Build, Built]:  # fmt: skip
    """Find the largest array that routes on the board and meets the clock.

    For each of :data:`RATIOS`, arrays are mapped until it is known which the FPGA has cells for;
    those of the ratio with the largest one are then routed, the largest first. It is taken for
    granted that of two arrays of a ratio the larger one needs more, and is slower.

    Parameters
    ----------
    build : Build
        Board, clock and link; of whatever shape.
    given : mapping
        Options of the accelerator but its rows and columns; the board completes them for each
        shape.
    store : Store
    say : callable
        Told of each step.
    columns : sequence of int
        What is tried, ascending.

    Raises
    ------
    UserError
        If not even the smallest does.
    """

    def with_shape(shape: tuple[int, int]) -> Build:
        return Build.of(
            build.board, {**given, "rows": shape[0], "cols": shape[1]},
            hz=build.hz, baud=build.baud, seeds=build.seeds, pins=build.pins,
        )  # fmt: skip

    reasons: dict[tuple[int, int], str] = {}

    def too_large(shape: tuple[int, int]) -> bool:
        """Tell whether an array needs more cells than there are."""
        try:
            one = with_shape(shape)
        except UserError as error:  # such as more rows than loop counters can count
            reasons[shape] = str(error)
            return True
        try:
            map_build(one, store, one.setting())
        except JobFailed as error:
            reasons[shape] = str(error)
            say(f"{_name(shape)}: {error}")
            return True
        say(f"{_name(shape)}: enough cells")
        return False

    found: dict[tuple[int, int], tuple[Build, Built]] = {}

    def fails(shape: tuple[int, int]) -> bool:
        """Tell whether an array does not route, or misses the clock."""
        one = with_shape(shape)
        say(f"{_name(shape)}: routing")
        try:
            built = attempt(one, store, one.setting(), say)
        except JobFailed as error:
            reasons[shape] = str(error)
            return True
        if not built.met:
            result = built.routed.result
            reasons[shape] = (
                f"it reaches {result['fmax']:.1f} MHz of {built.setting.hz / 1e6:g}; its slowest "
                f"path is {describe_path(result)}"
            )
            return True
        found[shape] = one, built
        return False

    possible: list[tuple[int, int]] = []
    for ratio in RATIOS:
        shapes = [(ratio * cols, cols) for cols in columns]
        enough = shapes[: bisect.bisect_left(shapes, True, key=_once(too_large))]
        if enough and (not possible or math.prod(enough[-1]) > math.prod(possible[-1])):
            possible = enough
    works = len(possible)
    if possible and fails(possible[-1]):  # at the clock of an oscillator the largest mostly works
        works = bisect.bisect_left(possible[:-1], True, key=_once(fails))
    if works == 0:
        smallest = possible[0] if possible else (RATIOS[0] * columns[0], columns[0])
        raise UserError(
            f"no array of {build.config.array.name} fits {build.board.name} at "
            f"{build.setting().hz / 1e6:g} MHz; {_name(smallest)}: {reasons[smallest]}"
        )
    return found[possible[works - 1]]


def _once(
    predicate: Callable[[tuple[int, int]], bool],
) -> Callable[[tuple[int, int]], bool]:
    answers: dict[tuple[int, int], bool] = {}

    def asked(shape: tuple[int, int]) -> bool:
        if shape not in answers:
            answers[shape] = predicate(shape)
        return answers[shape]

    return asked


def _name(shape: tuple[int, int]) -> str:
    return f"{shape[0]}×{shape[1]}"
