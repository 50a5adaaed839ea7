"""The network that a QONNX file becomes, while it is being read."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .float_sums import FloatSums, MaxWindow, Requantized, identity
from .graph import Conv, Network, Operation, Pool, Tensor
from .qonnx_values import NotSupportedError, Quantized, Summed, layout
from .requantize import Requantization, RoundingShift

__all__ = ["Draft", "flat_input"]

Array = npt.NDArray[Any]

#: Integers that are passed on without a quantizer have at most so many bits.
PASSED_BITS = 16


@dataclass
class Draft:
    """Tensors and operations so far.

    Attributes
    ----------
    tensors : dict of Tensor by name
    operations : list of Operation
    notes : list of str
    input : str
        Name of the input tensor, once it is known.
    encode : callable or None
        From one sample of the model's input to the input tensor's integers.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    input: str = ""
    encode: Callable[[Array], Array] | None = None

    def start(
        self,
        name: str,
        encode: Callable[[Array], Array],
        shape: tuple[int, ...],
        bounds: tuple[int, int],
        zero: int,
        scale: float,
        bipolar: bool,
    ) -> Quantized:
        """Make the input tensor; ``encode`` returns integers of the model's own ``shape``."""
        if self.encode is not None:
            raise NotSupportedError("the input is quantized in more than one way")
        stored, places = layout(shape)
        offset = signed_offset(*bounds)
        order = np.argsort(places.ravel())
        low, high = (bound - offset for bound in bounds)
        tensor = self._tensor(name, stored, low, high, zero - offset, scale, bipolar)
        self.input = name
        self.encode = lambda x: (encode(x).ravel()[order] - offset).reshape(stored)
        return Quantized(tensor, scale, tensor.zero_point, places)

    def emit(self, value: Summed, made: Requantized, name: str, scale: float) -> Quantized:
        """Add the operation of sums, requantized, and the maxima over windows that follow it."""
        sums = value.sums
        windows = list(sums.windows)
        first = f"{name}_before_pool" if windows else name
        tensor = self._tensor(
            *(first, sums.summed_shape, made.low, made.high, made.zero_point, scale),
            bipolar=made.bipolar,
        )
        self._operation(made.operation, tensor, made.requantize)
        while windows:
            window = windows.pop(0)
            after = None if windows else made.after
            tensor = self.pool(window, tensor, after, "" if windows else name)
        return Quantized(tensor, scale, made.zero_point, value.places)

    def pass_on(self, value: Summed, name: str) -> Quantized:
        """Make sums, as they are, a tensor."""
        sums = value.sums
        low, high = int(sums.low.min()), int(sums.high.max())
        if (sums.scale != sums.scale[0]).any():
            raise NotSupportedError("its input needs a quantizer: sums have more than one scale")
        if max(-low - 1, high) >= 1 << PASSED_BITS - 1:
            raise NotSupportedError(f"its input needs a quantizer: sums are {low} to {high}")
        offset = signed_offset(low, high)
        low, high = low - offset, high - offset
        way = RoundingShift(np.zeros(1, np.int64), -offset, low, high)
        made = Requantized(sums.operation, way, None, low, high, -offset)
        return self.emit(value, made, name, float(sums.scale[0]))

    def pool(
        self, window: MaxWindow, source: Tensor, after: Requantization | None, name: str = ""
    ) -> Tensor:
        """Add a maximum over windows of a tensor; ``after`` is to be done to its codes."""
        tensor = replace(source, name=name or f"{window.name}_of_{source.name}", shape=window.shape)
        self.tensors[tensor.name] = tensor
        pool = Pool(
            *(window.name, (source.name,), "", None),
            *("max", window.kernel, window.stride, window.padding),
        )
        self._operation(pool, tensor, after or identity(tensor))
        return tensor

    def end(self, sums: FloatSums) -> None:
        """Add the last operation, whose sums stay as they are."""
        low, high = int(sums.low.min()), int(sums.high.max())
        name = f"{sums.operation.name}_sums"
        tensor = self._tensor(name, sums.shape, low, high, 0, float(sums.scale[0]), bipolar=False)
        self._operation(sums.operation, tensor, None)

    def _tensor(
        self,
        name: str,
        shape: tuple[int, int, int],
        low: int,
        high: int,
        zero: int,
        scale: float,
        bipolar: bool,
    ) -> Tensor:
        if (low, high) == (-1, 1) and not bipolar:
            low = -2  # in graph.py, -1 and 1 without 0
        tensor = Tensor(name, shape, low, high, zero, scale)
        self.tensors[name] = tensor
        return tensor

    def _operation(
        self, operation: Operation, output: Tensor, requantization: Requantization | None
    ) -> None:
        names = {found.name for found in self.operations}
        name, count = operation.name, 1
        while name in names:
            count += 1
            name = f"{operation.name}_{count}"
        self.operations.append(
            replace(operation, name=name, output=output.name, requantize=requantization)
        )


def signed_offset(low: int, high: int) -> int:
    """Return what to subtract from codes: all tensors of 8 bits are signed."""
    return 128 if low >= 0 and 127 < high <= 255 else 0


def flat_input(network: Network) -> Network:
    """Store an input that only fully connected layers read as a vector."""
    shape = network.tensors[network.input].shape
    users = [op for op in network.operations if network.input in op.inputs]
    whole = all(
        isinstance(op, Conv) and op.weights.shape[1:] == shape and not any(op.padding)
        for op in users
    )
    if not whole or shape[:2] == (1, 1):
        return network
    count = int(np.prod(shape))
    flat = replace(network.tensors[network.input], shape=(1, 1, count))
    operations = [
        replace(op, weights=op.weights.reshape(len(op.weights), 1, 1, count))
        if isinstance(op, Conv) and network.input in op.inputs
        else op
        for op in network.operations
    ]
    encode = network.encode
    return replace(
        network,
        tensors={**network.tensors, network.input: flat},
        operations=operations,
        encode=lambda batch: encode(batch).reshape(-1, 1, 1, count),
    )
