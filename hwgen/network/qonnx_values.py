"""What flows along a QONNX graph's edges while it is brought to integers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .float_sums import FloatSums
from .graph import Add, Rescale, Tensor
from .pointwise import Step
from .qonnx_quantizers import Quantizer
from .requantize import IntArray

__all__ = [
    "Constant",
    "Host",
    "NotSupportedError",
    "Quantized",
    "Summed",
    "Value",
    "after_step",
    "by_channel",
    "check_spatial",
    "layout",
    "on_grid",
    "per_column",
    "stored_places",
    "sums_of",
    "unchanged",
    "weight_integers",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant: its numbers, and integers and their unit, of the same shape, if quantized."""

    numbers: Array
    integers: IntArray | None = None
    unit: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class Quantized:
    """A tensor of the network: element ``i`` is ``scale * (integers.flat[places[i]] - zero)``."""

    tensor: Tensor
    scale: float
    zero_point: int
    places: IntArray

    def codes(self) -> IntArray:
        """Return every integer that the tensor may hold."""
        step = 2 if self.tensor.bipolar else 1
        return np.arange(self.tensor.low, self.tensor.high + 1, step, dtype=np.int64)

    def real(self, integers: IntArray) -> npt.NDArray[np.float32]:
        """Return the real numbers of integers."""
        return ((integers - self.zero_point) * self.scale).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Summed:
    """Sums with float functions; ``places`` as of :class:`Quantized`."""

    sums: FloatSums
    places: IntArray


@dataclass(frozen=True, eq=False)
class Host:
    """A tensor worked out on the host.

    ``function`` takes one sample: of the model's input, or of ``source``, whose places are of shape
    (height, width, channels).
    """

    function: Callable[[Array], Array]
    source: Quantized | Summed | None = None


Value = Constant | Quantized | Summed | Host


class NotSupportedError(Exception):
    """Why a node is not supported."""


def weight_integers(constant: Constant) -> tuple[IntArray, npt.NDArray[np.float64]]:
    """Return integers and their unit, of the same shape; of plain numbers if they are integers."""
    if constant.integers is not None and constant.unit is not None:
        return constant.integers, constant.unit
    numbers = constant.numbers
    integers = np.rint(numbers)
    if (integers != numbers).any():
        raise NotSupportedError("its weights have no quantizer, and are no integers")
    if abs(integers).max(initial=0) >= 1 << 15:
        raise NotSupportedError("its weights are integers of more than 16 bits")
    return integers.astype(np.int64), np.ones(numbers.shape)


