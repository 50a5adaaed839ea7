"""What ONNX's layers sum up, as operations of the integer network that are not yet requantized."""

from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.errors import UserError

from .graph import Add, Conv, Pool, Rescale
from .multiplier import quantize_multiplier
from .onnx_builder import Builder, Refused
from .onnx_file import Node
from .onnx_values import Codes, FloatArray, Sums, Weights, channels_first
from .onnx_windows import window

__all__ = [
    "average",
    "channels_of",
    "convolution",
    "maximum",
    "product",
    "residual",
    "transposed",
    "unrounded",
]

Array = npt.NDArray[Any]


def convolution(
    builder: Builder, node: Node, value: Codes, weights: Weights, bias: FloatArray
) -> Sums:
    """Return a convolution; weights are (out, in, height, width)."""
    if weights.integers.ndim != 4:
        raise Refused("only convolutions of two dimensions are supported")
    height, width, channels = builder.image(value)
    filters = weights.integers.transpose(0, 2, 3, 1)
    out, groups = len(filters), node.get("group", 1)
    given = node.get("kernel_shape", list(filters.shape[1:3]))
    if groups < 1 or filters.shape[3] * groups != channels or out % groups:
        raise UserError(
            f"{node} must have weights for its {channels} channels in {groups} groups, not "
            f"{list(weights.integers.shape)}"
        )
    if list(given) != list(filters.shape[1:3]):
        raise UserError(f"kernel_shape of {node} must be that of its weights, not {given}")
    found = window(node, filters.shape[1:3], (height, width))
    operation = Conv(
        node.name,
        (value.tensor,),
        "",
        None,
        filters,
        np.zeros(out, np.int64),
        found.stride,
        found.padding,
        found.dilation,
        groups,
    )
    factor = channels_of(_input_scale(value) * _per_output(weights, 0), out)
    shape = (*found.out, out)
    return Sums(operation, shape, channels_first(*shape), factor, channels_of(bias, out))


def product(builder: Builder, node: Node, value: Codes, weights: Weights) -> Sums:
    """Return a product along the last axis; weights are (in, out)."""
    if weights.integers.ndim != 2:
        raise Refused("its second operand must be a constant matrix")
    count, out = weights.integers.shape
    if value.places.shape[-1] != count:
        raise Refused(f"its first operand must have {count} elements along the last axis")
    (height, width, channels), places = builder.vectors(value)
    if places is None:
        filters = weights.integers.T.reshape(out, 1, 1, channels)
        shape = (height, width, out)
        seen = (*value.places.shape[:-1], out)
    else:  # a convolution whose kernel is all there is
        flat = np.empty((out, count), np.int64)
        flat[:, places] = weights.integers.T
        filters = flat.reshape(out, height, width, channels)
        shape, seen = (1, 1, out), (out,)
    operation = Conv(node.name, (value.tensor,), "", None, filters, np.zeros(out, np.int64))
    factor = channels_of(_input_scale(value) * _per_output(weights, 1), out)
    order = np.arange(int(np.prod(seen)), dtype=np.int64).reshape(seen)
    return Sums(operation, shape, order, factor, np.zeros(out))


def unrounded(builder: Builder, node: Node, value: Codes) -> Sums:
    """Return an activation's own integers as sums, for what changes scale or clamps."""
    shape = builder.whole(value)
    operation = Add(node.name, (value.tensor,), "", None, (Rescale(0),))
    factor = np.full(shape[2], _input_scale(value))
    return Sums(operation, shape, builder.places(value), factor, np.zeros(shape[2]))


def residual(builder: Builder, node: Node, values: list[Codes]) -> Sums:
    """Return the sum of two activations."""
    shapes = [builder.whole(value) for value in values]
    places = [builder.places(value) for value in values]
    if shapes[0] != shapes[1] or not np.array_equal(places[0], places[1]):
        raise Refused("it adds tensors of different shapes or orders")
    scales = [_input_scale(value) for value in values]
    reach = 0
    for value in values:
        tensor = builder.tensor(value)
        reach = max(*(reach, tensor.high - tensor.zero_point, tensor.zero_point - tensor.low))
    rescale, unit = _rescale(scales, reach)
    operation = Add(node.name, tuple(v.tensor for v in values), "", None, rescale)
    channels = shapes[0][2]
    return Sums(operation, shapes[0], places[0], np.full(channels, unit), np.zeros(channels))


