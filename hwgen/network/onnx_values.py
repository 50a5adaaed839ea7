"""What flows along an ONNX graph's edges while it is brought to integers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .graph import Operation
from .onnx_file import INTEGER_RANGES
from .requantize import IntArray

__all__ = ["Codes", "Grid", "HostInput", "HostOutput", "Sums", "Value", "Weights", "channels_first"]

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]
#: From a batch to a batch.
BatchFunction = Callable[[Array], Array]


@dataclass(frozen=True)
class Grid:
    """Where a tensor's integers lie in the file: ``scale * (integer - zero)``.

    Attributes
    ----------
    scale : float
        A float32 number.
    zero : int
    type : str
        ONNX's name of the element type.
    low, high : int
        Of the integers: the type's, narrowed by a ``Clip`` (QCDQ).
    """

    scale: float
    zero: int
    type: str
    low: int
    high: int

    @classmethod
    def plain(cls, kind: str) -> "Grid":
        """Return the grid of integers that stand for themselves."""
        return cls(1.0, 0, kind, *INTEGER_RANGES[kind])

    @property
    def offset(self) -> int:
        """What is subtracted from the file's integers: unsigned 8 and 16 bits become signed."""
        least, greatest = INTEGER_RANGES[self.type]
        signed = least < 0 or self.high <= greatest // 2 or greatest < 128
        return 0 if signed else greatest // 2 + 1

    def quantize(self, values: Array) -> IntArray:
        """Return the file's integers of real numbers, as ``QuantizeLinear`` computes them."""
        with np.errstate(over="ignore"):
            found = np.rint(np.asarray(values, np.float32) / np.float32(self.scale))
        # Beyond any code, so that adding the zero point stays exact and infinities become integers.
        found = found.clip(-(1 << 20), 1 << 20).astype(np.int64)
        return (found + self.zero).clip(self.low, self.high)

    def dequantize(self, integers: IntArray) -> npt.NDArray[np.float32]:
        """Return the real numbers, as ``DequantizeLinear`` computes them."""
        return (integers - self.zero).astype(np.float32) * np.float32(self.scale)


@dataclass(frozen=True, eq=False)
class Codes:
    """Integers of a tensor of the network, or the real numbers they stand for.

    Attributes
    ----------
    tensor : str
    places : int64 array, of the file's shape without batch
        Where each element is in the network's tensor, which is (height, width, channels).
    grid : Grid or None
        None for integers that enter the model, whose scale a later node tells.
    real : bool
        Whether they are dequantized.
    """

    tensor: str
    places: IntArray
    grid: Grid | None
    real: bool


@dataclass(frozen=True, eq=False)
class Sums:
    """What an operation computes, not yet requantized: ``(sums * factor + bias).clip(low, high)``.

    Attributes
    ----------
    operation : Operation
        Its output has no name yet.
    shape : (height, width, channels)
    places : int64 array
        See :class:`Codes`.
    factor, bias : float64 array (channels)
        The factor may be negative, or 0, after a batch normalization.
    low, high : float
    """

    operation: Operation
    shape: tuple[int, int, int]
    places: IntArray
    factor: FloatArray
    bias: FloatArray
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True, eq=False)
class Weights:
    """A dequantized constant: ``scale * integers``.

    Attributes
    ----------
    integers : int64 array
        Zero points subtracted.
    scale : float32 array () or (channels)
    axis : int
        Of the channels.
    """

    integers: IntArray
    scale: npt.NDArray[np.float32]
    axis: int

    def real(self) -> FloatArray:
        """Return the real numbers."""
        shape = [1] * self.integers.ndim
        if self.scale.ndim:
            shape[self.axis] = -1
        return self.integers * self.scale.astype(np.float64).reshape(shape)


@dataclass(frozen=True, eq=False)
class HostInput:
    """The model's input after what the host does to it."""

    functions: tuple[BatchFunction, ...] = ()


@dataclass(frozen=True, eq=False)
class HostOutput:
    """What the host makes of the network's output."""

    base: Codes | Sums
    functions: tuple[BatchFunction, ...]


Value = Codes | Sums | Weights | HostInput | HostOutput


def channels_first(height: int, width: int, channels: int) -> IntArray:
    """Return the places of a tensor that ONNX holds as (channels, height, width)."""
    places = np.arange(height * width * channels, dtype=np.int64)
    return places.reshape(height, width, channels).transpose(2, 0, 1)
