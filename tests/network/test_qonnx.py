"""QONNX files: integers of the importer and the golden model against the graph run in floats."""

import importlib.util
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

from hwgen.errors import UserError  # noqa: E402
from hwgen.network.graph import Pool  # noqa: E402
from hwgen.network.onnx_file import OnnxGraph  # noqa: E402
from hwgen.network.qonnx import read_qonnx  # noqa: E402
from hwgen.network.requantize import FixedPoint, RoundingShift, Thresholds  # noqa: E402
from testbench.golden_network import run_network  # noqa: E402

_spec = importlib.util.spec_from_file_location(
    "qonnx_reference", Path(__file__).with_name("qonnx_reference.py")
)
reference = importlib.util.module_from_spec(_spec)
sys.modules["qonnx_reference"] = reference
_spec.loader.exec_module(reference)
Builder, interpret = reference.Builder, reference.interpret


def read(model):
    return read_qonnx(OnnxGraph(model, "test"))


def real(network, values, name):
    """Return a tensor's real numbers."""
    tensor = network.tensors[name]
    return (values[name] - tensor.zero_point) * tensor.scale


def in_files_order(array):
    """Return (batch, height, width, channels) as (batch, channels, height, width)."""
    return array.transpose(0, 3, 1, 2)


def check(model, batch, differing=0, runs=(interpret,)):
    """Compare every tensor that both have, sample by sample; return network and values.

    `differing` is how many elements of quantized tensors may differ.
    """
    network = read(model)
    values = run_network(network, network.encode(batch))
    outputs = network.decode(values[network.output])
    for run in runs:
        wrong = 0
        for i, sample in enumerate(batch):
            wanted = run(model, sample[None])
            for name in network.tensors.keys() & wanted.keys():
                found = in_files_order(real(network, values, name)[i : i + 1])
                wrong += np.count_nonzero(
                    abs(found.ravel() - wanted[name].ravel()) > 1e-6 * abs(wanted[name]).max()
                )
            if not differing:
                last = wanted[model.graph.output[0].name]
                assert outputs[i].shape == last.shape[1:]
                np.testing.assert_allclose(outputs[i], last[0], rtol=1e-5, atol=1e-5)
        assert wrong <= differing, wrong
    return network, values


def ways(network):
    return [type(op.requantize).__name__ for op in network.operations]


def convolutional(domain="", bits=2, pow2=True):
    """Convolutions, batch normalization of every sign, pooling before and after, groups."""
    rng = np.random.default_rng(0)
    scale = 0.25 if pow2 else 0.23
    b = Builder([1, 3, 9, 8], domain)
    x = b.quant(b.add("Sub", b.add("Mul", "x", 2.0), 1.0), 2.0**-6, 8)
    scales = 2.0 ** rng.integers(-5, -2, (8, 1, 1, 1)) * (1 if pow2 else 1.03)
    weights = b.quant(rng.normal(0, 0.2, (8, 3, 3, 3)), scales, 4, narrow=1)
    x = b.add("Conv", x, weights, rng.normal(size=8), pads=[1, 0, 1, 2], strides=[2, 1])
    x = b.batch_norm(x, rng, 8)
    x = b.quant(b.add("Relu", x), scale, bits, signed=0)
    x = b.add("MaxPool", x, kernel_shape=[2, 2], strides=[1, 2], pads=[0, 0, 0, 1])
    weights = b.quant(rng.normal(0, 0.5, (8, 4, 2, 2)), 0.25, 3, narrow=1)
    x = b.add("Conv", x, weights, group=2, dilations=[2, 1], pads=[1, 1, 0, 0])
    x = b.add("MaxPool", x, kernel_shape=[2, 1], strides=[2, 1])
    x = b.add("BipolarQuant", b.batch_norm(x, rng, 8), 1.0)
    x = b.add("Flatten", x, axis=1)
    weights = b.add("BipolarQuant", rng.normal(size=(10, 8 * 4)), 0.5)
    x = b.add("MatMul", x, b.add("Transpose", weights, perm=[1, 0]))
    return b.model(b.add("Add", b.add("Mul", x, 0.75), rng.normal(size=10)))


