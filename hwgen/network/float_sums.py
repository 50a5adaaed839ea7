"""Exact sums on their way to the next quantizer: which float function of them the model takes.

``FloatSums`` collects what a model does to the sums of one operation (scale, batch normalization,
ReLU, max pooling); :func:`requantize` turns that, once the quantizer is met, into operations:
exact thresholds where the quantizer has few levels, otherwise a shift or a fixed-point multiplier,
whose differences from the model are counted.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .graph import Conv, Operation, Pool, Tensor
from .pointwise import Affine, Step
from .qonnx_quantizers import Quantizer
from .requantize import SUM_BITS, FixedPoint, IntArray, Requantization, RoundingShift, Thresholds
from .rescaling import MOST_LEVELS, fixed_point, power_of_two
from .thresholds import fold

__all__ = ["FloatSums", "MaxWindow", "complement", "identity", "requantize"]

Array = npt.NDArray[Any]

#: A quantizer of more than ``MOST_LEVELS`` gets thresholds only where nothing else is right, and
#: up to so many.
MANY_LEVELS = 256

#: Sums of each channel at which fixed-point arithmetic is compared with the model's.
SAMPLES = 4096


@dataclass(frozen=True)
class MaxWindow:
    """A maximum over windows, between steps; fields as of :class:`~.graph.Pool`.

    ``image`` is the shape of what it is taken of, ``shape`` that of the result.
    """

    name: str
    image: tuple[int, int, int]
    shape: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class FloatSums:
    """Sums of one operation, and what is done to them.

    Attributes
    ----------
    operation : Operation
        Not yet among the network's; without an output.
    scale : float64 array (channels)
        Real number that a sum of 1 stands for.
    low, high : int64 array (channels)
        Range of the sums.
    shape : (height, width, channels)
        Of the result, after windows.
    steps : tuple of Step or MaxWindow
        Parameters have one value for each channel.
    """

    operation: Operation
    scale: npt.NDArray[np.float64]
    low: IntArray
    high: IntArray
    shape: tuple[int, int, int]
    steps: tuple[Step | MaxWindow, ...] = ()

    @property
    def windows(self) -> list[MaxWindow]:
        """The steps that are windows."""
        return [step for step in self.steps if isinstance(step, MaxWindow)]

    @property
    def summed_shape(self) -> tuple[int, int, int]:
        """Shape of the sums themselves, before windows."""
        return self.windows[0].image if self.windows else self.shape

    def real(self, sums: IntArray) -> Array:
        """Return the model's float32 numbers for sums of shape (..., channels), without windows."""
        found: Array = (sums * self.scale).astype(np.float32)
        for step in self.steps:
            if isinstance(step, Step):
                found = step(found)
        return found

    def affine(self) -> Affine | None:
        """Return the steps as one affine function of the sums, if they are that."""
        found = Affine(slope=self.scale)
        for step in self.steps:
            if isinstance(step, Step):
                if step.affine is None:
                    return None
                found = found.then(step.affine)
        return found

    def turned(self) -> npt.NDArray[np.bool_] | None:
        """Return in which channels the steps after the windows fall, i.e. a maximum is a minimum.

        ``None`` if that differs from window to window.
        """
        found = []
        falling = np.zeros(self.shape[2], np.bool_)
        for step in reversed(self.steps):
            if isinstance(step, Step):
                falling = falling ^ step.falling
            else:
                found.append(falling)
        return found[0] if found and all((x == found[0]).all() for x in found) else None


@dataclass(frozen=True, eq=False)
class Requantized:
    """What :func:`requantize` found.

    Attributes
    ----------
    operation : Operation
        Of the sums; changed where weights or bias had to be.
    requantize : Requantization
        Of the operation.
    after : Requantization or None
        Of the last window, if that has to do more than to pass codes on.
    low, high : int
        Bounds of the codes.
    zero_point : int
    note : str
        What is not exact; "" if nothing.
    bipolar : bool
        Whether codes are -1 and 1.
    """

    operation: Operation
    requantize: Requantization
    after: Requantization | None
    low: int
    high: int
    zero_point: int
    note: str = ""
    bipolar: bool = False