def per_column(unit: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the one unit of each output channel, weights of which are a column."""
    if (unit != unit[:1]).any():
        raise NotSupportedError("weights of one output channel must have one scale")
    return unit[0]


def after_step(value: Quantized, step: Step) -> Quantized | None:
    """Return a quantized value after a step that leaves its integers, or ``None``.

    Such a step changes the scale and the zero point, or nothing.
    """
    if any(part.size != 1 for part in step.parameters):
        return None
    real = value.real(value.codes())
    if (step(real) == real).all():  # e.g. ReLU of what is not negative
        return value
    affine = step.affine
    if affine is None or np.isfinite(affine.low).any() or np.isfinite(affine.high).any():
        return None
    if not affine.slope.item() > 0:
        return None
    scale = value.scale * affine.slope.item()
    moved = affine.offset.item() / scale
    if moved != np.rint(moved):
        return None
    return replace(value, scale=scale, zero_point=value.zero_point - int(moved))


def sums_of(value: Quantized) -> Summed:
    """Return a quantized value as sums of one."""
    tensor = value.tensor
    if tensor.zero_point != value.zero_point:
        raise NotSupportedError("a constant is added to a quantized tensor")
    channels = np.ones(tensor.shape[2], np.int64)
    zero = tensor.zero_point
    operation = Add(f"{tensor.name}_requantized", (tensor.name,), "", None, (Rescale(0),))
    low, high = channels * (tensor.low - zero), channels * (tensor.high - zero)
    sums = FloatSums(operation, channels * np.float64(value.scale), low, high, tensor.shape)
    return Summed(sums, value.places)


def on_grid(value: Summed) -> Quantizer | None:
    """Return a quantizer that changes nothing, if sums of one tensor stay on that tensor's grid.

    So it is after ReLU of signed integers, which needs no quantizer of its own.
    """
    sums = value.sums
    steps = [step for step in sums.steps if isinstance(step, Step)]
    if not isinstance(sums.operation, Add) or len(sums.operation.inputs) != 1:
        return None
    scale = sums.scale[0]
    codes = np.arange(sums.low[0], sums.high[0] + 1)
    real = sums.real(codes[:, None])
    found = np.rint(real / scale)
    if ((found * scale).astype(np.float32) != real).any():
        return None
    low, high = int(found.min()), int(found.max())

    def function(x: Array) -> Array:
        return np.rint(x / scale)

    return Quantizer(steps[-1].node, function, (), np.asarray(scale), 0, low, high)


def unchanged(value: Quantized, quantizer: Quantizer) -> bool:
    """Return whether a quantizer leaves a quantized value as it is."""
    if any(part.size != 1 for part in quantizer.parameters):
        return False
    real = value.real(value.codes())
    found = quantizer.codes(real) - quantizer.zero_point
    return bool(((found * float(quantizer.scale.flat[0])).astype(np.float32) == real).all())


def by_channel(value: Summed) -> Callable[[Array], Array]:
    """Return the function from a parameter, broadcast against the value, to one per channel."""
    places, shape = value.places, value.sums.shape

    def find(parameter: Array) -> Array:
        if parameter.size == 1:
            return parameter.reshape(1)
        spread = np.broadcast_to(parameter, np.broadcast_shapes(parameter.shape, places.shape))
        if spread.shape != places.shape:
            raise NotSupportedError(f"a constant has the shape {parameter.shape}")
        found = np.empty(places.size, parameter.dtype)
        found[places.ravel()] = spread.ravel()
        table = found.reshape(-1, shape[2])
        if (table != table[:1]).any():
            raise NotSupportedError("a constant must be the same for all places of a channel")
        return table[0]

    return find


def layout(shape: tuple[int, ...]) -> tuple[tuple[int, int, int], IntArray]:
    """Return how a tensor of the model is stored, and the places of its elements."""
    if not 2 <= len(shape) <= 4:
        raise NotSupportedError(f"a tensor must have 2 to 4 dimensions, not {len(shape)}")
    channels, height, width = (*shape[1:], 1, 1)[:3] if len(shape) != 3 else (shape[1], 1, shape[2])
    stored = (height, width, channels)
    return stored, stored_places(stored, len(shape))


def stored_places(stored: tuple[int, int, int], rank: int) -> IntArray:
    """Return the places of the elements of a (batch, channels, ...) tensor of some rank."""
    places = np.arange(np.prod(stored), dtype=np.int64).reshape(stored).transpose(2, 0, 1)[None]
    return places if rank == 4 else places.reshape(1, stored[2], *stored[1:][: rank - 2])


def check_spatial(value: Quantized | Summed) -> tuple[int, int, int]:
    """Return (height, width, channels) of a value in the order batch, channels, height, width."""
    shape = value.tensor.shape if isinstance(value, Quantized) else value.sums.shape
    rank = value.places.ndim
    if rank not in (3, 4) or value.places.shape[1] != shape[2] or (rank == 3 and shape[0] != 1):
        raise NotSupportedError("its input must be (batch, channels, height, width) or a series")
    wanted = stored_places(shape, 4).reshape(value.places.shape[0], shape[2], -1)
    if (value.places.reshape(wanted.shape) != wanted).any():
        raise NotSupportedError("its input must be in the order batch, channels, height, width")

    return shape
