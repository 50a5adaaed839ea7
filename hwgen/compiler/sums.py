"""What the sums of an operation can be: the exact worst case, from weights, bias and formats."""

import numpy as np
import numpy.typing as npt

from hwgen.network.graph import Add, Conv, Network, Operation, Pool
from hwgen.network.requantize import FixedPoint, multiply_fixed_point

__all__ = ["scaled_limit", "sum_range"]

IntArray = npt.NDArray[np.int64]


def sum_range(network: Network, operation: Operation) -> tuple[IntArray, IntArray]:
    """Return the least and the greatest sum, bias included, of each output channel, or of all."""
    tensors = [network.tensors[name] for name in operation.inputs]
    if isinstance(operation, Conv):
        (tensor,) = tensors
        ends = [tensor.low - tensor.zero_point, tensor.high - tensor.zero_point]
        if any(operation.padding):
            ends.append(0)
        products = operation.weights[..., None] * np.array([min(ends), max(ends)])
        least, greatest = (
            bound(axis=-1).sum(axis=(1, 2, 3)) for bound in (products.min, products.max)
        )
        return operation.bias + least, operation.bias + greatest
    if isinstance(operation, Pool):
        (tensor,) = tensors
        ends = [tensor.low, tensor.high, *([tensor.zero_point] if any(operation.padding) else [])]
        count = 1 if operation.kind == "max" else operation.kernel[0] * operation.kernel[1]
        least, greatest = (
            np.array([count * end + operation.bias]) for end in (min(ends), max(ends))
        )
        return least, greatest
    scaled = _rescaled(network, operation, shifted=True)
    return scaled.min(axis=1).sum(keepdims=True), scaled.max(axis=1).sum(keepdims=True)


def scaled_limit(network: Network, operation: Operation) -> int:
    """Return the greatest magnitude of sums, and of what is shifted left for or after them."""
    low, high = sum_range(network, operation)
    magnitude = np.maximum(abs(low), abs(high))
    way = operation.requantize
    if isinstance(way, FixedPoint):
        magnitude = magnitude << np.maximum(way.shift, 0)
    limit = int(magnitude.max(initial=0))
    if isinstance(operation, Add):
        limit = max(limit, int(abs(_rescaled(network, operation, shifted=False)).max()))
    return limit


def _rescaled(network: Network, add: Operation, *, shifted: bool) -> IntArray:
    """Return each input's ends (inputs, 2) as sums; without their shift to the right if told so."""
    assert isinstance(add, Add)
    ends = []
    for name, way in zip(add.inputs, add.rescale, strict=True):
        tensor = network.tensors[name]
        values = np.array([tensor.low, tensor.high]) - tensor.zero_point << way.left
        if way.multiplier:
            shift = np.int64(way.shift if shifted else 0)
            values = multiply_fixed_point(values, np.int64(way.multiplier), shift)
        ends.append(values)
    return np.array(ends, np.int64)
