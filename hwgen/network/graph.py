"""A quantized network in integers: the one form that every file is brought to.

A *tensor* holds integers; a real number is ``scale * (integer - zero_point)``. Activations are
(height, width, channels) for one sample; a vector is (1, 1, channels). An *operation* is exact
integer arithmetic with a defined rounding, so a network has one right answer, bit for bit: what
the golden model (``testbench/golden_network.py``) computes, and the accelerator too.

What a model does before the first and after the last integer tensor (quantizing its input, a
softmax) stays on the host: :attr:`Network.encode` and :attr:`Network.decode`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .requantize import IntArray, Requantization

__all__ = ["Add", "Conv", "Network", "Operation", "Pool", "Rescale", "Tensor"]

#: What a network's file holds at its border, for a whole batch.
HostFunction = Callable[[npt.NDArray[np.generic]], npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Tensor:
    """A tensor of integers.

    Attributes
    ----------
    name : str
        As in the file, where it has one.
    shape : (height, width, channels)
        Of one sample.
    low, high : int
        Range of the integers; -1 and 1 of a bipolar tensor, which never holds 0.
    zero_point : int
        The integer that means 0; what padding inserts.
    scale : float
        For reports only: no arithmetic depends on it.
    """

    name: str
    shape: tuple[int, int, int]
    low: int
    high: int
    zero_point: int = 0
    scale: float = 1.0

    @property
    def bipolar(self) -> bool:
        """Whether the integers are -1 and 1."""
        return (self.low, self.high) == (-1, 1)


@dataclass(frozen=True, eq=False)
class Operation:
    """One step of a network.

    Attributes
    ----------
    name : str
        Of the node in the file; of the first of them, where several were joined.
    inputs : tuple of str
        Names of tensors.
    output : str
        Name of a tensor.
    requantize : Requantization or None
        From sums to the output's integers; None leaves them as they are: sums of up to 32 bits (48
        with activations of more than 8) in the last operation, integers of a maximum anywhere.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    requantize: Requantization | None


@dataclass(frozen=True, eq=False)
class Conv(Operation):
    """``sums[o] = bias[o] + Σ (input - input.zero_point) * weights[o]``; also fully connected.

    A fully connected layer has an input of shape (1, 1, channels) and a 1×1 kernel; an importer
    permutes its weights where the file flattens in another order than height, width, channels.

    Attributes
    ----------
    weights : int64 array (out channels, kernel height, kernel width, in channels / groups)
        Integers.
    bias : int64 array (out channels)
        In units of the sums.
    stride, dilation : (vertical, horizontal)
    padding : (top, left, bottom, right)
    groups : int
        Of channels, each with its own filters; a depthwise convolution has one channel in each.
    """

    weights: IntArray
    bias: IntArray
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Pool(Operation):
    """The maximum, or the sum plus ``bias``, over a window of each channel.

    The integers themselves are taken, zero point included. An average is a sum whose
    requantization divides.

    Attributes
    ----------
    kind : str
        ``"max"`` or ``"sum"``.
    kernel, stride : (vertical, horizontal)
    padding : (top, left, bottom, right)
        Of a maximum: places that do not count. Of a sum: places that hold the zero point.
    bias : int
    """

    kind: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    bias: int = 0


@dataclass(frozen=True)
class Rescale:
    """``(integer - zero_point) << left``, then :func:`~.requantize.multiply_fixed_point`.

    Attributes
    ----------
    left : int
        0 to 24.
    multiplier, shift : int
        As in :func:`~.requantize.multiply_fixed_point`, with ``shift`` not above 0. A multiplier of
        0 leaves this step out.
    """

    left: int
    multiplier: int = 0
    shift: int = 0


@dataclass(frozen=True, eq=False)
class Add(Operation):
    """``sums = Σ rescaled inputs``: a residual connection; with one input, a change of scale.

    Attributes
    ----------
    rescale : tuple of Rescale
        For each input.
    """

    rescale: tuple[Rescale, ...]


@dataclass(frozen=True, eq=False)
class Network:
    """A network.

    Attributes
    ----------
    name : str
    tensors : dict of Tensor by name
    operations : list of Operation
        In an order in which they can run.
    input, output : str
        Names of tensors.
    encode : callable
        From a batch of the model's own input type to int64 of shape (batch, height, width,
        channels).
    decode : callable
        From int64 of shape (batch, height, width, channels), the output tensor or its sums, to the
        model's own output type.
    notes : list of str
        What a user is to know of the import, e.g. how far weights were projected.
    """

    name: str
    tensors: dict[str, Tensor]
    operations: list[Operation]
    input: str
    output: str
    encode: HostFunction
    decode: HostFunction
    notes: list[str] = field(default_factory=list)