def maximum(builder: Builder, node: Node, value: Codes) -> Sums:
    """Return the greatest integer of each window, as a distance from the zero point."""
    height, width, channels = builder.image(value)
    found = window(node, tuple(node.get("kernel_shape")), (height, width))
    if found.dilation != (1, 1):
        raise Refused("its window is dilated")
    if node.get("storage_order", 0) or len([name for name in node.outputs if name]) > 1:
        raise Refused("its indices are asked for")
    if any(pad >= size for pad, size in zip(found.padding, found.kernel * 2, strict=True)):
        raise Refused("its padding is as wide as its window")
    zero = builder.tensor(value).zero_point
    inputs, kernel = (value.tensor,), found.kernel
    operation = Pool(node.name, inputs, "", None, "max", kernel, found.stride, found.padding, -zero)
    shape = (*found.out, channels)
    factor = np.full(channels, _input_scale(value))
    return Sums(operation, shape, channels_first(*shape), factor, np.zeros(channels))


def average(builder: Builder, node: Node, value: Codes, axes: list[int] | None = None) -> Sums:
    """Return the sum of each window; its factor divides.

    Parameters
    ----------
    builder, node, value
    axes : list of int or None
        Of a ``ReduceMean``.
    """
    height, width, channels = builder.image(value)
    kernel, padding, stride, out = (height, width), (0, 0, 0, 0), (1, 1), (1, 1)
    if node.op == "ReduceMean":
        if axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
            raise Refused("it averages over other axes than height and width")
    elif "Global" not in node.op:
        found = window(node, tuple(node.get("kernel_shape")), (height, width))
        kernel, padding, stride, out = found.kernel, found.padding, found.stride, found.out
        if found.dilation != (1, 1):
            raise Refused("its window is dilated")
        if found.grown or (any(padding) and not node.get("count_include_pad", 0)):
            raise Refused("its windows count fewer places at the border")
    count = kernel[0] * kernel[1]
    bias = -count * builder.tensor(value).zero_point
    inputs = (value.tensor,)
    operation = Pool(node.name, inputs, "", None, "sum", kernel, stride, padding, bias)
    shape = (*out, channels)
    places = channels_first(*shape)
    if node.op == "ReduceMean" and not node.get("keepdims", 1):
        places = places.reshape(channels)
    factor = np.full(channels, _input_scale(value) / count)
    return Sums(operation, shape, places, factor, np.zeros(channels))


def _per_output(weights: Weights, axis: int) -> FloatArray:
    """Return the scales of weights whose output channels are an axis."""
    if weights.scale.ndim and weights.axis != axis:
        raise Refused("its weights have a scale for each input channel")
    return weights.scale.astype(np.float64)


def channels_of(values: Array, count: int) -> FloatArray:
    """Return numbers for each channel."""
    values = np.asarray(values, np.float64)
    if values.size not in (1, count):
        raise Refused(f"its bias must have 1 or {count} elements, not {values.size}")
    return np.broadcast_to(values.ravel(), (count,))


def _input_scale(value: Codes) -> float:
    assert value.grid is not None
    return value.grid.scale


def transposed(weights: Weights, swap: bool) -> Weights:
    """Return a matrix transposed, if asked for."""
    if not swap or weights.integers.ndim != 2:
        return weights
    return Weights(weights.integers.T, weights.scale, 1 - weights.axis)


def _rescale(scales: list[float], reach: int) -> tuple[tuple[Rescale, ...], float]:
    """Return how to bring integers of two scales to one, and that one.

    Where one scale is a power of two times the other, a shift to the left is exact. Otherwise it is
    TFLite's way: as many bits to the left as fit, 20 for 8-bit integers, then a multiplication.
    """
    least = min(scales)
    mantissas, exponents = np.frexp(np.array(scales) / least)
    room = 30 - int(reach).bit_length()  # two of these are below 2**31
    if (mantissas == 0.5).all() and exponents.max() - 1 <= min(room, 20):
        return tuple(Rescale(int(exponent) - 1) for exponent in exponents), least
    left = min(20, room)
    twice = 2 * max(scales)
    multipliers, shifts = quantize_multiplier([scale / twice for scale in scales])
    rescale = tuple(
        Rescale(left, int(multiplier), int(shift))
        for multiplier, shift in zip(multipliers, shifts, strict=True)
    )
    return rescale, float(np.ldexp(twice, -left))
