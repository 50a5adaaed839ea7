"""Quantized ONNX networks against ONNX Runtime and the ONNX project's node tests."""

import importlib
import warnings

import numpy as np
import pytest

from hwgen.errors import UserError
from testbench.golden_network import run_network, run_operation

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from hwgen.network.graph import Add, Conv, Pool, Rescale  # noqa: E402
from hwgen.network.onnx_file import INTEGER_RANGES, OnnxGraph  # noqa: E402
from hwgen.network.onnx_qdq import read_qdq  # noqa: E402
from hwgen.network.onnx_values import Grid  # noqa: E402
from hwgen.network.requantize import FixedPoint, RoundingShift, Thresholds  # noqa: E402

MICROSOFT = "com.microsoft"


class Graph:
    """A model in the making: `g("Conv", x, w, strides=[2, 2])` adds a node and names its output."""

    def __init__(self, shape, kind=TensorProto.FLOAT, opset=21):
        self.nodes, self.constants, self.opset = [], [], opset
        self.inputs = [helper.make_tensor_value_info("x", kind, shape)]

    def __call__(self, op, *inputs, domain="", name="", **attributes):
        output = name or f"{op.lower()}{len(self.nodes)}"
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        node = helper.make_node(op, names, [output], f"{output}_node", domain=domain, **attributes)
        self.nodes.append(node)
        return output

    def constant(self, value, kind=None):
        name = f"constant{len(self.constants)}"
        if kind is None:
            tensor = numpy_helper.from_array(np.asarray(value), name)
        else:  # 4 bits
            value = np.asarray(value)
            tensor = helper.make_tensor(name, kind, value.shape, value.ravel().tolist())
        self.constants.append(tensor)
        return name

    def quantize(self, x, scale, zero):
        return self("QuantizeLinear", x, np.float32(scale), zero)

    def dequantize(self, x, scale, zero, **attributes):
        return self("DequantizeLinear", x, np.float32(scale), zero, **attributes)

    def grid(self, x, scale, zero):
        """Quantize and dequantize."""
        return self.dequantize(self.quantize(x, scale, zero), scale, zero)

    def weights(self, integers, scale, zero=None, axis=0):
        zero = np.zeros(np.shape(scale), np.asarray(integers).dtype) if zero is None else zero
        return self.dequantize(integers, scale, zero, axis=axis)

    def model(self, output, kind=TensorProto.FLOAT, shape=None):
        outputs = [helper.make_tensor_value_info(output, kind, shape)]
        graph = helper.make_graph(self.nodes, "g", self.inputs, outputs, self.constants)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def read(model):
    return read_qdq(OnnxGraph(model, "model"))


def ours(network, inputs):
    return network.decode(run_network(network, network.encode(inputs))[network.output])


def runtime(model, inputs, outputs=None):
    """Return ONNX Runtime's outputs for a batch, sample by sample, operators one by one."""
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options)
    name = session.get_inputs()[0].name
    found = [session.run(outputs, {name: inputs[i : i + 1]}) for i in range(len(inputs))]
    return [np.concatenate(values) for values in zip(*found, strict=True)]


def images(shape, seed=0, spread=1.5, count=6):
    return np.random.default_rng(seed).normal(0, spread, (count, *shape)).astype(np.float32)


def integers(*shape, low=-127, high=128, dtype=np.int8, seed=0):
    return np.random.default_rng([seed, *shape]).integers(low, high, shape).astype(dtype)


I8, U8 = np.int8, np.uint8


# Networks that others made.


def per_layer(network, model, inputs, kind=TensorProto.INT8):
    """Run each operation on the runtime's own operands; return its differences from the runtime."""
    names = [operation.output for operation in network.operations]
    for name in names:
        model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    found = dict(zip(names, runtime(model, inputs, names), strict=True))
    values = {network.input: network.encode(inputs)}
    for name, value in found.items():
        value = value.transpose(0, 2, 3, 1) if value.ndim == 4 else value
        offset = 128 if value.dtype == np.uint8 else 0
        values[name] = value.astype(np.int64).reshape(-1, *network.tensors[name].shape) - offset
    for operation in network.operations:
        operands = [values[name] for name in operation.inputs]
        tensors = [network.tensors[name] for name in operation.inputs]
        yield operation, run_operation(operation, operands, tensors) - values[operation.output]


