"""How TFLite's reference kernels requantize sums."""

import numpy as np
import numpy.typing as npt

from .graph import Tensor
from .multiplier import fit_multiplier, quantize_multiplier, round_away
from .requantize import SUM_BITS, FixedPoint, IntArray, Requantization, Thresholds
from .tflite_file import TfliteOperator
from .tflite_options import activation_range
from .thresholds import fold

__all__ = ["check_sums", "double_precision", "fixed_point"]


def fixed_point(
    operator: TfliteOperator, output: Tensor, factors: list[float], sums: IntArray
) -> FixedPoint:
    """Return the requantization of sums, of which the least and the greatest are given."""
    requantize = FixedPoint(
        *quantize_multiplier(factors), output.zero_point, *activation_range(operator, output)
    )
    check_sums(sums, requantize)
    return requantize


def check_sums(sums: IntArray, requantize: FixedPoint) -> None:
    """Check that sums fit 32 bits, also where the requantization shifts them left."""
    left = requantize.shift.clip(0)
    limit = np.int64(1 << (SUM_BITS - 1)) >> left
    if (sums < -limit).any() or (sums >= limit).any():
        raise ValueError(f"its sums, shifted left by {int(left.max())}, may exceed {SUM_BITS} bits")


def double_precision(
    factors: npt.NDArray[np.float64], output: Tensor, codes: tuple[int, int], sums: IntArray
) -> Requantization:
    """Return the requantization that rounds as double precision does, for every sum.

    So does the reference kernel of fully connected layers, unlike all others (LiteRT 2.3,
    ``reference_integer_ops::FullyConnected``). Where no fixed-point multiplier does the same, 255
    thresholds do.
    """
    low, high = codes
    quantize_multiplier(factors)  # refuses factors that make no sense

    def code(sums: IntArray) -> IntArray:
        scaled = (sums * factors).clip(-1024, 1024)
        return (round_away(scaled) + output.zero_point).clip(low, high)

    least, most = int(sums.min()), int(sums.max())
    limit = 1 << (SUM_BITS - 1)
    if not -limit <= least <= most < limit:
        raise ValueError(f"its sums may exceed {SUM_BITS} bits")
    # One range for all channels: those with one factor then have the same thresholds.
    ranges = (np.full(len(factors), least), np.full(len(factors), most))
    exact = fold(code, *ranges, low, high)
    found = [
        fit_multiplier(thresholds, low - output.zero_point, (least, most), factor)
        for thresholds, factor in zip(exact.thresholds, factors.tolist(), strict=True)
    ]
    fitting = np.array([pair for pair in found if pair is not None], np.int64).reshape(-1, 2)
    if len(fitting) < len(found):
        channels = sums.shape[1]
        return Thresholds(
            np.broadcast_to(exact.thresholds, (channels, high - low)),
            np.broadcast_to(exact.base, channels),
            np.broadcast_to(exact.step, channels),
        )
    return FixedPoint(fitting[:, 0], fitting[:, 1], output.zero_point, low, high)
