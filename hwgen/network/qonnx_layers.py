"""Layers of a QONNX network as operations on integers: each returns sums, and what they mean."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .float_sums import FloatSums, MaxWindow
from .graph import Add, Conv, Pool, Rescale
from .multiplier import quantize_multiplier
from .onnx_file import Node
from .onnx_windows import window
from .qonnx_values import (
    Constant,
    NotSupportedError,
    Quantized,
    Summed,
    check_spatial,
    per_column,
    stored_places,
    weight_integers,
)
from .requantize import SUM_BITS, IntArray

__all__ = ["add", "average_pool", "convolution", "matrix_product", "max_window"]


def matrix_product(node: Node, source: Quantized, constant: Constant) -> Summed:
    """Return the sums of a ``MatMul`` or ``Gemm``, without its ``alpha`` and bias.

    A matrix that takes a whole image, flattened in whatever order, is a convolution of the image's
    size.
    """
    integers, unit = weight_integers(constant)
    if node.op == "Gemm" and node.get("transA", 0):
        raise NotSupportedError("transA must be 0")
    if node.op == "Gemm" and node.get("transB", 0):
        integers, unit = integers.T, unit.T
    if integers.ndim != 2:
        raise NotSupportedError(f"weights must have 2 dimensions, not {integers.ndim}")
    scale = per_column(unit)
    places, shape = source.places, source.tensor.shape
    depth, width = integers.shape
    size = int(np.prod(shape))
    out: tuple[int, int, int]
    if places.size == depth:
        spread = np.zeros((size, width), np.int64)
        np.add.at(spread, places.ravel(), integers)
        kernel = spread.reshape(*shape, width).transpose(3, 0, 1, 2)
        out = (1, 1, width)
    elif depth == shape[2] and np.array_equal(places.ravel(), np.arange(size)):
        kernel = integers.T[:, None, None, :]
        out = (*shape[:2], width)
    else:
        raise NotSupportedError("elements of its input are in an order that is not known")
    found = np.arange(np.prod(out), dtype=np.int64).reshape(*places.shape[:-1], width)
    return _conv(node, source, kernel, scale, out, found, {})


def convolution(node: Node, source: Quantized, constant: Constant) -> Summed:
    """Return the sums of a ``Conv`` of an image or a series, without its bias."""
    integers, unit = weight_integers(constant)
    image = check_spatial(source)
    if integers.ndim != source.places.ndim:
        raise NotSupportedError(f"weights must have {source.places.ndim} dimensions")
    groups = node.get("group", 1)
    if groups < 1 or len(integers) % groups or integers.shape[1] * groups != image[2]:
        raise NotSupportedError(
            f"{groups} groups of {integers.shape[1]} channels are not the input's {image[2]}"
        )
    scale = per_column(unit.reshape(len(unit), -1).T)
    if integers.ndim == 3:
        integers = integers[:, :, None]
    found = window(_of_image(node), integers.shape[2:], image[:2])
    out = (*found.out, len(integers))
    extra = {
        "stride": found.stride,
        "padding": found.padding,
        "dilation": found.dilation,
        "groups": groups,
    }
    places = stored_places(out, source.places.ndim)
    return _conv(node, source, integers.transpose(0, 2, 3, 1), scale, out, places, extra)


def _conv(
    node: Node,
    source: Quantized,
    weights: IntArray,
    scale: npt.NDArray[np.float64],
    shape: tuple[int, int, int],
    places: IntArray,
    extra: dict[str, Any],
) -> Summed:
    tensor = source.tensor
    moved = tensor.zero_point - source.zero_point
    bounds = [tensor.low - tensor.zero_point, tensor.high - tensor.zero_point]
    if any(extra.get("padding", ())):
        if moved:
            raise NotSupportedError("padding of a quantized tensor to which a constant was added")
        bounds = [min(bounds[0], 0), max(bounds[1], 0)]
    flat = weights.reshape(len(weights), -1)
    # In floating point first: sums may exceed any width.
    largest = abs(flat).astype(np.float64).sum(axis=1).max() * (max(map(abs, bounds)) + abs(moved))
    if largest >= 1 << SUM_BITS - 1:
        raise NotSupportedError(f"sums of up to {largest:.0f} do not fit {SUM_BITS} bits")
    bias = moved * flat.sum(axis=1)
    low = np.where(flat > 0, flat * bounds[0], flat * bounds[1]).sum(axis=1) + bias
    high = np.where(flat > 0, flat * bounds[1], flat * bounds[0]).sum(axis=1) + bias
    conv = Conv(
        *(node.name, (tensor.name,), "", None, np.ascontiguousarray(weights), bias), **extra
    )
    return Summed(FloatSums(conv, scale * source.scale, low, high, shape), places)


def max_window(node: Node, value: Quantized | Summed) -> MaxWindow:
    """Return the window of a ``MaxPool``."""
    image = check_spatial(value)
    if len(node.outputs) > 1 and node.outputs[1]:
        raise NotSupportedError("indices of maxima are not known")
    found = window(_of_image(node), _kernel(node), image[:2])
    if found.dilation != (1, 1):
        raise NotSupportedError(f"dilations must be 1, not {list(found.dilation)}")
    shape = (*found.out, image[2])
    return MaxWindow(node.name, image, shape, found.kernel, found.stride, found.padding)


def average_pool(node: Node, source: Quantized) -> Summed:
    """Return the sums of an ``AveragePool`` or ``GlobalAveragePool``; their scale divides."""
    image = check_spatial(source)
    tensor = source.tensor
    kernel, stride, padding, size = image[:2], (1, 1), (0, 0, 0, 0), (1, 1)
    if node.op == "AveragePool":
        found = window(_of_image(node), _kernel(node), image[:2])
        if found.dilation != (1, 1) or found.grown:
            raise NotSupportedError("dilations must be 1, and ceil_mode 0")
        kernel, stride, padding, size = found.kernel, found.stride, found.padding, found.out
    if any(padding) and not node.get("count_include_pad", 0):
        raise NotSupportedError("count_include_pad must be 1 where there is padding")
    if any(padding) and tensor.zero_point != source.zero_point:
        raise NotSupportedError("padding of a quantized tensor to which a constant was added")
    count = kernel[0] * kernel[1]
    out = (*size, image[2])
    ends = [count * (end - source.zero_point) for end in (tensor.low, tensor.high)]
    pool = Pool(
        *(node.name, (tensor.name,), "", None, "sum", kernel, stride, padding),
        bias=-source.zero_point * count,
    )
    low, high = (np.full(image[2], end, np.int64) for end in ends)
    sums = FloatSums(pool, np.full(image[2], source.scale / count), low, high, out)
    return Summed(sums, stored_places(out, source.places.ndim))


def add(node: Node, a: Quantized, b: Quantized) -> tuple[Summed, str]:
    """Return the sum of two tensors, a residual connection, and a note if it is not exact.

    It is if one scale is a power of two times the other; else both are brought to a finer scale as
    TFLite's reference kernel of ``ADD`` does it.
    """
    if not np.array_equal(a.places, b.places) or a.tensor.shape != b.tensor.shape:
        raise NotSupportedError("both tensors must have the same shape and order")
    if any(x.tensor.zero_point != x.zero_point for x in (a, b)):
        raise NotSupportedError("a constant is added to a quantized tensor")
    unit = min(a.scale, b.scale)
    note = ""
    powers = [np.frexp(x.scale / unit) for x in (a, b)]
    margin = 0
    if all(significand == 0.5 and exponent <= 13 for significand, exponent in powers):
        rescale = tuple(Rescale(int(exponent) - 1) for _, exponent in powers)
    else:
        bits = max(max(-x.tensor.low, x.tensor.high).bit_length() for x in (a, b)) + 2
        left = min(20, 30 - bits)
        unit = 2 * max(a.scale, b.scale) / 2.0**left
        multipliers, shifts = quantize_multiplier(x.scale / (unit * 2.0**left) for x in (a, b))
        rescale = tuple(
            Rescale(left, int(m), int(s)) for m, s in zip(multipliers, shifts, strict=True)
        )
        margin = 2
        note = (
            f"scales {a.scale:g} and {b.scale:g} are no power of two apart: each tensor is rounded "
            f"to multiples of {unit:.3g}"
        )
    ends = [
        round((a.scale * (i - a.zero_point) + b.scale * (j - b.zero_point)) / unit)
        for i, j in ((a.tensor.low, b.tensor.low), (a.tensor.high, b.tensor.high))
    ]
    channels = np.ones(a.tensor.shape[2], np.int64)
    operation = Add(node.name, (a.tensor.name, b.tensor.name), "", None, rescale)
    low, high = channels * (ends[0] - margin), channels * (ends[1] + margin)
    sums = FloatSums(operation, channels * np.float64(unit), low, high, a.tensor.shape)
    return Summed(sums, a.places), note


def _kernel(node: Node) -> tuple[int, ...]:
    kernel = tuple(node.get("kernel_shape") or ())
    return (1, *kernel) if len(kernel) == 1 else kernel


def _of_image(node: Node) -> Node:
    """Return a node whose window over a series, if it is one, is one over an image of height 1."""
    one_dimensional = {"strides": (1,), "dilations": (1,), "pads": (0,)}
    attributes = dict(node.attributes)
    for name, first in one_dimensional.items():
        found = attributes.get(name)
        if name == "pads" and found is not None and len(found) == 2:
            attributes[name] = [*first, found[0], *first, found[1]]
        elif found is not None and len(found) == 1:
            attributes[name] = [*first, *found]
    return replace(node, attributes=attributes)
