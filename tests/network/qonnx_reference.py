"""An interpreter of QONNX graphs for tests: every node literally, in floating-point NumPy.

Written from the operators' definitions (ONNX, and fastmachinelearning/qonnx), and sharing nothing
with the importer. Also what builds small models.
"""

import itertools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GENERAL = "qonnx.custom_op.general"
CUSTOM = {"Quant", "IntQuant", "BipolarQuant", "FloatQuant", "Trunc", "MultiThreshold"}


class Builder:
    """A model that grows node by node."""

    def __init__(self, shape, domain=GENERAL, opset=13):
        self.shape, self.domain, self.opset = shape, domain, opset
        self.nodes, self.constants = [], {}
        self.count = itertools.count()

    def constant(self, value, dtype=np.float32):
        name = f"c{next(self.count)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def add(self, op, *inputs, **attributes):
        """Add a node; inputs that are no names become constants. Return its output's name."""
        names = [found if isinstance(found, str) else self.constant(found) for found in inputs]
        number = next(self.count)
        domain = self.domain if op in CUSTOM else ""
        out = f"t{number}"
        node = helper.make_node(op, names, [out], f"{op}_{number}", domain=domain, **attributes)
        self.nodes.append(node)
        return out

    def quant(self, x, scale, bits, signed=1, narrow=0, mode="ROUND", zero=0.0, op="Quant"):
        return self.add(
            op, x, scale, zero, float(bits), signed=signed, narrow=narrow, rounding_mode=mode
        )

    def reshape(self, x, shape):
        return self.add("Reshape", x, self.constant(shape, np.int64))

    def batch_norm(self, x, rng, channels, low=0.5, zero=True):
        gamma = rng.normal(size=channels)
        if zero:
            gamma[0] = 0
        mean = rng.normal(0, low, channels)
        variance = rng.random(channels) * low**2 + 0.1
        return self.add("BatchNormalization", x, gamma, rng.normal(size=channels), mean, variance)

    def model(self, output):
        graph = helper.make_graph(
            self.nodes,
            "test",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", self.opset)]
        if self.domain:
            opsets.append(helper.make_opsetid(self.domain, 1))
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def interpret(model, x, dtype=np.float64):
    """Return all tensors of one sample."""
    values = {init.name: numpy_helper.to_array(init) for init in model.graph.initializer}
    values = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in values.items()}
    values[model.graph.input[0].name] = x.astype(dtype)
    for node in model.graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        inputs = [values[name] if name else None for name in node.input]
        values[node.output[0]] = globals()[f"_{node.op_type.lower()}"](*inputs, **attributes)
    return values


_add, _sub, _mul, _div, _matmul = np.add, np.subtract, np.multiply, np.divide, np.matmul


def _round(x, mode):
    return {
        b"ROUND": np.round,
        b"HALF_EVEN": np.round,
        b"FLOOR": np.floor,
        b"CEIL": np.ceil,
        b"HALF_UP": lambda v: np.sign(v) * np.floor(abs(v) + 0.5),
        b"UP": lambda v: np.sign(v) * np.ceil(abs(v)),
    }[mode](x)