def binary():
    """Conv, max pooling, batch normalization, sign: the order in which a maximum may be a minimum."""
    rng = np.random.default_rng(1)
    b = Builder([1, 2, 10, 10])
    x = b.add("BipolarQuant", "x", 1.0)
    for channels, last in ((2, 12), (12, 6)):
        weights = b.add("BipolarQuant", rng.normal(size=(last, channels, 3, 3)), 1.0)
        x = b.add("Conv", x, weights)
        x = b.add("MaxPool", x, kernel_shape=[2, 2], strides=[1, 1])
        x = b.add("BipolarQuant", b.batch_norm(x, rng, last, 3.0), 1.0)
    weights = b.add("BipolarQuant", rng.normal(size=(6 * 16, 5)), 1.0)
    return b.model(b.add("MatMul", b.reshape(x, [1, -1]), weights))


def finn():
    """Streamlined: integer weights without quantizers, and thresholds."""
    rng = np.random.default_rng(2)
    b = Builder([1, 4, 6, 6], "finn.custom_op.general")
    thresholds = np.sort(rng.integers(-60, 60, (1, 15)), axis=1)
    x = b.add("MultiThreshold", "x", thresholds, out_dtype="INT4", out_bias=-8.0)
    x = b.add("Conv", x, rng.integers(-2, 2, (5, 4, 3, 3)))
    thresholds = np.sort(rng.integers(-40, 40, (5, 3)), axis=1)
    x = b.add("MultiThreshold", x, thresholds, out_dtype="UINT2", data_layout="NCHW")
    x = b.add("MatMul", b.reshape(x, [1, -1]), rng.integers(-1, 2, (80, 6)))
    thresholds = np.sort(rng.integers(-10, 10, (6, 1)), axis=1)
    attributes = {"out_dtype": "BIPOLAR", "out_scale": 2.0, "out_bias": -1.0, "data_layout": "NC"}
    x = b.add("MultiThreshold", x, thresholds, **attributes)
    return b.model(b.add("MatMul", x, rng.integers(-3, 4, (6, 4))))


def residual(ratio=1.0):
    """A residual connection, global average pooling and truncation."""
    rng = np.random.default_rng(3)
    b = Builder([1, 3, 4, 4])
    x = b.quant("x", 0.125, 4)
    weights = b.quant(rng.normal(0, 1, (3, 3, 1, 1)), 0.25, 3, narrow=1)
    y = b.quant(b.batch_norm(b.add("Conv", x, weights), rng, 3), 0.125 * ratio, 4)
    x = b.quant(b.add("Relu", b.add("Add", x, y)), 0.25, 3, signed=0)
    y = b.add("Mul", b.add("GlobalAveragePool", x), 16.0)
    x = b.add("Trunc", y, 0.25, 0.0, 7.0, 3.0, rounding_mode="FLOOR")
    return b.model(
        b.add("Gemm", b.add("Flatten", x), rng.integers(-3, 4, (2, 3)), [1.0, 2], transB=1)
    )


def wide(mode="ROUND", pow2=False, signed=0, shift=0):
    """Quantizers of 8 bits: fixed-point arithmetic."""
    rng = np.random.default_rng(4)
    b = Builder([1, 20])
    x = b.quant("x", 0.0625, 8)
    scale = 2.0**-4 if pow2 else rng.random((30, 1)) * 0.05 + 0.04
    x = b.add(
        "MatMul",
        x,
        b.add("Transpose", b.quant(rng.normal(0, 0.4, (30, 20)), scale, 5, narrow=1), perm=[1, 0]),
    )
    if not pow2:
        x = b.batch_norm(x, rng, 30, 2.0)
    x = b.quant(b.add("Relu", x), 2.0**-2 if pow2 else 0.021, 8, signed=signed, mode=mode)
    return b.model(b.add("MatMul", x, b.quant(rng.normal(0, 0.4, (30, 3)), 0.125, 4)))


def images(shape, count=6, spread=1.0, seed=9):
    return np.random.default_rng(seed).normal(0, spread, (count, *shape)).astype(np.float32)


@pytest.mark.parametrize("domain", ["", "onnx.brevitas", "qonnx.custom_op.general", "finn"])
def test_convolutional(domain):
    network, _ = check(convolutional(domain), images((3, 9, 8)))
    assert not network.notes
    shapes = [network.tensors[op.output].shape for op in network.operations]
    assert shapes[0] == (5, 8, 8)
    assert isinstance(network.operations[-1].requantize, type(None))