@pytest.mark.parametrize("name", ["kws_qdq_int8", "kws_qdq_pertensor_int8", "kws_qoperator_int8"])
def test_keyword_spotting_equals_onnx_runtime_layer_by_layer(name, model_path):
    # ONNX Runtime sums and scales in single precision: a result within some 2**-15 of a tie between
    # two codes may go to the other one. That is 1 in some 10**5, and never by more than one code.
    path = model_path(f"{name}.onnx")
    inputs = images((49, 10, 1), spread=40.0, count=10)
    network = read_qdq(OnnxGraph.load(path))
    assert [type(o) for o in network.operations] == [Conv] * 9 + [Pool, Conv]
    wrong = total = 0
    for operation, difference in per_layer(network, onnx.load(path), inputs):
        assert abs(difference).max() <= 1, operation.name
        wrong += np.count_nonzero(difference)
        total += difference.size
    assert total == 360_440
    assert wrong <= 10, wrong  # measured: 0 to 4


@pytest.mark.parametrize("name", ["kws_qdq_int8", "kws_qdq_pertensor_int8", "kws_qoperator_int8"])
def test_keyword_spotting_as_a_whole(name, model_path):
    # A code that differs by 1 in an early layer can move a few outputs by a code or two.
    path = model_path(f"{name}.onnx")
    inputs = images((49, 10, 1), seed=1, spread=40.0, count=20)
    network = read_qdq(OnnxGraph.load(path))
    found, (wanted,) = ours(network, inputs), runtime(onnx.load(path), inputs)
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype == np.float32
    steps = np.rint((found - wanted) / network.tensors[network.output].scale)
    assert abs(steps).max() <= 3
    assert np.count_nonzero(steps.any(axis=1)) <= 4
    assert (found.argmax(axis=1) == wanted.argmax(axis=1)).mean() >= 0.95


# A network whose every scale is a power of two: shifts, and equal in every bit.


def shift_network(opset=21):
    g = Graph(["n", 3, 9, 8], opset=opset)
    x = g.grid("x", 2**-5, U8(120))
    scales = 2.0 ** np.array([-7, -8, -6, -7, -9, -7, -8, -7])
    w = g.weights(integers(8, 3, 3, 3), scales.astype(np.float32))
    bias = g.dequantize(
        integers(8, low=-900, high=900, dtype=np.int32),
        (scales * 2**-5).astype(np.float32),
        np.zeros(8, np.int32),
        axis=0,
    )
    a = g("Relu", g("Conv", x, w, bias, pads=[0, 1, 2, 1], strides=[2, 1]))
    a = g.grid(a, 2**-3, I8(-128))
    w = g.weights(integers(8, 1, 3, 3, seed=1), np.float32(2**-8), I8(3))
    b = g("Conv", a, w, group=8, auto_pad="SAME_LOWER", dilations=[1, 1])
    b = g.grid(g("Clip", b, np.float32(-2), np.float32(6)), 2**-3, I8(5))
    c = g.grid(g("Add", a, b), 2**-2, I8(-10))
    c = g.grid(g("MaxPool", c, kernel_shape=[2, 2], pads=[0, 0, 1, 1]), 2**-2, I8(-10))
    w = g.weights(integers(6, 4, 2, 1, seed=2), np.float32(2**-6))
    c = g.grid(g("Conv", c, w, group=2, dilations=[2, 1]), 2**-1, I8(7))
    c = g.grid(g("AveragePool", c, kernel_shape=[2, 2], strides=[1, 2]), 2**-2, I8(0))
    c = g("Flatten", c)
    w = g.weights(integers(48, 10, seed=3), np.full(10, 2**-9, np.float32), axis=1)
    y = g("MatMul", c, w)
    y = g("Add", y, np.linspace(-2, 2, 10).astype(np.float32).round(0))
    y = g.quantize(y, 2**-1, U8(100))
    return g, y


def test_power_of_two_scales_are_exact():
    g, y = shift_network()
    model = g.model(y, TensorProto.UINT8)
    network = read(model)
    assert all(isinstance(o.requantize, RoundingShift) for o in network.operations)
    assert [type(o) for o in network.operations] == [Conv, Conv, Add, Pool, Conv, Pool, Conv]
    inputs = images((3, 9, 8), spread=2.0, count=40)
    found, (wanted,) = ours(network, inputs), runtime(model, inputs)
    assert found.dtype == wanted.dtype == np.uint8
    assert 5 < wanted.std() < 100  # neither constant nor clamped
    assert (found == wanted).all()


