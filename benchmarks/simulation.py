"""Simulation: build time and speed of both lanes, and one ResNet-18 layer, exact.

    python benchmarks/simulation.py [--pe int8] [--size 16] [--repeat 5]

Speed is simulated cycles per second of wall time, the median of `--repeat` runs without idling.
The run-time objects that all models share are built before anything is measured. The layer is the
3×3 convolution of ResNet-18's first stage, 56×56×64 to 64 channels, padded by one, as im2col.
"""

import argparse
import os
import statistics
import tempfile
import time

import numpy as np
from common import conditions, cpu_seconds

from hwgen.config import ArrayConfig
from hwgen.generate import generate
from hwgen.tiling import Tiling
from testbench.cocotb_lane import stream_gemm
from testbench.compiled import CompiledModel
from testbench.simulate import random_operands, simulate


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pe", default="int8")
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    size = arguments.size
    print(conditions(pe=arguments.pe, array=f"{size}×{size}", seed=0), "\n")
    options = {"pe": arguments.pe, "rows": size, "cols": size}
    config = ArrayConfig.from_options(options)

    with tempfile.TemporaryDirectory(prefix="hwgen-benchmark-") as cache:
        os.environ["HWGEN_CACHE"] = cache
        small = ArrayConfig.from_options({**options, "rows": 1, "cols": 1})
        a, w = random_operands(small, 4, 4, 4, 0)
        for simulator in ("compiled", "cocotb"):  # builds what all models share
            _stream(small, a, w, simulator)

        generated = generate(config)
        a, w = random_operands(config, 4096, 4 * config.pass_depth, size, 0)
        for simulator in ("compiled", "cocotb"):
            short = a[:64], w
            with cpu_seconds() as used:
                _stream(config, *short, simulator, generated)
                build = used()
            speeds = [_stream(config, a, w, simulator, generated) for _ in range(arguments.repeat)]
            print(
                f"{simulator:<9} build and a short run {build:5.2f} CPU s, "
                f"{statistics.median(speeds):>12,.0f} cycles/s "
                f"({min(speeds):,.0f} to {max(speeds):,.0f})"
            )

        start = time.perf_counter()
        columns, filters = _resnet_layer(config)
        found = simulate(config, columns, filters, generated=generated)
        print(
            f"layer     56×56×64→64, 3×3: {found.mismatches} mismatches of {found.checks:,} sums, "
            f"{found.cycles:,} cycles, utilisation {found.utilisation:.4f}, "
            f"{time.perf_counter() - start:.1f} s in all, {found.seconds:.2f} s of it simulation"
        )


def _stream(config, a, w, simulator, generated=None) -> float:
    """Run a GEMM and return the simulated cycles per second."""
    generated = generated or generate(config)
    tiling = Tiling(config, a.shape[0], a.shape[1], w.shape[1])
    operands = tiling.activations(a), tiling.weights(w)
    beats = sum(part.beats for part in tiling)
    if simulator == "cocotb":
        streamed = stream_gemm(generated, *operands, beats, simulator="verilator")
        return streamed.cycle / streamed.seconds
    with CompiledModel(generated.verilog, config.name) as model:
        for _ in model.stream(*operands, beats, generated.sidecar["streams"]):
            pass
        return model.cycle / model.seconds


def _resnet_layer(config: ArrayConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the layer's im2col matrix (3136, 576) and filters (576, 64), random and seeded."""
    rng = np.random.default_rng(0)
    image = np.pad(rng.choice(config.pe.activation.values, (64, 56, 56)), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), axis=(1, 2))
    columns = windows.transpose(1, 2, 0, 3, 4).reshape(56 * 56, 64 * 9)
    return columns, rng.choice(config.pe.weight.values, (576, 64))


if __name__ == "__main__":
    main()
