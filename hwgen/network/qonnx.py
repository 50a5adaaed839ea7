"""QONNX: networks whose quantizers are operators of their own, brought to integers.

Source of the operators: fastmachinelearning/qonnx (``Quant``/``IntQuant``, ``BipolarQuant``,
``FloatQuant``, ``Trunc``, ``MultiThreshold``) and the ONNX operator specification. Between two
quantizers such a file computes in floating point. Here a tensor is one of

* a constant, with its integers where it was quantized;
* quantized: integers of a tensor of the network;
* exact sums, and the float functions that the model applies to them (:mod:`.float_sums`);
* on the host: what comes before the first quantizer, or after the last sums.

Shapes are a matter of book-keeping: each value knows at which place of its tensor, stored as
(height, width, channels), each of its elements is.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.errors import UserError

from .float_sums import requantize
from .graph import Network
from .onnx_file import Node, OnnxGraph
from .pointwise import STEPS, Step, align, make_step
from .qonnx_draft import Draft, flat_input
from .qonnx_host import Encoder, evaluator
from .qonnx_layers import add, average_pool, convolution, matrix_product, max_window
from .qonnx_quantizers import Quantizer, float_quant, make_quantizer
from .qonnx_values import (
    Constant,
    Host,
    NotSupportedError,
    Quantized,
    Summed,
    Value,
    after_step,
    by_channel,
    layout,
    on_grid,
    stored_places,
    sums_of,
    unchanged,
)
from .unsupported import Unsupported

__all__ = ["read_qonnx"]

Array = npt.NDArray[Any]

#: Quantizers, and how many parameters they may have.
QUANTIZERS = {
    "BipolarQuant": (1,),
    "FloatQuant": (5,),
    "IntQuant": (3,),
    "MultiThreshold": (1,),
    "Quant": (3,),
    "Trunc": (4, 5),
}

LAYERS = frozenset(("AveragePool", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "MaxPool"))

#: Operators that only move elements.
MOVES = frozenset(("Flatten", "Gather", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"))

#: Operators that are run on the host before the first layer or after the last, and on constants.
HOST = frozenset(
    (
        *("ArgMax", "Cast", "Concat", "Exp", "LogSoftmax", "Pow", "ReduceMax", "ReduceMean"),
        *("ReduceSum", "Softmax", "Sqrt", "TopK"),
    )
)

INPUT_TYPES = {"FLOAT": np.float32, "INT8": np.int8, "UINT8": np.uint8}

#: Integers that a model takes whose input has no quantizer.
INTEGER_INPUTS = {"UINT8": (0, 255)}


def read_qonnx(graph: OnnxGraph) -> Network:
    """Return the network of a QONNX file.

    Quantizers of up to 16 levels become thresholds that reproduce the model's float32 arithmetic
    for every sum; of more, a shift or a fixed-point multiplier, and a note tells how many codes
    differ. An input without a quantizer must be given integers.

    Raises
    ------
    UserError
        If a parameter is out of range, or a node is not supported; all such nodes are listed.
    """
    return _Reader(graph).read()


class _Reader:
    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
        self.unsupported = Unsupported(graph.name)
        self.values: dict[str, Value] = {}
        self.draft = Draft()

    def read(self) -> Network:
        graph, draft = self.graph, self.draft
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise UserError(
                f"model {graph.name!r} must have one input and one output, not "
                f"{graph.inputs} and {graph.outputs}"
            )
        name, output = graph.inputs[0], graph.outputs[0]
        if graph.shape(name)[:1] != (1,):
            raise UserError(
                f"the batch of input {name!r} must be 1 or open, not {list(graph.shape(name))}"
            )
        kind = graph.types.get(name, "")
        if kind not in INPUT_TYPES:
            raise UserError(
                f"the type of input {name!r} must be one of {', '.join(INPUT_TYPES)}, not {kind}"
            )
        self.values[name] = Host(lambda x: x)
        for node in self._needed(output):
            self._read_node(node)
        self.unsupported.check()
        decode = self._decode(output)
        if draft.encode is None or not draft.operations:
            raise UserError(f"model {graph.name!r} must have a quantized layer")
        encode = Encoder(draft.encode, graph.shape(name), name, np.dtype(INPUT_TYPES[kind]))
        last = draft.operations[-1].output
        network = Network(
            *(graph.name, draft.tensors, draft.operations, draft.input, last),
            encode=encode,
            decode=decode,
            notes=draft.notes,
        )
        return flat_input(network)

    def _needed(self, output: str) -> list[Node]:
        """Return the nodes that the output depends on, in order."""
        wanted = {output}
        found = []
        for node in reversed(self.graph.nodes):
            if wanted & set(node.outputs):
                wanted |= set(node.inputs)
                found.append(node)
        return found[::-1]

    def _read_node(self, node: Node) -> None:
        known = LAYERS | MOVES | HOST | STEPS
        if node.op not in QUANTIZERS and (node.op not in known or node.domain):
            where = f" of domain {node.domain!r}" if node.domain else ""
            self.unsupported.add(node, f"the operator{where} is not known")
            return
        values: list[Value | None] = []
        for name in node.inputs:
            if name in self.graph.constants:
                values.append(Constant(self.graph.constant(name, node)))
            elif name and name not in self.values:
                maker = self.graph.producers.get(name)
                if maker and maker.outputs[0] in self.values:
                    self.unsupported.add(maker, "outputs beyond the first are not known")
                return  # or it is a consequence of what has been told
            else:
                values.append(self.values.get(name))
        try:
            self.values[node.outputs[0]] = self._convert(node, values)
        except NotSupportedError as error:
            self.unsupported.add(node, error)

    def _convert(self, node: Node, values: list[Value | None]) -> Value:
        varying = [value for value in values if value and not isinstance(value, Constant)]
        if not varying:
            return _constant(node, values, self.graph)
        first = varying[0]
        if node.op in QUANTIZERS:
            return self._quantize(node, values)
        if node.op in LAYERS:
            return self._layer(node, values)
        if all(isinstance(value, Host) for value in varying):
            return self._on_host(node, values)
        if len(varying) == 1 and isinstance(first, Quantized | Summed):
            if node.op in MOVES and first is values[0]:
                return self._move(node, first, values[1:])
            if node.op in STEPS:
                return self._step(node, first, values)
        if node.op == "Add":
            a, b = (self._quantized(v, name) for v, name in zip(values, node.inputs, strict=True))
            found, note = add(node, a, b)
            self._note(node, note)
            return found
        return self._on_host(node, values)

    def _note(self, node: Node, note: str) -> None:
        if note:
            self.draft.notes.append(f"{node}: {note}")

    def _quantized(self, value: Value | None, name: str) -> Quantized:
        """Return a value as a tensor of the network; sums that are small enough become one."""
        found = value
        if isinstance(value, Host):
            found = self._integer_input(value, name)
        elif isinstance(value, Summed):
            steps = [str(step.node) for step in value.sums.steps if isinstance(step, Step)]
            quantizer = on_grid(value) if steps else None
            if quantizer is not None:
                found = self._requantize(value, quantizer, name)
            elif steps:
                raise NotSupportedError(f"its input has no quantizer after {', '.join(steps)}")
            else:
                found = self.draft.pass_on(value, name)
        if not isinstance(found, Quantized):
            raise NotSupportedError(f"its input {name!r} must depend on the model's input")
        self.values[name] = found
        return found

    def _integer_input(self, value: Host, name: str) -> Quantized:
        """Make the model's input, which has no quantizer, a tensor of integers."""
        if value.source is not None:
            raise NotSupportedError("it follows what only the host can work out")
        low, high = INTEGER_INPUTS.get(self.graph.types.get(self.graph.inputs[0], ""), (-128, 127))

        def encode(x: Array) -> Array:
            found = value.function(x)
            integers = np.rint(found).clip(low, high)
            if (integers != found).any():
                raise UserError(
                    f"tensor {name!r} has no quantizer: its values must be integers, {low} to "
                    f"{high}, not {found[integers != found].flat[0]:g}"
                )
            return integers.astype(np.int64)

        shape = self.graph.shape(name)
        self.draft.notes.append(
            f"tensor {name!r} has no quantizer: it takes integers, {low} to {high}"
        )
        return self.draft.start(name, encode, shape, (low, high), 0, 1.0, bipolar=False)

    def _quantize(self, node: Node, values: list[Value | None]) -> Value:
        constants = _parameters(node, values)
        if node.op == "FloatQuant":
            raise NotSupportedError("minifloats are known of constants only")
        value = values[0]
        if isinstance(value, Host):
            return self._quantize_input(node, value, constants)
        assert isinstance(value, Quantized | Summed)
        quantizer = _one_scale(make_quantizer(node, constants, value.places.shape))
        if isinstance(value, Quantized):
            if unchanged(value, quantizer):
                return value
            value = sums_of(value)
        return self._requantize(value, quantizer, node.outputs[0])

    def _requantize(self, value: Summed, quantizer: Quantizer, name: str) -> Quantized:
        made = requantize(value.sums, quantizer.over(by_channel(value)))
        if isinstance(made, str):
            raise NotSupportedError(made)
        self._note(quantizer.node, made.note)
        return self.draft.emit(value, made, name, float(quantizer.scale.flat[0]))

    def _quantize_input(self, node: Node, value: Host, constants: list[Array]) -> Quantized:
        if value.source is not None:
            raise NotSupportedError("it follows what only the host can work out")
        shape = self.graph.shape(node.outputs[0])
        layout(shape)
        quantizer = _one_scale(make_quantizer(node, constants, shape))
        if quantizer.low is None or quantizer.high is None:
            raise NotSupportedError("the input needs a quantizer with a range")
        return self.draft.start(
            *(node.outputs[0], lambda x: quantizer.codes(value.function(x)), shape),
            *((quantizer.low, quantizer.high), quantizer.zero_point),
            *(float(quantizer.scale.flat[0]), quantizer.step == 2),
        )

    def _layer(self, node: Node, values: list[Value | None]) -> Value:
        value, name = values[0], node.inputs[0]
        if node.op == "MaxPool":
            if not isinstance(value, Quantized | Summed):
                value = self._quantized(value, name)
            window = max_window(node, value)
            places = stored_places(window.shape, value.places.ndim)
            if isinstance(value, Quantized):
                tensor = self.draft.pool(window, value.tensor, None, node.outputs[0])
                return replace(value, tensor=tensor, places=places)
            sums = replace(value.sums, steps=(*value.sums.steps, window), shape=window.shape)
            return Summed(sums, places)
        if node.op in ("AveragePool", "GlobalAveragePool"):
            return average_pool(node, self._quantized(value, name))
        weights = values[1] if len(values) > 1 else None
        bias = values[2] if len(values) > 2 else None
        if not isinstance(weights, Constant) or not isinstance(bias, Constant | None):
            raise NotSupportedError("its weights and bias must be constants")
        source = self._quantized(value, name)
        if node.op == "Conv":
            found: Value = convolution(node, source, weights)
            if bias is not None:
                bias = Constant(align(bias.numbers, source.places.ndim))
        else:
            found = matrix_product(node, source, weights)
        if node.op == "Gemm":
            alpha, beta = (np.float32(node.get(name, 1.0)) for name in ("alpha", "beta"))
            if alpha != 1:
                found = self._extra(node, "Mul", np.asarray(alpha), found)
            if bias is not None and beta != 1:
                bias = Constant(bias.numbers * beta)
        return found if bias is None else self._extra(node, "Add", bias.numbers, found)

    def _extra(self, node: Node, op: str, constant: Array, value: Value) -> Value:
        """Return a value after a further step that is part of a node."""
        assert isinstance(value, Summed)
        return self._step(replace(node, op=op), value, [value, Constant(constant)])

    def _move(self, node: Node, value: Quantized | Summed, rest: list[Value | None]) -> Value:
        numbers = [part.numbers if isinstance(part, Constant) else None for part in rest]
        places = evaluator(node, self.graph)([value.places, *numbers])
        if places.ndim < 1 or places.shape[0] != 1:
            raise NotSupportedError("the batch must stay the first dimension")
        if isinstance(value, Summed) and places.size != value.places.size:
            raise NotSupportedError("only quantized tensors can be cut")
        return replace(value, places=places)

    def _step(self, node: Node, value: Quantized | Summed, values: list[Value | None]) -> Value:
        constants = [part.numbers if isinstance(part, Constant) else None for part in values]
        made = make_step(node, constants, value.places.ndim)
        if isinstance(made, str):
            raise NotSupportedError(made)
        if isinstance(value, Quantized):
            same = after_step(value, made)
            if same is not None:
                return same
            value = sums_of(value)
        step = made.over(by_channel(value))
        return replace(value, sums=replace(value.sums, steps=(*value.sums.steps, step)))

    def _on_host(self, node: Node, values: list[Value | None]) -> Host:
        """Return what the host computes: before the first quantizer, or after the last layer."""
        parts = [_to_host(v) if isinstance(v, Quantized | Summed) else v for v in values]
        source = next(part.source for part in parts if isinstance(part, Host))
        if any(part.source is not source for part in parts if isinstance(part, Host)):
            raise NotSupportedError("on the host, it would need more than one tensor")
        evaluate = evaluator(node, self.graph)

        def find(part: Value | None, x: Array) -> Array | None:
            return part.function(x) if isinstance(part, Host) else getattr(part, "numbers", None)

        return Host(lambda x: evaluate([find(part, x) for part in parts]), source)

    def _decode(self, output: str) -> Callable[[Array], Array]:
        """Return the function from the last operation's integers to the model's output."""
        value = self.values.get(output)
        if value is None or isinstance(value, Constant):
            raise UserError(
                f"output {output!r} of model {self.graph.name!r} must be the first one of its node "
                f"and depend on the input"
            )
        try:
            host = value if isinstance(value, Host) else _to_host(value)
        except NotSupportedError as error:
            raise UserError(f"output {output!r} of model {self.graph.name!r}: {error}") from error
        source, function = host.source, host.function
        if source is None:
            raise UserError(f"model {self.graph.name!r} must have a quantized layer")
        if isinstance(source, Summed):
            self.draft.end(source.sums)
        elif self.draft.operations and self.draft.operations[-1].output != source.tensor.name:
            raise UserError(f"output {output!r} must come from the model's last layer")
        return lambda found: np.concatenate([function(sample) for sample in found])


