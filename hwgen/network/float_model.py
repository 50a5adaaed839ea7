"""A float ONNX model as layers: what post-training quantization works on.

A layer is an operation that the hardware has, with what is done to its result before anything else
reads it: batch normalization, scales and constants are folded into weights and bias; ReLU and
clipping stay with the layer. Views of tensors, and what the host does before the first and after
the last layer, stay nodes.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator

from hwgen.errors import UserError

from .onnx_file import QONNX_OPERATORS, Node, OnnxGraph
from .unsupported import Unsupported

__all__ = [
    "AVERAGES",
    "NOTES",
    "OPSET",
    "VIEWS",
    "Array",
    "FloatArray",
    "Layer",
    "ModelWriter",
    "average_count",
    "read_layers",
    "run",
    "run_each",
]

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]

#: Operators that only move elements.
VIEWS = frozenset(
    ("Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
)
#: Operators of the host after the last layer.
LAST = frozenset(("ArgMax", "Sigmoid", "Softmax"))

#: Where a model that is made of it keeps its notes.
NOTES = "hwgen_notes"

OPSET = 21
IR_VERSION = 10

AVERAGES = frozenset(("AveragePool", "GlobalAveragePool", "ReduceMean"))
_ARITHMETIC = frozenset(("Add", "Div", "Mul", "Sub"))
_KNOWN = (
    VIEWS
    | LAST
    | AVERAGES
    | _ARITHMETIC
    | {"BatchNormalization", "Clip", "Conv", "Gemm", "MatMul", "MaxPool", "Relu"}
)
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
    sums : str
        Tensor that weights and bias make, before what follows.
    after : tuple of Node
        ``Relu``, ``Clip`` and, if asked for, ``MaxPool`` that follow.
    """

    node: Node
    inputs: tuple[str, ...]
    output: str
    shape: tuple[int, ...]
    weights: FloatArray | None = None
    bias: FloatArray | None = None
    sums: str = ""
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
        Whether a ``MaxPool`` belongs to the layer of weights before it.

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
    protos = [
        onnx.helper.make_node(
            node.op, node.inputs, node.outputs, domain=node.domain, **node.attributes
        )
        for node in graph.nodes
    ]
    (entry,) = graph.inputs
    wanted = [name for name in names if name != entry]
    given = {entry: graph.shape(entry)}
    if not wanted:
        yield from ({entry: sample[None]} for sample in batch)
        return
    function = run(protos, graph.constants, given, wanted, graph.opsets.get("", OPSET))
    for place in range(len(batch)):
        sample = batch[place : place + 1]
        yield {entry: sample, **function({entry: sample})}


