"""`hwgen quantize | compile | run`, on the network that the repository carries."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hwgen.cli import main

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MODEL = str(EXAMPLES / "digits_int8.onnx")
ARRAY = ["--pe", "int8", "--rows", "8", "--cols", "8"]


def run(tmp_path, *flags, model=MODEL, inputs=EXAMPLES / "digits_x.npy"):
    return main(["run", str(model), *ARRAY, "--simulate", "--inputs", str(inputs),
                 "--outputs", str(tmp_path / "y.npy"), *flags])  # fmt: skip


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_run(tmp_path, capsys, dataflow):
    assert run(tmp_path, "--check", "--json", "--dataflow", dataflow) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["samples"] == 50
    assert report["cycles"] == report["predicted_cycles"]
    assert report["checked"] > 20_000
    assert not any(report["mismatches"].values())
    digits = np.load(tmp_path / "y.npy").argmax(axis=1)
    assert (digits == np.load(EXAMPLES / "digits_y.npy")).mean() >= 0.96


def test_run_equals_onnx_runtime(tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    assert run(tmp_path) == 0
    session = runtime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"image": np.load(EXAMPLES / "digits_x.npy")})
    found = np.load(tmp_path / "y.npy")
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    # The runtime scales sums in floats; a code that lies between two may fall to either side.
    differ = np.abs(found - expected) > 1e-6
    assert differ.mean() <= 0.02
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()


def test_compile(tmp_path, capsys):
    assert main(["compile", MODEL, *ARRAY, "--explain", "--output", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["layer", "kind", "output"]
    assert [line.split()[0] for line in lines[2:]] == ["conv", "pool", "dense1", "dense2", "total"]
    described = json.loads((tmp_path / "int8.program.json").read_text())
    beats = (tmp_path / "int8.program.bin").stat().st_size / 8
    assert beats == int(beats)
    cycles = int(lines[-1].split()[-2].replace(",", ""))
    assert described["cycles"] == cycles > beats
    assert sum(layer["cycles"] for layer in described["layers"]) in range(cycles - 9, cycles + 1)
    assert main(["compile", MODEL, *ARRAY, "--output", str(tmp_path)]) == 2  # exists


def test_quantize(tmp_path, capsys):
    """Of the float network in the tests of the front end, for a shift-add PE."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    filters = numpy_helper.from_array(rng.normal(size=(4, 2, 3, 3)).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1, 1, 1, 1])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 6, 6])],
        [filters],
    )
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path / "f.onnx")
    np.save(tmp_path / "x.npy", rng.normal(size=(8, 2, 6, 6)).astype(np.float32))
    quantize = [
        "quantize",
        str(tmp_path / "f.onnx"),
        "--pe",
        "lightpe2",
        "--calibration",
        str(tmp_path / "x.npy"),
        "--per-channel",
        "--output",
        str(tmp_path / "q.onnx"),
    ]
    assert main(quantize) == 0
    flags = [
        "--pe",
        "lightpe2",
        "--rows",
        "4",
        "--cols",
        "4",
        "--simulate",
        "--check",
        "--inputs",
        str(tmp_path / "x.npy"),
        "--outputs",
        str(tmp_path / "y.npy"),
    ]
    assert main(["run", str(tmp_path / "q.onnx"), *flags]) == 0
    assert "mismatches                0" in capsys.readouterr().out
    assert main(quantize) == 2
    assert "use --force" in capsys.readouterr().err


def test_weights_can_be_projected(tmp_path, capsys):
    array = ["--pe", "lightpe2", "--rows", "4", "--cols", "4"]
    assert main(["compile", MODEL, *array]) == 2
    message = capsys.readouterr().err
    assert "network must fit PE 'lightpe2'" in message
    assert "conv" in message
    assert "dense1" in message
    assert main(["compile", MODEL, *array, "--project-weights"]) == 0
    assert "of the weights are not on the grid" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--activation-buffer", "200"], "activation_buffer must be at least"),
        (["--weight-buffer", "64"], "weight_buffer must be at least"),
        (["--requantize", "shift"], "requantize must be 'multiplier' for layer 'conv', not 'shift'"),
        (["--pe", "bnn32", "--requantize", "threshold", "--thresholds", "1"], "activations"),
        (["--dataflow", "os", "--max-k", "50"], "max_k must be at least"),
    ],
)  # fmt: skip
def test_what_does_not_fit(tmp_path, capsys, flags, message):
    assert run(tmp_path, *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "layer '" in error or "network must fit" in error
    assert not (tmp_path / "y.npy").exists()


def test_bad_files(tmp_path, capsys):
    assert run(tmp_path, model=tmp_path / "none.onnx") == 2
    shutil.copy(MODEL, tmp_path / "cut.onnx")
    data = (tmp_path / "cut.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: len(data) // 2])
    assert run(tmp_path, model=tmp_path / "cut.onnx") == 2
    assert run(tmp_path, inputs=tmp_path / "none.npy") == 2
    (tmp_path / "x.npy").write_bytes(b"not an array")
    assert run(tmp_path, inputs=tmp_path / "x.npy") == 2
    np.save(tmp_path / "x.npy", np.zeros((0, 1, 8, 8), np.float32))
    assert run(tmp_path, inputs=tmp_path / "x.npy") == 2
    np.save(tmp_path / "x.npy", np.zeros((2, 1, 8, 9), np.float32))
    assert run(tmp_path, inputs=tmp_path / "x.npy") == 2
    np.save(tmp_path / "x.npy", np.full((1, 1, 8, 8), np.nan, np.float32))
    assert run(tmp_path, inputs=tmp_path / "x.npy") == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 7
    assert all(line.startswith("hwgen: ") for line in errors)
    assert main(["run", MODEL, *ARRAY, "--inputs", "x", "--outputs", "y"]) == 2
    assert "--simulate must be given" in capsys.readouterr().err
