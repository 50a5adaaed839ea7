"""A network that is small and uses each way through the accelerator."""

from collections.abc import Callable

import numpy as np
import pytest

from hwgen.accelerator.config import AcceleratorConfig
from hwgen.network.graph import Conv, Network, Pool, Tensor
from hwgen.network.requantize import FixedPoint, RoundingShift


def make_network(config: AcceleratorConfig, seed: int) -> Network:
    """Padded convolution, maximum past the array, 1×1 convolution to the host."""
    rng = np.random.default_rng(seed)
    pe = config.array.pe
    low, high = pe.activation.minimum, pe.activation.maximum
    height, width, channels, middle, out = 4, 3, 3, 5, 6

    def requantize(channels: int, zero_point: int) -> FixedPoint | RoundingShift:
        if config.requantize == "multiplier":
            multipliers = rng.integers(1 << 30, (1 << 31) - 1, channels)
            return FixedPoint(multipliers, rng.integers(-10, -5, channels), zero_point, low, high)
        return RoundingShift(rng.integers(5, 9, channels), zero_point, low, high)

    def weights(*shape: int) -> np.ndarray:
        return rng.choice(pe.weight.values, shape).astype(np.int64)

    tensors = [
        Tensor("in", (height, width, channels), low, high, 3),
        Tensor("convolved", (height, width, middle), low, high),
        Tensor("pooled", (height - 1, width - 1, middle), low, high),
        Tensor("out", (height - 1, width - 1, out), low, high, -2),
    ]
    keep: FixedPoint | RoundingShift = RoundingShift(np.zeros(middle, int), 0, low, high)
    if config.requantize == "multiplier":
        keep = FixedPoint(np.full(middle, 1 << 30), np.ones(middle, int), 0, low, high)
    bias = rng.integers(-500, 500, middle)
    operations = [
        Conv("convolution", ("in",), "convolved", requantize(middle, 0), weights(middle, 3, 3, channels),
             bias, padding=(1, 1, 1, 1)),
        Pool("maximum", ("convolved",), "pooled", keep, "max", (2, 2), (1, 1)),
        Conv("last", ("pooled",), "out", None if seed % 2 else requantize(out, -2),
             weights(out, 1, 1, middle), rng.integers(-500, 500, out)),
    ]  # fmt: skip
    return Network(
        "small", {tensor.name: tensor for tensor in tensors}, operations, "in", "out",
        lambda values: values, lambda values: values,
    )  # fmt: skip


@pytest.fixture(scope="session")
def small_network() -> Callable[[AcceleratorConfig, int], Network]:
    """Return :func:`make_network`; with an odd seed, sums leave as they are."""
    return make_network
