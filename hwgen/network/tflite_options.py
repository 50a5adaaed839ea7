"""Options and shapes of TFLite's operators: windows, fused activations, images."""

import math

import numpy as np

from .graph import Tensor
from .multiplier import round_away
from .tflite_border import RANGES
from .tflite_file import TfliteOperator, TfliteTensor

__all__ = [
    "HIGH",
    "LOW",
    "Padding",
    "activation_range",
    "add_padding",
    "check_same_size",
    "image_shape",
    "pair",
    "sample_shape",
    "times",
    "window",
]

#: (top, left, bottom, right)
Padding = tuple[int, int, int, int]

LOW, HIGH = RANGES["INT8"]

#: A window that reaches further is a mistake, or an attack on this machine's memory.
MAX_REACH = 1 << 16

#: What TFLite's fused activation functions clamp real numbers to.
ACTIVATIONS = {
    0: (-math.inf, math.inf),
    1: (0.0, math.inf),
    2: (-1.0, 1.0),
    3: (0.0, 6.0),
}


def times(shape: tuple[int, ...]) -> str:
    """Return a shape as messages show it: ``8×8×3``."""
    return "×".join(map(str, shape))


def add_padding(a: Padding, b: Padding) -> Padding:
    """Return one padding around another."""
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3])


def sample_shape(tensor: TfliteTensor) -> tuple[int, ...]:
    """Return the shape of one sample."""
    if tensor.dynamic:
        raise ValueError(f"the shape of tensor {tensor.name!r} must be fixed, but for the batch")
    if not tensor.shape or tensor.shape[0] != 1:
        raise ValueError(
            f"the first dimension of tensor {tensor.name!r} must be a batch of 1, "
            f"not shape {list(tensor.shape)}"
        )
    return tensor.shape[1:]


def image_shape(tensor: TfliteTensor) -> tuple[int, int, int]:
    """Return height, width and channels of one sample."""
    sample = sample_shape(tensor)
    if not 1 <= len(sample) <= 3:
        raise ValueError(
            f"tensor {tensor.name!r} must have 2 to 4 dimensions, not {len(tensor.shape)}"
        )
    height, width, channels = (1,) * (3 - len(sample)) + sample
    return height, width, channels


def check_same_size(source: TfliteTensor, target: TfliteTensor) -> None:
    """Raise ValueError if two tensors differ in their number of elements."""
    if math.prod(source.shape) != math.prod(target.shape):
        raise ValueError(f"shapes {list(source.shape)} and {list(target.shape)} differ in size")


def pair(operator: TfliteOperator, vertical: str, horizontal: str) -> tuple[int, int]:
    """Return two options, which must be at least 1."""
    pair = (int(operator.options.get(vertical, 0)), int(operator.options.get(horizontal, 0)))
    if min(pair) < 1:
        raise ValueError(f"{vertical} and {horizontal} must be at least 1, not {pair}")
    return pair


def window(
    operator: TfliteOperator,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[Padding, tuple[int, int]]:
    """Return padding and size of the output; SAME has the odd place at the end."""
    same = not operator.options.get("Padding", 0)
    if operator.options.get("Padding", 0) not in (0, 1):
        raise ValueError("padding must be SAME or VALID")
    before, after, out = [], [], []
    for axis in range(2):
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        if reach > MAX_REACH:
            raise ValueError(f"a window must reach over at most {MAX_REACH} places, not {reach}")
        if same:
            count = -(-size[axis] // stride[axis])
            total = max((count - 1) * stride[axis] + reach - size[axis], 0)
        else:
            total = 0
            count = (size[axis] - reach) // stride[axis] + 1
            if count < 1:
                raise ValueError(f"a window of {reach} must fit {size[axis]} places")
        before.append(total // 2)
        after.append(total - total // 2)
        out.append(count)
    return (before[0], before[1], after[0], after[1]), (out[0], out[1])


def activation_range(operator: TfliteOperator, output: Tensor) -> tuple[int, int]:
    """Return the least and greatest code that a fused activation leaves."""
    number = operator.options.get("FusedActivationFunction", 0)
    if number not in ACTIVATIONS:
        raise ValueError(f"fused activation function {number} is not supported")
    bounds = [LOW, HIGH]
    for place, bound in enumerate(ACTIVATIONS[int(number)]):
        if math.isfinite(bound):
            # The kernel divides in single precision, and rounds ties away from zero.
            with np.errstate(over="ignore", under="ignore"):
                exact = np.float32(bound) / np.float32(output.scale)
            code = int(round_away(exact.astype(np.float64).clip(-1024, 1024)))
            bounds[place] = min(max(LOW, output.zero_point + code), HIGH)
    return bounds[0], bounds[1]
