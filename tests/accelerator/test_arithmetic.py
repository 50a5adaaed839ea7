"""Products and requantizers by themselves: the integers of the golden model, extremes above all."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from hwgen.accelerator.config import AcceleratorConfig
from hwgen.accelerator.postprocess import Multiplier, Shift
from hwgen.accelerator.product import Product, RoundingShift
from hwgen.network.requantize import FixedPoint
from hwgen.network.requantize import RoundingShift as GoldenShift


def stream_through(part, latency, output, inputs, stable=()):
    """What comes out ``latency`` cycles after each input."""
    found = []

    async def bench(ctx):
        for name, value in stable:
            ctx.set(getattr(part, name), value)
        for step in range(len(inputs) + latency):
            for name, value in inputs[min(step, len(inputs) - 1)].items():
                ctx.set(getattr(part, name), int(value))
            if step >= latency:
                found.append(ctx.get(getattr(part, output)))
            await ctx.tick()

    simulator = Simulator(part)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found


def numbers(bits, count, rng):
    """Signed numbers of all sizes, the greatest and the least among them."""
    top = 1 << bits - 1
    edges = [0, 1, -1, top - 1, -top]
    return edges + [int(rng.integers(-top, top)) >> int(rng.integers(bits)) for _ in range(count)]


@pytest.mark.parametrize(("a", "b"), [(8, 31), (18, 31), (18, 32), (19, 16), (32, 31), (48, 31)])
def test_product(a, b):
    rng = np.random.default_rng(a)
    pairs = [
        (x, y)
        for x in numbers(a, 20, rng)
        for y in (0, 1, (1 << b) - 1, int(rng.integers(1 << b - 1)))
    ]
    inputs = [{"a": x, "b": y} for x, y in pairs]
    found = stream_through(Product(a, b), Product.latency(a, b), "product", inputs)
    assert found == [x * y for x, y in pairs]


@pytest.mark.parametrize("bits", [20, 32, 49])
def test_rounding_shift(bits):
    rng = np.random.default_rng(bits)
    inputs, expected = [], []
    for right in range(32):
        ties = [(2 * n + 1) << right - 1 for n in (-2, -1, 0, 1) if 0 < right < bits - 3]
        for value in [*numbers(bits, 5, rng), *ties]:
            for up in (0, 1):
                inputs.append({"value": value, "right": right, "up": up})
                floor, rest = value >> right, value & (1 << right) - 1
                expected.append(floor + (2 * rest + up > 1 << right))
    part = RoundingShift(bits)
    assert stream_through(part, part.latency, "result", inputs) == expected


def requantized(requantizer, parameters, golden, sums, channel, bounds=()):
    """Compare a column with the golden model; each sum has a channel."""
    config = requantizer.config
    inputs = [{"sum": s, "parameters": parameters[c]} for s, c in zip(sums, channel, strict=True)]
    found = stream_through(requantizer, requantizer.latency(config), "code", inputs, bounds)
    pe = config.array.pe
    got = pe.activation.decode(np.array(found))
    every = golden.apply(np.array(sums)[:, None].repeat(len(parameters), axis=1))
    assert (got == every[np.arange(len(sums)), channel]).all()


def config_of(requantize, pe, **options):
    return AcceleratorConfig.from_options(
        {"pe": pe, "rows": 1, "cols": 1, "requantize": requantize, **options}
    )


@pytest.mark.parametrize("pe", ["int8", "int16"])
@pytest.mark.parametrize("bounds", [(0, None, None), (-128, -128, 127), (127, -100, 100)])
def test_shift(pe, bounds):
    rng = np.random.default_rng(1)
    config = config_of("shift", pe)
    zero, low, high = bounds
    if low is None:
        low, high = config.array.pe.activation.minimum, config.array.pe.activation.maximum
    shifts = np.arange(-31, 32)
    sums, channel = [], []
    for c, shift in enumerate(shifts):
        ties = [(2 * n + 1) << shift - 1 for n in (-2, -1, 0, 1) if 0 < shift < 28]
        for s in numbers(config.sum_bits, 12, rng) + ties:
            # the golden model shifts int64
            if abs(s) << max(0, -int(shift)) < 1 << 62:
                sums.append(s)
                channel.append(c)
    requantized(
        Shift(config), [int(s) & 63 for s in shifts], GoldenShift(shifts, zero, low, high),
        sums, channel, (("zero_point", zero), ("low", low), ("high", high)),
    )  # fmt: skip


@pytest.mark.parametrize("pe", ["int8", "int16"])
@pytest.mark.parametrize("bounds", [(0, None, None), (-128, -128, 127), (127, -100, 100)])
def test_multiplier(pe, bounds):
    rng = np.random.default_rng(2)
    config = config_of("multiplier", pe)
    zero, low, high = bounds
    if low is None:
        low, high = config.array.pe.activation.minimum, config.array.pe.activation.maximum
    shifts = np.arange(-31, 8).repeat(3)
    multipliers = rng.integers(1 << 30, 1 << 31, len(shifts))
    multipliers[::3] = (1 << 31) - 1
    multipliers[1::3] = 1 << 30
    sums, channel = [], []
    for c, shift in enumerate(shifts):
        room = config.sum_bits - max(0, int(shift))
        for s in numbers(room, 4, rng):
            sums.append(s)
            channel.append(c)
    requantized(
        Multiplier(config),
        [int(m) | (int(s) & 63) << 31 for m, s in zip(multipliers, shifts, strict=True)],
        FixedPoint(multipliers, shifts, zero, low, high),
        sums, channel, (("zero_point", zero), ("low", low), ("high", high)),
    )  # fmt: skip