def test_power_of_two_scales_dequantized_softmax_tail():
    g, y = shift_network()
    y = g("Softmax", g.dequantize(y, 2**-4, U8(100)))
    inputs = images((3, 9, 8), count=5)
    for output, tolerance in ((y, 1e-6), (g.grid(y, 2**-8, U8(0)), 2**-8)):
        model = g.model(output)
        found, (wanted,) = ours(read(model), inputs), runtime(model, inputs)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


def test_host_prepares_the_input():
    g = Graph(["n", 5, 6, 3])
    x = g("Div", g("Sub", "x", np.float32([10, 20, 30])), np.float32([2, 4, 8]))
    x = g.grid(g("Transpose", x, perm=[0, 3, 1, 2]), 2**-4, I8(4))
    y = g.grid(g("Conv", x, g.weights(integers(4, 3, 2, 2), 2**-7)), 2**-2, I8(3))
    classes = g("ArgMax", g("Flatten", g("GlobalAveragePool", y)), axis=1, keepdims=0)
    inputs = images((5, 6, 3), spread=20.0)
    for output, kind in ((y, TensorProto.FLOAT), (classes, TensorProto.INT64)):
        model = g.model(output, kind)
        found, (wanted,) = ours(read(model), inputs), runtime(model, inputs)
        assert found.dtype == wanted.dtype
        assert (found == wanted).all()


def test_integers_enter_and_leave():
    g = Graph(["n", 4, 5, 5], TensorProto.UINT8)
    x = g.dequantize("x", 0.25, U8(7))
    y = g.quantize(g("Conv", x, g.weights(integers(2, 4, 3, 3), 2**-7)), 0.5, I8(-4))
    model = g.model(y, TensorProto.INT8)
    network = read(model)
    assert network.tensors["x"].zero_point == 7 - 128
    assert (network.tensors["x"].low, network.tensors["x"].high) == (-128, 127)
    inputs = integers(9, 4, 5, 5, low=0, high=256, dtype=U8)
    assert (ours(network, inputs) == runtime(model, inputs)[0]).all()
    for bad in (inputs.astype(np.float32), inputs.astype(np.int64) - 1, inputs[:, :3]):
        with pytest.raises(UserError, match="inputs for 'x' must"):
            network.encode(bad)


def test_channels_last_input_is_transposed_by_the_host():
    g = Graph(["n", 5, 6, 3])
    x = g.grid("x", 2**-5, I8(4))
    x = g("Transpose", x, perm=[0, 3, 1, 2])
    y = g("Conv", x, g.weights(integers(4, 3, 3, 3), 2**-7))
    y = g.grid(g("Transpose", y, perm=[0, 2, 3, 1]), 2**-2, I8(3))
    model = g.model(y)
    network = read(model)
    assert network.tensors[network.input].shape == (5, 6, 3)
    inputs = images((5, 6, 3))
    found = ours(network, inputs)
    assert found.shape == (6, 3, 4, 4)
    assert (found == runtime(model, inputs)[0]).all()


def test_product_along_the_last_axis_of_a_sequence():
    g = Graph(["n", 7, 12])
    x = g.grid("x", 2**-5, I8(4))
    y = g.grid(g("MatMul", x, g.weights(integers(12, 5), 2**-7)), 2**-3, I8(1))
    y = g.grid(g("MatMul", y, g.weights(integers(5, 3), 2**-7)), 2**-3, I8(0))
    model = g.model(y)
    inputs = images((7, 12))
    assert (ours(read(model), inputs) == runtime(model, inputs)[0]).all()


@pytest.mark.parametrize("relu", ["Relu", "Clip"])
def test_clamp_after_a_quantizer_costs_no_operation(relu):
    g = Graph(["n", 6])
    x = g.grid("x", 2**-5, I8(0))
    y = g.grid(g("Gemm", x, g.weights(integers(6, 4), 2**-7)), 2**-4, I8(-5))
    limits = [np.float32(-1), np.float32(2)] if relu == "Clip" else []
    y = g.grid(g(relu, y, *limits), 2**-4, I8(-5))
    model = g.model(y)
    network = read(model)
    assert [type(o) for o in network.operations] == [Conv]
    inputs = images((6,), spread=4.0)
    assert (ours(network, inputs) == runtime(model, inputs)[0]).all()


