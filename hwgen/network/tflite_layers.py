"""TFLite's operators, one by one, as operations of a network in integers."""

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .graph import Add, Conv, Operation, Pool, Rescale, Tensor
from .multiplier import division_multiplier, quantize_multiplier
from .requantize import FixedPoint, IntArray
from .tflite_border import quantization
from .tflite_file import TfliteFile, TfliteOperator, TfliteTensor
from .tflite_options import (
    HIGH,
    LOW,
    Padding,
    activation_range,
    add_padding,
    check_same_size,
    image_shape,
    pair,
    sample_shape,
    times,
    window,
)
from .tflite_requantize import check_sums, double_precision, fixed_point
from .unsupported import Unsupported

__all__ = ["HEAD", "RESHAPES", "TAIL", "Layers", "Value"]

#: Multiplier and shift that change nothing.
IDENTITY = (np.array([1 << 30]), np.array([1]))

#: Operators that change a tensor's shape and nothing else.
RESHAPES = frozenset(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"))
#: Operators that stay on the host before the first layer, and after the last.
HEAD = RESHAPES | {"QUANTIZE"}
TAIL = RESHAPES | {"QUANTIZE", "DEQUANTIZE", "SOFTMAX"}
#: Activations that stand alone, and their numbers where they are fused.
RELUS = {"RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}


@dataclass(frozen=True)
class Value:
    """What a tensor of the file is in the network: a tensor there with zero points around it."""

    tensor: Tensor
    padding: Padding = (0, 0, 0, 0)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        top, left, bottom, right = self.padding
        return self.tensor.shape[0] + top + bottom, self.tensor.shape[1] + left + right

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return (*self.size, self.tensor.shape[2])

    def bare(self) -> Tensor:
        """Return the tensor, which must have nothing around it."""
        if any(self.padding):
            raise ValueError("a PAD is supported before a convolution or a pool only")
        return self.tensor


class UnknownError(Exception):
    """An input comes from what is not supported."""


class Layers:
    """The tensors and the operations of one file.

    Methods that lower an operator raise ValueError with a reason for what is not supported.
    """

    def __init__(self, file: TfliteFile, unsupported: Unsupported):
        self.file = file
        self.unsupported = unsupported
        self.tensors: dict[str, Tensor] = {}
        self.operations: list[Operation] = []
        self.values: dict[int, Value | None] = {}
        counts = Counter(tensor.name for tensor in file.tensors)
        self.names = [
            tensor.name if tensor.name and counts[tensor.name] == 1 else f"{tensor.name}#{index}"
            for index, tensor in enumerate(file.tensors)
        ]

    def label(self, index: int, operator: TfliteOperator) -> str:
        """Return how messages call an operator, which has no name in the file."""
        outputs = ", ".join(repr(self.names[i]) for i in operator.outputs if i >= 0)
        return f"operator {index}, {operator.kind} to {outputs}"

    def enter(self, index: int) -> None:
        """Add the network's input."""
        self.values[index] = Value(self.define(index))

    def lower(self, index: int, operator: TfliteOperator) -> None:
        """Add an operator to the network, or to what is not supported."""
        methods = {
            "CONV_2D": self.conv,
            "DEPTHWISE_CONV_2D": self.depthwise,
            "FULLY_CONNECTED": self.fully_connected,
            "ADD": self.add,
            "AVERAGE_POOL_2D": self.average_pool,
            "MAX_POOL_2D": self.max_pool,
            "MEAN": self.mean,
            "PAD": self.pad,
            "QUANTIZE": self.quantize,
            **dict.fromkeys(RELUS, self.relu),
            **dict.fromkeys(RESHAPES, self.reshape),
        }
        name = f"{operator.kind.lower()}_{index}"
        try:
            if operator.kind not in methods:
                raise ValueError(
                    "a softmax or a dequantization is supported after the last layer only"
                    if operator.kind in TAIL
                    else "no such operator is supported"
                )
            if len(operator.outputs) != 1 or operator.outputs[0] < 0 or not operator.inputs:
                raise ValueError("inputs and one output must be there")
            if operator.outputs[0] in self.values:
                raise ValueError("its output is computed twice")
            if self.file.tensors[operator.outputs[0]].data is not None:
                raise ValueError("its output is a constant")
            value: Value | None = methods[operator.kind](name, operator)
        except UnknownError:
            value = self.guess(operator)
        except ValueError as error:
            self.unsupported.add(self.label(index, operator), error)
            value = self.guess(operator)
        for output in operator.outputs:
            self.values[output] = value

    def guess(self, operator: TfliteOperator) -> Value | None:
        """Return the output of what is not supported, so that the rest can be looked at."""
        try:
            return Value(self.define(operator.outputs[0]))
        except (ValueError, IndexError):
            return None

    def define(self, index: int) -> Tensor:
        """Return a new tensor of the network."""
        tensor = self.file.tensors[index]
        scale, zero_point = quantization(tensor)
        if tensor.type != "INT8":
            raise ValueError(f"tensor {self.names[index]!r} must be INT8, not {tensor.type}")
        name = self.names[index]
        defined = Tensor(name, image_shape(tensor), LOW, HIGH, zero_point, scale)
        self.tensors[name] = defined
        return defined

    def value(self, operator: TfliteOperator, position: int = 0) -> Value:
        """Return an input, whose shape in the file must be that in the network."""
        index = operator.inputs[position] if position < len(operator.inputs) else -1
        value = self.lookup(index, position)
        shape = image_shape(self.file.tensors[index])
        if shape != value.shape:
            raise ValueError(
                f"its input is an image of {times(value.shape)} reshaped to {times(shape)}, "
                "supported before FULLY_CONNECTED only"
            )
        return value

    def lookup(self, index: int, position: int) -> Value:
        if index < 0:
            raise ValueError(f"input {position} is missing")
        if index not in self.values:
            tensor = self.file.tensors[index]
            reason = "is a constant" if tensor.data is not None else "is used before it is computed"
            raise ValueError(f"input {position} {self.names[index]!r} {reason}")
        value = self.values[index]
        if value is None:
            raise UnknownError
        return value

    def constant(self, operator: TfliteOperator, position: int, *types: str) -> TfliteTensor:
        """Return an input that must be a constant."""
        index = operator.inputs[position] if position < len(operator.inputs) else -1
        if index < 0:
            raise ValueError(f"input {position} is missing")
        tensor = self.file.tensors[index]
        if tensor.data is None or tensor.type not in types:
            found = "" if tensor.data is None else f" {tensor.type}"
            raise ValueError(
                f"input {position} {self.names[index]!r} must be a constant of "
                f"{' or '.join(types)}, not {'a variable' if not found else found.strip()}"
            )
        return tensor

    def output(self, operator: TfliteOperator, shape: tuple[int, int, int]) -> Tensor:
        """Return the output, which must have this shape."""
        tensor = self.define(operator.outputs[0])
        if tensor.shape != shape:
            raise ValueError(
                f"its output must be of shape {times(shape)}, not {times(tensor.shape)}"
            )
        return tensor

    # Layers with weights.

    def conv(self, name: str, operator: TfliteOperator) -> Value:
        weights = self.weights(operator, 4, 0)
        assert weights.data is not None
        return self.convolve(name, operator, weights, weights.data)

    def depthwise(self, name: str, operator: TfliteOperator) -> Value:
        weights = self.weights(operator, 4, 3)
        assert weights.data is not None
        if weights.shape[0] != 1:
            raise ValueError(f"its weights have shape {list(weights.shape)}")
        return self.convolve(
            name, operator, weights, np.moveaxis(weights.data, 3, 0)[:, 0, ..., None]
        )

    def convolve(
        self, name: str, operator: TfliteOperator, weights: TfliteTensor, filters: npt.NDArray[Any]
    ) -> Value:
        value = self.value(operator)
        out, height, width, depth = filters.shape
        channels = value.tensor.shape[2]
        if channels % depth or out % (channels // depth):
            raise ValueError(
                f"filters of {depth} channels must divide {channels} channels into groups that "
                f"divide {out} channels"
            )
        kernel, stride = (height, width), pair(operator, "StrideH", "StrideW")
        dilation = pair(operator, "DilationHFactor", "DilationWFactor")
        padding, size = window(operator, value.size, kernel, stride, dilation)
        output = self.output(operator, (*size, out))
        if weights.zero_points.any():
            raise ValueError(f"the zero points of weights {weights.name!r} must be 0")
        integers = filters.astype(np.int64)
        bias, sums = self.bias(operator, value, integers)
        scale = value.tensor.scale
        factors = [scale * float(s) / output.scale for s in weights.scales]
        operation = Conv(
            name,
            (value.tensor.name,),
            output.name,
            fixed_point(operator, output, factors, sums),
            integers,
            bias,
            stride,
            add_padding(padding, value.padding),
            dilation,
            groups=channels // depth,
        )
        self.operations.append(operation)
        return Value(output)

    def fully_connected(self, name: str, operator: TfliteOperator) -> Value:
        value = self.lookup(operator.inputs[0], 0)
        image = value.bare()
        weights = self.weights(operator, 2, 0)
        assert weights.data is not None
        if operator.options.get("WeightsFormat", 0):
            raise ValueError("its weights must be in the default format")
        out, depth = weights.shape
        if depth == math.prod(image.shape):
            filters, shape = weights.data.reshape(out, *image.shape), (1, 1, out)
        else:
            filters, shape = weights.data[:, None, None], (*image.shape[:2], out)
            if depth != self.value(operator).shape[2]:
                raise ValueError(f"{depth} weights of an output must match {times(image.shape)}")
        output = self.output(operator, shape)
        if weights.scales.size > 1 and weights.zero_points.any():
            raise ValueError(f"the zero points of weights {weights.name!r} must be 0")
        integers = filters.astype(np.int64) - weights.zero_points[0]
        bias, sums = self.bias(operator, value, integers)
        factors = image.scale * weights.scales.astype(np.float64) / output.scale
        requantize = double_precision(factors, output, activation_range(operator, output), sums)
        self.operations.append(Conv(name, (image.name,), output.name, requantize, integers, bias))
        return Value(output)

    def weights(self, operator: TfliteOperator, rank: int, axis: int) -> TfliteTensor:
        """Return weights with usable scales: one, or one for each place on an axis."""
        weights = self.constant(operator, 1, "INT8")
        scales = weights.scales
        if len(weights.shape) != rank:
            raise ValueError(f"its weights must have {rank} dimensions, not {len(weights.shape)}")
        if scales.size != 1 and (scales.size != weights.shape[axis] or weights.axis != axis):
            raise ValueError(
                f"its weights must have one scale, or {weights.shape[axis]} on axis {axis}, "
                f"not {scales.size} on axis {weights.axis}"
            )
        if not (np.isfinite(scales) & (scales > 0)).all():
            raise ValueError("the scales of its weights must be above 0 and finite")
        return weights

    def bias(
        self, operator: TfliteOperator, value: Value, weights: IntArray
    ) -> tuple[IntArray, IntArray]:
        """Return the bias, and the least and the greatest sum of each channel."""
        bias = np.zeros(len(weights), np.int64)
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            found = self.constant(operator, 2, "INT32").data
            assert found is not None
            if found.size != bias.size:
                raise ValueError(f"its bias must be of {bias.size} integers, not {found.size}")
            bias = found.astype(np.int64).reshape(-1)
        least, most = LOW - value.tensor.zero_point, HIGH - value.tensor.zero_point
        up = weights.clip(0).sum(axis=(1, 2, 3))
        down = weights.clip(None, 0).sum(axis=(1, 2, 3))
        return bias, np.stack([bias + most * down + least * up, bias + most * up + least * down])

    # Layers without.

    def add(self, name: str, operator: TfliteOperator) -> Value:
        left, right = (self.value(operator, i).bare() for i in range(2))
        if left.shape != right.shape:
            raise ValueError(
                f"both inputs must have one shape, not {times(left.shape)} and {times(right.shape)}"
            )
        output = self.output(operator, left.shape)
        twice = 2 * max(left.scale, right.scale)
        rescale = []
        for tensor in (left, right):
            multipliers, shifts = quantize_multiplier([tensor.scale / twice])
            if not multipliers[0]:
                raise ValueError(f"scales {left.scale} and {right.scale} are too far apart")
            rescale.append(Rescale(20, int(multipliers[0]), int(shifts[0])))
        factor = twice / (2**20 * output.scale)
        if factor >= 1:
            raise ValueError(f"scales {twice / 2} and {output.scale} are too far apart")
        sums = np.array([[-1 << 29], [1 << 29]])  # twice 8 bits and a sign, shifted by 20 - 1
        requantize = fixed_point(operator, output, [factor], sums)
        self.operations.append(
            Add(name, (left.name, right.name), output.name, requantize, tuple(rescale))
        )
        return Value(output)

    def quantize(self, name: str, operator: TfliteOperator) -> Value:
        tensor = self.value(operator).bare()
        output = self.output(operator, tensor.shape)
        return self.rescale(name, operator, tensor, output, tensor.scale / output.scale)

    def relu(self, name: str, operator: TfliteOperator) -> Value:
        tensor = self.value(operator).bare()
        output = self.output(operator, tensor.shape)
        operator = replace(operator, options={"FusedActivationFunction": RELUS[operator.kind]})
        # The kernel divides the scales in single precision.
        with np.errstate(over="ignore", under="ignore"):
            factor = float(np.float32(tensor.scale) / np.float32(output.scale))
        return self.rescale(name, operator, tensor, output, factor)

    def rescale(
        self, name: str, operator: TfliteOperator, tensor: Tensor, output: Tensor, factor: float
    ) -> Value:
        """Add a change of scale."""
        sums = np.array([[LOW - HIGH], [HIGH - LOW]])
        requantize = fixed_point(operator, output, [factor], sums)
        self.operations.append(Add(name, (tensor.name,), output.name, requantize, (Rescale(0),)))
        return Value(output)

    def average_pool(self, name: str, operator: TfliteOperator) -> Value:
        value, kernel, stride, padding, output = self.pool(operator)
        if any(padding):
            raise ValueError("an average must not reach beyond its input (padding SAME)")
        found = division_multiplier(math.prod(kernel), LOW, HIGH)
        if found is None:
            raise ValueError(f"an average over {times(kernel)} has no exact multiplier")
        low, high = activation_range(operator, output)
        requantize = FixedPoint(np.array(found[:1]), np.array(found[1:]), 0, low, high)
        return self.pooled(
            Pool(
                name,
                (value.tensor.name,),
                output.name,
                requantize,
                "sum",
                kernel,
                stride,
                value.padding,
            )
        )

    def max_pool(self, name: str, operator: TfliteOperator) -> Value:
        value, kernel, stride, padding, output = self.pool(operator)
        around = add_padding(padding, value.padding)
        if any(value.padding):
            # Zero points around it count as values; they do nothing where they are the least.
            if value.tensor.zero_point != LOW:
                raise ValueError(f"a PAD before a maximum needs a zero point of {LOW}")
            if max(around[::2]) >= kernel[0] or max(around[1::2]) >= kernel[1]:
                raise ValueError("a PAD before a maximum must be narrower than its window")
        requantize = FixedPoint(*IDENTITY, 0, *activation_range(operator, output))
        return self.pooled(
            Pool(name, (value.tensor.name,), output.name, requantize, "max", kernel, stride, around)
        )

    def pool(
        self, operator: TfliteOperator
    ) -> tuple[Value, tuple[int, int], tuple[int, int], Padding, Tensor]:
        """Return input, kernel, stride, padding and output of a pool."""
        value = self.value(operator)
        kernel = pair(operator, "FilterHeight", "FilterWidth")
        stride = pair(operator, "StrideH", "StrideW")
        padding, size = window(operator, value.size, kernel, stride, (1, 1))
        output = self.output(operator, (*size, value.tensor.shape[2]))
        _same_scale(value.tensor, output)
        return value, kernel, stride, padding, output

    def mean(self, name: str, operator: TfliteOperator) -> Value:
        tensor = self.value(operator).bare()
        height, width, channels = tensor.shape
        rank = len(self.file.tensors[operator.inputs[0]].shape)
        axes = self.constant(operator, 1, "INT32").data
        assert axes is not None
        if {int(axis) % rank for axis in axes.reshape(-1)} != set(range(1, rank - 1)):
            raise ValueError(f"a mean must be over height and width, not axes {axes.tolist()}")
        output = self.output(operator, (1, 1, channels))
        # The kernel divides the multiplier, rounding down, after making room by a left shift.
        count = height * width
        multipliers, shifts = quantize_multiplier([tensor.scale / output.scale])
        room = min(count.bit_length() - 1, 31 + int(shifts[0]))
        multiplier = np.array([(int(multipliers[0]) << room) // count])
        bias = -tensor.zero_point * count
        sums = np.array([[LOW * count + bias], [HIGH * count + bias]])
        requantize = FixedPoint(
            multiplier, shifts - room, output.zero_point, *activation_range(operator, output)
        )
        check_sums(sums, requantize)
        kernel = (height, width)
        return self.pooled(
            Pool(name, (tensor.name,), output.name, requantize, "sum", kernel, (1, 1), bias=bias)
        )

    def pooled(self, pool: Pool) -> Value:
        self.operations.append(pool)
        return Value(self.tensors[pool.output])

    # What only changes how a tensor is seen.

    def pad(self, _: str, operator: TfliteOperator) -> Value:
        value = self.value(operator)
        amounts = self.constant(operator, 1, "INT32", "INT64").data
        assert amounts is not None
        if amounts.shape != (4, 2) or amounts[[0, 3]].any() or amounts.min() < 0:
            raise ValueError(f"padding must be of height and width, not {amounts.tolist()}")
        (top, bottom), (left, right) = amounts[1:3].tolist()
        padded = replace(value, padding=add_padding(value.padding, (top, left, bottom, right)))
        target = self.file.tensors[operator.outputs[0]]
        if image_shape(target) != padded.shape:
            raise ValueError(f"its output must be of shape {times(padded.shape)}")
        if quantization(target) != (value.tensor.scale, value.tensor.zero_point):
            raise ValueError("a PAD must not change scale or zero point")
        return padded

    def reshape(self, _: str, operator: TfliteOperator) -> Value:
        value = self.lookup(operator.inputs[0], 0)
        source, target = (self.file.tensors[i[0]] for i in (operator.inputs, operator.outputs))
        check_same_size(source, target)
        sample_shape(target)
        if quantization(target) != (value.tensor.scale, value.tensor.zero_point):
            raise ValueError("a change of shape must not change scale or zero point")
        return value


def _same_scale(source: Tensor, target: Tensor) -> None:
    if source.zero_point != target.zero_point or abs(source.scale - target.scale) > 1e-6:
        raise ValueError("a pool must not change scale or zero point")
