"""What a TFLite model does on the host: before its first and after its last integer tensor."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.errors import UserError

from .multiplier import quantize_multiplier
from .requantize import FixedPoint
from .softmax import softmax
from .tflite_file import TfliteOperator, TfliteTensor

__all__ = ["Step", "check_batch", "check_type", "host_step", "quantization"]

Array = npt.NDArray[Any]
#: From a batch to a batch; 8-bit tensors are int64 here.
Step = Callable[[Array], Array]

#: Types of tensors at the border, and what NumPy calls them.
DTYPES = {"FLOAT32": np.float32, "INT8": np.int8, "UINT8": np.uint8}
RANGES = {"INT8": (-128, 127), "UINT8": (0, 255)}


def quantization(tensor: TfliteTensor) -> tuple[float, int]:
    """Return scale and zero point of an 8-bit activation.

    Raises
    ------
    ValueError
        If the tensor is not one.
    """
    name = tensor.name
    if tensor.type not in RANGES:
        raise ValueError(f"tensor {name!r} must be INT8, not {tensor.type}")
    if tensor.scales.size != 1:
        raise ValueError(f"tensor {name!r} must have one scale, not {tensor.scales.size}")
    scale, zero_point = float(tensor.scales[0]), int(tensor.zero_points[0])
    if not 0 < scale < float("inf"):
        raise ValueError(f"the scale of tensor {name!r} must be above 0 and finite, not {scale}")
    low, high = RANGES[tensor.type]
    if not low <= zero_point <= high:
        raise ValueError(
            f"the zero point of tensor {name!r} must be {low} to {high}, not {zero_point}"
        )
    return scale, zero_point


def check_type(tensor: TfliteTensor) -> None:
    """Raise ValueError if the type of an input or output is not one of :data:`DTYPES`."""
    if tensor.type not in DTYPES:
        raise ValueError(f"tensor {tensor.name!r} must be {' or '.join(DTYPES)}, not {tensor.type}")


def check_batch(tensor: TfliteTensor) -> Step:
    """Return the check of a batch of inputs, which it returns with 8-bit integers as int64.

    Raises
    ------
    ValueError
        If the tensor's type is not one of :data:`DTYPES`.
    """
    check_type(tensor)
    dtype, shape = np.dtype(DTYPES[tensor.type]), tensor.shape[1:]

    def check(batch: Array) -> Array:
        if batch.dtype != dtype or batch.ndim < 1 or batch.shape[1:] != shape:
            wanted = ", ".join(("batch", *map(str, shape)))
            raise UserError(
                f"inputs must be {dtype} of shape ({wanted}), "
                f"not {batch.dtype} of shape ({', '.join(map(str, batch.shape))})"
            )
        if tensor.type != "FLOAT32":
            return batch.astype(np.int64)
        if not np.isfinite(batch).all():
            raise UserError("inputs must be finite, not NaN or infinite")
        return batch

    return check


def host_step(operator: TfliteOperator, source: TfliteTensor, target: TfliteTensor) -> Step:
    """Return what an operator computes, exactly as TFLite's reference kernel.

    Raises
    ------
    ValueError
        With the reason, if it is not supported.
    """
    match operator.kind:
        case "SOFTMAX":
            return _softmax(operator, source, target)
        case "DEQUANTIZE":
            return _dequantize(source, target)
        case "QUANTIZE":
            return _quantize(target) if source.type == "FLOAT32" else _rescale(source, target)
        case _:  # a change of shape
            return lambda batch: batch.reshape(len(batch), *target.shape[1:])


def _softmax(operator: TfliteOperator, source: TfliteTensor, target: TfliteTensor) -> Step:
    scale, _ = quantization(source)
    beta = float(operator.options.get("Beta", 0))
    if (source.type, target.type, *quantization(target)) != ("INT8", "INT8", 1 / 256, -128):
        raise ValueError("a softmax must be from INT8 to INT8 of scale 1/256 and zero point -128")
    if source.shape[-1] >= 4096:
        raise ValueError(f"a softmax must be of fewer than 4096 classes, not {source.shape[-1]}")
    softmax(np.zeros((1, 1), np.int64), scale, beta)  # refuses factors that do not work
    return lambda batch: softmax(batch, scale, beta)


def _dequantize(source: TfliteTensor, target: TfliteTensor) -> Step:
    scale, zero_point = quantization(source)
    if target.type != "FLOAT32":
        raise ValueError(f"tensor {target.name!r} must be FLOAT32, not {target.type}")
    return lambda batch: (scale * (batch - zero_point)).astype(np.float32)


def _quantize(target: TfliteTensor) -> Step:
    scale, zero_point = quantization(target)
    low, high = RANGES[target.type]

    def quantize(batch: Array) -> Array:
        # The kernel divides in float32 and rounds ties away from zero. Where the quotient leaves
        # 32 bits its result depends on the processor; here it saturates.
        with np.errstate(over="ignore"):
            codes = (batch / np.float32(scale)).clip(-1024, 1024).astype(np.float64)
        rounded = np.trunc(codes + np.copysign(0.5, codes)).astype(np.int64)
        return (rounded + zero_point).clip(low, high)

    return quantize


def _rescale(source: TfliteTensor, target: TfliteTensor) -> Step:
    scale, zero_point = quantization(source)
    target_scale, target_zero = quantization(target)
    requantize = FixedPoint(
        *quantize_multiplier([scale / target_scale]), target_zero, *RANGES[target.type]
    )
    if requantize.shift[0] > 22:
        raise ValueError(f"scales of {source.name!r} and {target.name!r} are too far apart")
    return lambda batch: requantize.apply(batch - zero_point)
