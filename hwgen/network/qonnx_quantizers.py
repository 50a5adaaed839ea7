"""The quantizers of QONNX as functions to integers.

Source of the semantics: the QONNX operator definitions (fastmachinelearning/qonnx, ``docs`` and the
executable definitions in ``custom_op/general``): a quantizer divides by its scale, adds its zero
point, clamps, rounds, and goes back. Operators: ``Quant`` (now ``IntQuant``), ``BipolarQuant``
(0 becomes +1), ``Trunc`` of versions 1 and 2, ``MultiThreshold``; ``FloatQuant`` of constants.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.errors import UserError

from .onnx_file import Node, positive_scales
from .pointwise import Affine

__all__ = ["Quantizer", "float_quant", "make_quantizer"]

Array = npt.NDArray[Any]

#: Rounding by name.
ROUNDING: dict[str, Callable[[Array], Array]] = {
    "ROUND": np.rint,
    "HALF_EVEN": np.rint,
    "FLOOR": np.floor,
    "CEIL": np.ceil,
    "UP": lambda x: np.sign(x) * np.ceil(abs(x)),
    "DOWN": np.trunc,
    "HALF_UP": lambda x: np.sign(x) * np.floor(abs(x) + 0.5),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(abs(x) - 0.5),
}

MAX_BITS = 32


@dataclass(frozen=True, eq=False)
class Quantizer:
    """A monotone function to integers, ``real = scale * (code - zero_point)``.

    Attributes
    ----------
    node : Node
    function : callable
        Of a tensor and the parameters, to integers as floating-point numbers.
    parameters : tuple of array
        Broadcast against the tensor.
    scale : array
        One number, or one for each element or channel.
    zero_point : int
    low, high : int or None
        Bounds of the codes; ``None`` if only the tensor's own range bounds them.
    rounding : str
        A key of :data:`ROUNDING`; "" if the function is no affine one that is rounded.
    affine : Affine or None
        From real numbers to codes, before rounding.
    step : int
        Distance of codes: 2 for bipolar ones, which are -1 and 1.
    """

    node: Node
    function: Callable[..., Array]
    parameters: tuple[Array, ...]
    scale: Array
    zero_point: int
    low: int | None
    high: int | None
    rounding: str = ""
    affine: Affine | None = None
    step: int = 1

    def codes(self, x: Array) -> npt.NDArray[np.int64]:
        """Return the code of each number."""
        return self.function(x, *self.parameters).astype(np.int64)

    def over(self, channels: Callable[[Array], Array]) -> "Quantizer":
        """Return the quantizer with each parameter replaced by its value for each channel."""
        affine = self.affine
        if affine is not None:
            affine = Affine(
                channels(affine.slope), channels(affine.offset), affine.low, affine.high
            )
        return replace(
            self, parameters=tuple(channels(found) for found in self.parameters), affine=affine
        )


def make_quantizer(node: Node, constants: list[Array], shape: tuple[int, ...]) -> Quantizer:
    """Return the quantizer of a node.

    Parameters
    ----------
    node : Node
        Of ``Quant``, ``IntQuant``, ``BipolarQuant``, ``Trunc`` or ``MultiThreshold``.
    constants : list of array
        Its inputs after the first.
    shape : tuple of int
        Of the tensor.

    Raises
    ------
    UserError
        If a parameter is out of its range.
    """
    match node.op:
        case "BipolarQuant":
            scale = _scale(node, constants[0], shape)
            return Quantizer(node, _sign, (), scale, 0, -1, 1, step=2)
        case "Trunc":
            return _trunc(node, constants)
        case "MultiThreshold":
            return _multi_threshold(node, constants[0], shape)
        case _:
            return _int_quant(node, constants, shape)


def _int_quant(node: Node, constants: list[Array], shape: tuple[int, ...]) -> Quantizer:
    scale = _scale(node, constants[0], shape)
    zero = _integer(constants[1], f"zero point of {node}", -(1 << MAX_BITS), 1 << MAX_BITS)
    bits = _integer(constants[2], f"bit width of {node}", 1, MAX_BITS)
    signed, narrow = bool(node.get("signed", 1)), bool(node.get("narrow", 0))
    if signed and bits == 1:  # as QONNX's executor has it
        if zero:
            raise UserError(f"zero point of {node}, which has 1 bit, must be 0, not {zero}")
        return Quantizer(node, _sign, (), scale, 0, -1, 1, step=2)
    low, high = _bounds(bits, signed, narrow)
    _check_zero_point(node, zero, low, high)
    name, rounding = _rounding(node, "ROUND")

    def function(x: Array, scale: Array) -> Array:
        return rounding(np.clip(x / scale + np.float32(zero), low, high))

    affine = Affine(1 / scale.astype(np.float64), np.full((), float(zero)))
    return Quantizer(node, function, (scale,), scale, zero, low, high, name, affine)


def _trunc(node: Node, constants: list[Array]) -> Quantizer:
    scale = _scale(node, constants[0], ())
    zero = _integer(constants[1], f"zero point of {node}", -(1 << MAX_BITS), 1 << MAX_BITS)
    name, rounding = _rounding(node, "FLOOR")
    bits = _integer(constants[2], f"input bit width of {node}", 1, MAX_BITS)
    low: int | None = None
    high: int | None = None
    if len(constants) == 4:  # version 1: no new scale, no clamp
        kept = _integer(constants[3], f"output bit width of {node}", 1, bits)
        shift, out_scale, out_zero = bits - kept, scale, zero
    else:
        out_scale = _scale(node, constants[3], ())
        shift = round(float(np.log2(out_scale.item() / scale.item())))
        if zero % (1 << max(shift, 0)):
            raise UserError(f"zero point {zero} of {node} must be a multiple of {1 << shift}")
        kept = _integer(constants[4], f"output bit width of {node}", 1, MAX_BITS)
        low, high = _bounds(kept, bool(node.get("signed", 1)), bool(node.get("narrow", 0)))
        out_zero = zero >> shift if shift >= 0 else zero << -shift
    divisor = np.float32(2.0**shift)

    def function(x: Array) -> Array:
        found = np.rint(x / scale + np.float32(zero)) / divisor
        return rounding(found if low is None else np.clip(found, low, high))

    affine = Affine(
        1 / (scale.astype(np.float64) * 2.0**shift), np.full((), float(zero) / 2.0**shift)
    )
    return Quantizer(node, function, (), out_scale, out_zero, low, high, name, affine)


def _multi_threshold(node: Node, thresholds: Array, shape: tuple[int, ...]) -> Quantizer:
    rank = len(shape)
    layout = str(node.get("data_layout", "")) or {2: "NC", 3: "NWC", 4: "NCHW"}.get(rank, "")
    axis = layout.index("C") if "C" in layout else 1
    if axis >= rank:
        raise UserError(f"data_layout of {node} must be one of {rank} dimensions, not {layout!r}")
    if thresholds.ndim != 2 or thresholds.shape[0] not in (1, shape[axis]):
        raise UserError(
            f"thresholds of {node} must have the shape (1 or {shape[axis]}, count), "
            f"not {thresholds.shape}"
        )
    count = thresholds.shape[1]
    scale, bias = _number(node, "out_scale", 1.0), _number(node, "out_bias", 0.0)
    positive_scales(scale, f"out_scale of {node}")
    form = [1] * rank
    form[axis] = -1
    parameters = tuple(thresholds[:, j].reshape(form) for j in range(count))
    if count == 1 and bias == -scale / 2:  # -1 and 1
        half = np.array(scale / 2, np.float32)
        return Quantizer(node, _above, parameters, half, 0, -1, 1, step=2)
    shift = bias / scale
    if shift != round(shift):
        raise UserError(f"out_bias of {node} must be a multiple of {scale:g}, not {bias:g}")
    low = round(shift)

    def function(x: Array, *found: Array) -> Array:
        total = np.zeros(np.broadcast_shapes(x.shape, *(t.shape for t in found)), np.int64)
        for threshold in found:
            total += x >= threshold
        return total + low

    found = np.array(scale, np.float32)
    return Quantizer(node, function, parameters, found, 0, low, low + count)


def float_quant(node: Node, x: Array, constants: list[Array]) -> tuple[Array, Array]:
    """Return a constant after ``FloatQuant``: integers and, of the same shape, their unit.

    The unit is the least step of the minifloat, ``scale * 2**(1 - bias - mantissa bits)``; with no
    mantissa bits the integers are powers of two and 0.

    Raises
    ------
    UserError
        If a parameter is out of its range, or integers need more than 31 bits.
    """
    scale = _scale(node, constants[0], x.shape)
    exponent = _integer(constants[1], f"exponent bit width of {node}", 1, 8)
    mantissa = _integer(constants[2], f"mantissa bit width of {node}", 0, 23)
    bias = _integer(constants[3], f"exponent bias of {node}", -126, 126)
    limit = float(constants[4].flat[0]) if constants[4].size == 1 else np.nan
    if not limit > 0:
        raise UserError(f"greatest value of {node} must be above 0, not {limit:g}")
    if not node.get("saturation", 1):
        raise UserError(f"{node} must saturate: infinities and NaN have no integers")
    _, rounding = _rounding(node, "ROUND")
    x = np.asarray(x / scale, np.float32)
    least = 1 - bias - mantissa
    with np.errstate(under="ignore"):
        power = np.floor(np.log2(abs(x) + np.finfo(np.float32).tiny)) - np.float32(mantissa)
    step = np.exp2(np.maximum(power, np.float32(least)))
    greatest = min((2 - 2.0**-mantissa) * 2.0 ** ((1 << exponent) - 1 - bias), limit)
    found = np.clip(step * rounding(x / step), -greatest, greatest)
    integers = np.ldexp(found.astype(np.float64), -least)
    if abs(integers).max(initial=0) >= 2**31 or (integers != np.rint(integers)).any():
        raise UserError(f"values of {node} must be integers of up to 31 bits times its least step")
    unit = np.broadcast_to(scale.astype(np.float64) * 2.0**least, x.shape)
    return integers.astype(np.int64), unit


def _sign(x: Array) -> Array:
    return np.where(x >= 0, 1, -1)


def _above(x: Array, threshold: Array) -> Array:
    return np.where(x >= threshold, 1, -1)


def _scale(node: Node, scale: Array, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return a scale, which must be one number or broadcast to a shape."""
    found = positive_scales(scale, f"scale of {node}")
    if found.size == 1:
        return found.reshape(())
    try:
        np.broadcast_to(found, shape)
    except ValueError as error:
        raise UserError(
            f"scale of {node} must be one number or broadcast to {list(shape)}, not be of shape "
            f"{list(found.shape)}"
        ) from error
    return found


