"""Functions of one number with constant parameters, in the floating point of a model.

A *step* is what a model does to each element between an exact sum and the next quantizer: batch
normalization, a scale, ReLU. It is monotone, and is evaluated here literally, node by node, each
result rounded to float32 as the model's own tensors are; so a threshold found with it stands where
the model's stands, ties included. All parameters broadcast against the tensor.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .onnx_file import Node

__all__ = ["STEPS", "Affine", "Step", "align", "make_step"]

Array = npt.NDArray[Any]

#: Operators that :func:`make_step` knows.
STEPS = frozenset(
    (
        *("Add", "BatchNormalization", "Clip", "Div", "Dropout", "Identity", "LeakyRelu", "Mul"),
        *("Neg", "Relu", "Sigmoid", "Sub", "Tanh"),
    )
)


@dataclass(frozen=True, eq=False)
class Affine:
    """``clip(slope * x + offset, low, high)`` in real numbers."""

    slope: Array = field(default_factory=lambda: np.float64(1) * np.ones(()))
    offset: Array = field(default_factory=lambda: np.zeros(()))
    low: Array = field(default_factory=lambda: np.full((), -np.inf))
    high: Array = field(default_factory=lambda: np.full((), np.inf))

    def then(self, after: "Affine") -> "Affine":
        """Return this function followed by another."""
        zero = after.slope == 0  # then the bounds before do not matter
        scale = np.where(zero, 1.0, after.slope)
        ends = np.stack(
            [
                np.where(zero, -np.inf, scale * np.where(scale > 0, self.low, self.high)),
                np.where(zero, np.inf, scale * np.where(scale > 0, self.high, self.low)),
            ]
        )
        ends = ends + np.asarray(after.offset)
        return Affine(
            self.slope * after.slope,
            self.offset * after.slope + after.offset,
            np.clip(ends[0], after.low, after.high),
            np.clip(ends[1], after.low, after.high),
        )


@dataclass(frozen=True, eq=False)
class Step:
    """A monotone function of each element.

    Attributes
    ----------
    node : Node
        Where it comes from.
    function : callable
        Of a tensor and the parameters.
    parameters : tuple of array
    affine : Affine or None
        The same in real numbers, where it is that simple.
    """

    node: Node
    function: Callable[..., Array]
    parameters: tuple[Array, ...] = ()
    affine: Affine | None = None

    def __call__(self, x: Array) -> Array:
        return self.function(x, *self.parameters)

    @property
    def falling(self) -> npt.NDArray[np.bool_]:
        """Where the function falls as its argument rises."""
        return np.asarray(self.affine is not None and self.affine.slope < 0)

    def over(self, channels: Callable[[Array], Array]) -> "Step":
        """Return the step with each parameter replaced, e.g. by its value for each channel."""
        affine = self.affine
        if affine is not None:
            parts = (affine.slope, affine.offset, affine.low, affine.high)
            affine = Affine(*(channels(part) for part in parts))
        return replace(
            self, parameters=tuple(channels(found) for found in self.parameters), affine=affine
        )


def align(parameter: Array, rank: int, axis: int = 1) -> Array:
    """Return a parameter of one axis, of shape (n) or (), shaped to broadcast along that axis."""
    shape = [1] * rank
    shape[axis] = parameter.size
    return parameter.reshape(shape)


def make_step(node: Node, constants: list[Array | None], rank: int) -> Step | str:
    """Return a node as a step, or why it is none.

    Parameters
    ----------
    node : Node
        Of one of the operators :data:`STEPS`.
    constants : list of array or None
        Its inputs; ``None`` stands at the tensor's place, and where an input is left out.
    rank : int
        Of the tensor.
    """
    match node.op:
        case "Add" | "Sub" | "Mul" | "Div":
            return _arithmetic(node, constants)
        case "BatchNormalization":
            return _batch_normalization(node, constants, rank)
        case "Clip":
            bounds = [
                node.get(name, default) if len(constants) <= place else constants[place]
                for place, name, default in ((1, "min", -np.inf), (2, "max", np.inf))
            ]
            low, high = (
                np.asarray(limit if found is None else found, np.float32)
                for found, limit in zip(bounds, (-np.inf, np.inf), strict=True)
            )
            clipped = Affine(low=low.astype(float), high=high.astype(float))
            return Step(node, lambda x, low, high: np.clip(x, low, high), (low, high), clipped)
        case "Relu":
            return Step(node, _relu, (), Affine(low=np.zeros(())))
        case "LeakyRelu":
            slope = np.float32(node.get("alpha", 0.01))
            if not 0 <= slope < np.inf:
                return f"alpha must be 0 or more, not {slope}"
            return Step(node, lambda x: np.where(x < 0, x * slope, x))
        case "Neg":
            return Step(node, np.negative, (), Affine(slope=-np.ones(())))
        case "Sigmoid":
            return Step(node, lambda x: _rounded(lambda y: 0.5 + 0.5 * np.tanh(0.5 * y), x))
        case "Tanh":
            return Step(node, lambda x: _rounded(np.tanh, x))
        case _:  # Identity, Dropout
            return Step(node, lambda x: x, (), Affine())


def _relu(x: Array) -> Array:
    return np.maximum(x, np.zeros((), x.dtype))


def _rounded(function: Callable[[Array], Array], x: Array) -> Array:
    """Return a function's value, worked out in double precision and then rounded."""
    return function(x.astype(np.float64)).astype(x.dtype)


def _arithmetic(node: Node, constants: list[Array | None]) -> Step | str:
    first = constants[0] is not None
    constant = constants[0] if first else constants[1]
    assert constant is not None
    real = constant.astype(np.float64)
    match node.op, first:
        case "Add", _:
            return Step(node, np.add, (constant,), Affine(offset=real))
        case "Sub", False:
            return Step(node, np.subtract, (constant,), Affine(offset=-real))
        case "Sub", True:
            affine = Affine(slope=-np.ones(()), offset=real)
            return Step(node, lambda x, c: c - x, (constant,), affine)
        case "Mul", _:
            return Step(node, np.multiply, (constant,), Affine(slope=real))
        case "Div", False:
            if not real.all():
                return "the divisor must not be 0"
            return Step(node, np.divide, (constant,), Affine(slope=1 / real))
        case _:
            return "a constant divided by a tensor is not monotone"


def _batch_normalization(node: Node, constants: list[Array | None], rank: int) -> Step | str:
    if node.get("training_mode", 0) or not node.get("spatial", 1):
        return "only the inference of one mean and variance for each channel is known"
    epsilon = node.get("epsilon", 1e-5)
    found = [align(np.asarray(c), rank) for c in constants[1:5] if c is not None]
    if len(found) != 4:
        return "scale, bias, mean and variance must be constants"
    gamma, beta, mean, variance = (part.astype(np.float64) for part in found)
    if (variance + epsilon <= 0).any():
        return "variance plus epsilon must be above 0"
    slope = gamma / np.sqrt(variance + epsilon)
    return Step(
        node, _scale_and_shift, (slope, beta - mean * slope), Affine(slope, beta - mean * slope)
    )


def _scale_and_shift(x: Array, slope: Array, offset: Array) -> Array:
    """Return ``slope * x + offset``, rounded once.

    ONNX defines batch normalization in real numbers, and runtimes differ in the last bit.
    """
    return (x.astype(np.float64) * slope + offset).astype(x.dtype)
