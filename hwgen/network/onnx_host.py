"""What stays on the host of an ONNX network: floating-point NumPy at its border."""

from typing import Any

import numpy as np
import numpy.typing as npt

from .onnx_file import Node
from .onnx_values import BatchFunction

__all__ = ["host_function", "softmax"]

Array = npt.NDArray[Any]


def softmax(values: Array, axis: int, flatten: bool) -> Array:
    """Return ONNX's ``Softmax`` in the type of ``values``.

    Parameters
    ----------
    values : float array
    axis : int
    flatten : bool
        Whether all axes from ``axis`` on are one, as before operator set 13.
    """
    shape = values.shape
    if flatten:
        axis %= values.ndim
        values = values.reshape(int(np.prod(shape[:axis])), -1)
        axis = 1
    powers = np.exp(values - values.max(axis=axis, keepdims=True))
    return (powers / powers.sum(axis=axis, keepdims=True)).reshape(shape)


def host_function(node: Node, opset: int, shape: tuple[int, ...]) -> BatchFunction | None:
    """Return what a node of one input does to a batch, or None for others.

    Parameters
    ----------
    node : Node
    opset : int
        Of ONNX's own operators.
    shape : tuple of int
        The output's, batch included; the batch may differ when the function is called.
    """
    match node.op:
        case "Identity" | "Dropout":
            return lambda x: x
        case "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze":
            return lambda x: x.reshape(len(x), *shape[1:])
        case "Transpose":
            order = node.get("perm", list(range(len(shape)))[::-1])
            return lambda x: x.transpose(order)
        case "Softmax":
            flatten = opset < 13
            axis = node.get("axis", 1 if flatten else -1)
            return lambda x: softmax(x, axis, flatten)
        case "Sigmoid":
            return lambda x: (1 / (1 + np.exp(-x.astype(np.float64)))).astype(x.dtype)
        case "ArgMax" if not node.get("select_last_index", 0):
            axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
            return lambda x: x.argmax(axis=axis, keepdims=keep)
    return None