def test_convolutional_with_any_scales():
    check(convolutional(pow2=False), images((3, 9, 8)))


def test_convolutional_with_many_levels():
    """16 levels are thresholds, 256 a multiplication: at most one code away."""
    network, _ = check(convolutional(bits=4), images((3, 9, 8)))
    assert isinstance(network.operations[0].requantize, Thresholds)
    network = read(convolutional(bits=8))
    assert isinstance(network.operations[0].requantize, FixedPoint)
    assert "by at most 1" in network.notes[0]


def test_maximum_before_a_falling_batch_norm():
    model = binary()
    network, values = check(model, images((2, 10, 10)))
    pools = [op for op in network.operations if isinstance(op, Pool)]
    assert len(pools) == 2
    assert all((pool.requantize.step < 0).any() for pool in pools)  # a minimum
    assert all((pool.requantize.step > 0).any() for pool in pools)
    assert all(network.tensors[name].bipolar for name in values if name != network.output)


def test_finn():
    batch = np.random.default_rng(5).integers(-70, 70, (6, 4, 6, 6)).astype(np.float32)
    network, _ = check(finn(), batch)
    assert ways(network)[:2] == ["Thresholds", "Thresholds"]
    assert network.tensors[network.operations[1].output].bipolar


@pytest.mark.parametrize("ratio", [1.0, 4.0])
def test_residual(ratio):
    network, _ = check(residual(ratio), images((3, 4, 4), spread=0.5))
    assert not network.notes


def test_residual_of_unlike_scales_says_so():
    network, _ = check(residual(0.77), images((3, 4, 4), 20, 0.5), differing=3)
    assert "no power of two apart" in network.notes[0]


@pytest.mark.parametrize("mode", ["ROUND", "FLOOR", "CEIL", "HALF_UP"])
def test_powers_of_two_are_exact(mode):
    network, _ = check(wide(mode, pow2=True), images((20,), 20, 4.0))
    assert not network.notes
    kind = RoundingShift if mode == "ROUND" else FixedPoint
    assert isinstance(network.operations[0].requantize, kind)


@pytest.mark.parametrize("mode", ["ROUND", "FLOOR", "CEIL"])
def test_multiplier_differs_by_one_at_most_and_says_how_often(mode):
    """The bias is an integer, so a code may be another where the model's falls near a tie.

    A unit of the sums is about 1/7 of a code here, half of it the error of the bias: 1 code in 14.
    """
    model = wide(mode)
    network = read(model)
    assert isinstance(network.operations[0].requantize, FixedPoint)
    batch = images((20,), 20, 4.0)
    values = run_network(network, network.encode(batch))
    name = network.operations[0].output
    tensor = network.tensors[name]
    assert (tensor.low, tensor.high, tensor.zero_point) == (-128, 127, -128)
    wanted = np.stack([interpret(model, sample[None])[name][0] for sample in batch])
    wrong = abs(np.rint(real(network, values, name)[:, 0, 0] / 0.021 - wanted / 0.021))
    assert wrong.max() <= 1
    assert np.count_nonzero(wrong) < wrong.size / 14
    assert "by at most 1" in network.notes[0]


def test_quantizer_alone_relu_and_repeated_quantizer():
    b = Builder([1, 6])
    x = b.quant("x", 0.5, 4)
    y = b.quant(b.add("Tanh", x), 0.25, 3)  # no layer between them
    z = b.quant(y, 0.25, 4)  # changes nothing
    z = b.add("Relu", z)  # stays on the grid
    weights = b.quant(np.random.default_rng(6).normal(size=(6, 3)), 0.5, 3)
    network, _ = check(b.model(b.add("MatMul", z, weights)), images((6,), 20, 2.0))
    assert [type(op).__name__ for op in network.operations] == ["Add", "Add", "Conv"]
    assert z in network.tensors


def test_zero_points_and_a_constant_added_to_integers():
    rng = np.random.default_rng(7)
    b = Builder([1, 2, 5, 5])
    x = b.quant("x", 0.25, 8, signed=0, zero=100.0)
    weights = b.quant(rng.normal(size=(3, 2, 3, 3)), 0.25, 4, zero=2.0)
    x = b.quant(b.add("Conv", x, weights, pads=[1, 1, 1, 1]), 1.0, 4, zero=-3.0)
    x = b.add("Add", b.add("Mul", x, 0.5), 1.0)
    x = b.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = b.quant(b.add("Conv", x, rng.integers(-3, 4, (4, 3, 2, 2))), 0.5, 4)
    network, _ = check(b.model(b.add("Flatten", x)), images((2, 5, 5), 10, 8.0))
    assert network.tensors[network.input].zero_point == 100 - 128


