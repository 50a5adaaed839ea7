"""How busy an accelerator keeps its array: ResNet-18's convolutions, layer by layer.

    python benchmarks/utilisation.py [--rows 16] [--cols 16] [--simulate]

Each layer is a program of its own (shapes of ResNet-18 for 224×224, random INT8 weights), from its
first command to its last result. `on chip`: its activations lie in the buffer and its results stay
there, as within a network; weights come through the stream, the first of them before anything can
begin. `alone`: activations come and results leave through the stream, too. Cycles are those of the
cycle model; ``--simulate`` runs some layers in Verilator and says whether they agree. Beside them:
SCALE-Sim's cycles for the same array (weight-stationary, its closed form; no loads, no stores), and
the least that any array needs (products ÷ PEs).
"""

import argparse
import sys
from dataclasses import replace

import numpy as np

from hwgen.accelerator.config import AcceleratorConfig
from hwgen.compiler.compile import compile_network
from hwgen.compiler.cycles import cycles_of
from hwgen.compiler.program import Program
from hwgen.compiler.rewrite import fold_stride
from hwgen.network.graph import Conv, Network, Pool, Tensor
from hwgen.network.requantize import FixedPoint

#: (name, how often it occurs, height = width of the input, channels in, out, kernel, stride)
RESNET18 = [
    ("conv1", 1, 224, 3, 64, 7, 2),
    ("conv2_x", 4, 56, 64, 64, 3, 1),
    ("conv3_1a", 1, 56, 64, 128, 3, 2),
    ("conv3_1s", 1, 56, 64, 128, 1, 2),
    ("conv3_x", 3, 28, 128, 128, 3, 1),
    ("conv4_1a", 1, 28, 128, 256, 3, 2),
    ("conv4_1s", 1, 28, 128, 256, 1, 2),
    ("conv4_x", 3, 14, 256, 256, 3, 1),
    ("conv5_1a", 1, 14, 256, 512, 3, 2),
    ("conv5_1s", 1, 14, 256, 512, 1, 2),
    ("conv5_x", 3, 7, 512, 512, 3, 1),
]


def layer(name: str, size: int, channels: int, out: int, kernel: int, stride: int) -> Network:
    """Return a network of one convolution with padding (kernel - 1) / 2 and random weights."""
    rng = np.random.default_rng(0)
    pad = (kernel - 1) // 2
    places = (size + 2 * pad - kernel) // stride + 1
    tensors = {
        "x": Tensor("x", (size, size, channels), -128, 127, -3),
        "y": Tensor("y", (places, places, out), -128, 127, 5),
    }
    multiplier = rng.integers(1 << 30, 1 << 31, out)
    requantize = FixedPoint(multiplier, np.full(out, -8), 5, -128, 127)
    weights = rng.integers(-127, 128, (out, kernel, kernel, channels))
    conv = Conv(name, ("x",), "y", requantize, weights, rng.integers(-999, 999, out),
                (stride, stride), (pad, pad, pad, pad))  # fmt: skip
    # The pool takes one pixel to the host, so that the layer's own results stay on the chip.
    tensors["z"] = Tensor("z", (1, 1, out), -128, 127, 5)
    pool = Pool("pool", ("y",), "z", None, "max", (1, 1), (places, places))
    return Network(name, tensors, [conv, pool], "x", "z", lambda x: x, lambda x: x)


def alone(network: Network) -> Network:
    """Return the network without the pool."""
    return replace(network, operations=network.operations[:1], output="y")


def cycles_on_chip(network: Network, config: AcceleratorConfig) -> int:
    """Return the cycles of the layer if its input is there already."""
    compiled = compile_network(network, config)
    commands = compiled.program(np.zeros(network.tensors["x"].shape, np.int64)).commands
    runs = [run for job in compiled.layers[0].jobs for run in job.runs]
    end = commands.index(runs[-1]) + 1
    return cycles_of(Program(config, commands[1:end]))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--cols", type=int, default=16)
    parser.add_argument("--simulate", action="store_true")
    arguments = parser.parse_args()
    config = AcceleratorConfig.from_options(
        {"pe": "int8", "rows": arguments.rows, "cols": arguments.cols, "stream_bits": 512,
         "activation_buffer": 1 << 20, "weight_buffer": 1 << 19, "accumulator_buffer": 1 << 18,
         "parameter_buffer": 1 << 17}
    )  # fmt: skip
    pes = config.array.macs_per_cycle
    print(f"INT8 {arguments.rows}×{arguments.cols} weight-stationary, 512-bit streams")
    print(f"{'layer':<10} {'n':>2} {'MACs':>12} {'on chip':>10} {'util.':>6} {'alone':>10} "
          f"{'least':>10} {'SCALE-Sim':>10}")  # fmt: skip
    all_macs = all_cycles = all_scalesim = lone = 0
    weighted = 0.0
    wide = []
    for name, times, size, channels, out, kernel, stride in RESNET18:
        network = fold_stride(layer(name, size, channels, out, kernel, stride), config)
        compiled = compile_network(alone(network), config)
        places = network.tensors["y"].shape[0]
        macs = places * places * out * kernel * kernel * channels
        shape = network.tensors["x"].shape
        inputs = np.random.default_rng(1).integers(-128, 128, shape)
        cycles = cycles_on_chip(network, config)
        all_alone = cycles_of(compiled.program(inputs))
        m, k = places * places, kernel * kernel * channels
        folds = -(-k // arguments.rows) * -(-out // arguments.cols)
        scalesim = folds * (m + 2 * arguments.rows + arguments.cols - 2) - 1
        use = macs / (cycles * pes)
        wide += [use] if channels >= 64 else []
        all_macs, all_cycles = all_macs + times * macs, all_cycles + times * cycles
        all_scalesim += times * scalesim
        lone += times * all_alone
        weighted += times * macs * use
        print(f"{name:<10} {times:>2} {macs:>12,} {cycles:>10,} {use:>6.1%} "
              f"{all_alone:>10,} {macs // pes:>10,} {scalesim:>10,}")  # fmt: skip
    print(f"{'all':<10}    {all_macs:>12,} {all_cycles:>10,} {all_macs / all_cycles / pes:>6.1%} "
          f"{lone:>10,} {all_macs // pes:>10,} {all_scalesim:>10,}")  # fmt: skip
    print(f"averaged over MACs {weighted / all_macs:.1%}; least of the layers with 64 channels or "
          f"more {min(wide):.1%}")  # fmt: skip
    return _simulate(config) if arguments.simulate else 0


def _simulate(config: AcceleratorConfig) -> int:
    from testbench.network import simulate_network

    for name in ("conv3_1s", "conv5_1a", "conv1"):
        found = next(entry for entry in RESNET18 if entry[0] == name)
        network = fold_stride(layer(name, *found[2:]), config)
        shape = (1, *network.tensors["x"].shape)
        inputs = np.random.default_rng(1).integers(-128, 128, shape)
        run = simulate_network(compile_network(alone(network), config), inputs, check=True)
        wrong = sum(run.mismatches.values())
        print(f"{name}: simulated {run.cycles[0]:,} cycles, predicted {run.predicted[0]:,}; "
              f"{wrong} of {run.compared:,} results wrong")  # fmt: skip
        if wrong or run.cycles != run.predicted:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
