"""Bitstreams of the first-class boards: size, clock, peak and measured throughput.

    python benchmarks/bitstreams.py [--board B ...] [--pe P ...] [--seeds N]
        [--folder DIR] [--table FILE.csv]

Builds every design of `boards/designs.toml` (from the store where it is finished already), and runs
a convolution on each in simulation: 3×3 (1×1 where its weights do not fit), as many channels as the
array takes at once, random weights, operands in the buffers, from the first command to the last
result. Its results are compared with the golden model and its cycles with the cycle model; the
throughput is 2 operations for each product at the design's clock. The rows of the boards that are
built replace those in the table, which the README shows.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from boards.build import Build, write_build
from boards.designs import RESOURCES, Design, all_designs, markdown
from boards.measured import DESIGNS, read_rows, write_rows
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.compiler.compile import Compiled, compile_network
from hwgen.compiler.cycles import cycles_of
from hwgen.compiler.program import Program, Run
from hwgen.errors import UserError
from hwgen.network.graph import Conv, Network, Tensor
from hwgen.network.requantize import FixedPoint, Requantization, RoundingShift, Thresholds
from synth.store import Store
from synth.sweep import default_store
from testbench.network import simulate_network


def convolution(config: AcceleratorConfig, side: int, kernel: int, blocks: int) -> Network:
    """Return a convolution with random weights, ``blocks * cols`` channels out."""
    rng = np.random.default_rng(0)
    pe = config.array.pe
    channels, out = config.read_codes, blocks * config.array.cols
    places = side - kernel + 1
    low, high = pe.activation.minimum, pe.activation.maximum
    requantize: Requantization
    if config.requantize == "multiplier":
        requantize = FixedPoint(rng.integers(1 << 30, 1 << 31, out), np.full(out, -8), 5, low, high)
    elif config.requantize == "shift":
        requantize = RoundingShift(np.full(out, 9), 5, low, high)
    else:
        step = (high - low) // config.thresholds
        thresholds = np.sort(rng.integers(-40, 40, (out, config.thresholds)))
        requantize = Thresholds(thresholds, np.full(out, low), np.full(out, step))
    weights = rng.choice(pe.weight.values, (out, kernel, kernel, channels)).astype(np.int64)
    bias = np.zeros(out, np.int64)
    tensors = {
        "x": Tensor("x", (side, side, channels), low, high),
        "y": Tensor("y", (places, places, out), low, high),
    }
    conv = Conv("conv", ("x",), "y", requantize, weights, bias)
    return Network("conv", tensors, [conv], "x", "y", lambda x: x, lambda x: x)


def largest(config: AcceleratorConfig) -> tuple[Compiled, int]:
    """Return the largest convolution that fits the buffers, and its products."""
    for side in (18, 14, 10, 6):
        for kernel in (3, 1):
            for blocks in (4, 2, 1):
                network = convolution(config, side, kernel, blocks)
                try:
                    compiled = compile_network(network, config)
                except UserError:
                    continue
                if compiled.resident:
                    conv = network.operations[0]
                    assert isinstance(conv, Conv)
                    return compiled, conv.weights.size * (side - kernel + 1) ** 2
    raise RuntimeError(f"no convolution fits {config.name}")


def measured_gops(config: AcceleratorConfig, clock_hz: float) -> tuple[str, float]:
    """Return the convolution that was simulated, and its throughput."""
    compiled, products = largest(config)
    tensor = compiled.network.tensors["x"]
    values = [tensor.low, tensor.high] if tensor.bipolar else range(tensor.low, tensor.high + 1)
    inputs = np.random.default_rng(1).choice(list(values), (1, *tensor.shape)).astype(np.int64)
    run = simulate_network(compiled, inputs, check=True)
    if any(run.mismatches.values()) or list(run.cycles) != list(run.predicted):
        raise RuntimeError(f"{config.name}: {run.mismatches} wrong, {run.cycles} cycles")
    commands = compiled.program(inputs[0], resident=True).commands
    first = next(i for i, command in enumerate(commands) if isinstance(command, Run))
    last = max(i for i, command in enumerate(commands) if isinstance(command, Run))
    cycles = cycles_of(Program(config, commands[first : last + 1]))
    shape = compiled.network.operations[0].weights.shape  # type: ignore[attr-defined]
    layer = f"{shape[1]}x{shape[2]} {shape[3]} to {shape[0]} channels, {tensor.shape[0]} pixels"
    return layer, 2 * products / cycles * clock_hz / 1e9


def measure(design: Design, store: Store, folder: Path, seeds: int) -> dict[str, Any]:
    """Build a design, and return its row."""
    build = Build.of(design.board, design.options, hz=design.clock_mhz * 1e6, seeds=seeds)
    config, pe = build.config, build.options["pe"]
    output = folder / f"{design.board.name}_{pe}"
    found = write_build(build, store, output, auto_clock=False, force=True, progress=True)
    layer, gops = measured_gops(config, found["clock_hz"])
    row = {
        "board": design.board.name, "device": found["device"], "pe": pe,
        "rows": config.array.rows, "cols": config.array.cols,
        "clock_mhz": f"{found['clock_hz'] / 1e6:g}", "fmax_mhz": f"{found['fmax_hz'] / 1e6:.1f}",
        "seed": found["seed"],
    }  # fmt: skip
    for name in RESOURCES:
        used, available = found["utilization"].get(name, (0, 0))
        row |= {f"{name}_used": used, f"{name}_available": available}
    return row | {
        "gops_peak": f"{found['gops_peak']:.4g}",
        "gops_measured": f"{gops:.4g}",
        "layer": layer,
        "bitstream_sha256": found["bitstream_sha256"],
        "slowest_path": found["slowest_path"],
        "tools": "; ".join(f"{name} {v}" for name, v in sorted(found["versions"].items())),
    }


def main() -> int:
    """Build, measure, write the table, and print it as the README has it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--board", action="append")
    parser.add_argument("--pe", action="append")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("designs"))
    parser.add_argument("--store", type=Path)
    parser.add_argument("--table", type=Path, default=DESIGNS)
    arguments = parser.parse_args()
    store = Store(arguments.store or default_store())
    failed = 0
    for design in all_designs():
        name, pe = design.board.name, design.options["pe"]
        if (arguments.board and name not in arguments.board) or (
            arguments.pe and pe not in arguments.pe
        ):
            continue
        try:
            row = measure(design, store, arguments.folder, arguments.seeds)
        except UserError as error:
            print(f"{name}, {pe}: {error}", file=sys.stderr)
            failed = 1
        else:
            order = [other.board.name for other in all_designs()]
            write_rows(arguments.table, [*read_rows(arguments.table), row], order)
    print(markdown(read_rows(arguments.table)))
    return failed


if __name__ == "__main__":
    sys.exit(main())
