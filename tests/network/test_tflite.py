"""The TFLite front end, bit for bit against LiteRT's reference kernels, every tensor.

Small models are built with LiteRT's own schema classes, so that every option of every operator is
tried; the networks that others made are in `../shared/models`.
"""

import numpy as np
import pytest

from hwgen.errors import UserError
from hwgen.network.graph import Conv
from hwgen.network.requantize import Thresholds
from hwgen.network.softmax import softmax
from testbench.golden_network import run_network

read_tflite = pytest.importorskip("hwgen.network.tflite", reason="tflite is missing").read_tflite
schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="no ai-edge-litert")
litert = pytest.importorskip("ai_edge_litert.interpreter", reason="no ai-edge-litert")
flatbuffers = pytest.importorskip("flatbuffers", reason="flatbuffers is missing")

TYPES = {np.int8: 9, np.uint8: 3, np.int32: 2, np.float32: 0}
OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "ADD": "AddOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "SOFTMAX": "SoftmaxOptions",
    "RESHAPE": "ReshapeOptions",
    "PAD": "PadOptions",
    "QUANTIZE": "QuantizeOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "CONCATENATION": "ConcatenationOptions",
    "SHAPE": "ShapeOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "PACK": "PackOptions",
}
#: The first versions of the operators that have int8; of the others it is 2.
VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4}
VERSIONS |= dict.fromkeys(("RESHAPE", "SQUEEZE", "RELU_N1_TO_1", "SHAPE", "PACK"), 1)
SAME, VALID = 0, 1
RELU, RELU1, RELU6, TANH = 1, 2, 3, 4


class Model:
    """Builds a model: tensors by number, operators in order; the last output is the model's."""

    def __init__(self):
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.subgraphs, self.model.operatorCodes = [self.graph], []
        self.model.buffers = [schema.BufferT()]

    def tensor(self, shape, scales=None, zero=0, dtype=np.int8, data=None, axis=0, name=None):
        tensor = schema.TensorT()
        tensor.name = f"t{len(self.graph.tensors)}" if name is None else name
        tensor.shape, tensor.type, tensor.buffer = list(shape), TYPES[dtype], 0
        if scales is not None:
            quantization = schema.QuantizationParametersT()
            quantization.scale = np.atleast_1d(np.asarray(scales, np.float32))
            quantization.zeroPoint = np.full(quantization.scale.size, zero, np.int64)
            quantization.quantizedDimension = axis
            tensor.quantization = quantization
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data, dtype).tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, data, scales=None, axis=0, zero=0, dtype=np.int8):
        data = np.asarray(data)
        return self.tensor(data.shape, scales, zero, dtype, data, axis)

    def run(self, kind, inputs, shape, scales=None, zero=0, dtype=np.int8, **options):
        """Add an operator; return its output."""
        output = self.tensor(shape, scales, zero, dtype)
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
        code.version = VERSIONS.get(kind, 2)
        self.model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = list(inputs), [output]
        if kind in OPTIONS:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, OPTIONS[kind])
            operator.builtinOptions = getattr(schema, OPTIONS[kind] + "T")()
            if kind == "RESHAPE":
                options["newShape"] = list(shape)
            for name, value in options.items():
                assert hasattr(operator.builtinOptions, name)
                setattr(operator.builtinOptions, name, value)
        self.graph.operators.append(operator)
        return output

    def content(self):
        self.graph.inputs = [0]
        if self.graph.outputs is None:
            self.graph.outputs = [len(self.graph.tensors) - 1]
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def save(self, folder):
        path = folder / "model.tflite"
        path.write_bytes(self.content())
        return path


