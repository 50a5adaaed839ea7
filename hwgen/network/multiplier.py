"""Fixed-point multipliers: of a real factor, of an exact division, of given thresholds."""

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from .requantize import IntArray, multiply_fixed_point

__all__ = ["division_multiplier", "fit_multiplier", "quantize_multiplier", "round_away"]

#: Shifts that :func:`~.requantize.multiply_fixed_point` takes.
SHIFTS = (-31, 30)


def quantize_multiplier(factors: Iterable[float]) -> tuple[IntArray, IntArray]:
    """Return the multiplier and the shift of each factor, ``multiplier * 2**(shift - 31)``.

    Source: TFLite's ``QuantizeMultiplier``: the significand, 0.5 to 1, is rounded to 31 bits with
    ties away from zero; a factor below 2**-32 becomes 0.

    Parameters
    ----------
    factors : iterable of float
        Above 0 and finite.

    Raises
    ------
    ValueError
        If a factor is not above 0 and below 2**30.
    """
    multipliers, shifts = [], []
    for factor in factors:
        if not 0 < factor < 2.0**30:
            raise ValueError(f"a factor of a requantization must lie in 0 to 2**30, not {factor}")
        significand, shift = math.frexp(factor)
        multiplier = math.floor(math.ldexp(significand, 31) + 0.5)  # exact: 53 bits hold the sum
        if multiplier == 1 << 31:
            multiplier, shift = multiplier // 2, shift + 1
        if shift < SHIFTS[0]:
            multiplier, shift = 0, 0
        multipliers.append(multiplier)
        shifts.append(shift)
    return np.array(multipliers, np.int64), np.array(shifts, np.int64)


def division_multiplier(count: int, low: int, high: int) -> tuple[int, int] | None:
    """Return multiplier and shift that divide ``count * low`` to ``count * high`` by ``count``.

    With :func:`~.requantize.multiply_fixed_point` they give the quotient rounded to nearest, ties
    away from zero (TFLite's average pool), for *every* dividend: each is tried. ``None`` if there
    are none, or more than 2**20 dividends.
    """
    if not 0 < count * (high - low) < 1 << 20:
        return None
    dividends = np.arange(count * low, count * high + 1, dtype=np.int64)
    wanted = np.sign(dividends) * ((2 * abs(dividends) + count) // (2 * count))
    # Slightly above 1 / count, a tie lands beyond the half on either side of zero; one rounding
    # only, hence no right shift.
    for shift in (0, 1):
        for extra in (1, 0, 2):
            multiplier = (1 << (31 - shift)) // count + extra
            if multiplier < 1 << 31:
                found = multiply_fixed_point(dividends, np.int64(multiplier), np.int64(shift))
                if (found == wanted).all():
                    return multiplier, shift
    return None


def round_away(values: npt.NDArray[np.float64]) -> IntArray:
    """Return values rounded to the nearest integer, ties away from zero (C's ``round``)."""
    whole = np.floor(abs(values))
    return (np.sign(values) * (whole + (abs(values) - whole >= 0.5))).astype(np.int64)


def fit_multiplier(
    thresholds: IntArray, base: int, sums: tuple[int, int], factor: float
) -> tuple[int, int] | None:
    """Return multiplier and shift with which sums reach codes at given thresholds, all of them.

    A threshold bounds the multiplier from below, the sum before it from above; what all bounds
    leave is exact for every sum. Only shifts to the left are tried: they round once.

    Parameters
    ----------
    thresholds : int64 array
        Ascending: the least sums of the codes ``base + 1``, ``base + 2`` and so on, within
        ``sums[0]`` to ``sums[1] + 1``.
    base : int
        Code below all thresholds; the zero point counts as 0.
    sums : (least, greatest)
        Within 32 bits.
    factor : float
        About that which the multiplier stands for.

    Returns
    -------
    (multiplier, shift), or None if there are none
    """
    shift = max(int(quantize_multiplier([factor])[1][0]), 0)
    if max(map(abs, sums)) << shift >= 1 << 31:
        return None
    # A sum reaches a code if its product is at least this; the least and the greatest product that
    # are asked for are those of the threshold and of the sum before it.
    product = (np.arange(len(thresholds)) + base + 1 << 31) - (1 << 30)
    reach, miss = thresholds <= sums[1], thresholds > sums[0]
    first, last = thresholds << shift, thresholds - 1 << shift
    up, down = reach & (first > 0), reach & (first < 0)
    least = -(-product[up] // first[up])
    most = product[down] // first[down]
    up, down = miss & (last > 0), miss & (last < 0)
    most = np.concatenate([most, -(-product[up] // last[up]) - 1, [(1 << 31) - 1]])
    least = np.concatenate([least, product[down] // last[down] + 1, [0]])
    zero = (reach & (first == 0) & (product > 0)) | (miss & (last == 0) & (product <= 0))
    if zero.any() or least.max() > most.min():
        return None
    nearest = round(math.ldexp(factor, 31 - shift))
    return min(max(nearest, int(least.max())), int(most.min())), shift