def test_change_of_scale_is_an_operation():
    g = Graph(["n", 6])
    x = g.grid("x", 2**-5, I8(0))
    model = g.model(g.grid(x, 2**-3, I8(9)))
    network = read(model)
    assert [type(o) for o in network.operations] == [Add]
    inputs = images((6,), spread=4.0)
    assert (ours(network, inputs) == runtime(model, inputs)[0]).all()


# Scales that are no powers of two: within one code, and rarely.


def nearly_equal(model, inputs, most=0.002):
    """Assert that at most a share of outputs differs from the runtime's, by one code each."""
    network = read(model)
    found, (wanted,) = ours(network, inputs), runtime(model, inputs)
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    assert np.unique(wanted).size > 3
    step = network.tensors[network.output].scale if wanted.dtype == np.float32 else 1
    steps = np.rint((found.astype(np.float64) - wanted) / step)
    assert abs(steps).max() <= 1
    assert np.count_nonzero(steps) <= most * steps.size, np.count_nonzero(steps)
    return network


def test_batch_normalization_is_folded():
    g = Graph(["n", 3, 8, 8])
    x = g.grid("x", 0.031, I8(3))
    w = g.weights(integers(6, 3, 3, 3), np.linspace(0.003, 0.01, 6, dtype="f4"))
    y = g("Conv", x, w, np.linspace(2, -3, 6, dtype="f4"))
    gamma = np.array([1.5, -0.7, 0.0, 0.3, -2.0, 1.0], np.float32)  # all signs
    rest = [np.float32(v) for v in (np.linspace(-1, 1, 6), np.linspace(0, 2, 6))]
    y = g("BatchNormalization", y, gamma, *rest, np.linspace(0.5, 2, 6, dtype="f4"))
    model = g.model(g.grid(g("Relu", y), 0.043, U8(0)))
    network = nearly_equal(model, images((3, 8, 8), count=20))
    assert isinstance(network.operations[0].requantize, FixedPoint)


@pytest.mark.parametrize("scales", [(0.0312, 0.0571, 0.0713), (0.0217, 0.31, 0.11), (0.05,) * 3])
@pytest.mark.parametrize("kind", [I8, U8, np.int16])
def test_residual_addition(scales, kind):
    first, second, out = (s if kind != np.int16 else s / 200 for s in scales)
    zero = kind(100 if kind == U8 else 0)
    g = Graph(["n", 4, 6, 6])
    x = g.grid("x", 0.0491 if kind != np.int16 else 0.000213, zero)
    a = g.grid(g("Conv", x, g.weights(integers(4, 4, 1, 1), 0.00617)), first, zero)
    b = g.grid(g("Conv", x, g.weights(integers(4, 4, 1, 1, seed=1), 0.00531)), second, zero)
    model = g.model(g.grid(g("Add", a, b), out, zero))
    network = read(model)
    assert network.operations[-1].rescale[0].left == {I8: 20, U8: 20, np.int16: 14}[kind] or (
        scales[0] == scales[1] and network.operations[-1].rescale == (Rescale(0), Rescale(0))
    )
    proto = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    for operation, difference in per_layer(network, model, images((4, 6, 6), count=20), proto):
        assert abs(difference).max() <= 1
        # 16-bit codes have fewer bits left below the tie in single precision.
        most = 40 if kind == np.int16 else 4
        assert np.count_nonzero(difference) <= most, (operation.name, np.count_nonzero(difference))


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("AveragePool", {"kernel_shape": [3, 2], "strides": [2, 2]}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        ("GlobalAveragePool", {}),
        ("ReduceMean", {"axes": [2, 3], "keepdims": 0}),
        ("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}),
        ("MaxPool", {"kernel_shape": [2, 3], "auto_pad": "SAME_UPPER"}),
    ],
)
def test_pools(op, attributes):
    g = Graph(["n", 4, 7, 6], opset=17)
    x = g.grid("x", 0.041, I8(-20))
    # Exact ties are what averages are made of; fixed point takes them upwards, ONNX to even.
    y = g.grid(g(op, x, **attributes), 0.0173, I8(-11))
    nearly_equal(g.model(y), images((4, 7, 6), count=20, spread=1.0), most=0.003)


