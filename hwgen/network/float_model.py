"""A float ONNX model as layers: what post-training quantization works on.

A layer is an operation that the hardware has, with what is done to its result before anything else
reads it: batch normalization, scales and constants are folded into weights and bias; ReLU and
clipping stay with the layer. Views of tensors, and what the host does before the first and after
the last layer, stay nodes.
"""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator

from hwgen.errors import UserError

from .onnx_file import QONNX_OPERATORS, Node, OnnxGraph
from .unsupported import Unsupported

__all__ = ["VIEWS", "Array", "FloatArray", "Layer", "average_count", "read_layers", "run", "run_each"]

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]

#: Operators that only move elements.
VIEWS = frozenset(
    ("Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
)
#: Operators of the host after the last layer.
LAST = frozenset(("ArgMax", "Sigmoid", "Softmax"))

POOLS = frozenset(("AveragePool", "GlobalAveragePool", "MaxPool", "ReduceMean"))
_ARITHMETIC = frozenset(("Add", "Div", "Mul", "Sub"))
_QUANTIZED = QONNX_OPERATORS | {
    *("ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QGemm"),
    *("QLinearAdd", "QLinearAveragePool", "QLinearConv", "QLinearGlobalAveragePool"),
    *("QLinearMatMul", "QuantizeLinear"),
}


@dataclass(frozen=True, eq=False)
class Layer:
    """An operation of the float model.

    Attributes
    ----------
    node : Node
        ``Conv``, ``Gemm``, ``MatMul``, ``Add`` of two tensors, a pool, ``Relu`` or ``Clip``.
    inputs : tuple of str
        Tensors.
    output : str
        Tensor after all that was folded.
    shape : tuple of int
        Of the output, batch included.
    weights : float64 array (out channels, ...), or None
        Of a ``Gemm`` or ``MatMul`` (out, in).
    bias : float64 array (out channels), or None
    after : tuple of Node
        ``Relu``, ``Clip`` and, if asked for, ``MaxPool`` that follow.
    """

    node: Node
    inputs: tuple[str, ...]
    output: str
    shape: tuple[int, ...]
    weights: FloatArray | None = None
    bias: FloatArray | None = None
    after: tuple[Node, ...] = ()

    @property
    def channel_axis(self) -> int:
        """Of the output."""
        return len(self.shape) - 1 if self.node.op in ("Gemm", "MatMul") else 1


def read_layers(
    graph: OnnxGraph, unsupported: Unsupported, pool_inside: bool
) -> list[Layer | Node]:
    """Return the layers of a float model and the nodes between them, in order.

    Parameters
    ----------
    graph : OnnxGraph
    unsupported : Unsupported
        Receives what is not supported; the caller raises it.
    pool_inside : bool
        Whether a ``MaxPool`` belongs to the layer before it.

    Raises
    ------
    UserError
        If the model is quantized already, has several inputs or outputs, another type than float32,
        or constants that are not finite.
    """
    _check(graph)
    return _Reader(graph, unsupported, pool_inside).read()


def average_count(layer: Layer, graph: OnnxGraph) -> int:
    """Return how many elements an average is of."""
    if layer.node.op == "AveragePool":
        return int(np.prod(layer.node.get("kernel_shape")))
    return int(np.prod(graph.shape(layer.inputs[0])[2:]))


def run_each(graph: OnnxGraph, names: Sequence[str], batch: Array) -> Iterator[dict[str, Array]]:
    """Yield the named tensors of a float model for each sample, each with a batch of 1."""
    constants = {name: graph.constants[name] for name in graph.constants}
    protos = [
        onnx.helper.make_node(
            node.op, node.inputs, node.outputs, domain=node.domain, **node.attributes
        )
        for node in graph.nodes
    ]
    (entry,) = graph.inputs
    wanted = [name for name in names if name != entry]
    given = {entry: graph.shape(entry)}
    function = run(protos, constants, given, wanted, graph.opsets.get("", 21))
    for place in range(len(batch)):
        sample = batch[place : place + 1]
        yield {entry: sample, **function({entry: sample})}


def run(
    nodes: list[Any],
    constants: dict[str, Array],
    inputs: dict[str, tuple[int | str, ...]],
    outputs: list[str],
    opset: int,
) -> Any:
    """Return a function from the inputs of some nodes to their outputs, both by name.

    ONNX Runtime computes it if it is installed and knows the model, else ONNX's reference.
    """
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "float",
        [onnx.helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    session = _session(model) if outputs else None

    def function(given: dict[str, Array]) -> dict[str, Array]:
        if not outputs:
            return {}
        found: Any
        try:
            found = session.run(outputs, given)
        except Exception as error:  # of whatever kind a runtime raises
            raise UserError(f"the float model cannot be run: {str(error).splitlines()[0]}") from error
        return dict(zip(outputs, found, strict=True))

    return function


def _session(model: Any) -> Any:
    try:
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        return runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # not installed, or it does not know an operator
        return ReferenceEvaluator(model)


def _check(graph: OnnxGraph) -> None:
    for node in graph.nodes:
        if node.op in _QUANTIZED:
            raise UserError(f"model {graph.name!r} must be a float model, and has {node}")
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise UserError(
            f"model {graph.name!r} must have one input and one output, not {len(graph.inputs)} and "
            f"{len(graph.outputs)}"
        )
    entry = graph.inputs[0]
    if graph.types[entry] != "FLOAT" or graph.shape(entry)[:1] != (1,):
        raise UserError(
            f"input {entry!r} of model {graph.name!r} must be float32 with a batch that is 1 or "
            f"open, not {graph.types[entry]} {list(graph.shape(entry))}"
        )
    for node in graph.nodes:
        for name in node.inputs:
            if name in graph.constants and node.op != "Clip":
                graph.constant(name, node)


class _Refused(Exception):  # noqa: N818 - it is caught, and becomes a line of an error
    """Why a node is not supported."""


class _Reader:
    def __init__(self, graph: OnnxGraph, unsupported: Unsupported, pool_inside: bool) -> None:
        self.graph = graph
        self.unsupported = unsupported
        self.joined_operators = {"Relu", "Clip"} | ({"MaxPool"} if pool_inside else set())
        #: Tensors of the host, before the first layer and after the last.
        self.before = set(graph.inputs)
        self.past: set[str] = set()
        self.unknown: set[str] = set()

    def read(self) -> list[Layer | Node]:
        found: list[Layer | Node] = []
        inside: set[str] = set()
        for node in self._needed():
            if node.outputs[0] in inside:
                continue
            if self.unknown.intersection(node.inputs):  # a consequence of what has been told
                self.unknown.update(node.outputs)
                continue
            try:
                step = self._step(node)
            except _Refused as reason:
                self.unsupported.add(node, reason)
                self.unknown.update(node.outputs)
                continue
            if isinstance(step, Layer):
                step, names = self._join(step)
                inside |= names
            found.append(step)
        return found

    def _needed(self) -> list[Node]:
        wanted = set(self.graph.outputs)
        found = []
        for node in reversed(self.graph.nodes):
            if wanted.intersection(node.outputs):
                wanted.update(node.inputs)
                found.append(node)
        return found[::-1]

    def _constant(self, name: str) -> FloatArray | None:
        found = self.graph.constants.get(name)
        return None if found is None else found.astype(np.float64)

    def _varying(self, node: Node) -> list[str]:
        return [name for name in node.inputs if name and name not in self.graph.constants]

    def _step(self, node: Node) -> Layer | Node:
        graph = self.graph
        varying = self._varying(node)
        output, shape = node.outputs[0], graph.shapes.get(node.outputs[0], ())
        if node.domain:
            raise _Refused(f"operator {node.op} of domain {node.domain!r} is not supported")
        if not varying:
            raise _Refused("it depends on constants alone")
        if any(graph.consumers.get(name) for name in node.outputs[1:]):
            raise _Refused("its further outputs are used")
        before = all(name in self.before for name in varying)
        past = any(name in self.past for name in varying)
        host = before and (node.op in _ARITHMETIC or node.op in ("Relu", "Clip"))
        if node.op in VIEWS or node.op in LAST or (host and len(varying) == 1):
            if not shape or shape[0] != 1 or node.get("perm", [0])[0] != 0:
                if node.op != "ArgMax":
                    raise _Refused("it moves the batch")
            if node.op in VIEWS and varying[0] != node.inputs[0]:
                raise _Refused("its first input is a constant")
            if node.op == "Softmax" and not self._last_axis(node):
                raise _Refused("it is taken over several axes")
            if past or node.op in LAST:
                self.past.add(output)
            elif before:
                self.before.add(output)
            return node
        if past:
            raise _Refused("it follows what the host computes")
        return self._layer(node, varying, Layer(node, tuple(varying), output, shape))

    def _last_axis(self, node: Node) -> bool:
        """Whether a softmax means the same in every operator set."""
        old = self.graph.opsets.get("", 1) < 13
        rank = len(self.graph.shape(node.outputs[0]))
        return not old or node.get("axis", 1) % rank == rank - 1

    def _layer(self, node: Node, varying: list[str], layer: Layer) -> Layer:
        match node.op:
            case "Conv":
                return self._conv(node, layer)
            case "Gemm" | "MatMul":
                return self._product(node, layer)
            case "BatchNormalization":
                return self._normalization(node, layer)
            case "Add" if len(varying) == 2:
                shapes = [self.graph.shape(name) for name in varying]
                if shapes[0] != shapes[1]:
                    raise _Refused(f"it adds tensors of shapes {shapes[0]} and {shapes[1]}")
                return layer
            case "Relu" | "Clip":
                self._limits(node)
                return layer
            case op if op in POOLS:
                self._check_pool(node)
                return layer
        if node.op in _ARITHMETIC:
            reason = "two activations" if len(varying) > 1 else "a constant after an activation"
            raise _Refused(f"operator {node.op} with {reason} is not supported")
        raise _Refused(f"operator {node.op} is not supported")

    def _conv(self, node: Node, layer: Layer) -> Layer:
        weights, bias = self._constant(node.input(1)), self._constant(node.input(2))
        if weights is None or (node.input(2) and bias is None):
            raise _Refused("its weights and bias must be constant")
        if weights.ndim != 4:
            raise _Refused("only convolutions of two dimensions are supported")
        zeros = np.zeros(len(weights))
        return replace(layer, weights=weights, bias=zeros if bias is None else bias)

    def _product(self, node: Node, layer: Layer) -> Layer:
        weights = self._constant(node.input(1))
        if weights is None or weights.ndim != 2:
            raise _Refused("its second operand must be a constant matrix")
        if node.get("transA", 0):
            raise _Refused("its first operand is transposed")
        if not (node.op == "Gemm" and node.get("transB", 0)):
            weights = weights.T
        weights = weights * node.get("alpha", 1.0)
        bias = np.zeros(len(weights))
        if node.op == "Gemm" and node.input(2):
            found = self._constant(node.input(2))
            if found is None or found.size not in (1, len(bias)):
                raise _Refused("its bias must be one constant, or one for each output")
            bias = bias + found.ravel() * node.get("beta", 1.0)
        return replace(layer, weights=weights, bias=bias)

    def _normalization(self, node: Node, layer: Layer) -> Layer:
        """Return a batch normalization that nothing can take in: one filter of 1×1 per channel."""
        if len(layer.shape) != 4:
            raise _Refused("it follows neither a convolution nor a product")
        scale, offset = self._affine(node)
        attributes = {"group": len(scale), "kernel_shape": [1, 1]}
        conv = replace(node, op="Conv", attributes=attributes)
        return replace(layer, node=conv, weights=scale.reshape(-1, 1, 1, 1), bias=offset)

    def _affine(self, node: Node) -> tuple[FloatArray, FloatArray]:
        found = [self._constant(name) for name in node.inputs[1:5]]
        gamma, beta, mean, variance = (part if part is not None else np.zeros(0) for part in found)
        if node.get("training_mode", 0) or not gamma.size == beta.size == mean.size > 0:
            raise _Refused("it is in training, or its parameters are not constant")
        total = variance + node.get("epsilon", 1e-5)
        if total.size != gamma.size or (variance < 0).any() or (total <= 0).any():
            raise UserError(f"the variance of {node} must be 0 or more in each channel")
        scale = gamma / np.sqrt(total)
        return scale, beta - mean * scale

    def _limits(self, node: Node) -> None:
        for name in node.inputs[1:]:
            if name and name not in self.graph.constants:
                raise _Refused(f"its limit {name!r} must be constant")
            if name and np.isnan(self.graph.constants[name]).any():
                raise UserError(f"limit {name!r} of {node} must be a number")

    def _check_pool(self, node: Node) -> None:
        if len(self.graph.shape(node.inputs[0])) != 4:
            raise _Refused("only pools of two dimensions are supported")
        if node.op == "ReduceMean":
            axes = node.get("axes")
            if node.input(1):
                axes = self.graph.constants[node.input(1)].tolist()
            if axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
                raise _Refused("it averages over other axes than height and width")
        padded = any(node.get("pads", ())) or node.get("auto_pad", "NOTSET") not in (
            *("NOTSET", "VALID"),
        )
        if node.op == "AveragePool" and (node.get("ceil_mode", 0) or padded):
            if node.get("ceil_mode", 0) or not node.get("count_include_pad", 0):
                raise _Refused("its windows count fewer places at the border")

    # What follows a layer.

    def _join(self, layer: Layer) -> tuple[Layer, set[str]]:
        """Return a layer with all that only it feeds, and the tensors that are inside now."""
        names: set[str] = set()
        while True:
            users = self.graph.consumers.get(layer.output, [])
            if len(users) != 1 or layer.output in self.graph.outputs:
                return layer, names
            try:
                found = self._joined(layer, users[0])
            except _Refused as reason:
                self.unsupported.add(users[0], reason)
                found = None
            if found is None:
                return layer, names
            layer = found
            names.add(layer.output)

    def _joined(self, layer: Layer, node: Node) -> Layer | None:
        output = node.outputs[0]
        if node.domain or self._varying(node) != [layer.output]:
            return None
        grown = replace(layer, output=output, shape=self.graph.shape(output))
        if node.op in ("Identity", "Dropout"):
            return grown
        if node.op in self.joined_operators:
            if node.op == "MaxPool":
                self._check_pool(node)
            self._limits(node)
            return replace(grown, after=(*layer.after, node))
        if layer.weights is None or layer.bias is None or layer.after:
            return None
        if node.op == "BatchNormalization":
            if layer.channel_axis != 1:
                return None
            scale, offset = self._affine(node)
        elif node.op in _ARITHMETIC and grown.shape == layer.shape:
            place = 1 if node.inputs[0] == layer.output else 0
            constant = self._constant(node.inputs[place])
            assert constant is not None
            found = _by_channel(constant, layer)
            if found is None or (place == 0 and node.op in ("Div", "Sub")):
                return None
            if node.op == "Div" and not found.all():
                raise UserError(f"{node} must not divide by 0")
            one, zero = np.ones(len(found)), np.zeros(len(found))
            scale, offset = {
                "Add": (one, found),
                "Sub": (one, -found),
                "Mul": (found, zero),
                "Div": (1 / np.where(found == 0, 1.0, found), zero),
            }[node.op]
        else:
            return None
        weights = layer.weights * scale.reshape(-1, *[1] * (layer.weights.ndim - 1))
        return replace(grown, weights=weights, bias=layer.bias * scale + offset)


def _by_channel(constant: FloatArray, layer: Layer) -> FloatArray | None:
    """Return a constant operand as one number for each output channel, if it is that."""
    try:
        spread = np.broadcast_to(constant, layer.shape)
    except ValueError:
        return None
    rows = np.moveaxis(spread, layer.channel_axis, 0).reshape(layer.shape[layer.channel_axis], -1)
    return rows[:, 0] if (rows == rows[:, :1]).all() else None
