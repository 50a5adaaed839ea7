"""Quantized ONNX networks, in QDQ, QCDQ and QLinear (QOperator) form, brought to integers.

In QDQ form integers pass ``DequantizeLinear``, floating-point operators and ``QuantizeLinear``;
QCDQ has a ``Clip`` that narrows the integers; QLinear operators do it all at once. All three mean
the same here: exact sums of integers, a real factor, and one rounding with ties to even. Runtimes
compute the factor in single precision, so a result within some 2**-12 of a tie may differ by 1.

The bias of a layer is rounded to the grid of its sums, whose step is usually far below the
output's; :attr:`~.graph.Network.notes` tells by how much where it is not on it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from hwgen.errors import UserError

from .graph import Network
from .onnx_builder import Builder, Entry, Refused
from .onnx_file import INTEGER_RANGES, Node, OnnxGraph, Unsupported, positive_scales
from .onnx_host import host_function
from .onnx_sums import (
    average,
    channels_of,
    convolution,
    maximum,
    product,
    residual,
    transposed,
    unrounded,
)
from .onnx_values import (
    Codes,
    FloatArray,
    Grid,
    HostInput,
    HostOutput,
    Sums,
    Value,
    Weights,
)
from .requantize import IntArray

__all__ = ["read_qdq"]

Array = npt.NDArray[Any]

#: Element types of activations and weights.
TYPES = ("INT2", "UINT2", "INT4", "UINT4", "INT8", "UINT8", "INT16", "UINT16")
FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")


def read_qdq(graph: OnnxGraph) -> Network:
    """Return the network of a graph in QDQ, QCDQ or QLinear form.

    Raises
    ------
    UserError
        If nodes are not supported (all are listed, with reasons), scales are not finite and above
        0, or zero points are out of range.
    """
    return _Reader(graph).read()


class _Unknown(Exception):  # noqa: N818
    """An input comes from a node that is not supported: nothing to add."""


class _Reader:
    """Reads the nodes one by one; what each means is kept by the name of its first output."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
        self.builder = Builder(graph.name)
        self.unsupported = Unsupported(graph.name)
        self.values: dict[str, Value] = {}
        #: Integers of weights that the graph itself quantizes.
        self.quantized: dict[str, tuple[IntArray, str]] = {}
        both: dict[str, Callable[[Node], Value | None]] = {
            "QuantizeLinear": self._quantize_linear,
            "DequantizeLinear": self._dequantize_linear,
        }
        self.handlers: dict[str, dict[str, Callable[[Node], Value | None]]] = {
            "": {
                **both,
                "Conv": self._conv,
                "ConvInteger": self._conv_integer,
                "QLinearConv": self._qlinear_conv,
                "Gemm": self._gemm,
                "MatMul": self._gemm,
                "MatMulInteger": self._matmul_integer,
                "QLinearMatMul": self._qlinear_matmul,
                "Add": self._add,
                "Mul": self._mul,
                "BatchNormalization": self._batch_normalization,
                "Relu": self._clip,
                "Clip": self._clip,
                "MaxPool": self._max_pool,
                "AveragePool": self._average_pool,
                "GlobalAveragePool": self._average_pool,
                "ReduceMean": self._average_pool,
                "Cast": self._cast,
                **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), self._view),
                **dict.fromkeys(("Transpose", "Identity", "Dropout"), self._view),
                **dict.fromkeys(("Softmax", "Sigmoid", "ArgMax"), self._host),
                **dict.fromkeys(("Sub", "Div"), self._arithmetic),
            },
            "com.microsoft": {
                **both,
                "QGemm": self._qgemm,
                "QLinearAdd": self._qlinear_add,
                "QLinearAveragePool": self._qlinear_average_pool,
                "QLinearGlobalAveragePool": self._qlinear_average_pool,
                "QLinearSoftmax": self._qlinear_softmax,
            },
        }

    def read(self) -> Network:
        graph = self.graph
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise UserError(
                f"model {graph.name!r} must have one input and one output, not "
                f"{len(graph.inputs)} and {len(graph.outputs)}"
            )
        (entry,), (output,) = graph.inputs, graph.outputs
        kind = graph.types[entry]
        shape = graph.shape(entry)
        if not shape or kind not in (*TYPES, *FLOATS):
            raise UserError(f"input {entry!r} must be a batch of integers or floats, not {kind}")
        if kind in FLOATS:
            self.values[entry] = HostInput()
        else:
            self.values[entry] = self.builder.enter(
                Entry(entry, shape[1:], kind, None, None), real=False
            )
        for node in _needed(graph):
            self._read(node)
        self.unsupported.check()
        value = self.values.get(output)
        if not isinstance(value, Codes | Sums | HostOutput):
            raise UserError(f"model {graph.name!r} must have a quantized operation")
        found: Network | None = None
        try:
            found = self.builder.finish(
                output, value, (entry, shape), self._output_type(output, value), self.unsupported
            )
        except Refused as reason:
            self.unsupported.add(graph.producers[output], str(reason))
        self.unsupported.check()
        assert found is not None
        return found

    def _output_type(self, output: str, value: Value) -> npt.DTypeLike:
        if isinstance(value, Codes) and not value.real and value.grid is not None:
            name = value.grid.type
        else:
            name = self.graph.types.get(output, "FLOAT")
        dtype = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(name))
        # ml_dtypes: 4-bit integers, for which NumPy has the next wider type.
        return dtype if dtype.kind in "iuf" else np.dtype(np.int8 if name[0] == "I" else np.uint8)

    def _read(self, node: Node) -> None:
        try:
            handler = self.handlers.get(node.domain, {}).get(node.op)
            if handler is None:
                where = f" of domain {node.domain!r}" * bool(node.domain)
                raise Refused(f"operator {node.op}{where} is not supported")
            found = handler(node)
        except Refused as reason:
            self.unsupported.add(node, str(reason))
        except _Unknown:
            pass
        else:
            if found is not None:
                self.values[node.outputs[0]] = found

    # Inputs of nodes.

    def _value(self, node: Node, place: int = 0) -> Value:
        name = node.input(place)
        if name in self.values:
            return self.values[name]
        if name in self.graph.constants or name in self.quantized or not name:
            raise Refused(f"its input {place} is a constant")
        raise _Unknown

    def _is_constant(self, name: str) -> bool:
        return name in self.graph.constants or isinstance(self.values.get(name), Weights)

    def _constant(self, node: Node, place: int) -> Array:
        name = node.input(place)
        if name not in self.graph.constants:
            if name in self.graph.producers and name not in self.values:
                raise _Unknown
            raise Refused(f"its input {name!r} must be constant")
        return self.graph.constant(name, node)

    def _real_constant(self, node: Node, place: int) -> FloatArray:
        """Return a constant of real numbers, quantized or not."""
        value = self.values.get(node.input(place))
        if isinstance(value, Weights):
            return value.real()
        return self._constant(node, place).astype(np.float64)

    def _integers(self, node: Node, place: int) -> tuple[IntArray, str]:
        """Return constant integers and their type."""
        name = node.input(place)
        if name in self.quantized:
            return self.quantized[name]
        found = self._constant(node, place)
        kind = self.graph.types[name]
        if kind not in INTEGER_RANGES:
            raise Refused(f"its constant {name!r} is not quantized")
        return found.astype(np.int64), kind

    def _scale(self, node: Node, place: int) -> npt.NDArray[np.float32]:
        name = node.input(place)
        if name not in self.graph.constants:
            raise Refused(f"its scale {name!r} must be constant")
        scale = self.graph.constants[name]
        if scale.ndim > 1:
            raise Refused(f"its scale {name!r} must be one for all or one for each channel")
        found = positive_scales(scale, f"scale {name!r} of {node}")
        return found.reshape(()) if found.size == 1 else found

    def _zero(self, node: Node, place: int, kind: str, scale: Array) -> IntArray:
        """Return the zero point, of the type that it must have."""
        name = node.input(place)
        if not name:
            return np.zeros(scale.shape, np.int64)
        if name not in self.graph.constants:
            raise Refused(f"its zero point {name!r} must be constant")
        zero, found = self.graph.constants[name], self.graph.types[name]
        if found != kind:
            raise UserError(f"zero point {name!r} of {node} must be of type {kind}, not {found}")
        zero = zero.astype(np.int64)
        if zero.size == 1:
            return zero.reshape(())
        if zero.shape != scale.shape:
            raise UserError(
                f"zero point {name!r} of {node} must have the shape {list(scale.shape)} of its "
                f"scale, not {list(zero.shape)}"
            )
        return zero

    def _grid(self, node: Node, scale: int, zero: int, kind: str) -> Grid:
        """Return the grid of an activation, from the places of its scale and zero point."""
        scales = self._scale(node, scale)
        if scales.ndim:
            raise Refused("its activation has a scale for each channel")
        if kind not in TYPES:
            raise Refused(f"its activation is of type {kind}")
        point = int(self._zero(node, zero, kind, scales))
        return Grid(float(scales), point, kind, *INTEGER_RANGES[kind])

    def _zero_type(self, node: Node, place: int) -> str:
        """Return the type of a zero point, which is also that of what is quantized with it."""
        return self.graph.types.get(node.input(place), "UINT8")

    def _real(self, node: Node, place: int = 0) -> Codes:
        """Return an activation whose integers stand for real numbers."""
        value = self._value(node, place)
        if isinstance(value, Codes) and value.real:
            return value
        raise Refused(f"its input {node.input(place)!r} is not quantized")

    def _activation(self, node: Node, place: int, grid: Grid | None) -> Codes:
        """Return an activation of integers, with the grid that the node gives it."""
        value = self._value(node, place)
        if not isinstance(value, Codes) or value.real:
            raise Refused(f"its input {node.input(place)!r} does not hold integers")
        return self.builder.with_grid(value, grid)

    # Quantizers.

    def _quantize_linear(self, node: Node) -> Value | None:
        if node.get("block_size", 0):
            raise Refused("it quantizes in blocks")
        kind = self._zero_type(node, 2)
        if not node.input(2) and node.get("output_dtype", 0):
            kind = onnx.TensorProto.DataType.Name(node.get("output_dtype"))
        if self._is_constant(node.input(0)):
            self._quantize_constant(node, kind)
            return None
        value = self._value(node)
        grid = self._narrowed(node, self._grid(node, 1, 2, kind))
        if isinstance(value, HostInput):
            shape = self.graph.shape(node.outputs[0])
            if not shape[1:] or shape[0] != self.graph.shape(self.graph.inputs[0])[0]:
                raise Refused("it has no batch")
            entry = Entry(node.outputs[0], shape[1:], kind, grid, value.functions)
            return self.builder.enter(entry, real=False)
        if isinstance(value, Codes):
            if not value.real:
                raise Refused("it quantizes integers")
            if value.grid == grid:
                return replace(value, real=False)
            value = unrounded(self.builder, node, value)
        if isinstance(value, HostOutput):
            return replace(value, functions=(*value.functions, grid.quantize))
        if not isinstance(value, Sums):
            raise Refused("it quantizes weights a second time")
        return self.builder.emit(node, value, node.outputs[0], grid)

    def _quantize_constant(self, node: Node, kind: str) -> None:
        values, scale = self._real_constant(node, 0), self._scale(node, 1)
        if kind not in TYPES:
            raise Refused(f"its constant is quantized to type {kind}")
        zero = self._zero(node, 2, kind, scale)
        shape = _along(node.get("axis", 1), scale, values.shape, node)
        low, high = INTEGER_RANGES[kind]
        found = np.rint(values.astype(np.float32) / scale.reshape(shape))
        zeros = np.broadcast_to(zero, scale.shape).reshape(shape)
        integers = found.clip(-(1 << 20), 1 << 20).astype(np.int64) + zeros
        self.quantized[node.outputs[0]] = (integers.clip(low, high), kind)

    def _narrowed(self, node: Node, grid: Grid) -> Grid:
        """Return a grid narrowed by the ``Clip`` that follows in QCDQ form."""
        name = node.outputs[0]
        users = self.graph.consumers.get(name, [])
        alone = len(users) == 1 and name not in self.graph.outputs
        if alone and users[0].op == "Clip" and not users[0].domain:
            low, high = self._limits(users[0], grid.type)
            grid = replace(grid, low=max(grid.low, low), high=min(grid.high, high))
        if not grid.low <= grid.zero <= grid.high:
            raise UserError(
                f"zero point of {node} must be {grid.low} to {grid.high}, not {grid.zero}"
            )
        return grid

    def _limits(self, node: Node, kind: str) -> tuple[int, int]:
        """Return the limits of a ``Clip`` of integers."""
        low, high = INTEGER_RANGES[kind]
        if node.input(1):
            low = int(self._limit(node, 1))
        if node.input(2):
            high = int(self._limit(node, 2))
        if low > high:
            raise UserError(f"limits of {node} must ascend, not {low} to {high}")
        return low, high

    def _dequantize_linear(self, node: Node) -> Value:
        if node.get("block_size", 0):
            raise Refused("it dequantizes blocks")
        name = node.input(0)
        if name in self.graph.constants or name in self.quantized:
            integers, kind = self._integers(node, 0)
            scale = self._scale(node, 1)
            zero = self._zero(node, 2, kind, scale)
            shape = _along(node.get("axis", 1), scale, integers.shape, node)
            axis = node.get("axis", 1) % max(integers.ndim, 1) if scale.ndim else 0
            zeros = np.broadcast_to(zero, scale.shape).reshape(shape)
            return Weights(integers - zeros, scale, axis)
        value = self._value(node)
        if isinstance(value, HostOutput):
            grid = self._grid(node, 1, 2, self._zero_type(node, 2))
            return replace(value, functions=(*value.functions, grid.dequantize))
        if not isinstance(value, Codes) or value.real:
            raise Refused("its input does not hold integers")
        kind = value.grid.type if value.grid else self.graph.types[name]
        found = self.builder.with_grid(value, self._grid(node, 1, 2, kind))
        return replace(found, real=True)

    # Multiplications.

    def _conv(self, node: Node) -> Value:
        weights = self._weights(node, 1)
        bias = self._real_constant(node, 2) if node.input(2) else np.zeros(1)
        return convolution(self.builder, node, self._real(node), weights, bias)

    def _conv_integer(self, node: Node) -> Value:
        value, weights = self._integer_operands(node)
        return convolution(self.builder, node, value, weights, np.zeros(1))

    def _qlinear_conv(self, node: Node) -> Value:
        value = self._activation(node, 0, self._grid(node, 1, 2, self._zero_type(node, 2)))
        weights = self._qlinear_weights(node, 3, axis=0)
        assert value.grid is not None
        bias = np.zeros(1)
        if node.input(8):
            units = value.grid.scale * weights.scale.astype(np.float64)
            bias = channels_of(self._integers(node, 8)[0], len(weights.integers)) * units
        sums = convolution(self.builder, node, value, weights, bias)
        return self._emit(node, sums, 6, 7)

    def _gemm(self, node: Node) -> Value:
        alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
        if node.get("transA", 0):
            raise Refused("its first operand is transposed")
        weights = transposed(self._weights(node, 1), bool(node.get("transB", 0)))
        sums = product(self.builder, node, self._real(node), weights)
        bias = np.zeros(1)
        if node.op == "Gemm" and node.input(2):
            bias = self._real_constant(node, 2) * beta
            if bias.ndim == 2 and len(bias) > 1:
                raise Refused("its bias differs within the batch")
        return replace(sums, factor=sums.factor * alpha, bias=channels_of(bias, len(sums.factor)))

    def _matmul_integer(self, node: Node) -> Value:
        value, weights = self._integer_operands(node)
        return product(self.builder, node, value, weights)

    def _qlinear_matmul(self, node: Node) -> Value:
        value = self._activation(node, 0, self._grid(node, 1, 2, self._zero_type(node, 2)))
        weights = self._qlinear_weights(node, 3, axis=-1)
        return self._emit(node, product(self.builder, node, value, weights), 6, 7)

    def _qgemm(self, node: Node) -> Value:
        value = self._activation(node, 0, self._grid(node, 1, 2, self._zero_type(node, 2)))
        if node.get("transA", 0):
            raise Refused("its first operand is transposed")
        swap = bool(node.get("transB", 0))
        weights = self._qlinear_weights(node, 3, axis=0 if swap else 1)
        sums = product(self.builder, node, value, transposed(weights, swap))
        sums = replace(sums, factor=sums.factor * node.get("alpha", 1.0))
        if node.input(6):
            bias = channels_of(self._integers(node, 6)[0], len(sums.factor))
            sums = replace(sums, bias=bias * sums.factor)
        return self._emit(node, sums, 7, 8) if node.input(7) else sums

    def _weights(self, node: Node, place: int) -> Weights:
        value = self.values.get(node.input(place))
        if isinstance(value, Weights):
            return value
        if node.input(place) in self.graph.constants:
            raise Refused(f"its weights {node.input(place)!r} are not quantized")
        self._value(node, place)
        raise Refused(f"its weights {node.input(place)!r} must be constant")

    def _qlinear_weights(self, node: Node, place: int, axis: int) -> Weights:
        integers, kind = self._integers(node, place)
        scale = self._scale(node, place + 1)
        zero = self._zero(node, place + 2, kind, scale)
        zeros = np.broadcast_to(zero, scale.shape)
        shape = _along(axis, scale, integers.shape, node)
        axis %= max(integers.ndim, 1)
        return Weights(integers - zeros.reshape(shape), scale, axis)

    def _integer_operands(self, node: Node) -> tuple[Codes, Weights]:
        """Return the operands of an operator of plain integers: scales are 1."""
        kind = self.graph.types.get(node.input(0), "UINT8")
        if kind not in TYPES:
            raise Refused(f"its activation is of type {kind}")
        one = np.ones((), np.float32)
        zero = int(self._zero(node, 2, kind, one))
        value = self._activation(node, 0, Grid(1.0, zero, kind, *INTEGER_RANGES[kind]))
        integers, weight_kind = self._integers(node, 1)
        count = integers.shape[0 if node.op == "ConvInteger" else -1]
        weight_zero = self._zero(node, 3, weight_kind, np.ones(count))
        if weight_zero.ndim and node.op == "ConvInteger":
            weight_zero = weight_zero.reshape(-1, *[1] * (integers.ndim - 1))
        return value, Weights(integers - weight_zero, one, 0)

    # What follows sums.

    def _batch_normalization(self, node: Node) -> Value:
        sums = self._value(node)
        if not isinstance(sums, Sums):
            raise Refused("it does not follow a convolution or a product")
        if node.get("training_mode", 0) or not np.isinf([sums.low, sums.high]).all():
            raise Refused("it follows an activation, or is in training")
        gamma, beta, mean, variance = (self._real_constant(node, place) for place in range(1, 5))
        if len({values.shape for values in (gamma, beta, mean, variance)}) > 1:
            raise UserError(f"scale, bias, mean and variance of {node} must have one shape")
        if (variance < 0).any():
            raise UserError(f"the variance of {node} must be 0 or more, not {variance.min():g}")
        factor = gamma / np.sqrt(variance + node.get("epsilon", 1e-5))
        seen = (-1, *[1] * (sums.places.ndim - 1))
        scale = self._per_channel(factor.reshape(seen), sums)
        offset = self._per_channel((beta - mean * factor).reshape(seen), sums)
        return replace(sums, factor=sums.factor * scale, bias=sums.bias * scale + offset)

    def _add(self, node: Node) -> Value:
        return self._with_constant(node) or residual(
            self.builder, node, [self._real(node, 0), self._real(node, 1)]
        )

    def _mul(self, node: Node) -> Value:
        found = self._with_constant(node)
        if found is None:
            raise Refused("it multiplies two activations")
        return found

    def _arithmetic(self, node: Node) -> Value:
        found = self._with_constant(node)
        if found is None:
            raise Refused("it takes two activations")
        return found

    def _with_constant(self, node: Node) -> Value | None:
        """Return an arithmetic node with one constant operand; None if it has two activations."""
        constant = next((i for i in (0, 1) if self._is_constant(node.input(i))), None)
        if constant is None:
            return None
        value = self._value(node, 1 - constant)
        if constant == 0 and node.op in ("Sub", "Div"):
            raise Refused("its first operand is constant")
        if isinstance(value, HostInput):
            operand = self._real_constant(node, constant).astype(np.float32)
            shape = self.graph.shape(node.input(1 - constant))
            per_sample = operand.ndim < len(shape) or operand.shape[0] == 1
            if not per_sample or np.broadcast_shapes(operand.shape, shape) != shape:
                raise Refused(f"its constant of shape {list(operand.shape)} changes shapes")
            apply = {"Add": np.add, "Mul": np.multiply, "Sub": np.subtract, "Div": np.divide}
            function = apply[node.op]
            return HostInput((*value.functions, lambda x: function(x, operand)))
        if isinstance(value, Codes) and value.real:
            value = unrounded(self.builder, node, value)
        if not isinstance(value, Sums):
            raise Refused(f"its input {node.input(1 - constant)!r} is not quantized")
        if not np.isinf([value.low, value.high]).all():
            raise Refused("it follows an activation")
        operand64 = self._per_channel(self._real_constant(node, constant), value)
        if node.op in ("Mul", "Div"):
            if node.op == "Div":
                if not operand64.all():
                    raise UserError(f"{node} must not divide by 0")
                operand64 = 1 / operand64
            return replace(value, factor=value.factor * operand64, bias=value.bias * operand64)
        sign = -1 if node.op == "Sub" else 1
        return replace(value, bias=value.bias + sign * operand64)

    def _per_channel(self, constant: Array, sums: Sums) -> FloatArray:
        """Return a constant operand as one number for each channel of the sums."""
        seen = sums.places.shape
        if constant.ndim == len(seen) + 1 and constant.shape[0] == 1:
            constant = constant[0]
        try:
            spread = np.broadcast_to(constant, seen)
        except ValueError:
            raise Refused(f"its constant of shape {list(constant.shape)} changes shapes") from None
        flat = np.empty(sums.places.size)
        flat[sums.places] = spread
        rows = flat.reshape(-1, sums.shape[2])
        if (rows != rows[0]).any():
            raise Refused("its constant differs within a channel")
        return rows[0]

    def _clip(self, node: Node) -> Value | None:
        name = node.input(0)
        if name in self.quantized and node.op == "Clip":
            integers, kind = self.quantized[name]
            self.quantized[node.outputs[0]] = (integers.clip(*self._limits(node, kind)), kind)
            return None
        value = self._value(node)
        low, high = 0.0, np.inf
        if isinstance(value, Codes) and not value.real:
            users = self.graph.consumers.get(node.input(0), [])
            quantizer = self.graph.producers.get(node.input(0))
            alone = quantizer is not None and quantizer.op == "QuantizeLinear" and len(users) == 1
            if node.op == "Clip" and alone:
                return value  # its grid is narrowed already
            raise Refused("it clips integers that no QuantizeLinear has made for it alone")
        if node.op == "Clip":
            low = float(node.get("min", -np.inf))
            high = float(node.get("max", np.inf))
            if node.input(1):
                low = self._limit(node, 1)
            if node.input(2):
                high = self._limit(node, 2)
            if low > high:
                raise UserError(f"limits of {node} must ascend, not {low:g} to {high:g}")
        if isinstance(value, HostInput):
            return HostInput((*value.functions, lambda x: x.clip(low, high)))
        if isinstance(value, Codes):
            value = unrounded(self.builder, node, value)
        if not isinstance(value, Sums):
            raise Refused(f"its input {node.input(0)!r} is not quantized")
        return replace(
            value,
            low=min(max(value.low, low), high),
            high=max(min(value.high, high), low),
        )

    def _limit(self, node: Node, place: int) -> float:
        name = node.input(place)
        if name not in self.graph.constants:
            raise Refused(f"its limit {name!r} must be constant")
        found = self.graph.constants[name]
        if found.size != 1 or np.isnan(found).any():
            raise UserError(f"limit {name!r} of {node} must be one number")
        return float(found.item())

    def _qlinear_add(self, node: Node) -> Value:
        kind = self._zero_type(node, 2)
        values = [
            self._activation(node, at, self._grid(node, at + 1, at + 2, kind)) for at in (0, 3)
        ]
        return self._emit(node, residual(self.builder, node, values), 6, 7)

    def _emit(self, node: Node, sums: Sums, scale: int, zero: int) -> Codes:
        """Requantize to the grid that the node itself gives."""
        grid = self._grid(node, scale, zero, self._zero_type(node, zero))
        return self.builder.emit(node, sums, node.outputs[0], grid)

    # Pools.

    def _max_pool(self, node: Node) -> Value:
        value = self._value(node)
        if not isinstance(value, Codes):
            raise Refused(f"its input {node.input(0)!r} is not quantized")
        value = self.builder.with_grid(value, None)
        sums = maximum(self.builder, node, value)
        if value.real:
            return sums
        assert value.grid is not None
        return self.builder.emit(node, sums, node.outputs[0], value.grid)

    def _average_pool(self, node: Node) -> Value:
        value = self._value(node)
        if isinstance(value, HostOutput | HostInput | Sums):
            raise Refused(f"its input {node.input(0)!r} is not quantized")
        axes = node.get("axes")
        if node.op == "ReduceMean" and node.input(1):
            axes = self._constant(node, 1).ravel().tolist()
        return average(self.builder, node, self._real(node), axes)

    def _qlinear_average_pool(self, node: Node) -> Value:
        if node.get("channels_last", 0):
            raise Refused("its input has the channels last")
        value = self._activation(node, 0, self._grid(node, 1, 2, self._zero_type(node, 2)))
        return self._emit(node, average(self.builder, node, value), 3, 4)

    # Views, and the host's part.

    def _view(self, node: Node) -> Value | None:
        name, output = node.input(0), node.outputs[0]
        if name in self.quantized:
            if node.op == "Identity":
                self.quantized[output] = self.quantized[name]
                return None
            raise Refused("it changes the order of constants")
        if self._is_constant(name):
            return self._view_weights(node)
        value = self._value(node)
        if node.op in ("Identity", "Dropout"):
            return value
        before, after = self.graph.shape(name), self.graph.shape(output)
        if not after or after[0] != before[0]:
            raise Refused("it moves the batch")
        if node.op == "Transpose" and node.get("perm", [len(before) - 1])[0] != 0:
            raise Refused("it moves the batch")
        if isinstance(value, HostInput | HostOutput):
            return self._on_host(node, value)
        if not after[1:]:
            raise Refused("it leaves only the batch")
        assert isinstance(value, Codes | Sums)
        if node.op == "Transpose":
            order = [axis - 1 for axis in node.get("perm")[1:]]
            return replace(value, places=value.places.transpose(order))
        return replace(value, places=value.places.reshape(after[1:]))

    def _view_weights(self, node: Node) -> Value:
        value = self.values.get(node.input(0))
        if not isinstance(value, Weights):
            raise Refused("its input is a constant")
        if node.op == "Identity":
            return value
        if node.op != "Transpose":
            raise Refused("it reshapes weights")
        order = node.get("perm", list(range(value.integers.ndim))[::-1])
        axis = order.index(value.axis)
        return Weights(value.integers.transpose(order), value.scale, axis)

    def _cast(self, node: Node) -> Value:
        value = self._value(node)
        target = onnx.TensorProto.DataType.Name(node.get("to"))
        if isinstance(value, Codes) and not value.real:
            raise Refused("it casts integers")
        if target not in FLOATS:
            raise Refused(f"it casts to {target}")
        return value

    def _host(self, node: Node) -> Value:
        value = self._value(node)
        if isinstance(value, HostInput):
            raise Refused("it comes before the first quantization")
        return self._on_host(node, value)

    def _on_host(self, node: Node, value: Value) -> Value:
        opset = self.graph.opsets.get("", 1)
        default = {"Softmax": 1 if opset < 13 else -1, "ArgMax": 0}
        if node.op in default:
            axis = node.get("axis", default[node.op])
            if axis % max(len(self.graph.shape(node.input(0))), 1) == 0:
                raise Refused("it works across the batch")
        function = host_function(node, opset, self.graph.shape(node.outputs[0]))
        if function is None:
            raise Refused(f"operator {node.op} is not supported on the host")
        if isinstance(value, HostInput | HostOutput):
            return replace(value, functions=(*value.functions, function))
        if isinstance(value, Sums) or (isinstance(value, Codes) and value.real):
            return HostOutput(value, (function,))
        raise Refused(f"its input {node.input(0)!r} is not real")

    def _qlinear_softmax(self, node: Node) -> Value:
        value = self._activation(node, 0, self._grid(node, 1, 2, self._zero_type(node, 2)))
        grid = self._grid(node, 3, 4, self._zero_type(node, 4))
        plain = Node(node.name, "Softmax", "", node.inputs, node.outputs, node.attributes)
        shape = self.graph.shape(node.outputs[0])
        function = host_function(plain, node.get("opset", 13), shape)
        assert function is not None
        return HostOutput(replace(value, real=True), (function, grid.quantize))


def _needed(graph: OnnxGraph) -> list[Node]:
    """Return the nodes that the outputs depend on."""
    wanted = set(graph.outputs)
    found = []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            found.append(node)
    return found[::-1]


def _along(axis: int, scale: Array, shape: tuple[int, ...], node: Node) -> tuple[int, ...]:
    """Return the shape in which scales lie along an axis of a tensor."""
    if not scale.ndim:
        return ()
    if not -len(shape) <= axis < len(shape):
        raise UserError(f"axis of {node} must be within {len(shape)} dimensions, not {axis}")
    if scale.size != shape[axis]:
        raise UserError(f"{node} must have one scale, or {shape[axis]}, not {scale.size}")
    lying = [1] * len(shape)
    lying[axis] = -1
    return tuple(lying)