def test_sign_of_zero_is_positive():
    """Of an input that is 0, and of a sum that is 0."""
    b = Builder([1, 4])
    x = b.add("BipolarQuant", "x", 1.0)
    x = b.add("BipolarQuant", b.add("MatMul", x, np.array([[1.0], [1], [-1], [-1]])), 0.5)
    batch = np.array([[0, -0.0, 0, 0], [1, -1, 0, -1], [-1, -1, 1, 1]], np.float32)
    network, values = check(b.model(b.add("MatMul", x, np.eye(1))), batch)
    assert values[network.input][0].ravel().tolist() == [1, 1, 1, 1]
    assert values[network.operations[0].output].ravel().tolist() == [1, 1, -1]


def test_constant_added_to_integers_before_a_product():
    """0..3 become -3, -1, 1, 3, as a bipolar network of two bits has it."""
    b = Builder([1, 2, 4, 4])
    x = b.quant("x", 1.0, 2, signed=0)
    x = b.add("Sub", b.add("Mul", x, 2.0), 2.0)
    weights = np.random.default_rng(12).integers(-3, 4, (3, 2, 3, 3))
    check(b.model(b.quant(b.add("Conv", x, weights), 4.0, 4)), images((2, 4, 4), 10, 2.0))
    with pytest.raises(UserError, match="padding of a quantized tensor to which a constant"):
        read(b.model(b.add("Conv", x, weights, pads=[1, 1, 1, 1])))


def test_ternary_is_not_bipolar():
    b = Builder([1, 4])
    x = b.quant("x", 1.0, 2, narrow=1)
    network, values = check(b.model(b.add("MatMul", x, np.eye(4))), images((4,), 20))
    assert not network.tensors[network.input].bipolar
    assert set(np.unique(values[network.input])) == {-1, 0, 1}


@pytest.mark.parametrize(("exponent", "mantissa", "bias"), [(3, 0, 6), (3, 2, 3), (2, 1, 1)])
def test_minifloat_weights(exponent, mantissa, bias):
    rng = np.random.default_rng(8)
    b = Builder([1, 12])
    attributes = {"has_inf": 0, "has_nan": 0, "has_subnormal": 1, "saturation": 1}
    weights = b.add(
        *("FloatQuant", rng.normal(size=(12, 7)) * 2, 0.5, float(exponent), float(mantissa)),
        *(float(bias), 3.0),
        **attributes,
    )
    x = b.add("MatMul", b.quant("x", 0.125, 6), weights)
    network, _ = check(b.model(x), images((12,), 10, 2.0))
    if not mantissa:
        size = abs(network.operations[0].weights)
        assert set(np.log2(size[size > 0]) % 1) == {0}


def test_truncation_of_version_2_and_series():
    rng = np.random.default_rng(10)
    b = Builder([1, 3, 9, 1])
    x = b.quant("x", 0.25, 4)
    x = b.add("Conv", x, rng.integers(-2, 3, (4, 3, 3, 1)))
    attributes = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"}
    x = b.add("Trunc", x, 0.25, 0.0, 9.0, 1.0, 4.0, **attributes)
    check(b.model(b.add("Flatten", x)), images((3, 9, 1), 10))
    b = Builder([1, 3, 9])  # a series
    x = b.quant("x", 0.25, 4)
    x = b.add("Conv", x, rng.integers(-2, 3, (4, 3, 3)), pads=[1, 0], strides=[2])
    x = b.quant(b.batch_norm(x, rng, 4), 0.5, 3)
    x = b.add("MatMul", b.add("Transpose", x, perm=[0, 2, 1]), rng.integers(-2, 3, (4, 5)))
    network = read(b.model(b.quant(x, 1.0, 4)))
    assert [network.tensors[op.output].shape for op in network.operations] == [(1, 4, 4), (1, 4, 5)]


def test_host_after_the_last_layer():
    b = Builder([1, 5])
    x = b.quant("x", 0.25, 4)
    x = b.add("Softmax", b.add("MatMul", x, np.arange(15.0).reshape(5, 3) - 7), axis=-1)
    check(b.model(x), images((5,)))


