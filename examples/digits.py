"""Train, export and quantize the small network that stands beside this file.

    python examples/digits.py        # needs scikit-learn: pip install 'hwgen[quickstart]'

A convolution of random, normalized filters, a pool and two trained layers recognize the handwritten
digits that scikit-learn bundles. It writes `digits_int8.onnx` (QDQ, one scale for each output
channel), and of 50 images that it was not trained on `digits_x.npy` (the model's own input) and
`digits_y.npy` (which digits they are).
"""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from hwgen.network.quantize import quantize_model
from pe_library import get_pe

HERE = Path(__file__).parent
FILTERS, HELD_OUT = 12, 50


def main() -> None:
    """Write the three files."""
    rng = np.random.default_rng(0)
    images, digits = load_digits(return_X_y=True)
    order = rng.permutation(len(images))
    images, digits = (images[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8), digits[order]
    filters = rng.normal(size=(FILTERS, 1, 3, 3))
    filters -= filters.mean(axis=(2, 3), keepdims=True)
    filters /= np.abs(filters).sum(axis=(2, 3), keepdims=True)
    views = np.lib.stride_tricks.sliding_window_view(images[:, 0], (3, 3), (1, 2))
    maps = np.maximum(np.einsum("nhwij,oij->nohw", views, filters[:, 0]), 0)
    pooled = maps.reshape(-1, FILTERS, 3, 2, 3, 2).max(axis=(3, 5)).reshape(len(images), -1)
    classifier = MLPClassifier((32,), max_iter=60, learning_rate_init=5e-3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge
        classifier.fit(pooled[HELD_OUT:], digits[HELD_OUT:])
    weights = [w.T.astype(np.float32) for w in classifier.coefs_]
    biases = [b.astype(np.float32) for b in classifier.intercepts_]
    constants = {"filters": filters.astype(np.float32), "w1": weights[0], "b1": biases[0],
                 "w2": weights[1], "b2": biases[1]}  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["image", "filters"], ["maps"], "conv"),
        helper.make_node("Relu", ["maps"], ["maps_relu"], "relu"),
        helper.make_node("MaxPool", ["maps_relu"], ["pooled"], "pool", kernel_shape=[2, 2],
                         strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "w1", "b1"], ["hidden"], "dense1", transB=1),
        helper.make_node("Relu", ["hidden"], ["hidden_relu"], "relu1"),
        helper.make_node("Gemm", ["hidden_relu", "w2", "b2"], ["digit"], "dense2", transB=1),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("digit", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.onnx"
        onnx.save(model, path)
        quantized = quantize_model(
            path, get_pe("int8"), images[HELD_OUT : HELD_OUT + 300], per_channel=True
        )
    onnx.save(quantized, HERE / "digits_int8.onnx")
    np.save(HERE / "digits_x.npy", images[:HELD_OUT])
    np.save(HERE / "digits_y.npy", digits[:HELD_OUT])


if __name__ == "__main__":
    main()
