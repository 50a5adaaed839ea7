"""Rewriting a network so that it runs faster, with the same integers coming out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.accelerator.config import AcceleratorConfig
from hwgen.network.graph import Conv, Network

__all__ = ["fold_stride"]


def fold_stride(network: Network, config: AcceleratorConfig) -> Network:
    """Turn the stride of the first convolution into channels (space-to-depth).

    A first layer has few channels, and most rows of the array would idle: with stride s, s × s
    pixels are laid out as one with as many times the channels, which the host does with the input.
    The kernel becomes 1/s as high and wide, rounded up. It is done where the channels still fit
    the rows, and weights have a zero for what is rounded up.
    """
    readers = [o for o in network.operations if network.input in o.inputs]
    first = readers[0] if len(readers) == 1 else None
    if not isinstance(first, Conv) or first.groups != 1 or first.dilation != (1, 1):
        return network
    tensor = network.tensors[network.input]
    (sy, sx), channels = first.stride, tensor.shape[2]
    if (
        (sy, sx) == (1, 1)
        or sy * sx * channels > config.read_codes
        or config.array.pe.weight.padding
        or (tensor.bipolar and any(first.padding))
    ):
        return network
    out, kh, kw, _ = first.weights.shape
    height, width, _ = network.tensors[first.output].shape
    blocks_y, blocks_x = -(-kh // sy), -(-kw // sx)
    rows, cols = height - 1 + blocks_y, width - 1 + blocks_x
    weights = np.zeros((out, blocks_y * sy, blocks_x * sx, channels), np.int64)
    weights[:, :kh, :kw] = first.weights
    weights = weights.reshape(out, blocks_y, sy, blocks_x, sx, channels)
    weights = weights.transpose(0, 1, 3, 2, 4, 5).reshape(out, blocks_y, blocks_x, -1)
    folded = replace(tensor, shape=(rows, cols, sy * sx * channels))
    conv = replace(first, weights=weights, stride=(1, 1), padding=(0, 0, 0, 0))

    def fold(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        full = np.full((len(values), rows * sy, cols * sx, channels), tensor.zero_point, np.int64)
        top, left = first.padding[:2]
        part = values[:, : max(0, rows * sy - top), : max(0, cols * sx - left)]
        top, left = min(top, rows * sy), min(left, cols * sx)
        full[:, top : top + part.shape[1], left : left + part.shape[2]] = part
        full = full.reshape(len(values), rows, sy, cols, sx, channels)
        return full.transpose(0, 1, 3, 2, 4, 5).reshape(len(values), rows, cols, -1)

    def encode(batch: npt.NDArray[Any], inner: Callable[..., Any] = network.encode) -> Any:
        return fold(np.asarray(inner(batch), np.int64))

    return replace(
        network,
        tensors=network.tensors | {tensor.name: folded},
        operations=[conv if o is first else o for o in network.operations],
        encode=encode,
    )
