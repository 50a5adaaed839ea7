"""Exact thresholds of any monotone function of an integer sum.

A quantizer of few levels after a matrix product is, whatever floating-point arithmetic lies between
them, a staircase: batch normalization, ReLU, division by a scale and rounding never fall, or never
rise, as the sum rises. The least sum of each stair is found by bisection of that very arithmetic,
so that nothing is approximated, and no algebra has to be trusted for positive, negative and zero
gamma, sign(0) or ties. Idea: FINN's ``MultiThreshold`` (Umuroglu et al., FPGA 2017).
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .requantize import IntArray, Requantization, Thresholds

__all__ = ["fold", "to_thresholds"]


def fold(
    codes: Callable[[IntArray], IntArray],
    sums_low: npt.ArrayLike,
    sums_high: npt.ArrayLike,
    low: int,
    high: int,
    step: int = 1,
) -> Thresholds:
    """Return thresholds that give a function's code for every sum of a range.

    Parameters
    ----------
    codes : callable
        From int64 sums of shape (..., channels) to integers of the same shape; monotone in each
        channel, one rising, the other falling if need be.
    sums_low, sums_high : int or int64 array (channels)
        Least and greatest sum, within 32 bits. Thresholds that no sum reaches are
        ``sums_high + 1``, those that all do ``sums_low``.
    low, high : int
        Bounds of the codes.
    step : int
        Distance of codes; 2 for bipolar ones.

    Raises
    ------
    ValueError
        If a code is not one of ``low, low + step, ..., high``.
    """
    first, last = np.broadcast_arrays(
        np.atleast_1d(np.asarray(sums_low, np.int64)),
        np.atleast_1d(np.asarray(sums_high, np.int64)),
    )
    ends = np.stack([codes(first), codes(last)])
    if ends.min() < low or ends.max() > high or ((ends - low) % step).any():
        raise ValueError(
            f"codes must be {low} to {high} in steps of {step}, not {ends.min()} to {ends.max()}"
        )
    falling = ends[0] > ends[1]
    stairs = step * np.arange(1, (high - low) // step + 1)[:, None]

    def reached(sums: IntArray) -> npt.NDArray[np.bool_]:
        found = codes(sums)
        return np.where(falling, found <= high - stairs, found >= low + stairs)

    below = np.broadcast_to(first, (len(stairs), len(first))).copy()  # where no lesser sum is known
    above = np.broadcast_to(last + 1, below.shape).copy()  # a sum that reaches, or beyond all
    while (below < above).any():
        middle = np.minimum((below + above) // 2, last)
        active = below < above
        hit = reached(middle)
        above = np.where(active & hit, middle, above)
        below = np.where(active & ~hit, middle + 1, below)
    return Thresholds(above.T, np.where(falling, high, low), np.where(falling, -step, step))


def to_thresholds(
    requantization: Requantization, low: npt.ArrayLike, high: npt.ArrayLike
) -> Thresholds:
    """Return thresholds equal to a requantization for every sum of a range.

    For accelerators that have only thresholds; there are as many as codes, less one.

    Parameters
    ----------
    requantization : Requantization
    low, high : int or int64 array (channels)
        Least and greatest sum.
    """
    if isinstance(requantization, Thresholds):
        return requantization
    first = np.atleast_1d(np.asarray(low, np.int64))
    first = np.broadcast_to(first, requantization.apply(first).shape)
    return fold(requantization.apply, first, high, requantization.low, requantization.high)
