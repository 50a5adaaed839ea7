"""What of a QONNX network runs on the host: floating-point NumPy, one sample at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator

from hwgen.errors import UserError

from .onnx_file import Node, OnnxGraph
from .pointwise import STEPS, make_step

__all__ = ["Encoder", "evaluator"]

Array = npt.NDArray[Any]


def evaluator(node: Node, graph: OnnxGraph) -> Callable[[list[Array | None]], Array]:
    """Return the first output of a node of ONNX's own as a function of its inputs."""
    if node.op in STEPS:
        return lambda inputs: _run_step(node, inputs)
    names = [f"x{i}" if name else "" for i, name in enumerate(node.inputs)]
    outputs = [f"y{i}" for i in range(len(node.outputs))]
    proto = onnx.helper.make_node(node.op, names, outputs, **node.attributes)
    inner = onnx.helper.make_graph(
        [proto],
        "node",
        [onnx.ValueInfoProto(name=name) for name in names if name],
        [onnx.ValueInfoProto(name=outputs[0])],
    )
    opset = onnx.helper.make_opsetid("", graph.opsets.get("", 9))
    run: Any = ReferenceEvaluator(onnx.helper.make_model(inner, opset_imports=[opset]))

    def evaluate(inputs: list[Array | None]) -> Array:
        given = {name: x for name, x in zip(names, inputs, strict=True) if name}
        try:
            return np.asarray(run.run(None, given)[0])
        except Exception as error:  # of whatever kind the reference implementation raises
            raise UserError(f"{node} cannot be worked out: {error}") from error

    return evaluate


def _run_step(node: Node, inputs: list[Array | None]) -> Array:
    """Return a step's result on the host, where both operands may vary."""
    functions = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
    if node.op in functions and len(inputs) == 2:
        a, b = (np.asarray(part) for part in inputs)
        return np.asarray(functions[node.op](a, b))
    x = inputs[0]
    assert x is not None
    step = make_step(node, [None, *inputs[1:]], x.ndim)
    if isinstance(step, str):
        raise UserError(f"{node}: {step}")
    return step(x)


@dataclass(frozen=True)
class Encoder:
    """From a batch of the model's inputs to integers, each sample by itself."""

    function: Callable[[Array], Array]
    shape: tuple[int, ...]
    name: str
    dtype: np.dtype[Any]

    def __call__(self, batch: Array) -> Array:
        if batch.shape[1:] != self.shape[1:] or batch.ndim != len(self.shape):
            raise UserError(
                f"input {self.name!r} must have the shape (batch, "
                f"{', '.join(map(str, self.shape[1:]))}), not {batch.shape}"
            )
        if not len(batch) or batch.dtype.kind not in "biuf":
            raise UserError(f"input {self.name!r} must be at least one sample of numbers")
        if not np.isfinite(batch).all():
            raise UserError(f"values of input {self.name!r} must be finite")
        numbers = batch.astype(self.dtype)
        if self.dtype.kind in "iu" and (numbers != batch).any():
            raise UserError(f"values of input {self.name!r} must be of type {self.dtype}")
        return np.stack([self.function(numbers[i : i + 1]) for i in range(len(numbers))])