def test_input_without_a_quantizer_takes_integers_only():
    b = Builder([1, 4])
    network = read(b.model(b.add("MatMul", "x", np.eye(4))))
    batch = np.array([[1, -128, 127, 0]], np.float32)
    values = run_network(network, network.encode(batch))
    np.testing.assert_array_equal(network.decode(values[network.output]), batch)
    with pytest.raises(UserError, match=r"must be integers, -128 to 127, not 1\.5"):
        network.encode(batch + np.float32(0.5))
    with pytest.raises(UserError, match=r"must have the shape \(batch, 4\), not \(1, 5\)"):
        network.encode(np.zeros((1, 5), np.float32))
    with pytest.raises(UserError, match="must be finite"):
        network.encode(np.full((1, 4), np.nan, np.float32))


def test_everything_unsupported_is_listed_at_once():
    b = Builder([1, 2, 6, 6])
    x = b.quant("x", 0.25, 4)
    x = b.add("Conv", x, np.full((3, 2, 3, 3), 0.3))
    y = b.quant("x", 0.5, 4)
    y = b.add("Erf", y)
    z = b.quant("x", 0.25, 4)
    z = b.add(
        "FloatQuant",
        z,
        1.0,
        3.0,
        2.0,
        3.0,
        8.0,
        saturation=1,
        has_inf=0,
        has_nan=0,
        has_subnormal=0,
    )
    model = b.model(b.add("Add", b.add("Add", x, y), z))
    with pytest.raises(UserError) as caught:
        read(model)
    told = str(caught.value)
    assert "Conv_" in told
    assert "its weights have no quantizer, and are no integers" in told
    assert "Erf_" in told
    assert "the operator is not known" in told
    assert "the input is quantized in more than one way" in told
    assert told.startswith("model 'test' has 4 unsupported nodes")


BAD = [
    ({"scale": -1.0}, "scale of Quant 'Quant_3' must be finite and above 0, not -1"),
    ({"scale": np.nan}, "must be finite"),
    ({"scale": 0.0}, "must be finite and above 0, not 0"),
    ({"bits": 0}, "bit width of Quant 'Quant_3' must be one integer, 1 to 32, not"),
    ({"bits": 2.5}, "must be one integer, 1 to 32"),
    ({"zero": 9.0}, "zero point of Quant 'Quant_3' must be -8 to 7, not 9"),
    ({"zero": 0.5}, "must be one integer"),
    ({"mode": "RANDOM"}, "rounding_mode of Quant 'Quant_3' must be one of ROUND"),
]


@pytest.mark.parametrize(("change", "text"), BAD)
def test_bad_parameters(change, text):
    b = Builder([1, 4])
    x = b.quant("x", **{"scale": 0.25, "bits": 4, **change})
    with pytest.raises(UserError, match=text.replace("(", r"\(")):
        read(b.model(b.add("MatMul", x, np.eye(4))))


def test_parameters_of_the_wrong_shape():
    b = Builder([1, 4])
    x = b.quant("x", np.ones(3), 4)
    with pytest.raises(UserError, match=r"scale of .* must be one number or broadcast to \[1, 4\]"):
        read(b.model(b.add("MatMul", x, np.eye(4))))
    b = Builder([1, 4])
    x = b.add("MultiThreshold", "x", np.ones((3, 2)), out_dtype="UINT2")
    with pytest.raises(UserError, match=r"must have the shape \(1 or 4, count\), not \(3, 2\)"):
        read(b.model(b.add("MatMul", x, np.eye(4))))


def test_sums_beyond_32_bits_and_scales_within_a_sum():
    b = Builder([1, 4])
    x = b.quant("x", 1.0, 16)
    x = b.add("MatMul", x, b.quant(np.full((4, 2), 1e9), 1.0, 16))
    with pytest.raises(UserError, match="do not fit 32 bits"):
        read(b.model(b.quant(x, 1.0, 4)))
    b = Builder([1, 4])
    weights = b.quant(np.ones((4, 2)), np.array([[1.0], [2], [1], [1]]), 4)
    with pytest.raises(UserError, match="weights of one output channel must have one scale"):
        read(b.model(b.add("MatMul", b.quant("x", 1.0, 4), weights)))
    b = Builder([1, 4])
    x = b.quant("x", np.array([1.0, 2, 1, 1]), 4)
    with pytest.raises(UserError, match="an activation must have one scale"):
        read(b.model(b.add("MatMul", x, np.eye(4))))