def reference(path):
    interpreter = litert.Interpreter(
        str(path),
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    return interpreter


def check(path, batch):
    """Compare every tensor of a batch with the reference kernels'; return the network."""
    network = read_tflite(path)
    found = run_network(network, network.encode(batch))
    final = network.decode(found[network.output])
    interpreter = reference(path)
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    numbers = {tensor["name"]: tensor["index"] for tensor in interpreter.get_tensor_details()}
    assert len(found) == len(network.operations) + 1
    for index in range(len(batch)):
        interpreter.set_tensor(source, batch[index : index + 1])
        interpreter.invoke()
        for name, values in found.items():
            expected = interpreter.get_tensor(numbers[name])
            differ = (values[index].reshape(expected[0].shape) != expected[0]).sum()
            assert differ == 0, f"{name}: {differ} of {expected.size} differ"
        expected = interpreter.get_tensor(target)
        assert final.dtype == expected.dtype
        np.testing.assert_array_equal(final[index], expected[0])
    return network


def codes(shape, seed=0):
    return np.random.default_rng(seed).integers(-128, 128, shape, np.int8)


@pytest.mark.parametrize("name", ["ic_resnet8_int8.tflite", "kws_dscnn_int8.tflite"])
def test_networks_of_others(name, model_path):
    path = model_path(name)
    shape = read_tflite(path).tensors[read_tflite(path).input].shape
    batch = codes((30, *shape))
    batch[0], batch[1] = -128, 127  # and not only noise
    batch[2:10] = (batch[2:10] // 16) + np.linspace(-100, 100, shape[1])[:, None].astype(np.int8)
    check(path, batch)


CONV = [
    # kernel, stride, dilation, padding, activation, per channel, bias, groups
    ((3, 3), (1, 1), (1, 1), SAME, 0, True, True, 1),
    ((3, 3), (2, 2), (1, 1), SAME, RELU, True, True, 1),
    ((2, 4), (2, 3), (1, 1), SAME, RELU6, False, False, 1),
    ((1, 1), (2, 2), (1, 1), SAME, RELU1, True, False, 1),
    ((3, 2), (1, 2), (2, 3), VALID, 0, False, True, 1),
    ((3, 2), (1, 1), (2, 3), SAME, 0, True, True, 1),
    ((3, 3), (1, 1), (1, 1), VALID, 0, True, True, 2),
]


def out_size(size, kernel, stride, dilation, padding):
    reach = dilation * (kernel - 1) + 1
    return -(-size // stride) if padding == SAME else (size - reach) // stride + 1


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("case", CONV)
def test_convolutions(case, depthwise, tmp_path):
    kernel, stride, dilation, padding, activation, per_channel, bias, groups = case
    rng = np.random.default_rng(7)
    model, (height, width, depth, out) = Model(), (9, 12, 4, 8)
    source = model.tensor((1, height, width, depth), 0.05, -3)
    shape = (1, *kernel, out) if depthwise else (out, *kernel, depth // groups)
    scales = rng.uniform(0.002, 0.02, out if per_channel else 1)
    weights = model.constant(
        rng.integers(-127, 128, shape), scales, 3 if depthwise and per_channel else 0
    )
    inputs = [source, weights]
    if bias or not depthwise:  # LiteRT refuses int8 convolutions without
        inputs.append(model.constant(rng.integers(-2000, 2000, out), scales * 0.05, 0, 0, np.int32))
    size = [
        out_size(*of, padding) for of in zip((height, width), kernel, stride, dilation, strict=True)
    ]
    options = {
        "padding": padding,
        "strideH": stride[0],
        "strideW": stride[1],
        "dilationHFactor": dilation[0],
        "dilationWFactor": dilation[1],
        "fusedActivationFunction": activation,
    }
    if depthwise:
        options["depthMultiplier"] = out // depth
    kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    model.run(kind, inputs, (1, *size, out), 0.07, 5, **options)
    check(model.save(tmp_path), codes((6, height, width, depth)))


def conv(model, source, shape, out, scale, zero=0, *, kernel=1, seed=1):
    """Add a plain convolution, to have something to work on."""
    rng = np.random.default_rng(seed)
    weights = model.constant(rng.integers(-127, 128, (out, kernel, kernel, shape[-1])), 0.01)
    bias = model.constant(rng.integers(-500, 500, out), 0.0005, 0, 0, np.int32)
    size = [n - kernel + 1 for n in shape[1:3]]
    options = {"padding": VALID, "strideH": 1, "strideW": 1}
    return model.run("CONV_2D", [source, weights, bias], (1, *size, out), scale, zero, **options)


@pytest.mark.parametrize("scale", [0.04, 0.011, 0.3])
@pytest.mark.parametrize("form", ["vector", "image", "flat image", "points", "per channel"])
def test_fully_connected(form, scale, tmp_path):
    """Its reference kernel rounds in double precision; the multiplier that does too is found."""
    rng = np.random.default_rng(3)
    shape = (1, 5, 6, 4) if form != "vector" else (1, 40)
    model, depth, out = Model(), 4 if form == "points" else int(np.prod(shape)), 30
    source = model.tensor(shape, scale, 11)
    if form == "flat image":
        source = conv(model, source, shape, 4, scale, -128)
        source = model.run("RESHAPE", [source], (1, depth), scale, -128)
    per_channel = form == "per channel"
    scales = rng.uniform(0.003, 0.01, out) if per_channel else 0.0071
    weights = model.constant(
        rng.integers(-127, 128, (out, depth)), scales, 0, 0 if per_channel else 3
    )
    bias = rng.integers(-40000, 40000, out)
    inputs = [source, weights, model.constant(bias, scale * scales, 0, 0, np.int32)]
    result = (1, 5, 6, out) if form == "points" else (1, out)
    model.run(
        "FULLY_CONNECTED",
        inputs if form != "image" else [*inputs[:2], -1],
        result,
        0.19,
        24,
        keepNumDims=form == "points",
        fusedActivationFunction=RELU6 if form == "vector" else 0,
    )
    check(model.save(tmp_path), codes((20, *shape[1:])))


def test_fully_connected_for_every_sum(tmp_path):
    """Of weights 1 and 127 over two inputs: 65,025 neighbouring sums, from one clamp to the other."""
    model = Model()
    source = model.tensor((1, 255, 255, 2), 0.02, 0)
    weights = model.constant([[1, 127]], 0.0123)
    model.run("FULLY_CONNECTED", [source, weights], (1, 255, 255, 1), 0.0312, 7, keepNumDims=True)
    values = np.stack(np.meshgrid(np.arange(-127, 128), np.arange(-127, 128)), axis=-1)
    check(model.save(tmp_path), values[None].astype(np.int8))


def test_fully_connected_with_ties(tmp_path):
    """A scale of 0.5 and ties everywhere: double precision takes them away from zero."""
    model = Model()
    source = model.tensor((1, 256), 1.0, 0)
    weights = model.constant(np.eye(256, dtype=np.int8), 0.5)
    model.run("FULLY_CONNECTED", [source, weights], (1, 256), 1.0, 0)
    check(model.save(tmp_path), np.arange(-128, 128, dtype=np.int8)[None])


@pytest.mark.parametrize(
    ("scales", "activation"),
    [((0.05, 0.0201, 0.07), 0), ((0.011, 0.5, 0.31), RELU), ((0.04, 0.03, 0.03), RELU6)],
)
def test_add_of_every_pair(scales, activation, tmp_path):
    model, zeros = Model(), (-5, 77, -128)
    source = model.tensor((1, 256, 256, 2), 1.0, 0)
    parts = []
    for channel in range(2):  # a factor of exactly 1, and the channel's zero point as a bias
        weights = model.constant(
            np.eye(2, dtype=np.int8)[channel].reshape(1, 1, 1, 2), scales[channel]
        )
        bias = model.constant([-zeros[channel]], scales[channel], 0, 0, np.int32)
        parts.append(
            model.run(
                "CONV_2D",
                [source, weights, bias],
                (1, 256, 256, 1),
                scales[channel],
                zeros[channel],
                padding=SAME,
                strideH=1,
                strideW=1,
            )
        )
    model.run(
        "ADD", parts, (1, 256, 256, 1), scales[2], zeros[2], fusedActivationFunction=activation
    )
    pairs = np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)), axis=-1)
    network = check(model.save(tmp_path), pairs[None].astype(np.int8))
    left, right = (run_network(network, pairs[None])[f"t{part}"] for part in parts)
    assert len(np.unique(256 * left + right)) == 1 << 16


@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (2, 5), (7, 7), (8, 8)])
def test_average_pool(kernel, tmp_path):
    model = Model()
    source = model.tensor((1, 8, 8, 40), 0.05, 3)
    size = [(8 - k) // 2 + 1 for k in kernel]
    model.run(
        "AVERAGE_POOL_2D",
        [source],
        (1, *size, 40),
        0.05,
        3,
        padding=VALID,
        filterHeight=kernel[0],
        filterWidth=kernel[1],
        strideH=2,
        strideW=2,
        fusedActivationFunction=RELU if kernel == (3, 3) else 0,
    )
    check(model.save(tmp_path), codes((20, 8, 8, 40)) // np.int8(3))


@pytest.mark.parametrize("padding", [SAME, VALID])
def test_max_pool(padding, tmp_path):
    model = Model()
    source = model.tensor((1, 7, 8, 5), 0.05, 3)
    size = [out_size(n, 3, 2, 1, padding) for n in (7, 8)]
    model.run(
        "MAX_POOL_2D",
        [source],
        (1, *size, 5),
        0.05,
        3,
        padding=padding,
        filterHeight=3,
        filterWidth=3,
        strideH=2,
        strideW=2,
        fusedActivationFunction=RELU6,
    )
    check(model.save(tmp_path), codes((5, 7, 8, 5)))


@pytest.mark.parametrize("kind", ["CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D"])
def test_pad(kind, tmp_path):
    zero = -128 if kind == "MAX_POOL_2D" else 9
    model = Model()
    source = model.tensor((1, 6, 7, 3), 0.05, zero)
    amounts = model.constant([[0, 0], [1, 2], [0, 1], [0, 0]], dtype=np.int32)
    padded = model.run("PAD", [source, amounts], (1, 9, 8, 3), 0.05, zero)
    if kind == "CONV_2D":
        conv(model, padded, (1, 9, 8, 3), 4, 0.2, kernel=3)
    else:
        size = [(9 - 3) // 2 + 1, (8 - 3) // 2 + 1]
        model.run(
            kind,
            [padded],
            (1, *size, 3),
            0.05,
            zero,
            padding=VALID,
            filterHeight=3,
            filterWidth=3,
            strideH=2,
            strideW=2,
        )
    path = model.save(tmp_path)
    network = read_tflite(path)
    assert [len(op.inputs) for op in network.operations] == [1]  # folded: no operation of its own
    check(path, codes((5, 6, 7, 3)))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("scale", [0.05, 0.013, 0.21])
def test_mean(keep, scale, tmp_path):
    model = Model()
    source = model.tensor((1, 5, 7, 60), 0.05, -9)
    axes = model.constant([1, 2], dtype=np.int32)
    model.run("MEAN", [source, axes], (1, 1, 1, 60) if keep else (1, 60), scale, 30, keepDims=keep)
    check(model.save(tmp_path), codes((30, 5, 7, 60)) // np.int8(2))


@pytest.mark.parametrize(("scale", "zero"), [(0.05, -9), (0.05, 0), (0.0371, 127)])
def test_mean_of_every_sum(scale, zero, tmp_path):
    """Of 32 places, one sum in each channel: with one scale, every tie and its neighbours."""
    model = Model()
    sums = np.arange(-32 * 128, 32 * 127 + 1)
    source = model.tensor((1, 4, 8, len(sums)), 0.05, zero)
    axes = model.constant([-2, 1], dtype=np.int32)
    model.run("MEAN", [source, axes], (1, len(sums)), scale, zero)
    places = (sums + np.arange(32)[:, None]) // 32
    assert (places.sum(axis=0) == sums).all()
    check(model.save(tmp_path), places.reshape(1, 4, 8, -1).astype(np.int8))


@pytest.mark.parametrize("kind", ["QUANTIZE", "RELU", "RELU6", "RELU_N1_TO_1"])
@pytest.mark.parametrize(("before", "after"), [(0.04, 0.05), (0.04, 0.0333), (0.35, 0.1)])
def test_change_of_scale(kind, before, after, tmp_path):
    """The last ratio is 3.5 in single precision, a little less in double: ties differ."""
    model = Model()
    source = model.tensor((1, 8, 8, 4), 0.05, 3)
    middle = conv(model, source, (1, 8, 8, 4), 4, before, -20)
    changed = model.run(kind, [middle], (1, 8, 8, 4), after, 14)
    conv(model, changed, (1, 8, 8, 4), 4, 0.1)
    check(model.save(tmp_path), codes((10, 8, 8, 4)))


def test_squeeze_and_reshape_to_the_same_image(tmp_path):
    model = Model()
    source = model.tensor((1, 1, 8, 4), 0.05, 3)
    middle = conv(model, source, (1, 1, 8, 4), 4, 0.04, -20)
    middle = model.run("SQUEEZE", [middle], (1, 8, 4), 0.04, -20)
    middle = model.run("RESHAPE", [middle], (1, 1, 8, 4), 0.04, -20)
    last = conv(model, middle, (1, 1, 8, 4), 2, 0.1)
    model.run("RESHAPE", [last], (1, 16), 0.1)
    network = check(model.save(tmp_path), codes((4, 1, 8, 4)))
    assert [operation.name for operation in network.operations] == ["conv_2d_0", "conv_2d_3"]


def test_a_shape_that_is_computed(tmp_path):
    """Keras flattens so, where the batch is open."""
    model = Model()
    source = model.tensor((1, 4, 5, 6), 0.05, 3)
    middle = conv(model, source, (1, 4, 5, 6), 6, 0.04, -20)
    numbers = [model.constant([n], dtype=np.int32) for n in (0, 1, 1)]
    depth = model.tensor((), dtype=np.int32, data=[120])
    shape = model.run("SHAPE", [middle], (4,), dtype=np.int32, outType=2)
    batch = model.run("STRIDED_SLICE", [shape, *numbers], (), dtype=np.int32, shrinkAxisMask=1)
    pair = model.run("PACK", [batch, depth], (2,), dtype=np.int32, valuesCount=2)
    flat = model.run("RESHAPE", [middle, pair], (1, 120), 0.04, -20)
    weights = model.constant(codes((3, 120)) // 2, 0.01)
    model.run("FULLY_CONNECTED", [flat, weights], (1, 3), 0.15)
    network = check(model.save(tmp_path), codes((5, 4, 5, 6)))
    assert len(network.operations) == 2


def test_float_input_and_output(tmp_path):
    model = Model()
    source = model.tensor((1, 4, 4, 3), dtype=np.float32)
    entered = model.run("QUANTIZE", [source], (1, 4, 4, 3), 0.05, 3)
    layer = conv(model, entered, (1, 4, 4, 3), 2, 0.05, -1, kernel=4)
    layer = model.run("RESHAPE", [layer], (1, 2), 0.05, -1)
    layer = model.run("SOFTMAX", [layer], (1, 2), 1 / 256, -128, beta=1.0)
    model.run("DEQUANTIZE", [layer], (1, 2), dtype=np.float32)
    path = model.save(tmp_path)
    batch = np.random.default_rng(0).normal(0, 4, (40, 4, 4, 3)).astype(np.float32)
    batch[0] = (np.arange(48).reshape(4, 4, 3) - 24) * np.float32(0.05) / 2  # ties
    check(path, batch)
    network = read_tflite(path)
    assert len(network.notes) == 4
    for bad in (np.nan, np.inf):
        batch[3, 2, 1, 0] = bad
        with pytest.raises(UserError, match="finite"):
            network.encode(batch)
    with pytest.raises(UserError, match=r"inputs must be float32 of shape \(batch, 4, 4, 3\)"):
        network.encode(batch[..., :2])
    with pytest.raises(UserError, match="not float64"):
        network.encode(batch.astype(np.float64))


def test_uint8_input_and_output(tmp_path):
    model = Model()
    source = model.tensor((1, 16, 16), 0.05, 131, np.uint8)
    flat = model.run("RESHAPE", [source], (1, 16, 16, 1), 0.05, 131, np.uint8)
    entered = model.run("QUANTIZE", [flat], (1, 16, 16, 1), 0.05, 3)
    layer = conv(model, entered, (1, 16, 16, 1), 1, 0.003, 5)
    model.run("QUANTIZE", [layer], (1, 16, 16, 1), 0.0031, 130, np.uint8)
    check(model.save(tmp_path), np.arange(256, dtype=np.uint8).reshape(1, 16, 16))


@pytest.mark.parametrize(
    ("scale", "beta", "classes"),
    [
        (0.17, 1.0, 10),
        (0.1447, 1.0, 12),
        (0.01, 1.0, 3),
        (3.0, 1.0, 5),
        (0.17, 0.5, 1000),
        (90.0, 2, 2),
    ],
)
def test_softmax(scale, beta, classes, tmp_path):
    model = Model()
    source = model.tensor((1, 600, classes), scale, 7)
    model.run("SOFTMAX", [source], (1, 600, classes), 1 / 256, -128, beta=beta)
    interpreter = reference(model.save(tmp_path))
    rng = np.random.default_rng(0)
    rows = (
        rng.normal(0, rng.uniform(30 if classes > 500 else 1, 90, (600, 1)), (600, classes))
        .clip(-128, 127)
        .astype(np.int8)
    )
    interpreter.set_tensor(0, rows[None])
    interpreter.invoke()
    scale = float(np.float32(scale))
    np.testing.assert_array_equal(
        interpreter.get_tensor(1)[0], softmax(rows.astype(np.int64), scale, beta)
    )


def test_pad_before_a_maximum_must_be_the_least_code(tmp_path):
    model = Model()
    source = model.tensor((1, 6, 7, 3), 0.05, 9)
    amounts = model.constant([[0, 0], [1, 1], [1, 1], [0, 0]], dtype=np.int32)
    padded = model.run("PAD", [source, amounts], (1, 8, 9, 3), 0.05, 9)
    window = {"filterHeight": 2, "filterWidth": 2, "strideH": 1, "strideW": 1, "padding": VALID}
    model.run("MAX_POOL_2D", [padded], (1, 7, 8, 3), 0.05, 9, **window)
    with pytest.raises(UserError, match="a PAD before a maximum needs a zero point of -128"):
        read_tflite(model.save(tmp_path))


def test_names_that_are_empty_or_not_unique(tmp_path):
    model = Model()
    source = model.tensor((1, 4, 4, 3), 0.05, 3, name="same")
    middle = conv(model, source, (1, 4, 4, 3), 3, 0.05)
    conv(model, middle, (1, 4, 4, 3), 3, 0.05)
    model.graph.tensors[middle].name = "same"
    model.graph.tensors[-1].name = ""
    network = read_tflite(model.save(tmp_path))
    assert list(network.tensors) == ["same#0", f"same#{middle}", f"#{len(model.graph.tensors) - 1}"]


def test_unsupported_is_listed_at_once(tmp_path):
    model = Model()
    source = model.tensor((1, 8, 8, 4), 0.05, 3)
    a = conv(model, source, (1, 8, 8, 4), 4, 0.04, -20)
    both = model.run("CONCATENATION", [source, a], (1, 8, 8, 8), 0.04, -20)
    c = conv(model, both, (1, 8, 8, 8), 4, 0.1)
    model.graph.operators[-1].builtinOptions.fusedActivationFunction = TANH
    pooled = model.run(
        "AVERAGE_POOL_2D",
        [c],
        (1, 8, 8, 4),
        0.1,
        padding=SAME,
        filterHeight=3,
        filterWidth=3,
        strideH=1,
        strideW=1,
    )
    conv(model, pooled, (1, 8, 8, 4), 4, 0.1)
    with pytest.raises(UserError) as caught:
        read_tflite(model.save(tmp_path))
    assert str(caught.value).splitlines() == [
        "model 'model' has 3 unsupported nodes:",
        "  operator 1, CONCATENATION to 't4': no such operator is supported",
        "  operator 2, CONV_2D to 't7': fused activation function 4 is not supported",
        "  operator 3, AVERAGE_POOL_2D to 't8': an average must not reach beyond its input "
        "(padding SAME)",
    ]


def small():
    """Return a model of a convolution and a fully connected layer."""
    model = Model()
    source = model.tensor((1, 8, 8, 4), 0.05, 3)
    middle = conv(model, source, (1, 8, 8, 4), 4, 0.04, -20)
    weights = model.constant(np.ones((2, 256)), 0.01)
    model.run("FULLY_CONNECTED", [middle, weights], (1, 2), 0.04)
    return model


def change(path, value):
    """Return a function that sets an attribute of a part of a model's graph."""
    *way, last = path.split(".")

    def apply(graph):
        for step in way:
            graph = graph[int(step)] if step.isdigit() else getattr(graph, step)
        setattr(graph, last, value)

    return apply


BAD = [
    ("tensors.3.quantization.scale", [np.nan], "scale of tensor 't3' must be above 0 and finite, not nan"),
    ("tensors.3.quantization.scale", [-1], "scale of tensor 't3' must be above 0 and finite, not -1.0"),
    ("tensors.3.quantization.scale", [0], "scale of tensor 't3' must be above 0 and finite, not 0.0"),
    ("tensors.3.quantization.scale", [1, 1], "tensor 't3' must have one scale, not 2"),
    ("tensors.3.quantization", None, "tensor 't3' must have one scale, not 0"),
    ("tensors.3.quantization.zeroPoint", [300], "zero point of tensor 't3' must be -128 to 127, not 300"),
    ("tensors.1.quantization.scale", [np.inf], "scales of its weights must be above 0"),
    ("tensors.1.quantization.zeroPoint", [1], "zero points of weights 't1' must be 0"),
    ("tensors.1.quantization.scale", [1, 1, 1], "one scale, or 4 on axis 0, not 3 on axis 0"),
    ("tensors.3.shape", [1, 8, 9, 4], "output must be of shape 8×8×4, not 8×9×4"),
    ("operators.0.builtinOptions.strideH", 0, r"StrideH and StrideW must be at least 1, not \(0, 1\)"),
    ("operators.0.builtinOptions.padding", 2, "padding must be SAME or VALID"),
    ("operators.0.builtinOptions", None, "StrideH and StrideW must be at least 1"),
    ("operators.0.inputs", [0], "input 1 is missing"),
    ("operators.0.inputs", [0, 77], r"corrupt: tensors \[0, 77\] of 6"),
    ("operators.1.inputs", [3, 3], "input 1 't3' must be a constant of INT8, not a variable"),
    ("operators.1.inputs", [4, 4], "input 0 't4' is a constant"),
    ("operators.0.inputs", [3, 1], "input 0 't3' is used before it is computed"),
    ("operators.1.outputs", [3], "its output is computed twice"),
    ("tensors.0.shape", [2, 8, 8, 4], r"batch of 1, not shape \[2, 8, 8, 4\]"),
    ("tensors.0.shapeSignature", [-1, -1, 8, 4], "shape of tensor 't0' must be fixed"),
    ("tensors.0.shape", [1, 1 << 16, 1 << 16, 4], r"corrupt: tensor 't0' has shape \[1, 65536, 65536, 4\]"),
    ("tensors.1.shape", [4, 1, 1, 5], r"corrupt: tensor 't1' of shape \[4, 1, 1, 5\] has 16 bytes"),
    ("tensors.0.type", 0, "tensor 't0' must be INT8, not FLOAT32"),
    ("tensors.1.type", 17, "must be a constant of INT8, not INT4"),
    ("tensors.1.sparsity", schema.SparsityParametersT(), "tensor 't1' must be dense"),
    ("outputs", [3, 5], "must have one output, not 2"),
    ("operators", [], "must have a layer"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), BAD)
def test_bad_models(path, value, message, tmp_path):
    model = small()
    change(path, value)(model.graph)
    with pytest.raises(UserError, match=message):
        read_tflite(model.save(tmp_path))


def test_sums_beyond_32_bits(tmp_path):
    model = Model()
    source = model.tensor((1, 1, 1, 4), 0.05, 3)
    bias = model.constant([2**31 - 100], 1.0, 0, 0, np.int32)
    weights = model.constant(np.full((1, 1, 1, 4), 127), 0.01)
    model.run(
        "CONV_2D",
        [source, weights, bias],
        (1, 1, 1, 1),
        0.05,
        strideH=1,
        strideW=1,
    )
    with pytest.raises(UserError, match="may exceed 32 bits"):
        read_tflite(model.save(tmp_path))


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_tflite(tmp_path / "none.tflite")
    path = tmp_path / "text.tflite"
    for content in (b"", b"TFL3", b"x" * 1000):
        path.write_bytes(content)
        with pytest.raises(UserError, match="must be a TFLite file"):
            read_tflite(path)
    path.write_bytes(b"\xff\xff\xff\x7fTFL3")
    with pytest.raises(UserError, match="corrupt"):
        read_tflite(path)


def test_truncated_and_corrupt_files(tmp_path):
    """Wherever a file ends or is wrong: a UserError, or a network of valid numbers."""
    content = small().content()
    path = tmp_path / "model.tflite"
    for length in range(8, len(content), 37):
        path.write_bytes(content[:length])
        with pytest.raises(UserError):
            read_tflite(path)
    rng = np.random.default_rng(0)
    read = 0
    for _ in range(400):
        changed = bytearray(content)
        for place in rng.integers(8, len(content), rng.integers(1, 4)):
            changed[place] = rng.choice([0, 1, 127, 255, rng.integers(256)])
        path.write_bytes(changed)
        try:
            network = read_tflite(path)
        except UserError:
            continue
        read += 1
        assert all(tensor.scale > 0 for tensor in network.tensors.values())
    assert 0 < read < 400


def test_fixed_point_and_thresholds_serve_fully_connected_layers(tmp_path):
    """Factors below some 0.001 leave a multiplier few digits; thresholds take their place."""
    kinds = set()
    for step in range(6):
        model = Model()
        source = model.tensor((1, 500), 0.02, 0)
        weights = model.constant(codes((20, 500), step), np.pi / 3000)
        model.run("FULLY_CONNECTED", [source, weights], (1, 20), 0.0061 + 0.0053 * step, 7)
        network = check(model.save(tmp_path), codes((20, 500), step))
        layer = network.operations[0]
        assert isinstance(layer, Conv)
        kinds.add(isinstance(layer.requantize, Thresholds))
    assert kinds == {False, True}
