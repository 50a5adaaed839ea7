"""Networks on the accelerator: every layer equals the golden model, every cycle the cycle model."""

import numpy as np
import pytest

from hwgen.accelerator.config import AcceleratorConfig
from hwgen.compiler.compile import compile_network
from hwgen.compiler.rewrite import fold_stride
from hwgen.network.load import load_network
from testbench.golden_network import run_network
from testbench.network import simulate_network
from testbench.random_networks import random_network

CONFIGURATIONS = {
    "int8 4x4": {"pe": "int8", "rows": 4, "cols": 4},
    "int8 3x8 shift": {
        "pe": "int8", "rows": 3, "cols": 8, "requantize": "shift", "stream_bits": 128,
    },
    "lightpe2 4x2": {"pe": "lightpe2", "rows": 4, "cols": 2},
    "int8 6x4 threshold": {
        "pe": "int8", "rows": 6, "cols": 4, "requantize": "threshold", "thresholds": 3,
    },
    "bnn32 2x6": {
        "pe": "bnn32", "rows": 2, "cols": 6, "requantize": "threshold", "thresholds": 1,
    },
    "int16 2x4": {"pe": "int16", "rows": 2, "cols": 4},
    "int8 4x6, two lanes": {"pe": "int8", "rows": 4, "cols": 6, "lanes": 2, "pipeline": 2},
    "int8 1x1": {"pe": "int8", "rows": 1, "cols": 1},
    "lightpe1 6x9 shift": {"pe": "lightpe1", "rows": 6, "cols": 9, "requantize": "shift"},
    "int8 8x3 os": {"pe": "int8", "rows": 8, "cols": 3, "dataflow": "os"},
    "bnn32 2x4 os": {
        "pe": "bnn32", "rows": 2, "cols": 4, "dataflow": "os", "requantize": "threshold",
        "thresholds": 1,
    },
    "bnn64 1x4, small": {
        "pe": "bnn32", "lanes": 64, "rows": 1, "cols": 4, "requantize": "threshold",
        "thresholds": 1, "layout": "aligned", "loop_bits": 6, "sum_bits": 12, "register_sets": 1,
        "weight_ports": 1, "register_slices": 0,
    },
    "int8 2x4 shift, small": {
        "pe": "int8", "rows": 2, "cols": 4, "requantize": "shift", "loop_bits": 6, "sum_bits": 24,
        "register_sets": 1,
    },
    "int8 8x4, aligned": {
        "weight_ports": 1, "pe": "int8", "rows": 4, "cols": 4, "lanes": 2, "layout": "aligned", "loop_bits": 8,
    },
    "int8 8x2 os, aligned": {
        "register_slices": 0, "pe": "int8", "rows": 8, "cols": 2, "dataflow": "os", "layout": "aligned",
    },
}  # fmt: skip


def accelerator(**options):
    small = {"accumulator_buffer": 160 * options["cols"], "weight_buffer": 8192,
             "parameter_buffer": 32768}  # fmt: skip
    return AcceleratorConfig.from_options({**small, **options})


def random_input(network, rng, samples=1):
    tensor = network.tensors[network.input]
    values = [-1, 1] if tensor.bipolar else np.arange(tensor.low, tensor.high + 1)
    return rng.choice(values, (samples, *tensor.shape)).astype(np.int64)


