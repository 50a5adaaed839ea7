"""The golden model of quantized networks: NumPy integers, layer by layer, nothing of a circuit."""

import numpy as np
import numpy.typing as npt

from hwgen.network.graph import Add, Conv, Network, Operation, Pool, Tensor
from hwgen.network.requantize import LONG_SUM_BITS, SUM_BITS, multiply_fixed_point

__all__ = ["run_network", "run_operation"]

IntArray = npt.NDArray[np.int64]


def run_network(network: Network, inputs: IntArray) -> dict[str, IntArray]:
    """Return every tensor of a batch.

    Parameters
    ----------
    network : Network
        Its host functions are not called.
    inputs : int64 array (batch, height, width, channels)
        The input tensor's integers.

    Raises
    ------
    ValueError
        If an integer of the input is out of range, or a sum needs more than 32 bits (48 with
        activations of more than 8).
    """
    tensor = network.tensors[network.input]
    if inputs.size and not tensor.low <= inputs.min() <= inputs.max() <= tensor.high:
        raise ValueError(
            f"integers of {tensor.name!r} must be {tensor.low} to {tensor.high}, "
            f"not {inputs.min()} to {inputs.max()}"
        )
    values = {network.input: inputs}
    for operation in network.operations:
        found = [values[name] for name in operation.inputs]
        values[operation.output] = run_operation(
            operation, found, [network.tensors[name] for name in operation.inputs]
        )
    return values


def run_operation(operation: Operation, inputs: list[IntArray], tensors: list[Tensor]) -> IntArray:
    """Return the output of an operation for a batch of each of its inputs."""
    match operation:
        case Conv():
            sums = _conv(operation, inputs[0] - tensors[0].zero_point)
        case Pool():
            sums = _pool(operation, inputs[0], tensors[0].zero_point)
        case Add():
            sums = np.zeros(inputs[0].shape, np.int64)
            for rescale, integers, tensor in zip(operation.rescale, inputs, tensors, strict=True):
                part = (integers - tensor.zero_point) << rescale.left
                if rescale.multiplier:
                    part = multiply_fixed_point(
                        part, np.int64(rescale.multiplier), np.int64(rescale.shift)
                    )
                sums += part
        case _:
            raise TypeError(f"operation {operation.name!r} must be one of graph.py")
    bits = SUM_BITS if max(t.high - t.low for t in tensors) < 1 << 8 else LONG_SUM_BITS
    limit = 1 << (bits - 1)
    if sums.size and not -limit <= sums.min() <= sums.max() < limit:
        raise ValueError(
            f"sums of {operation.name!r} must fit {bits} bits, not {sums.min()} to {sums.max()}"
        )
    return sums if operation.requantize is None else operation.requantize.apply(sums)


def _windows(
    values: IntArray,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    fill: int,
) -> IntArray:
    """Return views of shape (batch, out height, out width, channels, *kernel)."""
    top, left, bottom, right = padding
    padded = np.pad(values, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    found = np.lib.stride_tricks.sliding_window_view(padded, reach, (1, 2))
    return found[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]


def _conv(conv: Conv, values: IntArray) -> IntArray:
    out, height, width, depth = conv.weights.shape
    found = _windows(values, (height, width), conv.stride, conv.padding, conv.dilation, 0)
    parts = []
    for group in range(conv.groups):
        channels = slice(group * depth, (group + 1) * depth)
        filters = slice(group * out // conv.groups, (group + 1) * out // conv.groups)
        weights = conv.weights[filters]
        # Sums of products of up to 16 bits each are exact in double precision below 2**53.
        view = found[:, :, :, channels].astype(np.float64)
        parts.append(np.tensordot(view, weights.astype(np.float64), ([3, 4, 5], [3, 1, 2])))
    return np.rint(np.concatenate(parts, axis=-1)).astype(np.int64) + conv.bias


def _pool(pool: Pool, values: IntArray, zero_point: int) -> IntArray:
    fill = np.iinfo(np.int64).min if pool.kind == "max" else zero_point
    found = _windows(values, pool.kernel, pool.stride, pool.padding, (1, 1), fill)
    if pool.kind == "max":
        return found.max(axis=(-2, -1)) + pool.bias
    return found.sum(axis=(-2, -1)) + pool.bias
