"""ONNX files that are well-formed, and files that are not: each refused with one sentence."""

import re

import numpy as np
import pytest

from hwgen.errors import UserError
from hwgen.network.load import load_network

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from hwgen.network.onnx_file import OnnxGraph, positive_scales  # noqa: E402
from hwgen.network.onnx_qdq import read_qdq  # noqa: E402


def constant(name, value):
    return numpy_helper.from_array(np.asarray(value), name)


def make(nodes, constants=(), shape=("n", 4), kind=TensorProto.FLOAT, opset=17, output="y"):
    """Return a model from "x" of a shape."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [constant(name, value) for name, value in dict(constants).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


GEMM = {
    "s": np.float32(0.5),
    "z": np.int8(3),
    "w": np.arange(-4, 4, dtype=np.int8).reshape(4, 2),
    "ws": np.float32(0.25),
    "wz": np.int8(0),
}


def gemm(**changed):
    """Return a small quantized model, some of its constants changed."""
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        node("DequantizeLinear", ["q", "s", "z"], ["d"], "dequantize"),
        node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "weights"),
        node("MatMul", ["d", "wd"], ["m"], "product"),
        node("QuantizeLinear", ["m", "s", "z"], ["o"], "requantize"),
        node("DequantizeLinear", ["o", "s", "z"], ["y"], "output"),
    ]
    return make(nodes, GEMM | changed)


def saved(model, folder):
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def refused(model, match):
    with pytest.raises(UserError, match=match) as caught:
        read_qdq(OnnxGraph(model, "model"))
    assert "\n" not in str(caught.value).replace("\n  ", "")
    return str(caught.value)


def test_a_small_model_is_read(tmp_path):
    path = saved(gemm(), tmp_path)
    graph = OnnxGraph.load(path)
    assert graph.name == "model"
    assert (graph.inputs, graph.outputs) == (["x"], ["y"])
    assert graph.shapes["m"] == (1, 2)
    assert graph.types["q"] == "INT8"
    assert graph.producers["m"].op == "MatMul"
    assert [str(node) for node in graph.consumers["q"]] == ["DequantizeLinear 'dequantize'"]
    network = load_network(path)
    assert network.encode(np.zeros((3, 4), np.float32)).tolist() == [[[[3] * 4]]] * 3


# Files.


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(UserError, match="must be a file"):
            OnnxGraph.load(path)
        with pytest.raises(UserError, match="cannot be read"):
            load_network(path)


def test_other_formats(tmp_path):
    path = tmp_path / "model.h5"
    path.write_bytes(b"whatever")
    with pytest.raises(UserError, match=r"must be an \.onnx or a \.tflite file"):
        load_network(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\3\4 not a model at all" * 10])
def test_other_contents(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is corrupt, or not ONNX"):
        load_network(path)


def test_truncated_files(tmp_path):
    whole = gemm().SerializeToString()
    path = tmp_path / "model.onnx"
    for size in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError):
            load_network(path)


def test_changed_bytes_never_end_in_another_error(tmp_path):
    whole = gemm().SerializeToString()
    path = tmp_path / "model.onnx"
    rng = np.random.default_rng(5)
    good = 0
    for _ in range(250):
        found = bytearray(whole)
        for place in rng.integers(len(whole), size=rng.integers(1, 4)):
            found[place] = rng.integers(256)
        path.write_bytes(bytes(found))
        try:
            load_network(path)
            good += 1
        except UserError:
            pass
    assert 0 < good < 150  # some bytes are weights


def test_initializer_of_too_few_bytes():
    model = gemm()
    model.graph.initializer[2].raw_data = b"123"
    refused(model, "raw_data size|do not fill the shape")


@pytest.mark.parametrize("dims", [[1 << 40, 4], [-4, 2], [1 << 20, 1 << 20]])
def test_absurd_dimensions_of_a_constant(dims):
    model = gemm()
    model.graph.initializer[2].dims[:] = dims
    refused(
        model,
        re.escape(
            f"dimensions of constant 'w' must be 0 or more with a product of at most 268,435,456, not {dims}"
        ),
    )


@pytest.mark.parametrize("shape", [("n", 1 << 40), ("n", 0), ("n", -3), ("n", 1 << 20, 1 << 20)])
def test_absurd_dimensions_of_the_input(shape):
    model = make([helper.make_node("Relu", ["x"], ["y"])], shape=shape)
    refused(model, "(dimensions|dimension 1) of input 'x' must be")


def test_absurd_dimensions_in_between():
    nodes = [helper.make_node("Tile", ["x", "many"], ["y"])]
    model = make(nodes, {"many": np.array([1, 1 << 40])})
    refused(model, "dimensions of tensor 'y' must be positive")


@pytest.mark.parametrize("shape", [("n", "t"), ("n", "t", 4), (2, None)])
def test_dynamic_shapes(shape):
    model = make([helper.make_node("Relu", ["x"], ["y"])], shape=shape)
    refused(model, "dimension 1 of input 'x' must be static, not .*; only the batch may be open")


def test_batch_may_be_open_or_fixed():
    for batch in ("n", None, 1, 5):
        model = gemm()
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", 1, (batch, 4)))
        found = read_qdq(OnnxGraph(model, "model"))
        assert found.tensors["q"].shape == (1, 1, 4)


# External data.


def external(folder, location, offset=None, length=None):
    """Return the path of a model whose weights are in another file."""
    model = gemm()
    tensor = model.graph.initializer[2]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return saved(model, folder)


def test_external_data_within_the_folder(tmp_path):
    (tmp_path / "data").mkdir()
    content = b"??" + GEMM["w"].tobytes() + b"more"
    (tmp_path / "data" / "w.bin").write_bytes(content)
    graph = OnnxGraph.load(external(tmp_path, "data/w.bin", 2, 8))
    assert (graph.constants["w"] == GEMM["w"]).all()


@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "a/../../secret",
        "{folder}/secret",
        "link",
        "folder/secret",
        "..\\secret",
        "C:\\secret",
        "",
        "a\0b",
    ],
)
def test_external_data_outside_the_folder(tmp_path, location):
    (tmp_path / "secret").write_bytes(GEMM["w"].tobytes())
    inside = tmp_path / "models"
    (inside / "a").mkdir(parents=True)
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "folder").symlink_to(tmp_path)
    with pytest.raises(
        UserError, match="external data of constant 'w' must be in the model's fold"
    ):
        OnnxGraph.load(external(inside, location.format(folder=tmp_path)))


@pytest.mark.parametrize(
    ("location", "offset", "length", "match"),
    [
        ("none.bin", None, None, "must be a file: 'none.bin' is none"),
        ("w.bin", 4, 8, "must be within the 8 bytes of 'w.bin', not 8 bytes from 4"),
        ("w.bin", -1, 8, "must be within the 8 bytes of 'w.bin'"),
        ("w.bin", 1 << 70, None, "must be within the 8 bytes of 'w.bin'"),
        ("w.bin", "x", None, "offset and length .* must be integers"),
        ("w.bin", 0, 7, "raw_data size|do not fill"),
    ],
)
def test_external_data_that_do_not_fit(tmp_path, location, offset, length, match):
    (tmp_path / "w.bin").write_bytes(GEMM["w"].tobytes())
    with pytest.raises(UserError, match=match):
        OnnxGraph.load(external(tmp_path, location, offset, length))


# Graphs.


@pytest.mark.parametrize("opset", [6, 99])
def test_operator_sets_of_unknown_version(opset):
    model = make([helper.make_node("Relu", ["x"], ["y"])], opset=opset)
    refused(model, f"uses version {opset} of operator set 'ai.onnx', which must be 7 to")


def test_nodes_are_sorted_and_cycles_refused():
    model = gemm()
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node][::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    graph = OnnxGraph(model, "model")
    place = {node.name: i for i, node in enumerate(graph.nodes)}
    assert place["quantize"] < place["dequantize"] < place["product"] < place["requantize"]
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    refused(make(nodes, output="b"), "has a cycle through node 'a'")


def test_shapes_that_are_computed_are_constants():
    node = helper.make_node
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"], axis=0),
        node("Unsqueeze", ["batch", "axes"], ["batch1"]),
        node("Concat", ["batch1", "rest"], ["wanted"], axis=0),
        node("Reshape", ["x", "wanted"], ["y"]),
    ]
    constants = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}
    graph = OnnxGraph(make(nodes, constants, shape=("n", 3, 5, 2)), "model")
    assert graph.shapes["y"] == (1, 30)
    assert [node.op for node in graph.nodes] == ["Reshape"]
    assert graph.constants["wanted"].tolist() == [1, -1]


def test_four_bit_constants_are_widened():
    model = gemm()
    tensor = helper.make_tensor("w", TensorProto.INT4, (4, 2), [-8, 7, 0, 1, 2, 3, -1, -2])
    model.graph.initializer[2].CopyFrom(tensor)
    graph = OnnxGraph(model, "model")
    assert graph.constants["w"].dtype == np.int8
    assert graph.constants["w"].ravel().tolist() == [-8, 7, 0, 1, 2, 3, -1, -2]
    assert graph.types["w"] == "INT4"


def test_functions_and_sparse_constants_are_refused():
    model = gemm()
    model.functions.add(name="f", domain="d")
    refused(model, "must have no local functions")


# Quantization.


@pytest.mark.parametrize("value", [0, -0.5, np.nan, np.inf])
@pytest.mark.parametrize("name", ["s", "ws"])
def test_scales_must_be_positive(name, value):
    message = refused(gemm(**{name: np.float32(value)}), "must be finite and above 0, not")
    assert message.startswith(f"scale {name!r} of ")
    with pytest.raises(UserError, match="scale of a test must be finite and above 0, not"):
        positive_scales([1, value], "scale of a test")


def test_one_scale_of_a_channel_is_wrong():
    changed = {"ws": np.float32([0.5, -1]), "wz": np.int8([0, 0])}
    refused(
        gemm(**changed),
        "scale 'ws' of DequantizeLinear 'weights' must be finite and above 0, not -1",
    )


def test_zero_points():
    refused(gemm(wz=np.uint8(0)), "zero point 'wz' of .* must be of type INT8, not UINT8")
    refused(gemm(wz=np.int8([0, 0])), r"must have the shape \[\] of its scale, not \[2\]")
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        node("Clip", ["q", "low", "high"], ["c"]),
        node("DequantizeLinear", ["c", "s", "z"], ["y"], "dequantize"),
    ]
    limits = {"low": np.int8(-2), "high": np.int8(1)}
    message = "zero point of QuantizeLinear 'quantize' must be -2 to 1, not 3"
    refused(make(nodes, GEMM | limits), message)


def test_per_channel_scales_must_fit():
    refused(gemm(ws=np.float32([1] * 3), wz=np.int8([0] * 3)), "must have one scale, or 2, not 3")


def test_not_finite_constants():
    model = gemm()
    model.graph.initializer.append(constant("b", np.float32([1, np.nan])))
    model.graph.node.insert(4, helper.make_node("Add", ["m", "b"], ["a"], "bias"))
    model.graph.node[5].input[0] = "a"
    refused(model, "constant 'b' of Add 'bias' must be finite")


def test_a_bias_beyond_32_bits():
    model = gemm()
    model.graph.initializer.append(constant("b", np.float32([1, 1e12])))
    model.graph.node.insert(4, helper.make_node("Add", ["m", "b"], ["a"], "bias"))
    model.graph.node[5].input[0] = "a"
    refused(model, "QuantizeLinear 'requantize': its bias 1e.12 does not fit 32-bit sums")


def test_sums_beyond_32_bits():
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w"], ["y"], "product"),
    ]
    weights = np.full((1 << 18, 1), 127, np.int8)
    model = make(nodes, {"w": weights}, shape=("n", 1 << 18), kind=TensorProto.INT8)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    refused(model, "its sums, up to 4261412864, must fit 32 bits")


def test_all_unsupported_nodes_are_told_at_once():
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        node("DequantizeLinear", ["q", "s", "z"], ["d"], "dequantize"),
        node("LeakyRelu", ["d"], ["l"], "leaky"),
        node("QuantizeLinear", ["l", "s", "z"], ["lq"], "after"),
        node("DequantizeLinear", ["lq", "s", "z"], ["ld"]),
        node("MatMul", ["d", "wf"], ["m"], "floating"),
        node("Add", ["m", "ld"], ["a"], "sum"),
        node("Mul", ["d", "d"], ["square"], "square"),
        node("Frobnicate", ["a"], ["f"], "frobnicate"),
        node("Thing", ["f", "square"], ["y"], "thing", domain="org.example"),
    ]
    model = make(nodes, GEMM | {"wf": np.ones((4, 4), np.float32)})
    model.opset_import.add(domain="org.example", version=1)
    message = refused(model, "model 'model' has 5 unsupported nodes:\n")
    for line in (
        "LeakyRelu 'leaky': operator LeakyRelu is not supported",
        "MatMul 'floating': its weights 'wf' are not quantized",
        "Mul 'square': it multiplies two activations",
        "Frobnicate 'frobnicate': operator Frobnicate is not supported",
        "Thing 'thing': operator Thing of domain 'org.example' is not supported",
    ):
        assert f"\n  {line}" in message
    assert "after" not in message  # what merely follows is not told


def test_activations_between_nodes_must_be_quantized():
    model = gemm()
    del model.graph.node[4:]
    weights = model.graph.node[2].output[0]
    model.graph.initializer.append(constant("v", GEMM["w"].T.copy()))
    model.graph.node.append(helper.make_node("DequantizeLinear", ["v", "ws", "wz"], ["vd"]))
    model.graph.node.append(helper.make_node("MatMul", ["m", "vd"], ["y"], "second"))
    assert weights == "wd"
    refused(model, "MatMul 'second': its input 'm' is not quantized")


def test_more_inputs_or_none_quantized():
    model = gemm()
    model.graph.output.append(helper.make_tensor_value_info("m", 1, None))
    refused(model, "must have one input and one output, not 1 and 2")
    refused(make([helper.make_node("Relu", ["x"], ["y"])]), "must have a quantized operation")


@pytest.mark.parametrize(
    ("node", "inputs", "attributes", "match"),
    [
        ("AveragePool", (), {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}, "its windows count fewer places at the border"),
        ("AveragePool", (), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, "its windows count fewer"),
        ("AveragePool", (), {"kernel_shape": [9, 2]}, r"dimensions of tensor 'm' must be positive .*, not \[1, 4, -3, 4\]"),
        ("MaxPool", (), {"kernel_shape": [2, 2], "dilations": [2, 2]}, "its window is dilated"),
        ("MaxPool", (), {"kernel_shape": [2, 2], "pads": [2, 0, 0, 0]}, "its padding is as wide as its window"),
        ("MaxPool", (), {"kernel_shape": [2, 2], "strides": [0, 1]}, "strides of MaxPool .* must be two positive integers"),
        ("ReduceMean", (), {"axes": [1]}, "it averages over other axes"),
        ("Conv", ("f",), {"group": 2}, "must have weights for its 4 channels in 2 groups"),
        ("Conv", ("f",), {"pads": [-1, 0, 0, 0]}, "pads of Conv .* must be four integers, 0 or more"),
        ("Conv", ("f",), {"kernel_shape": [2, 2]}, "kernel_shape of Conv .* must be that of its weights"),
        ("Transpose", (), {"perm": [1, 0, 2, 3]}, "it moves the batch"),
        ("Softmax", (), {"axis": 0}, "it works across the batch"),
        ("Add", ("plane",), {}, "its constant differs within a channel"),
    ],
)  # fmt: skip
def test_operators_that_are_restricted(node, inputs, attributes, match):
    make_node = helper.make_node
    nodes = [
        make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "dequantize"),
        make_node("DequantizeLinear", ["filters", "s"], ["f"], "filters_node"),
        make_node(node, ["d", *inputs], ["m"], "node", **attributes),
        make_node("QuantizeLinear", ["m", "s", "z"], ["o"], "requantize"),
        make_node("DequantizeLinear", ["o", "s", "z"], ["y"], "output"),
    ]
    constants = {
        "filters": np.ones((4, 4, 1, 1), np.int8),
        "plane": np.arange(25, dtype=np.float32).reshape(5, 5),
    }
    model = make(nodes, GEMM | constants, shape=("n", 4, 5, 5))
    refused(model, match)


def test_inputs_must_fit_the_model(tmp_path):
    network = load_network(saved(gemm(), tmp_path))
    for bad in (np.zeros(4), np.zeros((2, 5)), np.full((2, 4), np.nan), np.full((2, 4), "a")):
        with pytest.raises(UserError, match="inputs for 'x' must"):
            network.encode(bad)