def _number(node: Node, name: str, default: float) -> float:
    """Return an attribute that must be a finite number."""
    found = node.get(name, default)
    if not isinstance(found, int | float) or not np.isfinite(found):
        raise UserError(f"{name} of {node} must be a finite number, not {found!r}")
    return float(found)


def _bounds(bits: int, signed: bool, narrow: bool) -> tuple[int, int]:
    """Return the least and the greatest code."""
    if signed:
        return -(1 << bits - 1) + narrow, (1 << bits - 1) - 1
    return 0, (1 << bits) - 1 - narrow


def _check_zero_point(node: Node, zero: int, low: int, high: int) -> None:
    if not low <= zero <= high:
        raise UserError(f"zero point of {node} must be {low} to {high}, not {zero}")


def _rounding(node: Node, default: str) -> tuple[str, Callable[[Array], Array]]:
    name = str(node.get("rounding_mode", default)).upper()
    if name not in ROUNDING:
        raise UserError(f"rounding_mode of {node} must be one of {', '.join(ROUNDING)}, not {name}")
    return name, ROUNDING[name]


def _integer(constant: Array, what: str, low: int, high: int) -> int:
    """Return a constant that must be one integer."""
    values = np.unique(constant)
    if values.size != 1 or values[0] != np.rint(values[0]) or not low <= values[0] <= high:
        raise UserError(f"{what} must be one integer, {low} to {high}, not {values.tolist()[:4]}")
    return int(values[0])