def run(
    nodes: list[Any],
    constants: dict[str, Array],
    inputs: Mapping[str, tuple[int, ...]],
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
    try:
        session: Any = _session(model)
    except Exception as error:  # of whatever kind a runtime raises
        raise _not_run(error) from error

    def function(given: dict[str, Array]) -> dict[str, Array]:
        try:
            found = session.run(outputs, given)
        except Exception as error:  # likewise
            raise _not_run(error) from error
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


def _not_run(error: Exception) -> UserError:
    reason = next(iter(str(error).splitlines()), "no reason")
    return UserError(f"the float model cannot be run: {reason}")


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
        #: Tensors of unknown shape that refused nodes make.
        self.unknown: set[str] = set()

    def read(self) -> list[Layer | Node]:
        found: list[Layer | Node] = []
        inside: set[str] = set()
        for node in self._needed():
            if node.outputs[0] in inside:
                continue
            try:
                if self.unknown.intersection(node.inputs):
                    self._check_operator(node)
                    self.unknown.update(node.outputs)
                    continue
                step = self._step(node)
            except _Refused as reason:
                self.unsupported.add(node, reason)
                self._go_on(node)
                continue
            if isinstance(step, Layer):
                step, names = self._join(step)
                inside |= names
            found.append(step)
        return found

    def _go_on(self, node: Node) -> None:
        """Take the outputs of a refused node for tensors, so that the rest is looked at too."""
        if any(name not in self.graph.shapes for name in node.outputs):
            self.unknown.update(node.outputs)
        elif self.before.issuperset(self._varying(node)):
            self.before.update(node.outputs)

    def _check_operator(self, node: Node) -> None:
        if node.domain:
            raise _Refused(f"operator {node.op} of domain {node.domain!r} is not supported")
        if node.op not in _KNOWN:
            raise _Refused(f"operator {node.op} is not supported")

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
        self._check_operator(node)
        if not varying:
            raise _Refused("it depends on constants alone")
        if any(graph.consumers.get(name) for name in node.outputs[1:]):
            raise _Refused("its further outputs are used")
        before = all(name in self.before for name in varying)
        past = any(name in self.past for name in varying)
        host = before and (node.op in _ARITHMETIC or node.op in ("Relu", "Clip"))
        if node.op in VIEWS or node.op in LAST or (host and len(varying) == 1):
            turned = node.op == "Transpose" and node.get("perm", [-1])[0] != 0
            moved = not shape or shape[0] != 1 or turned
            if moved and node.op != "ArgMax":
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
        return self._layer(node, varying, Layer(node, tuple(varying), output, shape, sums=output))

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
            case op if op in AVERAGES or op == "MaxPool":
                self._check_pool(node)
                return layer
        reason = "two activations" if len(varying) > 1 else "a constant after an activation"
        raise _Refused(f"operator {node.op} with {reason} is not supported")

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
        scale, offset = self._affine(node, layer.shape[1])
        attributes = {"group": len(scale), "kernel_shape": [1, 1]}
        conv = replace(node, op="Conv", attributes=attributes)
        return replace(layer, node=conv, weights=scale.reshape(-1, 1, 1, 1), bias=offset)

    def _affine(self, node: Node, channels: int) -> tuple[FloatArray, FloatArray]:
        found = [self._constant(name) for name in node.inputs[1:5]]
        if node.get("training_mode", 0) or any(part is None for part in found):
            raise _Refused("it is in training, or its parameters are not constant")
        gamma, beta, mean, variance = (np.asarray(part, np.float64) for part in found)
        if any(part.shape != (channels,) for part in (gamma, beta, mean, variance)):
            raise UserError(f"{node} must have 4 parameters for each of {channels} channels")
        total = variance + node.get("epsilon", 1e-5)
        if (variance < 0).any() or (total <= 0).any():
            raise UserError(
                f"the variance of {node} must be 0 or more, and above 0 with epsilon, not "
                f"{variance.min():g}"
            )
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
        padded = any(node.get("pads", ())) or "SAME" in node.get("auto_pad", "")
        fewer = node.get("ceil_mode", 0) or (padded and not node.get("count_include_pad", 0))
        if node.op == "AveragePool" and fewer:
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
                if layer.weights is None:
                    return None
                self._check_pool(node)
            self._limits(node)
            return replace(grown, after=(*layer.after, node))
        if layer.weights is None or layer.bias is None or layer.after:
            return None
        if node.op == "BatchNormalization":
            if layer.channel_axis != 1:
                return None
            scale, offset = self._affine(node, layer.shape[1])
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
        return replace(grown, weights=weights, bias=layer.bias * scale + offset, sums=output)


def _by_channel(constant: FloatArray, layer: Layer) -> FloatArray | None:
    """Return a constant operand as one number for each output channel, if it is that."""
    try:
        spread = np.broadcast_to(constant, layer.shape)
    except ValueError:
        return None
    rows = np.moveaxis(spread, layer.channel_axis, 0).reshape(layer.shape[layer.channel_axis], -1)
    return rows[:, 0] if (rows == rows[:, :1]).all() else None


class ModelWriter:
    """Nodes and constants of the model in the making, in operator set 21.

    Parameters
    ----------
    graph : OnnxGraph
        The float model.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.notes: list[str] = []
        self._names = {*graph.shapes, *graph.types, *graph.constants}

    def name(self, wanted: str) -> str:
        """Return a name that no tensor has yet."""
        while wanted in self._names:
            wanted += "_"
        self._names.add(wanted)
        return wanted

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        """Add a constant and return its name."""
        name = self.name(name)
        self.initializers.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(
        self,
        op: str,
        inputs: list[str],
        output: str,
        *,
        name: str = "",
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node, named after its output if need be, and return its output."""
        self.nodes.append(
            onnx.helper.make_node(
                op, inputs, [output], name or f"{output}/{op}", domain=domain, **attributes
            )
        )
        return output

    def copy(self, node: Node, source: str, output: str) -> str:
        """Add a node of the float model, with its varying input replaced."""
        shape = self.graph.shapes.get(node.outputs[0], ())
        attributes = dict(node.attributes)
        op = node.op
        inputs = [source]
        if op not in VIEWS and op != "ReduceMean":
            inputs = [self._copied(name, node, source) for name in node.inputs]
        if op in VIEWS and op != "Transpose":
            op = "Identity" if op in ("Dropout", "Identity") else "Reshape"
            attributes = {}
            if op == "Reshape":
                target = np.array([-1, *shape[1:]], np.int64)
                inputs.append(self.constant(f"{output}_shape", target))
        elif op == "Clip":
            given = [
                self.constant(f"{output}_{side}", np.float32(attributes[side]))
                if side in attributes
                else ""
                for side in ("min", "max")
            ]
            inputs = [*inputs, "", ""][:3] if len(inputs) > 1 else [source, *given]
            attributes = {}
        elif op == "Softmax":
            attributes = {"axis": attributes.get("axis", -1)}
        elif op == "ReduceMean":
            if attributes.get("keepdims", 1):
                return self.add("GlobalAveragePool", [source], output, name=node.name)
            pooled = self.add(
                "GlobalAveragePool", [source], self.name(f"{output}_pooled"), name=node.name
            )
            flat = self.constant(f"{output}_shape", np.array([-1, shape[1]], np.int64))
            return self.add("Reshape", [pooled, flat], output)
        return self.add(op, inputs, output, name=node.name, **attributes)

    def _copied(self, name: str, node: Node, source: str) -> str:
        if name in self.graph.constants:
            return self.constant(f"{node.outputs[0]}_constant", self.graph.constants[name])
        return source if name else ""

    def note_groups(self, steps: "list[Layer | Node]") -> None:
        """Note convolutions that an array cannot run with weights that have no 0."""
        found = [
            repr(step.node.name)
            for step in steps
            if isinstance(step, Layer) and step.node.get("group", 1) > 1
        ]
        if found:
            self.notes.append(
                "an array runs convolutions of several groups only with weights that may be 0, "
                f"which these may not: {', '.join(found)}"
            )

    def finish(self, domains: dict[str, int]) -> Any:
        """Return the model."""
        graph = self.graph
        (entry,), (output,) = graph.inputs, graph.outputs

        def info(name: str) -> Any:
            kind = onnx.TensorProto.DataType.Value(graph.types.get(name, "FLOAT"))
            shape: Any = ["n", *graph.shapes[name][1:]] if name in graph.shapes else None
            return onnx.helper.make_tensor_value_info(name, kind, shape)

        made = onnx.helper.make_graph(
            self.nodes,
            graph.name,
            [info(entry)],
            [info(output)],
            self.initializers,
        )
        imports = [
            onnx.helper.make_opsetid(domain, version)
            for domain, version in {"": OPSET, **domains}.items()
        ]
        model = onnx.helper.make_model(
            made, opset_imports=imports, ir_version=IR_VERSION, producer_name="hwgen"
        )
        if self.notes:
            onnx.helper.set_model_props(model, {NOTES: "\n".join(self.notes)})
        return model
