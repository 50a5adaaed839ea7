"""Requantizations made from real factors, against rounding in double precision."""

import numpy as np
import pytest

from hwgen.network.multiplier import quantize_multiplier
from hwgen.network.requantize import FixedPoint, RoundingShift, Thresholds
from hwgen.network.rescaling import Scaling, fixed_point, power_of_two, requantization


def scaling(factor, rest=0.0, bound=1 << 20, zero_point=3, low=-128, high=127, levels=256):
    factor = np.atleast_1d(np.float64(factor))
    rest = np.broadcast_to(np.float64(rest), factor.shape)
    bound = np.broadcast_to(np.int64(bound), factor.shape)
    return Scaling(factor, rest, bound, zero_point, low, high, levels)


def sums(bound, channels, count=40_000):
    found = np.random.default_rng(1).integers(-bound, bound + 1, (count, channels))
    found[: min(bound, 300)] = np.arange(min(bound, 300))[:, None]
    return found


@pytest.mark.parametrize("rest", [0.0, 0.3, -0.5])
def test_thresholds_are_exact(rest):
    # Ties fall on sums: factors of 1/2, 1/10 (not a number of binary floating point) and others.
    found = scaling(
        [0.5, 0.1, 0.0371, 3.0], rest, bound=200, zero_point=2, low=0, high=15, levels=16
    )
    made = requantization(found, shifts=False)
    assert isinstance(made, Thresholds)
    values = np.arange(-200, 201)[:, None] * np.ones(4, np.int64)
    assert (made.apply(values) == found.codes(values)).all()


def test_shifts_are_exact():
    found = scaling([1.0, 0.5, 2.0**-9, 2.0**3], bound=1 << 20)
    assert power_of_two(found.factor)
    made = requantization(found, shifts=True)
    assert isinstance(made, RoundingShift)
    values = sums(1 << 12, 4)
    assert (made.apply(values) == found.codes(values)).all()


def test_powers_of_two_are_recognized():
    assert power_of_two(np.array([1.0, 2.0**-31, 2.0**31]))
    assert not power_of_two(np.array([1.0, 0.75]))
    assert not power_of_two(np.array([2.0**-32]))


@pytest.mark.parametrize("exponent", range(-17, 3))
def test_fixed_point_is_nearer_than_the_choice_of_tflite(exponent):
    factor = np.ldexp(np.random.default_rng(2).uniform(0.5, 1, 8), exponent)
    bound = int(min(256 / factor.min(), 1 << 24))
    found = scaling(factor, bound=bound)
    made = requantization(found, shifts=False)
    assert isinstance(made, FixedPoint)
    values = sums(bound, 8)
    wanted = found.codes(values)
    ours = made.apply(values) - wanted
    theirs = FixedPoint(*quantize_multiplier(factor), 3, -128, 127).apply(values) - wanted
    assert abs(ours).max() <= 1
    assert np.count_nonzero(ours) <= np.count_nonzero(theirs)
    # A multiplication with one rounding, and the error of a multiplier of 14 bits or more.
    assert np.count_nonzero(ours) <= 2.0**-10 * ours.size


def test_fixed_point_of_one_is_the_identity():
    multiplier, shift = fixed_point(np.ones(1), np.array([255]), 256)
    values = np.arange(-255, 256)[:, None]
    assert (FixedPoint(multiplier, shift, 0, -300, 300).apply(values) == values).all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="must be below 2"):
        requantization(scaling(2.0**31 * 1.5), shifts=False)
    with pytest.raises(ValueError, match="its sums, up to 1073741824, times 3 must fit 32 bits"):
        requantization(scaling(3.0, bound=1 << 30), shifts=False)
    with pytest.raises(ValueError, match="must fit 32 bits"):
        requantization(scaling(4.0, bound=1 << 30), shifts=True)
