"""The arithmetic that everything else is compared with, against other formulations of it.

Here are Python's unbounded integers and exact fractions, written from the definitions: gemmlowp's
in C's truncating division, round half to even as Python's own `round`, convolutions as six loops.
"""

from fractions import Fraction
from itertools import product
from math import ceil, floor, frexp

import numpy as np
import pytest

from hwgen.network.graph import Add, Conv, Network, Pool, Rescale, Tensor
from hwgen.network.multiplier import (
    division_multiplier,
    fit_multiplier,
    quantize_multiplier,
    round_away,
)
from hwgen.network.requantize import FixedPoint, RoundingShift, Thresholds, multiply_fixed_point
from testbench.golden_network import run_network, run_operation

MAX, MIN = (1 << 31) - 1, -(1 << 31)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def half_away(x):
    """Round a fraction, ties away from zero."""
    return floor(x + Fraction(1, 2)) if x >= 0 else ceil(x - Fraction(1, 2))


def truncate(a, b):
    """Divide as C does."""
    return abs(a) // b * (1 if a >= 0 else -1)


def gemmlowp(x, multiplier, shift):
    """RoundingDivideByPOT(SaturatingRoundingDoublingHighMul(x << left, multiplier), right)."""
    ab = (x << max(shift, 0)) * multiplier
    nudge = 1 << 30 if ab >= 0 else 1 - (1 << 30)
    high = truncate(ab + nudge, 1 << 31)
    exponent = max(-shift, 0)
    mask = (1 << exponent) - 1
    remainder = high & mask
    threshold = (mask >> 1) + (1 if high < 0 else 0)
    return (high >> exponent) + (1 if remainder > threshold else 0)


def check_multiplication(sums, multiplier, shift):
    found = multiply_fixed_point(np.array(sums), np.int64(multiplier), np.int64(shift))
    assert found.tolist() == [gemmlowp(x, multiplier, shift) for x in sums]
    # And in real numbers: first to 31 bits fewer, ties upwards, then ties away from zero.
    left, right = max(shift, 0), max(-shift, 0)
    high = [floor(Fraction((x << left) * multiplier, 1 << 31) + Fraction(1, 2)) for x in sums]
    assert found.tolist() == [half_away(Fraction(x, 1 << right)) for x in high]


@pytest.mark.parametrize("shift", [-31, -30, -9, -4, -3, -2, -1, 0, 1, 2, 5])
def test_fixed_point_of_small_sums(shift):
    for multiplier in (0, 1, 3 << 28, (1 << 30) - 1, 1 << 30, (1 << 30) + 1, 5 << 28, MAX):
        check_multiplication(list(range(-70, 71)), multiplier, shift)


@pytest.mark.parametrize("shift", [-31, -12, -7, -1, 0])
def test_fixed_point_of_any_sum(shift, rng):
    sums = [MIN, MIN + 1, MAX, MAX - 1, *rng.integers(MIN, MAX, 60).tolist()]
    for multiplier in (1 << 30, MAX, *rng.integers(1 << 30, MAX, 6).tolist()):
        check_multiplication(sums, multiplier, shift)
        # Sums whose product comes close to where the rounding turns.
        turns = [int((k + Fraction(1, 2)) * (1 << 31 - shift) / multiplier) for k in range(-9, 9)]
        near = [turn + step for turn in turns for step in (-1, 0, 1)]
        check_multiplication([x for x in near if MIN <= x <= MAX], multiplier, shift)


def test_fixed_point_is_of_each_channel_and_clamps():
    requantize = FixedPoint(np.array([1 << 30, 3 << 29]), np.array([-2, 1]), -3, -20, 30)
    sums = np.array([[100, 10], [-99, -9], [4, 500], [-1000, -7]])
    expected = [
        [min(max(gemmlowp(x, m, s) - 3, -20), 30) for x, m, s in zip(row, (1 << 30, 3 << 29), (-2, 1), strict=True)]
        for row in sums.tolist()
    ]  # fmt: skip
    assert requantize.apply(sums).tolist() == expected
    assert requantize.apply(sums.reshape(2, 1, 2, 2)).shape == (2, 1, 2, 2)


@pytest.mark.parametrize("zero_point", [0, 5])
@pytest.mark.parametrize("shift", [-31, -3, -1, 0, 1, 2, 3, 7, 30, 31])
def test_rounding_shift(shift, zero_point):
    sums = [*range(-300, 301), MIN, MAX, MIN + 1, 1 << 30, -(1 << 30), 3 << 29, -(3 << 29)]
    low, high = -127, 127
    found = RoundingShift(np.array([shift]), zero_point, low, high).apply(np.array(sums)[:, None])
    real = [round(x * Fraction(2) ** -shift) + zero_point for x in sums]  # round: half to even
    assert found[:, 0].tolist() == [min(max(code, low), high) for code in real]