def _bounds(bits, signed, narrow):
    bits = int(bits)
    return (
        (-(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1 - narrow)
    )


def _quant(x, scale, zero, bits, signed=1, narrow=0, rounding_mode=b"ROUND"):
    if bits == 1 and signed:
        return np.where(x / scale >= 0, scale, -scale)
    low, high = _bounds(bits, signed, narrow)
    return (
        _round(np.minimum(np.maximum(x / scale + zero, low), high), rounding_mode) - zero
    ) * scale


_intquant = _quant


def _bipolarquant(x, scale):
    return np.where(x >= 0, scale, -scale)


def _floatquant(x, scale, exponent, mantissa, bias, limit, **_):
    """Return the nearest number of the minifloat by looking at all of them."""
    steps = 2 ** int(mantissa)
    least = 2.0 ** (1 - bias - mantissa)
    grid = {i * least for i in range(steps + 1)}
    for e in range(1, 2 ** int(exponent)):
        grid |= {(1 + m / steps) * 2.0 ** (e - bias) for m in range(steps)}
    grid = np.array(sorted(v for v in grid | {-v for v in grid} if abs(v) <= limit))
    return grid[abs((x / scale)[..., None] - grid).argmin(-1)] * scale


def _trunc(x, scale, zero, bits, *rest, rounding_mode=b"FLOOR", signed=1, narrow=0):
    y = np.round(x / scale + zero)
    if len(rest) == 1:
        y = _round(y / 2 ** (bits - rest[0]), rounding_mode)
        return (y - zero) * scale
    out_scale, out_bits = rest
    divisor = 2 ** np.round(np.log2(out_scale / scale))
    y = np.clip(y / divisor, *_bounds(out_bits, signed, narrow))
    return (_round(y, rounding_mode) - zero / divisor) * out_scale


def _multithreshold(x, thresholds, out_scale=1.0, out_bias=0.0, data_layout=b"NCHW", **_):
    axis = data_layout.index(b"C")
    moved = np.moveaxis(x, axis, -1)
    count = (moved[..., None] >= thresholds).sum(-1)
    return np.moveaxis(count * out_scale + out_bias, -1, axis).astype(x.dtype)


def _batchnormalization(x, gamma, beta, mean, variance, epsilon=1e-5, **_):
    shape = (-1,) + (1,) * (x.ndim - 2)
    gamma, beta, mean, variance = (p.reshape(shape) for p in (gamma, beta, mean, variance))
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


def _relu(x):
    return np.maximum(x, 0)


def _clip(x, low, high):
    return np.clip(x, low, high)


def _tanh(x):
    return np.tanh(x)


def _leakyrelu(x, alpha):
    return np.where(x < 0, alpha * x, x)


def _identity(x):
    return x


def _transpose(x, perm):
    return x.transpose(perm)


def _flatten(x, axis=1):
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def _reshape(x, shape):
    return x.reshape(shape)


def _gemm(a, b, c=0.0, alpha=1.0, beta=1.0, transB=0):
    return alpha * (a @ (b.T if transB else b)) + beta * c


def _windows(x, kernel, strides, pads, fill, dilations=(1, 1)):
    pads = tuple(pads or (0, 0, 0, 0))
    top, left, bottom, right = pads
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    height, width = ((n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, strides, strict=True))
    out = np.empty((*x.shape[:2], height, width, *kernel), x.dtype)
    for i, j in itertools.product(range(height), range(width)):
        a, b = i * strides[0], j * strides[1]
        out[:, :, i, j] = x[:, :, a : a + reach[0] : dilations[0], b : b + reach[1] : dilations[1]]
    return out


def _conv(x, w, b=None, strides=(1, 1), pads=None, group=1, dilations=(1, 1), **_):
    found = _windows(x, w.shape[2:], strides, pads, 0, dilations)
    inputs, outputs = w.shape[1], len(w) // group
    parts = [
        np.einsum(
            "ncijkl,ockl->noij",
            found[:, g * inputs : (g + 1) * inputs],
            w[g * outputs : (g + 1) * outputs],
        )
        for g in range(group)
    ]
    out = np.concatenate(parts, axis=1)
    return out if b is None else out + b.reshape(-1, 1, 1)


def _maxpool(x, kernel_shape, strides=(1, 1), pads=None, **_):
    return _windows(x, kernel_shape, strides, pads, -np.inf).max((-2, -1))


def _averagepool(x, kernel_shape, strides=(1, 1), pads=None, **_):
    return _windows(x, kernel_shape, strides, pads, 0).mean((-2, -1))


def _globalaveragepool(x):
    return x.mean((2, 3), keepdims=True)


def _softmax(x, axis=-1):
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def run_qonnx(model, x):
    """Return all tensors of one sample as the `qonnx` package computes them."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if node.op_type in CUSTOM:
            node.domain = GENERAL
    wrapper = ModelWrapper(copy).transform(InferShapes())
    wrapper.check_all_tensor_shapes_specified(fix_missing_init_shape=True)
    constants = {init.name for init in copy.graph.initializer}
    name = next(value.name for value in copy.graph.input if value.name not in constants)
    return execute_onnx(wrapper, {name: x}, return_full_exec_context=True)