def identity(tensor: Tensor) -> Requantization:
    """Return the requantization that passes a tensor's integers on."""
    return RoundingShift(np.zeros(1, np.int64), 0, tensor.low, tensor.high)


def complement(low: int, high: int, step: int, where: npt.NDArray[np.bool_]) -> Thresholds:
    """Return ``low + high - code`` in some channels and the code itself in the others."""
    rising = np.arange(low + step, high + 1, step, dtype=np.int64)
    return Thresholds(
        np.tile(rising, (len(where), 1)),
        np.where(where, high, low).astype(np.int64),
        np.where(where, -step, step).astype(np.int64),
    )


def requantize(sums: FloatSums, quantizer: Quantizer) -> Requantized | str:
    """Return how sums become the codes of a quantizer, or why they cannot.

    Parameters
    ----------
    sums : FloatSums
    quantizer : Quantizer
        With parameters for each channel.
    """

    def codes(found: IntArray) -> IntArray:
        return quantizer.codes(sums.real(found))

    ends = codes(np.stack([sums.low, sums.high]))
    least, most = int(ends.min()), int(ends.max())
    low = least if quantizer.low is None else quantizer.low
    high = most if quantizer.high is None else quantizer.high
    # All tensors of 8 bits are signed: see graph.py.
    shift = 128 if low >= 0 and 127 < high <= 255 else 0
    note = ""
    turned = sums.turned()
    if sums.windows and turned is None:
        return "max pooling between functions that fall and rise in turn"
    levels = (most - least) // quantizer.step + 1
    if turned is not None and turned.any():
        if levels > MANY_LEVELS:
            return _too_many(levels, "a minimum is to be taken")
        plain = codes

        def codes(found: IntArray) -> IntArray:
            return np.where(turned, least + most - plain(found), plain(found))

    elif levels > MOST_LEVELS:
        found = _multiply(sums, quantizer, codes, (low, high), shift)
        if isinstance(found, Requantized):
            return found
        if levels > MANY_LEVELS:
            return _too_many(levels, found)
        note = f"{levels - 1} thresholds for each channel, because {found}"
    if least == most:  # thresholds there shall be, if only one that decides nothing
        least, most = (
            (least, most + quantizer.step) if most < high else (least - quantizer.step, most)
        )
    thresholds = fold(codes, sums.low, sums.high, least, most, quantizer.step)
    thresholds = replace(thresholds, base=thresholds.base - shift)
    after = None
    if turned is not None and turned.any():
        after = complement(least - shift, most - shift, quantizer.step, turned)
    return Requantized(
        *(sums.operation, thresholds, after, low - shift, high - shift),
        quantizer.zero_point - shift,
        note=note,
        bipolar=quantizer.step == 2,
    )


def _too_many(levels: int, reason: str) -> str:
    return f"{levels} levels are more than the {MANY_LEVELS} that thresholds may have, but {reason}"