def test_unquantized_output():
    g = Graph(["n", 20])
    x = g.grid("x", 0.031, I8(3))
    w = g.weights(integers(5, 20), np.linspace(0.003, 0.01, 5, dtype="f4"))
    y = g("Gemm", x, w, np.linspace(-1, 1, 5, dtype="f4"), transB=1, alpha=0.5, beta=2.0)
    model = g.model(g("Relu", y))
    network = read(model)
    assert network.operations[-1].requantize is None
    inputs = images((20,))
    np.testing.assert_allclose(
        ours(network, inputs), runtime(model, inputs)[0], rtol=1e-5, atol=1e-5
    )


def test_float_bias_is_noted():
    g = Graph(["n", 4])
    x = g.grid("x", 0.5, I8(0))
    y = g("Gemm", x, g.weights(integers(4, 4), 0.25), np.float32([0.04, 0.1, 3, -9]))
    network = read(g.model(g.grid(y, 1.1, I8(0))))
    assert len(network.notes) == 1
    assert "by up to 0.036 of an output's step (at 'gemm3_node')" in network.notes[0]


def test_weights_quantized_in_the_graph_and_narrowed_by_clip():
    # As Brevitas writes QCDQ: weights and activations of 3 and 2 bits within 8.
    g = Graph(["n", 10])
    x = g.quantize("x", 0.3, U8(0))
    x = g("Clip", x, U8(0), U8(7))
    x = g.dequantize(x, 0.3, U8(0))
    w = g.quantize(images((10,), seed=3, count=8), 0.4, I8(0))
    w = g.dequantize(g("Clip", w, I8(-3), I8(3)), 0.4, I8(0))
    y = g("MatMul", x, g("Transpose", w, perm=[1, 0]))
    y = g("Clip", g.quantize(g("Relu", y), 0.77, U8(0)), U8(0), U8(3))
    model = g.model(g.dequantize(y, 0.77, U8(0)))
    inputs = abs(images((10,), count=60))
    network = nearly_equal(model, inputs)
    tensors = network.tensors
    assert (tensors[network.input].low, tensors[network.input].high) == (0, 7)
    assert (tensors[network.output].low, tensors[network.output].high) == (0, 3)
    assert set(np.unique(network.operations[0].weights)) <= set(range(-3, 4))
    assert isinstance(network.operations[0].requantize, Thresholds)


@pytest.mark.parametrize("kind", ["INT4", "UINT4"])
def test_four_bits(kind):
    low, high = (-8, 7) if kind == "INT4" else (0, 15)
    proto = getattr(TensorProto, kind)
    g = Graph(["n", 10])
    zero = g.constant(2, proto)
    x = g.grid("x", 0.31717, zero)
    w = g.constant(integers(10, 6, low=low, high=high + 1), proto)
    w = g.dequantize(w, 0.0973, g.constant(low + 8, proto))
    y = g.grid(g("MatMul", x, w), 0.4171, zero)
    model = g.model(y)
    network = nearly_equal(model, images((10,), count=60))
    assert isinstance(network.operations[0].requantize, Thresholds)
    assert (network.tensors[network.input].low, network.tensors[network.input].high) == (low, high)


def test_microsoft_operators():
    g = Graph(["n", 4, 6, 6], opset=17)
    x = g.quantize("x", 0.0517, U8(120))
    grid = [np.float32(0.0517), U8(120)]
    wide = [np.float32(0.0793), U8(128)]
    filters = [integers(4, 4, 3, 3), np.linspace(0.004, 0.01, 4, dtype="f4"), np.zeros(4, I8)]
    bias = integers(4, low=-500, high=500, dtype=np.int32)
    y = g("QLinearConv", x, *grid, *filters, *wide, bias, pads=[1, 1, 1, 1])
    y = g("QLinearAdd", x, *grid, y, *wide, *wide, domain=MICROSOFT)
    y = g("QLinearAveragePool", y, *wide, *grid, domain=MICROSOFT, kernel_shape=[2, 2])
    y = g("QLinearGlobalAveragePool", y, *grid, np.float32(0.01137), U8(120), domain=MICROSOFT)
    y = g("Reshape", y, np.array([-1, 4]))
    gemm = [integers(7, 4), np.float32(0.01), I8(0), integers(7, dtype=np.int32)]
    out = [np.float32(0.0517), U8(99)]
    y = g("QGemm", y, np.float32(0.01137), U8(120), *gemm, *out, transB=1, domain=MICROSOFT)
    model = g.model(y, TensorProto.UINT8)
    inputs = images((4, 6, 6), count=20)
    found, (wanted,) = ours(read(model), inputs), runtime(model, inputs)
    assert abs(found.astype(int) - wanted).max() <= 1
    assert np.count_nonzero(found != wanted) <= 3
    assert wanted.std() > 3


