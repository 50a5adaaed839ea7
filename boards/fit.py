"""The largest array that a board holds at a clock, found by mapping and routing."""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import replace

from hwgen.accelerator.config import AcceleratorConfig
from hwgen.errors import UserError
from synth.store import Store
from testbench.tools import JobFailed

from .build import Build, Built, Say, attempt, describe_path, map_build

__all__ = ["SHAPES", "fit"]

_SIDES = (1, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64)
#: The shapes that are tried, (rows, cols), smallest first. Columns cost more than rows, because
#: each has its own post-processing.
SHAPES = tuple(
    sorted(
        ((rows, cols) for rows in _SIDES for cols in _SIDES if cols <= rows <= 2 * cols),
        key=lambda shape: (shape[0] * shape[1], shape[0]),
    )
)


def fit(
    build: Build, store: Store, say: Say, shapes: Sequence[tuple[int, int]] = SHAPES
) -> tuple[Build, Built]:
    """Find the largest array that routes on the board and meets the clock.

    Parameters
    ----------
    build : Build
        Board, clock and everything of the configuration but its rows and columns.
    store : Store
    say : callable
        Told of each step.
    shapes : sequence of (rows, cols)
        What is tried, smallest first. It is taken for granted that what is larger needs more, and
        is slower.

    Raises
    ------
    UserError
        If not even the smallest does.
    """

    def with_shape(shape: tuple[int, int]) -> Build:
        options = {**build.options, "rows": shape[0], "cols": shape[1]}
        try:
            return replace(build, config=AcceleratorConfig.from_options(options), options=options)
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from error

    reasons: dict[tuple[int, int], str] = {}

    def too_large(shape: tuple[int, int]) -> bool:
        """Tell whether an array needs more cells than there are."""
        try:
            one = with_shape(shape)
        except UserError as error:  # such as a buffer of less than two of its words
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

    enough = bisect.bisect_left(shapes, True, key=_once(too_large))
    possible = shapes[:enough]
    works = bisect.bisect_left(possible, True, key=_once(fails))
    if works == 0:
        smallest = shapes[0]
        raise UserError(
            f"no array of {build.options['pe']} fits {build.board.name} at "
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