def _multiply(
    sums: FloatSums,
    quantizer: Quantizer,
    codes: Callable[[IntArray], IntArray],
    bounds: tuple[int, int],
    shift: int,
) -> Requantized | str:
    """Return sums requantized by a shift or a multiplier, or why not."""
    real = sums.affine()
    if real is None or quantizer.affine is None:
        return "the function before the quantizer is not affine"
    nearest = {"ROUND": 0.0, "HALF_EVEN": 0.0, "HALF_UP": 0.0, "HALF_DOWN": 0.0}
    lean = {**nearest, "FLOOR": -0.5, "CEIL": 0.5}.get(quantizer.rounding)
    if lean is None:
        return f"rounding {quantizer.rounding} is no rounding to nearest"
    found = real.then(quantizer.affine)
    channels = (sums.shape[2],)
    slope, offset = (np.broadcast_to(part, channels) for part in (found.slope, found.offset))
    ends = [np.clip(np.rint(part), *bounds) for part in (found.low, found.high)]
    low, high = (int(np.min(end)) for end in ends)
    if any((end != np.min(end)).any() for end in ends):
        return "channels are clipped at different codes"
    operation = sums.operation
    if (slope <= 0).any():
        if not isinstance(operation, Conv):
            return "the function before the quantizer falls"
        sign = np.sign(slope).astype(np.int64)
        weights = operation.weights * sign[:, None, None, None]
        operation = replace(operation, weights=weights, bias=operation.bias * sign)
        offset = np.where(slope == 0, np.rint(offset), offset)
        slope = np.where(slope == 0, 1.0, abs(slope))
    zero = quantizer.zero_point
    before = (offset - zero) / slope
    way: Requantization
    limits = (zero - shift, low - shift, high - shift)
    if power_of_two(slope) and zero % 2 == 0 and quantizer.rounding in ("ROUND", "HALF_EVEN"):
        way = RoundingShift(1 - np.frexp(slope)[1].astype(np.int64), *limits)
    else:
        # Rounding to nearest, ties upwards: the floor of x is that of x - 1/2, and the ceiling that
        # of a little less than x + 1/2.
        before = before + lean / slope
        if lean > 0:
            before = np.ceil(before) - 1
        if slope.max() >= 1 << 30:
            return f"its factor {slope.max():g} must be below 2**30"
        bound = np.maximum(abs(sums.low), abs(sums.high)) + abs(np.rint(before)).astype(np.int64)
        way = FixedPoint(*fixed_point(slope, bound, high - low + 1), *limits)
        if ((bound << np.maximum(way.shift, 0)) >= 1 << SUM_BITS - 1).any():
            return f"sums up to {bound.max()} times {slope.max():g} do not fit {SUM_BITS} bits"
    room = 2**31 - 1 - int(max(abs(sums.low).max(), abs(sums.high).max()))
    bias = np.clip(np.rint(before), -room, room).astype(np.int64)
    biased = _add_bias(operation, bias)
    if biased is None:
        return "a constant is added, which only a matrix product can carry"
    sign = np.sign(np.broadcast_to(found.slope, channels)).astype(np.int64)

    def model(x: IntArray) -> IntArray:
        return codes(x) - shift

    note = _compare(sums, model, lambda x: way.apply(x * sign + bias))
    return Requantized(
        *(biased, way, None, bounds[0] - shift, bounds[1] - shift, zero - shift), note
    )


def _add_bias(operation: Operation, bias: IntArray) -> Operation | None:
    if isinstance(operation, Conv):
        return replace(operation, bias=operation.bias + bias)
    if isinstance(operation, Pool) and (bias == bias[0]).all():
        return replace(operation, bias=operation.bias + int(bias[0]))
    return operation if not bias.any() else None


def _compare(
    sums: FloatSums, model: Callable[[IntArray], IntArray], ours: Callable[[IntArray], IntArray]
) -> str:
    """Return how codes differ from the model's at sums where these are not saturated."""
    ends = model(np.stack([sums.low, sums.high]))
    leaves = fold(lambda x: (model(x) != ends[0]).astype(np.int64), sums.low, sums.high, 0, 1)
    enters = fold(lambda x: (model(x) == ends[1]).astype(np.int64), sums.low, sums.high, 0, 1)
    first = np.maximum(leaves.thresholds[:, 0] - 1, sums.low)
    last = np.maximum(enters.thresholds[:, 0], first)
    places = np.linspace(0.0, 1.0, SAMPLES)[:, None]
    tried = np.rint(first + places * (last - first)).astype(np.int64)
    wrong = abs(ours(tried) - model(tried))
    if not wrong.any():
        return ""
    return (
        f"{np.count_nonzero(wrong) / wrong.size:.2%} of the sums not saturated give another code "
        f"in fixed-point arithmetic than in the model's floating point, by at most {wrong.max()}"
    )
