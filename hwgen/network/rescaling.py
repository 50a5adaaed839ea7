"""From real factors to requantizations: the best shifts, thresholds or multipliers for them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .requantize import SUM_BITS, FixedPoint, IntArray, Requantization, RoundingShift
from .thresholds import fold

__all__ = ["Scaling", "fixed_point", "power_of_two", "requantization"]

FloatArray = npt.NDArray[np.float64]

#: A quantizer with no more levels gets thresholds, which are exact.
MOST_LEVELS = 16


@dataclass(frozen=True, eq=False)
class Scaling:
    """``round((sums + rest) * factor) + zero_point``, ties to even, clamped to ``low..high``.

    What ONNX's ``QuantizeLinear`` makes of a layer's sums, in real numbers, rounded once.

    Parameters
    ----------
    factor : float64 array (channels)
        Above 0.
    rest : float64 array (channels)
        What the sums' integer bias left out; at most a half.
    bound : int64 array (channels)
        Of the sums' magnitudes; below 2**31.
    zero_point, low, high : int
        Codes.
    levels : int
        Number of codes that the output has without an activation that clamps it.
    """

    factor: FloatArray
    rest: FloatArray
    bound: IntArray
    zero_point: int
    low: int
    high: int
    levels: int

    def codes(self, sums: IntArray) -> IntArray:
        """Return the code of each sum, of shape (..., channels), in double precision."""
        found = np.rint((sums + self.rest) * self.factor) + self.zero_point
        return found.clip(self.low, self.high).astype(np.int64)


def power_of_two(factor: FloatArray) -> bool:
    """Whether all factors are powers of two that a :class:`RoundingShift` can apply."""
    mantissa, exponent = np.frexp(factor)
    return bool((mantissa == 0.5).all() and (abs(exponent - 1) < 32).all())


def requantization(scaling: Scaling, shifts: bool) -> Requantization:
    """Return the requantization that is nearest to a scaling.

    Shifts are exact where every factor is a power of two, and so are thresholds, which a quantizer
    of up to 16 levels gets. A fixed-point multiplication rounds correctly but for sums that come
    within some 2**-12 of a tie.

    Parameters
    ----------
    scaling : Scaling
    shifts : bool
        Whether to take shifts; then all factors are powers of two and ``rest`` does not count.

    Raises
    ------
    ValueError
        If a shift to the left would leave 32 bits.
    """
    limits = (scaling.zero_point, scaling.low, scaling.high)
    if shifts:
        shift = 1 - np.frexp(scaling.factor)[1].astype(np.int64)
        _check_left(scaling, -shift)
        return RoundingShift(shift, *limits)
    if scaling.levels <= MOST_LEVELS:
        return fold(scaling.codes, -scaling.bound, scaling.bound, scaling.low, scaling.high)
    span = scaling.high - scaling.low + 1
    multiplier, shift = fixed_point(scaling.factor, scaling.bound, span)
    _check_left(scaling, shift)
    return FixedPoint(multiplier, shift, *limits)


def fixed_point(factor: FloatArray, bound: IntArray, span: int) -> tuple[IntArray, IntArray]:
    """Return the multiplier and shift that come nearest to each factor.

    TFLite's own choice has 31 significant bits and rounds twice, first to ``-shift`` fractional
    bits: about one result in ``2**(1 - shift)`` is off by one. With a shift of 0 there is one
    rounding, and a multiplier of fewer bits. Which is best depends on how large those sums are that
    are not clamped.

    Parameters
    ----------
    factor : float64 array (channels)
        Above 0.
    bound : int64 array (channels)
        Of the sums' magnitudes.
    span : int
        Number of codes.

    Raises
    ------
    ValueError
        If a factor is 2**30 or more.
    """
    if factor.max() >= 1 << 30:
        raise ValueError(f"its factor {factor.max():g} must be below 2**30")
    reach = np.minimum(bound, span / factor)[:, None]
    shifts = np.arange(30, -32, -1)
    multipliers = np.rint(np.ldexp(factor[:, None], 31 - shifts))
    error = reach * abs(np.ldexp(multipliers, shifts - 31) - factor[:, None])
    error += np.where(shifts < 0, np.ldexp(0.5, shifts), 0.0)
    # Factors of 1 and more need a shift to the left; others would only pay for it in width.
    needed = np.maximum(np.frexp(factor)[1], 0)[:, None]
    usable = (multipliers < 1 << 31) & (shifts <= needed)
    best = np.argmin(np.where(usable, error, np.inf), axis=1)
    rows = np.arange(len(factor))
    return multipliers[rows, best].astype(np.int64), shifts[best].astype(np.int64)


def _check_left(scaling: Scaling, left: IntArray) -> None:
    largest = int((scaling.bound << np.maximum(left, 0)).max(initial=0))
    if largest >= 1 << SUM_BITS - 1:
        raise ValueError(
            f"its sums, up to {int(scaling.bound.max())}, times {scaling.factor.max():g} "
            f"must fit {SUM_BITS} bits"
        )
