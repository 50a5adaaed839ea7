"""Thresholds against the functions they were folded from, at every sum."""

from fractions import Fraction

import numpy as np
import pytest

from hwgen.network.requantize import FixedPoint, RoundingShift
from hwgen.network.thresholds import fold, to_thresholds


def every(low, high):
    return np.arange(low, high + 1, dtype=np.int64)


def batch_norm_sign(gamma, beta, mean, variance):
    """Batch normalization and sign in double precision, 0 being positive."""

    def codes(sums):
        found = (sums - mean) / np.sqrt(variance) * gamma + beta
        return np.where(found >= 0, 1, -1)

    return codes


def test_batch_norm_and_sign_of_any_gamma():
    rng = np.random.default_rng(0)
    channels, reach = 300, 80
    gamma = rng.normal(size=channels)
    gamma[::7] = 0
    gamma[3::7] *= 1e-9  # all sums alike
    beta, mean = rng.normal(size=channels), rng.normal(0, 20, channels)
    beta[::14] = 0  # sign(0)
    variance = rng.random(channels) * 100 + 0.1
    codes = batch_norm_sign(gamma, beta, mean, variance)
    found = fold(codes, -reach, np.full(channels, reach), -1, 1, 2)
    sums = np.broadcast_to(every(-reach, reach)[:, None], (2 * reach + 1, channels))
    np.testing.assert_array_equal(found.apply(sums), codes(sums))
    assert found.thresholds.shape == (channels, 1)
    constant = gamma == 0
    assert (found.base[(gamma < 0) & ~constant][:1] == 1).all()
    rising = codes(sums)[0] <= codes(sums)[-1]
    np.testing.assert_array_equal(found.step, np.where(rising, 2, -2))


def test_threshold_is_that_of_exact_arithmetic():
    """gamma * (s - mean) + beta >= 0 in fractions, for values that floats hold exactly."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        gamma, mean, beta = (Fraction(int(i), 8) for i in rng.integers(-40, 41, 3))

        def codes(sums, gamma=gamma, mean=mean, beta=beta):
            found = (sums - float(mean)) * float(gamma) + float(beta)
            return np.where(found >= 0, 1, -1)

        found = fold(codes, -100, 100, -1, 1, 2)
        wanted = [1 if gamma * (int(s) - mean) + beta >= 0 else -1 for s in every(-100, 100)]
        assert found.apply(every(-100, 100)[:, None])[:, 0].tolist() == wanted


def test_sign_of_zero_is_positive():
    found = fold(lambda s: np.where(s >= 0, 1, -1), -5, 5, -1, 1, 2)
    assert found.thresholds.tolist() == [[0]]
    falling = fold(lambda s: np.where(-s >= 0, 1, -1), -5, 5, -1, 1, 2)
    assert (falling.thresholds.tolist(), falling.base, falling.step) == ([[1]], [1], [-2])


@pytest.mark.parametrize("sign", [1, -1])
def test_ties_of_a_quantizer(sign):
    """Half-way sums go to the even code, in whichever direction the function runs."""

    def codes(sums):
        return np.rint(sign * sums / np.float32(2)).clip(0, 15).astype(np.int64)

    found = fold(codes, -40, 40, 0, 15)
    np.testing.assert_array_equal(
        found.apply(every(-40, 40)[:, None]), codes(every(-40, 40))[:, None]
    )
    assert found.thresholds.shape == (1, 15)
    assert (np.diff(found.thresholds) >= 0).all()


def test_each_channel_has_its_own_range():
    low, high = np.array([-3, -1000]), np.array([4, 1000])
    found = fold(lambda s: (s // 100).clip(-2, 2), low, high, -2, 2)
    np.testing.assert_array_equal(found.thresholds[0], [-3, 0, 5, 5])  # reached by all; by none
    np.testing.assert_array_equal(found.thresholds[1], [-100, 0, 100, 200])


def test_codes_off_the_lattice_are_refused():
    with pytest.raises(ValueError, match="codes must be 0 to 3 in steps of 1, not -1 to 1"):
        fold(np.sign, -5, 5, 0, 3)
    with pytest.raises(ValueError, match="in steps of 2"):
        fold(lambda s: np.sign(s).clip(0), -5, 5, -1, 1, 2)


CHANNELS = 9
REQUANTIZATIONS = [
    FixedPoint(
        np.random.default_rng(2).integers(1 << 30, 1 << 31, CHANNELS),
        np.random.default_rng(3).integers(-9, 1, CHANNELS),
        -3,
        -8,
        7,
    ),
    FixedPoint(np.array([1 << 30]), np.array([-3]), 2, 0, 3),
    RoundingShift(np.arange(CHANNELS) - 2, 1, -4, 3),
    RoundingShift(np.zeros(1, np.int64), 0, 0, 15),
]


@pytest.mark.parametrize("way", REQUANTIZATIONS)
def test_any_requantization_as_thresholds(way):
    sums = np.broadcast_to(every(-3000, 3000)[:, None], (6001, CHANNELS))
    found = to_thresholds(way, np.full(CHANNELS, -3000), 3000)
    np.testing.assert_array_equal(found.apply(sums), way.apply(sums))
    assert found.thresholds.shape == (CHANNELS, way.high - way.low)
    assert (found.low, found.high) == (way.low, way.high)
    assert to_thresholds(found, 0, 0) is found


def test_one_bound_for_all_channels():
    way = REQUANTIZATIONS[0]
    found = to_thresholds(way, -3000, 3000)
    sums = np.broadcast_to(every(-3000, 3000)[:, None], (6001, CHANNELS))
    np.testing.assert_array_equal(found.apply(sums), way.apply(sums))