# Networks that others made


def load(path):
    model = onnx.load(str(path))
    return model, read_qonnx(OnnxGraph.load(path))


def test_kws_recorded_output(model_path):
    _, network = load(model_path("kws_mlp_w3a3_qonnx.onnx"))
    batch = np.load(model_path("kws_mlp_w3a3_input.npy"))
    wanted = np.load(model_path("kws_mlp_w3a3_expected_output.npy"))  # the class
    values = run_network(network, network.encode(batch))
    np.testing.assert_array_equal(network.decode(values[network.output]).argmax(1), wanted)
    assert [type(op.requantize).__name__ for op in network.operations[:-1]] == ["Thresholds"] * 3
    assert network.operations[0].weights.shape == (256, 1, 1, 490)
    assert not network.notes


def test_tfc_batch_norms_at_every_sum(model_path):
    """Each threshold against ONNX Runtime's float32 batch normalization and `>= 0`, all sums."""
    runtime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    model, network = load(model_path("tfc_w1a1_qonnx.onnx"))
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    constants = {init.name: init for init in model.graph.initializer}
    layers = network.operations[:3]
    assert len(norms) == len(layers)
    for node, layer in zip(norms, layers, strict=True):
        count = layer.weights[0].size
        sums = np.arange(-count, count + 1)[:, None] * np.ones((1, 64), int)
        info = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, None)
            for n in (node.input[0], node.output[0])
        ]
        graph = helper.make_graph(
            [node], "bn", info[:1], info[1:], [constants[n] for n in node.input[1:]]
        )
        single = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=8)
        session = runtime.InferenceSession(single.SerializeToString())
        found = session.run(None, {node.input[0]: sums.astype(np.float32)})[0]
        np.testing.assert_array_equal(layer.requantize.apply(sums), np.where(found >= 0, 1, -1))


def test_power_of_two_weights(model_path):
    _, network = load(model_path("lightpe1_e3m0_floatquant_example.onnx"))
    sizes = np.unique(abs(network.operations[0].weights))
    assert set(sizes) <= {0, *(1 << np.arange(8))}


@pytest.mark.parametrize(
    "name", ["tfc_w1a1_qonnx", "kws_mlp_w3a3_qonnx", "lightpe1_e3m0_floatquant_example"]
)
def test_models_equal_the_qonnx_executor(name, model_path):
    """Every tensor; the last sums within float32's rounding, as runtimes add in another order."""
    pytest.importorskip("qonnx", reason="qonnx is not installed")
    path = model_path(f"{name}.onnx")
    model, network = load(path)
    rng = np.random.default_rng(11)
    shape = OnnxGraph.load(path).shape(OnnxGraph.load(path).inputs[0])[1:]
    batch = rng.normal(0, 3, (5, *shape)).astype(np.float32)
    if name.startswith("tfc"):
        batch = rng.random((5, *shape)).astype(np.float32)
    if name.startswith("lightpe1"):
        batch = rng.integers(-128, 128, (5, *shape)).astype(np.float32)
    values = run_network(network, network.encode(batch))
    outputs = network.decode(values[network.output])
    compared = 0
    for i, sample in enumerate(batch):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = reference.run_qonnx(model, sample[None])
        for tensor in network.tensors.keys() & wanted.keys():
            found = real(network, values, tensor)[i].astype(np.float32)
            np.testing.assert_array_equal(found.ravel(), wanted[tensor].ravel(), tensor)
            compared += 1
        last = wanted[model.graph.output[0].name]
        np.testing.assert_allclose(outputs[i].ravel(), last.ravel(), rtol=1e-5, atol=1e-5)
    assert compared >= len(batch) * (len(network.operations) - 1)


@pytest.mark.parametrize(
    "make", [convolutional, binary, residual, lambda: wide(pow2=True), lambda: wide("FLOOR", True)]
)
def test_made_networks_equal_the_qonnx_executor(make):
    pytest.importorskip("qonnx", reason="qonnx is not installed")
    model = make()
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(model, images(shape, 3), runs=(reference.run_qonnx, interpret))
