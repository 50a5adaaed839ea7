"""TFLite's softmax of 8-bit codes, on the host, in the integers of its reference kernel.

Source: ``reference_ops::Softmax`` for int8 and gemmlowp's fixed-point functions that it calls
(``exp_on_negative_values``, ``one_over_one_plus_x_for_x_in_0_1``). "Q5" means 32 bits of which 5
are integer bits; constants are real numbers of those functions, rounded to 31 bits.
"""

import math

import numpy as np

from .multiplier import quantize_multiplier
from .requantize import IntArray, multiply_fixed_point

__all__ = ["softmax"]

_ONE = (1 << 31) - 1  # 1.0 in Q0, saturated


def softmax(codes: IntArray, scale: float, beta: float) -> IntArray:
    """Return the softmax over the last axis, as codes of scale 1/256 and zero point -128.

    Parameters
    ----------
    codes : int64 array
        -128 to 127; fewer than 4096 along the last axis, the reach of the kernel's sums.
    scale : float
        Of the codes, above 0.
    beta : float
        Factor of the exponent, above 0.

    Raises
    ------
    ValueError
        If ``beta * scale`` is not above 2**-26: the kernel refuses it too.
    """
    factor = min(beta * scale * 2.0**26, 2.0**31 - 1)
    if not factor > 1:
        raise ValueError(f"beta times scale must be above 2**-26, not {beta * scale}")
    # The capped factor exceeds what quantize_multiplier takes; halving is exact.
    multipliers, shifts = quantize_multiplier([factor / 4])
    multiplier, left = multipliers[0], shifts[0] + 2
    # Beyond this distance from the largest code the kernel gives 0.
    reach = math.floor(31 * 2.0**26 / 2.0 ** int(left))
    distances = -np.arange(min(reach, 255) + 1, dtype=np.int64)
    powers = np.zeros(256, np.int64)
    powers[: distances.size] = _exp(multiply_fixed_point(distances, multiplier, left))
    found = powers[codes.max(axis=-1, keepdims=True) - codes]
    total = _shift_right(found, 12).sum(axis=-1, keepdims=True)
    reciprocal, bits = _reciprocal(total)
    return (_shift_right(_multiply(reciprocal, found), bits + 23) - 128).clip(-128, 127)


def _multiply(a: IntArray, b: IntArray | int) -> IntArray:
    """Return gemmlowp's product of two fixed-point numbers; integer bits add up."""
    return multiply_fixed_point(a, np.asarray(b, np.int64), np.int64(0))


def _shift_right(a: IntArray, bits: IntArray | int) -> IntArray:
    """Return ``a / 2**bits`` rounded, ties away from zero."""
    half = (np.int64(1) << bits) >> 1
    return np.sign(a) * ((abs(a) + half) >> bits)


def _exp(a: IntArray) -> IntArray:
    """Return exp(a) in Q0 of ``a`` in Q5, not above 0."""
    quarter = 1 << 24
    rest = (a & (quarter - 1)) - quarter  # -1/4 to 0
    # Taylor around -1/8, in Q0.
    x = (rest << 5) + (1 << 28)
    x2 = _multiply(x, x)
    x3, x4 = _multiply(x2, x), _multiply(x2, x2)
    third = _multiply(_shift_right(x4, 2) + x3, 715827883)
    series = x + _shift_right(third + x2, 1)
    result = 1895147668 + _multiply(series, 1895147668)  # exp(-1/8)
    # Then the whole quarters, by the bits of their number: exp(-1/4), exp(-1/2), ... exp(-16).
    quarters = (rest - a) >> 24
    steps = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
    for bit, step in enumerate(steps):
        result = np.where(quarters >> bit & 1, _multiply(result, step), result)
    return np.where(a == 0, _ONE, result)


def _reciprocal(total: IntArray) -> tuple[IntArray, IntArray]:
    """Return 1 / total in Q0 as a number of 0.5 to 1, and the bits to shift it right."""
    # Of a total in Q12, 1 or more: normalized to 1 to 2, of which 1 is subtracted.
    length = np.floor(np.log2(total)).astype(np.int64)  # exact: totals are below 2**32
    fraction = (total << (31 - length)) - (1 << 31)
    half = (fraction + _ONE + 1) >> 1
    # Newton and Raphson, in Q2, from 48/17 - 32/17 half.
    x = 1515870810 + _multiply(half, -1010580540)
    for _ in range(3):
        x = x + (_multiply(x, (1 << 29) - _multiply(half, x)) << 2)
    return (x << 1).clip(None, _ONE), length - 19
