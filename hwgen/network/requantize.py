"""Requantization: from exact sums to the codes of the next layer, in three ways.

Each way is a frozen object that holds its parameters for every output channel and *computes* it on
NumPy integers. The circuits are in ``hwgen/accelerator/postprocess.py`` and know nothing of this.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["FixedPoint", "Requantization", "RoundingShift", "Thresholds", "multiply_fixed_point"]

IntArray = npt.NDArray[np.int64]

#: Sums that are requantized lie in two's complement of this many bits: of activations of up to 8
#: bits, and of longer ones.
SUM_BITS, LONG_SUM_BITS = 32, 48


def multiply_fixed_point(
    sums: IntArray, multiplier: IntArray | np.int64, shift: IntArray | np.int64
) -> IntArray:
    """Return ``round(sums * multiplier * 2**(shift - 31))`` as TFLite's reference kernels round it.

    The product is rounded twice, to 31 bits fewer with ties upwards, then by the right shift with
    ties away from zero (gemmlowp's ``SaturatingRoundingDoublingHighMul`` and
    ``RoundingDivideByPOT``); a positive ``shift`` is applied to ``sums`` before.

    Parameters
    ----------
    sums : int64 array
        Within 48 bits, also after the left shift.
    multiplier : int64 array
        0 to 2**31 - 1.
    shift : int64 array
        -31 to 30.
    """
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    # (sum * multiplier + 2**30) >> 31 in two parts, since the product may need 79 bits
    upper, lower = (sums << left) >> 16, (sums << left) & 0xFFFF
    high = (upper * multiplier + ((lower * multiplier + (1 << 30)) >> 16)) >> 15
    mask = (np.int64(1) << right) - 1
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0))


class Requantization(ABC):
    """A map from sums to codes, the last axis being the output channel.

    ``low`` and ``high`` bound the codes.
    """

    low: int
    high: int

    @abstractmethod
    def apply(self, sums: npt.ArrayLike) -> IntArray:
        """Return the code of each sum, of shape (..., channels)."""


@dataclass(frozen=True, eq=False)
class FixedPoint(Requantization):
    """Multiply by ``multiplier * 2**(shift - 31)``, add ``zero_point``, clamp to ``low..high``.

    Source: TFLite's reference kernels (``MultiplyByQuantizedMultiplier``), 8-bit quantization
    specification; ReLU and ReLU6 are clamps.

    Parameters
    ----------
    multiplier, shift : int64 array (channels) or (1)
        See :func:`multiply_fixed_point`.
    zero_point, low, high : int
        Codes.
    """

    multiplier: IntArray
    shift: IntArray
    zero_point: int
    low: int
    high: int

    def apply(self, sums: npt.ArrayLike) -> IntArray:
        scaled = multiply_fixed_point(np.asarray(sums, np.int64), self.multiplier, self.shift)
        return (scaled + self.zero_point).clip(self.low, self.high)


@dataclass(frozen=True, eq=False)
class RoundingShift(Requantization):
    """Shift right by ``shift`` with ties to even, left where it is negative; then clamp.

    Source: F8Net (Jin et al., ICLR 2022), ``int_op_only_fix_quant`` of the authors' code.

    Parameters
    ----------
    shift : int64 array (channels) or (1)
        -31 to 31.
    zero_point, low, high : int
        Codes; the zero point is added after the shift.
    """

    shift: IntArray
    zero_point: int
    low: int
    high: int

    def apply(self, sums: npt.ArrayLike) -> IntArray:
        sums = np.asarray(sums, np.int64)
        right, left = np.maximum(self.shift, 0), np.maximum(-self.shift, 0)
        floor = sums >> right
        twice = 2 * (sums - (floor << right))  # against 2**right: below, at or above the tie
        unit = np.int64(1) << right
        up = (twice > unit) | ((twice == unit) & (right > 0) & (floor & 1 == 1))
        return ((floor + up << left) + self.zero_point).clip(self.low, self.high)


@dataclass(frozen=True, eq=False)
class Thresholds(Requantization):
    """Count the thresholds that a sum reaches: ``base + step * Σ (sum >= threshold)``.

    Source: FINN's ``MultiThreshold`` (Umuroglu et al., FPGA 2017). A falling activation (batch
    normalization with negative gamma) has a negative ``step``; a constant one has thresholds beyond
    every sum.

    Parameters
    ----------
    thresholds : int64 array (channels, count)
        Ascending; within 32 bits.
    base, step : int64 array (channels)
        Code below all thresholds, and what each adds.
    """

    thresholds: IntArray
    base: IntArray
    step: IntArray

    @property
    def low(self) -> int:  # type: ignore[override]
        """The least code."""
        return int(np.minimum(self.base, self.base + self.step * self.thresholds.shape[1]).min())

    @property
    def high(self) -> int:  # type: ignore[override]
        """The greatest code."""
        return int(np.maximum(self.base, self.base + self.step * self.thresholds.shape[1]).max())

    def apply(self, sums: npt.ArrayLike) -> IntArray:
        reached = np.asarray(sums, np.int64)[..., None] >= self.thresholds
        return self.base + self.step * reached.sum(axis=-1)