def test_qlinear_softmax_on_the_host():
    g = Graph(["n", 6], opset=17)
    x = g.quantize("x", 0.05, U8(120))
    gemm = [integers(7, 6), np.float32(0.01), I8(0), integers(7, dtype=np.int32)]
    grid = [np.float32(0.05), U8(99)]
    y = g("QGemm", x, np.float32(0.05), U8(120), *gemm, *grid, transB=1, domain=MICROSOFT)
    out = [np.float32(1 / 256), U8(0)]
    y = g("QLinearSoftmax", y, *grid, *out, domain=MICROSOFT, axis=-1, opset=13)
    model = g.model(g("DequantizeLinear", y, *out))
    inputs = images((6,), count=20)
    found, (wanted,) = ours(read(model), inputs), runtime(model, inputs)
    assert np.rint(abs(found - wanted) * 256).max() <= 1


# The ONNX project's node tests.


def cases(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = importlib.import_module("onnx.backend.test.case.node")
        before = len(base._NodeTestCases)
        importlib.import_module(f"onnx.backend.test.case.node.{module}")  # this adds its cases
        added = base._NodeTestCases[before:]
        found = [case for case in added or base._NodeTestCases if case.model.graph.node]
    return {case.name: case for case in found}


def as_network(case):
    """Return a node test's model with all inputs but the first made constant."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    inputs, outputs = case.data_sets[0]
    for value, data in zip(list(model.graph.input)[1:], inputs[1:], strict=True):
        model.graph.input.remove(value)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(data), value.name))
    return model, inputs[0], outputs[0]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("qlinearconv", "test_qlinearconv"),
        ("convinteger", "test_convinteger_without_padding"),
        ("convinteger", "test_convinteger_with_padding"),
        ("matmulinteger", "test_matmulinteger"),
        ("qlinearmatmul", "test_qlinearmatmul_2D_uint8_float32"),
        ("qlinearmatmul", "test_qlinearmatmul_2D_int8_float32"),
        ("maxpool", "test_maxpool_2d_uint8"),
    ],
)
def test_node(module, name):
    model, inputs, wanted = as_network(ALL[module][name])
    found = ours(read(model), inputs)
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    assert (found == wanted).all()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *[("quantizelinear", f"test_quantizelinear{kind}") for kind in ("", "_int16", "_uint16")],
        *[("quantizelinear", f"test_quantizelinear_{kind}") for kind in ("int4", "uint4")],
        *[
            ("dequantizelinear", f"test_dequantizelinear{kind}")
            for kind in ("", "_int16", "_uint16")
        ],
        *[("dequantizelinear", f"test_dequantizelinear_{kind}") for kind in ("int4", "uint4")],
    ],
)
def test_quantizers_of_the_host(module, name):
    case = ALL[module][name]
    inputs, outputs = [
        [
            numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else np.asarray(x)
            for x in part
        ]
        for part in case.data_sets[0]
    ]
    values, scale, zero = inputs
    place = 0 if module == "dequantizelinear" else -1
    proto = (case.model.graph.input if place == 0 else case.model.graph.output)[0]
    kind = TensorProto.DataType.Name(proto.type.tensor_type.elem_type)
    axis = next((a.i for a in case.model.graph.node[0].attribute if a.name == "axis"), 1)
    scale, zero = np.atleast_1d(scale), np.atleast_1d(zero.astype(np.int64))
    parts = np.moveaxis(values, axis, 0) if scale.size > 1 else [values]
    wanted = np.moveaxis(outputs[0], axis, 0) if scale.size > 1 else [outputs[0]]
    for s, z, part, expected in zip(scale, zero, parts, wanted, strict=True):
        grid = Grid(float(s), int(z), kind, *INTEGER_RANGES[kind])
        if module == "quantizelinear":
            assert (grid.quantize(part) == expected.astype(np.int64)).all()
        else:
            assert (grid.dequantize(part.astype(np.int64)) == expected).all()


def test_weights_quantized_per_axis_in_the_graph():
    g = Graph(["n", 3, 4, 4])
    x = g.grid("x", 2**-5, I8(4))
    scales = (2.0 ** np.arange(-8, -2)).astype(np.float32)
    w = images((3, 2, 2), seed=3, count=6, spread=0.5)
    zeros = g.constant(np.arange(6).astype(I8))
    w = g("QuantizeLinear", w, scales, zeros, axis=0)
    w = g("DequantizeLinear", w, scales, zeros, axis=0)
    model = g.model(g.grid(g("Conv", x, w), 2**-3, I8(0)))
    inputs = images((3, 4, 4))
    assert (ours(read(model), inputs) == runtime(model, inputs)[0]).all()


def dressed(case):
    """Return a floating-point node test between quantizers: integers pass that ONNX computes."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    inputs, outputs = case.data_sets[0]
    g = Graph(inputs[0].shape, opset=model.opset_import[0].version)
    (node,) = model.graph.node
    values = [g.grid("x", max(abs(inputs[0]).max(), 1) / 100, I8(0))]
    for place, data in enumerate(inputs[1:], 1):
        if place == 1 and node.op_type in ("Conv", "Gemm", "MatMul"):
            scale = np.float32(abs(data).max() / 127)
            values.append(g.weights(np.rint(data / scale).astype(np.int8), scale))
        else:
            values.append(g.constant(data))
    node.name, node.input[:], node.output[:] = "node", values, ["node"]
    g.nodes.append(node)
    y = g.grid("node", max(abs(outputs[0]).max(), 1) / 100, I8(10))
    return g.model(y), inputs[0]


DRESSED = [
    *[
        ("conv", f"test_{name}")
        for name in ("basic_conv_with_padding", "basic_conv_without_padding")
    ],
    *[("conv", f"test_conv_with_{name}") for name in ("strides_padding", "strides_no_padding")],
    *[("conv", f"test_conv_with_{name}") for name in ("autopad_same",)],
    *[("conv", f"test_conv_with_{name}") for name in ("strides_and_asymmetric_padding",)],
    *[
        ("gemm", f"test_gemm_{name}")
        for name in ("default_no_bias", "default_vector_bias", "alpha")
    ],
    *[("gemm", f"test_gemm_{name}") for name in ("beta", "transposeB", "default_scalar_bias")],
    ("matmul", "test_matmul_2d"),
    *[("maxpool", f"test_maxpool_2d_{name}") for name in ("default", "pads", "strides", "ceil")],
    *[("maxpool", f"test_maxpool_2d_{name}") for name in ("same_upper", "same_lower")],
    *[("maxpool", f"test_maxpool_2d_{name}") for name in ("precomputed_pads",)],
    *[("maxpool", f"test_maxpool_2d_{name}") for name in ("precomputed_strides",)],
    *[("averagepool", f"test_averagepool_2d_{name}") for name in ("default", "strides")],
    *[("averagepool", f"test_averagepool_2d_{name}") for name in ("pads_count_include_pad",)],
    *[("averagepool", f"test_averagepool_2d_{name}") for name in ("precomputed_strides",)],
    *[("globalaveragepool", f"test_globalaveragepool{name}") for name in ("", "_precomputed")],
    ("relu", "test_relu"),
    ("flatten", "test_flatten_axis1"),
]
ALL = {
    module: cases(module)
    for module in (
        *("qlinearconv", "convinteger", "matmulinteger", "qlinearmatmul", "maxpool", "conv"),
        *(
            "quantizelinear",
            "dequantizelinear",
            "gemm",
            "matmul",
            "averagepool",
            "globalaveragepool",
            "relu",
            "flatten",
        ),
    )
}


@pytest.mark.parametrize(("module", "name"), DRESSED)
def test_floating_point_node_between_quantizers(module, name):
    model, inputs = dressed(ALL[module][name])
    network = read(model)
    found, (wanted,) = ours(network, inputs), runtime_batch(model, inputs)
    assert found.shape == wanted.shape
    steps = np.rint((found - wanted) / network.tensors[network.output].scale)
    assert abs(steps).max() <= 1
    assert np.count_nonzero(steps) <= max(1, 0.01 * steps.size), np.count_nonzero(steps)


def runtime_batch(model, inputs):
    """Return ONNX Runtime's output of a whole batch, for models whose batch is fixed."""
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = ort.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": inputs})
