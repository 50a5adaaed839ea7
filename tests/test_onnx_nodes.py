"""The ONNX project's own node tests, through the generated INT8 hardware.

Inputs and expected outputs are those of the `onnx` package; nobody here wrote them. Its operands
are uint8 or int8 with zero points. The array multiplies int8; an operand ``x`` with zero point
``z`` is ``(x - shift) + (shift - z)``, ``shift`` being 128 for uint8, and the second parts are sums
of rows and columns (gemmlowp's way).
"""

import importlib
import warnings

import numpy as np
import pytest

from hwgen.config import ArrayConfig
from testbench.simulate import simulate

pytest.importorskip("onnx", reason="onnx is not installed")

INT8 = {
    dataflow: ArrayConfig.from_options({"pe": "int8", "rows": 3, "cols": 2, "dataflow": dataflow})
    for dataflow in ("ws", "os")
}


def cases(module: str):
    """Return the node tests of one of onnx's modules: name, node, inputs, outputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = importlib.import_module("onnx.backend.test.case.node")
        importlib.import_module(f"onnx.backend.test.case.node.{module}")  # this adds its cases
        found = [case for case in base._NodeTestCases if module in case.name]
    assert found, module
    return [
        pytest.param(case.model.graph.node[0], *case.data_sets[0], id=case.name) for case in found
    ]


def multiply(config, a, a_zero, w, w_zero):
    """Return ``(a - a_zero) @ (w - w_zero)`` with the product made by the array."""
    shifts = [128 if x.dtype == np.uint8 else 0 for x in (a, w)]
    a8, w8 = a.astype(np.int64) - shifts[0], w.astype(np.int64) - shifts[1]
    found = simulate(config, a8, w8)
    assert found.passed
    a_rest = shifts[0] - np.int64(a_zero)
    w_rest = shifts[1] - np.asarray(w_zero, dtype=np.int64)
    rows, cols = a8.sum(axis=1, keepdims=True), w8.sum(axis=0, keepdims=True)
    return found.result + a_rest * cols + w_rest * rows + a.shape[1] * a_rest * w_rest


def scalar(inputs, place):
    """Return a zero point, 0 if it is left out."""
    return inputs[place].item() if len(inputs) > place else 0


@pytest.mark.parametrize("dataflow", ["ws", "os"])
@pytest.mark.parametrize(("node", "inputs", "outputs"), cases("matmulinteger"))
def test_matmul_integer(node, inputs, outputs, dataflow):
    a, w = inputs[:2]
    got = multiply(INT8[dataflow], a, scalar(inputs, 2), w, scalar(inputs, 3))
    assert outputs[0].dtype == np.int32
    assert (got == outputs[0]).all()


@pytest.mark.parametrize("dataflow", ["ws", "os"])
@pytest.mark.parametrize(("node", "inputs", "outputs"), cases("qlinearmatmul"))
def test_qlinear_matmul(node, inputs, outputs, dataflow):
    a, a_scale, a_zero, w, w_scale, w_zero, y_scale, y_zero = inputs
    info = np.iinfo(outputs[0].dtype)
    for batch in np.ndindex(a.shape[:-2]):
        sums = multiply(INT8[dataflow], a[batch], a_zero.item(), w[batch], w_zero.item())
        # The operator's own requantization, in floating point.
        scale = a_scale.astype(np.float32) * w_scale.astype(np.float32) / y_scale.astype(np.float32)
        got = np.rint(sums.astype(np.float32) * scale) + y_zero.astype(np.float32)
        assert (got.clip(info.min, info.max).astype(outputs[0].dtype) == outputs[0][batch]).all()


@pytest.mark.parametrize("dataflow", ["ws", "os"])
@pytest.mark.parametrize(("node", "inputs", "outputs"), cases("convinteger"))
def test_conv_integer_by_im2col(node, inputs, outputs, dataflow):
    x, w = inputs[:2]
    x_zero = scalar(inputs, 2)
    w_zero = inputs[3] if len(inputs) > 3 else np.zeros((), np.uint8)
    pads = next((list(a.ints) for a in node.attribute if a.name == "pads"), [0, 0, 0, 0])
    assert {a.name for a in node.attribute} <= {"pads"}
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=x_zero)
    kernel = w.shape[2:]
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(2, 3))
    batch, _, height, width = windows.shape[:4]
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(batch * height * width, -1)
    filters = w.reshape(len(w), -1).T
    got = multiply(INT8[dataflow], columns, x_zero, filters, w_zero)
    got = got.reshape(batch, height, width, -1).transpose(0, 3, 1, 2)
    assert (got == outputs[0]).all()