def _to_host(value: Quantized | Summed) -> Host:
    """Return a value as the host makes it from the network's integers."""
    if isinstance(value, Summed) and value.sums.windows:
        raise NotSupportedError("max pooling of sums needs a quantizer after it")
    real = value.sums.real if isinstance(value, Summed) else value.real
    return Host(lambda x: real(x).ravel()[value.places], value)


def _parameters(node: Node, values: list[Value | None]) -> list[Array]:
    """Return the parameters of a quantizer."""
    constants = [part.numbers for part in values[1:] if isinstance(part, Constant)]
    if len(constants) < len(values) - 1:
        raise NotSupportedError("the parameters of a quantizer must be constants")
    counts = QUANTIZERS[node.op]
    if len(constants) not in counts:
        raise UserError(
            f"{node} must have {' or '.join(map(str, counts))} parameters, not {len(constants)}"
        )
    if any(constant.dtype.kind not in "biuf" for constant in constants):
        raise UserError(f"parameters of {node} must be numbers")
    return constants


def _constant(node: Node, values: list[Value | None], graph: OnnxGraph) -> Constant:
    """Return what a node makes of constants."""
    arrays = [value.numbers if isinstance(value, Constant) else None for value in values]
    first = values[0] if values else None
    if not isinstance(first, Constant):
        raise NotSupportedError("its first input is left out")
    if node.op == "FloatQuant":
        integers, unit = float_quant(node, first.numbers, _parameters(node, values))
    elif node.op in QUANTIZERS:
        shape = first.numbers.shape
        quantizer = make_quantizer(node, _parameters(node, values), shape)
        integers = quantizer.codes(first.numbers) - quantizer.zero_point
        unit = np.broadcast_to(quantizer.scale.astype(np.float64), integers.shape)
    elif node.op in MOVES and first.integers is not None and first.unit is not None:
        evaluate = evaluator(node, graph)
        integers, unit = (evaluate([part, *arrays[1:]]) for part in (first.integers, first.unit))
    elif node.op in ("Identity", "Dropout"):
        return first
    else:
        return Constant(evaluator(node, graph)(arrays))
    return Constant((integers * unit).astype(np.float32), integers, unit)


def _one_scale(quantizer: Quantizer) -> Quantizer:
    if np.unique(quantizer.scale).size != 1:
        raise NotSupportedError(
            "an activation must have one scale: products of several have no common sum"
        )
    return quantizer