def check(config, count, seed):
    """Random networks, without stalls and with: integers and cycles."""
    rng = np.random.default_rng(seed)
    compared = 0
    for number in range(count):
        network = random_network(config, rng)
        compiled = compile_network(network, config)
        inputs = random_input(network, rng)
        smooth = simulate_network(compiled, inputs, check=True, seed=number + 1)
        assert not any(smooth.mismatches.values()), (number, smooth.mismatches)
        assert smooth.cycles == smooth.predicted, number
        offer, accept = rng.choice([0.2, 0.5, 0.9], 2)
        stalled = simulate_network(
            compiled, inputs, check=True, offer=offer, accept=accept, seed=number + 1
        )
        assert not any(stalled.mismatches.values()), (number, stalled.mismatches)
        assert stalled.cycles[0] >= smooth.cycles[0]
        compared += smooth.compared
    assert compared > 20 * count


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_random_networks(name):
    check(accelerator(**CONFIGURATIONS[name]), 10, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_many_random_networks(name):
    check(accelerator(**CONFIGURATIONS[name]), 200, seed=2)


@pytest.mark.parametrize("file", ["ic_resnet8_int8.tflite", "kws_dscnn_int8.tflite"])
def test_mlperf_tiny(model_path, file):
    """Every layer of whole networks, depthwise convolutions and residual additions among them."""
    config = AcceleratorConfig.from_options({"pe": "int8", "rows": 16, "cols": 16})
    network = fold_stride(load_network(model_path(file)), config)
    compiled = compile_network(network, config)
    batch = np.random.default_rng(0).integers(-128, 128, (2, 32, 32, 3)).astype(np.int8)
    if "kws" in file:
        batch = np.random.default_rng(0).integers(-128, 128, (2, 49, 10, 1)).astype(np.int8)
    found = simulate_network(compiled, network.encode(batch), check=True)
    assert sum(found.mismatches.values()) == 0
    assert found.compared > 100_000
    assert found.cycles == found.predicted


@pytest.mark.parametrize(
    ("pe", "options"),
    [("bnn32", {"rows": 2, "thresholds": 1}), ("int8", {"rows": 16, "thresholds": 2})],
)
def test_binary_network(model_path, pe, options):
    """TFC-W1A1 on XNOR-popcount PEs, and its bipolar integers on INT8 PEs."""
    config = AcceleratorConfig.from_options(
        {"pe": pe, "cols": 16, "requantize": "threshold", **options}
    )
    network = load_network(model_path("tfc_w1a1_qonnx.onnx"))
    compiled = compile_network(network, config)
    batch = np.random.default_rng(0).uniform(-1, 1, (2, 1, 28, 28)).astype(np.float32)
    inputs = network.encode(batch)
    found = simulate_network(compiled, inputs, check=True)
    assert sum(found.mismatches.values()) == 0
    assert found.cycles == found.predicted
    golden = run_network(network, inputs)[network.output]
    assert (network.decode(found.outputs) == network.decode(golden)).all()


def test_three_bit_network(model_path):
    config = AcceleratorConfig.from_options(
        {"pe": "int8", "rows": 16, "cols": 16, "requantize": "threshold", "thresholds": 7}
    )
    network = load_network(model_path("kws_mlp_w3a3_qonnx.onnx"))
    batch = np.load(model_path("kws_mlp_w3a3_input.npy"))
    expected = np.load(model_path("kws_mlp_w3a3_expected_output.npy"))
    compiled = compile_network(network, config)
    found = simulate_network(compiled, network.encode(batch), check=True)
    assert sum(found.mismatches.values()) == 0
    assert network.decode(found.outputs).argmax() == expected.item()  # the recorded class


def test_power_of_two_weights(model_path):
    """FloatQuant without mantissa runs on the shift-add PE with a zero code."""
    config = AcceleratorConfig.from_options(
        {"pe": "lightpe1", "rows": 4, "cols": 4, "requantize": "shift",
         "pe_options": {"zero": "code"}}
    )  # fmt: skip
    network = load_network(model_path("lightpe1_e3m0_floatquant_example.onnx"))
    compiled = compile_network(network, config)
    rng = np.random.default_rng(0)
    inputs = random_input(network, rng, 3)
    found = simulate_network(compiled, inputs, check=True)
    assert sum(found.mismatches.values()) == 0


def test_a_broken_layer_is_seen(monkeypatch):
    """One weight off by one in what is loaded: the check names the layer."""
    config = accelerator(**CONFIGURATIONS["int8 4x4"])
    rng = np.random.default_rng(5)
    network = random_network(config, rng)
    while not any(hasattr(o, "weights") for o in network.operations[:1]):
        network = random_network(config, rng)
    compiled = compile_network(network, config)
    (load,) = [x for x in compiled.layers[0].jobs[0].loads if x.buffer == "parameter"]
    load.data[0, 0] ^= 64  # a bit of the first channel's bias
    load.data[0, 1] ^= 64
    found = simulate_network(compiled, random_input(network, rng), check=True)
    assert found.mismatches[network.operations[0].output] > 0