def test_thresholds():
    table = np.array([[-5, 0, 7], [1, 1, 2], [MIN, 3, MAX]])
    base, step = np.array([-1, 6, 10]), np.array([1, -2, 3])
    requantize = Thresholds(table, base, step)
    sums = [*range(-9, 12), MIN, MAX]
    found = requantize.apply(np.array([[x] * 3 for x in sums]))
    for row, x in zip(found.tolist(), sums, strict=True):
        for channel, code in enumerate(row):
            count = len([t for t in table[channel].tolist() if t <= x])
            assert code == base[channel] + step[channel] * count
    assert (requantize.low, requantize.high) == (-1, 19)


# Whole operations.

TENSOR = Tensor("x", (6, 7, 4), -128, 127, zero_point=-5)


def naive_conv(x, conv, zero_point):
    """Six loops over one sample, in Python's integers."""
    height, width, _ = x.shape
    top, left, bottom, right = conv.padding
    out, kernel_height, kernel_width, depth = conv.weights.shape
    reach = [
        d * (k - 1) + 1 for k, d in zip((kernel_height, kernel_width), conv.dilation, strict=True)
    ]
    rows = (height + top + bottom - reach[0]) // conv.stride[0] + 1
    columns = (width + left + right - reach[1]) // conv.stride[1] + 1
    result = np.empty((rows, columns, out), object)
    for row, column, channel in product(range(rows), range(columns), range(out)):
        group = channel // (out // conv.groups)
        total = int(conv.bias[channel])
        for ky, kx, d in product(range(kernel_height), range(kernel_width), range(depth)):
            y = row * conv.stride[0] + ky * conv.dilation[0] - top
            z = column * conv.stride[1] + kx * conv.dilation[1] - left
            if 0 <= y < height and 0 <= z < width:
                value = int(x[y, z, group * depth + d]) - zero_point
                total += value * int(conv.weights[channel, ky, kx, d])
        result[row, column, channel] = total
    return result


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [
        ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        ((3, 2), (2, 3), (0, 1, 2, 3), (1, 1), 2),
        ((2, 3), (1, 2), (3, 0, 1, 2), (2, 3), 4),
        ((6, 7), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ],
)
def test_convolution(kernel, stride, padding, dilation, groups, rng):
    x = rng.integers(-128, 128, (2, 6, 7, 4))
    weights = rng.integers(-128, 128, (8, *kernel, 4 // groups))
    bias = rng.integers(-(1 << 20), 1 << 20, 8)
    conv = Conv("c", ("x",), "y", None, weights, bias, stride, padding, dilation, groups)
    found = run_operation(conv, [x], [TENSOR])
    for index in range(2):
        assert found[index].tolist() == naive_conv(x[index], conv, -5).tolist()


def test_convolution_of_large_numbers_is_exact():
    """Products of 16 by 16 bits; sums of 16-bit activations have 48 bits, of 8-bit ones 32."""
    x = np.array([32767, -32768, 32767, 1]).reshape(1, 1, 1, 4)
    weights = np.array([32767, 32767, -32768, 1]).reshape(1, 1, 1, 4)
    conv = Conv("c", ("x",), "y", None, weights, np.array([-1]))
    tensor = Tensor("x", (1, 1, 4), -32768, 32767)
    total = sum(int(a) * int(b) for a, b in zip(x.flat, weights.flat, strict=True)) - 1
    assert run_operation(conv, [x], [tensor]).item() == total
    conv = Conv("c", ("x",), "y", None, weights, np.array([MIN - total - 2]))
    assert run_operation(conv, [x], [tensor]).item() == MIN - 1
    ones = np.ones((1, 1, 1, 4), np.int64)
    for bits, kind in ((32, Tensor("x", (1, 1, 4), -128, 127)), (48, tensor)):
        conv = Conv("c", ("x",), "y", None, -ones, np.array([-(1 << bits - 1)]))
        with pytest.raises(ValueError, match=f"sums of 'c' must fit {bits} bits"):
            run_operation(conv, [ones], [kind])


@pytest.mark.parametrize("kind", ["max", "sum"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((2, 2), (2, 2), (0, 0, 0, 0)),
        ((3, 2), (1, 3), (1, 0, 2, 1)),
        ((6, 7), (1, 1), (0, 0, 0, 0)),
    ],
)
def test_pool(kind, kernel, stride, padding, rng):
    x = rng.integers(-128, 128, (2, 6, 7, 4))
    pool = Pool("p", ("x",), "y", None, kind, kernel, stride, padding, bias=13)
    found = run_operation(pool, [x], [TENSOR])
    top, left, bottom, right = padding
    rows = (6 + top + bottom - kernel[0]) // stride[0] + 1
    columns = (7 + left + right - kernel[1]) // stride[1] + 1
    assert found.shape == (2, rows, columns, 4)
    for index, row, column, channel in np.ndindex(found.shape):
        window = []
        for ky, kx in product(range(kernel[0]), range(kernel[1])):
            y, z = row * stride[0] + ky - top, column * stride[1] + kx - left
            if 0 <= y < 6 and 0 <= z < 7:
                window.append(int(x[index, y, z, channel]))
            elif kind == "sum":
                window.append(-5)  # the zero point
        expected = max(window) if kind == "max" else sum(window)
        assert found[index, row, column, channel] == expected + 13


def test_add(rng):
    tensors = [TENSOR, Tensor("z", (6, 7, 4), -128, 127, zero_point=9)]
    rescale = (Rescale(20, 3 << 29, -1), Rescale(3))
    requantize = FixedPoint(np.array([1 << 30]), np.array([-15]), 4, -128, 127)
    add = Add("a", ("x", "z"), "y", requantize, rescale)
    x, z = rng.integers(-128, 128, (2, 2, 6, 7, 4))
    found = run_operation(add, [x, z], tensors)
    for a, b, code in zip(x.flat, z.flat, found.flat, strict=True):
        total = gemmlowp((int(a) + 5) << 20, 3 << 29, -1) + ((int(b) - 9) << 3)
        assert code == min(max(gemmlowp(total, 1 << 30, -15) + 4, -128), 127)


def test_network_runs_in_order_and_checks_its_input():
    tensors = {name: Tensor(name, (1, 1, 1), -2, 3) for name in "xyz"}
    double = Conv("d", ("x",), "y", None, np.full((1, 1, 1, 1), 2), np.array([1]))
    both = Add("b", ("x", "y"), "z", None, (Rescale(0), Rescale(1)))
    network = Network("n", tensors, [double, both], "x", "z", np.asarray, np.asarray)
    found = run_network(network, np.array([3, -2]).reshape(2, 1, 1, 1))
    assert {name: values.ravel().tolist() for name, values in found.items()} == {
        "x": [3, -2],
        "y": [7, -3],
        "z": [17, -8],
    }
    with pytest.raises(ValueError, match="integers of 'x' must be -2 to 3, not 0 to 4"):
        run_network(network, np.array([0, 4]).reshape(2, 1, 1, 1))


# Multipliers.


def test_quantize_multiplier(rng):
    factors = [*rng.uniform(1e-6, 3, 200).tolist(), 1.0, 0.5, 2.0**-31, 1 - 2.0**-40, 2.0**29, 1e8]
    for factor, multiplier, shift in zip(
        factors, *map(list, quantize_multiplier(factors)), strict=True
    ):
        assert 1 << 30 <= multiplier <= MAX
        assert shift == frexp(factor)[1] + (factor == 1 - 2.0**-40)  # it rounds up to 1
        exact = Fraction(factor) * Fraction(2) ** (31 - int(shift))
        assert multiplier == half_away(exact)
    assert [array.tolist() for array in quantize_multiplier([2.0**-33])] == [[0], [0]]
    for bad in (0.0, -1.0, float("nan"), float("inf"), 2.0**30):
        with pytest.raises(ValueError, match="a factor of a requantization must lie in 0 to 2"):
            quantize_multiplier([bad])


@pytest.mark.parametrize("count", [*range(1, 17), 25, 49, 64, 125, 196])
def test_division(count):
    found = division_multiplier(count, -128, 127)
    assert found is not None
    sums = range(-128 * count, 127 * count + 1)
    quotients = multiply_fixed_point(np.array(sums), *map(np.int64, found)).tolist()
    # TFLite's average pool: half the count is added, or subtracted, and C's division truncates.
    half = count // 2
    assert quotients == [truncate(x + half if x > 0 else x - half, count) for x in sums]


def test_division_that_does_not_fit():
    assert division_multiplier(1 << 20, -128, 127) is None
    assert division_multiplier(0, -128, 127) is None


def test_round_away():
    values = [0.5, -0.5, 1.5, -2.5, 0.49999999999999994, -0.49999999999999994, 2.0**52 + 1, -3.0]
    assert round_away(np.array(values)).tolist() == [half_away(Fraction(x)) for x in values]


def test_fit_multiplier_to_every_sum(rng):
    """Thresholds of a known multiplier are met again, by it or by one that does the same."""
    sums = np.arange(-3000, 3001)
    for factor in rng.uniform(0.02, 3.9, 60):
        (multiplier,), (shift,) = quantize_multiplier([factor])
        if shift < 0:
            multiplier, shift = np.int64(factor * 2**31), np.int64(0)
        wanted = multiply_fixed_point(sums, multiplier, shift).clip(-100, 80)
        thresholds = np.searchsorted(wanted, np.arange(-99, 81)) - 3000
        # From a factor that is off comes the least or the greatest multiplier that fits.
        for off in (1, 0.99, 1.01):
            if frexp(factor * off)[1] == frexp(factor)[1]:
                found = fit_multiplier(thresholds, -100, (-3000, 3000), float(factor * off))
                assert found is not None
                fitted = multiply_fixed_point(sums, *map(np.int64, found)).clip(-100, 80)
                assert fitted.tolist() == wanted.tolist()


def test_fit_multiplier_says_where_there_is_none():
    thresholds = np.array([-20, -10, 0, 10, 21, 30])  # 21 is off the line by one
    assert fit_multiplier(thresholds, -3, (-100, 100), 0.1) is None
    assert fit_multiplier(np.array([1]), -1, (-100, 100), 0.1) is None  # code 0 from 1 on
    assert fit_multiplier(np.array([0]), 0, (-100, 100), 0.1) is None  # code 1 from 0 on
    assert fit_multiplier(np.array([1]), 0, (-(1 << 30), 1 << 30), 2.5) is None  # no room to shift
