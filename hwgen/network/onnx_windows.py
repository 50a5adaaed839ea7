"""Windows of ONNX's convolutions and pools: kernel, stride, padding, dilation."""

from dataclasses import dataclass

from hwgen.errors import UserError

from .onnx_file import Node

__all__ = ["Window", "window"]


@dataclass(frozen=True)
class Window:
    """A window that slides over an image.

    Attributes
    ----------
    kernel, stride, dilation : (vertical, horizontal)
    padding : (top, left, bottom, right)
    out : (height, width)
        Of the result.
    grown : bool
        Whether ``padding`` includes what ``ceil_mode`` adds.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    out: tuple[int, int]
    grown: bool


def window(node: Node, kernel: tuple[int, ...], image: tuple[int, int]) -> Window:
    """Return the window of a node over an image of (height, width).

    Source: ONNX's operator documentation of ``Conv``, ``MaxPool`` and ``AveragePool``.

    Raises
    ------
    UserError
        If an attribute is out of range, or the window does not fit into the padded image.
    """
    strides = _pair(node, "strides", 1)
    dilations = _pair(node, "dilations", 1)
    pads = node.get("pads", [0, 0, 0, 0])
    if len(kernel) != 2 or min(kernel) < 1:
        raise UserError(f"the kernel of {node} must be two positive integers, not {list(kernel)}")
    if len(pads) != 4 or min(pads) < 0:
        raise UserError(f"pads of {node} must be four integers, 0 or more, not {list(pads)}")
    mode = node.get("auto_pad", "NOTSET")
    before, after, out = [], [], []
    grown = False
    for axis in range(2):
        size, stride = image[axis], strides[axis]
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        first, last = pads[axis], pads[axis + 2]
        if mode == "VALID":
            first = last = 0
        elif mode in ("SAME_UPPER", "SAME_LOWER"):
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
            first = total // 2 if mode == "SAME_UPPER" else total - total // 2
            last = total - first
        elif mode != "NOTSET":
            raise UserError(f"auto_pad of {node} must be one that ONNX knows, not {mode!r}")
        room = size + first + last - reach
        if room < 0:
            raise UserError(
                f"the kernel of {node}, {reach} long with dilation, must fit into the padded "
                f"image of {size + first + last}"
            )
        count = room // stride + 1
        # The last window of ceil_mode must begin within the image or the padding before it.
        if node.get("ceil_mode", 0) and room % stride and count * stride < size + first:
            last += stride - room % stride
            count += 1
            grown = True
        before.append(first)
        after.append(last)
        out.append(count)
    return Window(
        (kernel[0], kernel[1]),
        strides,
        dilations,
        (before[0], before[1], after[0], after[1]),
        (out[0], out[1]),
        grown,
    )


def _pair(node: Node, attribute: str, default: int) -> tuple[int, int]:
    found = node.get(attribute, [default, default])
    if len(found) != 2 or min(found) < 1:
        raise UserError(f"{attribute} of {node} must be two positive integers, not {list(found)}")
    return found[0], found[1]
