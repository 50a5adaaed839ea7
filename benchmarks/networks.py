"""Whole networks in simulation: how long a sample takes, and that every layer is right.

    python benchmarks/networks.py MODEL [MODEL ...] [--rows 16] [--cols 16]

One sample of random integers goes through each model on an INT8 accelerator, every layer compared
with the golden model. Build (emission and Verilator) and simulation are timed apart: wall time, so
read it with the machine in mind.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from hwgen.accelerator.config import AcceleratorConfig
from hwgen.compiler.compile import compile_network
from hwgen.compiler.rewrite import fold_stride
from hwgen.network.load import load_network
from testbench.network import simulate_network


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--cols", type=int, default=16)
    arguments = parser.parse_args()
    config = AcceleratorConfig.from_options(
        {"pe": "int8", "rows": arguments.rows, "cols": arguments.cols}
    )
    print(f"{'model':<28} {'MACs':>12} {'cycles':>9} {'util.':>6} {'build':>7} {'sample':>7} "
          f"{'compared':>9} {'wrong':>5}")  # fmt: skip
    wrong = 0
    for model in arguments.models:
        network = fold_stride(load_network(Path(model)), config)
        compiled = compile_network(network, config)
        tensor = network.tensors[network.input]
        inputs = np.random.default_rng(0).integers(tensor.low, tensor.high + 1, (1, *tensor.shape))
        start = time.perf_counter()
        simulate_network(compiled, inputs[:0])
        built = time.perf_counter()
        found = simulate_network(compiled, inputs, check=True)
        done = time.perf_counter()
        plain = simulate_network(compiled, inputs)
        macs = sum(layer.macs for layer in compiled.layers)
        share = macs / (plain.cycles[0] * config.array.macs_per_cycle)
        bad = sum(found.mismatches.values()) + (plain.cycles != plain.predicted)
        wrong += bad
        print(
            f"{Path(model).name[:28]:<28} {macs:>12,} {plain.cycles[0]:>9,} {share:>6.1%} "
            f"{built - start:>5.1f} s {done - built:>5.1f} s {found.compared:>9,} {bad:>5}"
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
