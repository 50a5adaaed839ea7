"""The bench of accelerators on AXI, called with networks: every layer against the golden model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.accelerator.axi import IDENTIFICATION, MAP_VERSION, REGISTERS
from hwgen.accelerator.commands import Status
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.compiler.compile import Compiled, compile_network
from hwgen.compiler.program import Program
from hwgen.network.graph import Network

from .cocotb_lane import run_bench
from .golden_network import run_network

__all__ = ["AxiRun", "check_axi"]

_BENCH = "testbench.benches.axi_bench"


@dataclass(frozen=True)
class AxiRun:
    """What the bench found.

    Attributes
    ----------
    tests : int
        Tests of the bench that ran.
    compared : int
        Answers that were compared, all of their layers.
    seconds : float
        Wall clock of the simulation.
    """

    tests: int
    compared: int
    seconds: float


def check_axi(
    verilog: str,
    top: str,
    config: AcceleratorConfig,
    networks: Sequence[Network],
    directory: Path,
    *,
    simulator: str = "verilator",
    seed: int = 1,
    only: str | None = None,
) -> AxiRun:
    """Run the bench of the AXI; compare every layer of every answer with the golden model.

    Parameters
    ----------
    verilog : str
        An :class:`hwgen.accelerator.axi.AxiAccelerator`, or its netlist.
    top : str
        Its module.
    config : AcceleratorConfig
    networks : sequence of Network
        A program is made of each, at most 10. The first one begins with a convolution.
    directory : Path
        For files of the bench and of the simulation.
    simulator, seed, only
        See :func:`testbench.cocotb_lane.run_bench`; the seed also makes the inputs.

    Raises
    ------
    BenchError
        If a test of the bench fails.
    AssertionError
        If an answer differs from the golden model; it names the answer and the layer.
    """
    cases = []
    arrays: dict[str, Any] = {}  # by their names in a file
    for number, network in enumerate(networks):
        compiled = compile_network(network, config)
        tensor = network.tensors[network.input]
        rng = np.random.default_rng(seed + number)
        inputs = rng.integers(tensor.low, tensor.high + 1, tensor.shape)
        program = compiled.program(inputs, every_layer=True)
        cases.append((compiled, program, run_network(network, inputs[None])))
        arrays[f"program_{number}"] = program.beats()
    damaged = _damaged(arrays["program_0"])
    arrays |= {f"damaged_{i}": packet for i, (packet, _) in enumerate(damaged)}
    directory.mkdir(parents=True, exist_ok=True)
    np.savez(directory / "programs.npz", **arrays)
    answers = directory / "answers"
    answers.mkdir()
    found = run_bench(
        verilog, top, _BENCH, simulator=simulator, seed=seed, only=only,
        parameters=_parameters(config, directory, answers, [status for _, status in damaged]),
        directory=directory,
    )  # fmt: skip
    files = sorted(answers.iterdir())
    for file in files:
        _compare(file, config, *cases[int(file.name.rpartition("-")[2])])
    return AxiRun(found["tests"], len(files), found["seconds"])


def _parameters(
    config: AcceleratorConfig, directory: Path, answers: Path, statuses: Sequence[Status]
) -> dict[str, Any]:
    return {
        "programs": str(directory / "programs.npz"),
        "answers": str(answers),
        "statuses": [int(status) for status in statuses],
        "registers": {register.name: register.offset for register in REGISTERS},
        "constants": {
            "identification": IDENTIFICATION,
            "map_version": MAP_VERSION,
            "configuration_0": int(config.digest[:8], 16),
            "configuration_1": int(config.digest[8:16], 16),
        },
        "aborted": int(Status.ABORTED),
    }


def _damaged(beats: npt.NDArray[np.uint8]) -> list[tuple[npt.NDArray[np.uint8], Status]]:
    """Return damaged copies of a program, and the statuses they must end with."""
    opcodes = beats[:, 7]
    # The first SET stands behind the first LOAD of activations, weights and parameters.
    command = int(np.flatnonzero((opcodes == 1) & (np.roll(opcodes, -1) == 1))[-1])

    def flip(beat: int, bit: int) -> npt.NDArray[np.uint8]:
        damaged = beats.copy()
        damaged[beat, bit >> 3] ^= 1 << (bit & 7)
        return damaged

    return [
        (flip(command, 5), Status.WRONG_CHECK),
        (flip(command, 60), Status.ILLEGAL_COMMAND),
        (flip(command, 55), Status.ILLEGAL_REGISTER),
        (flip(0, 47), Status.OUT_OF_RANGE),
        (beats[:7], Status.TRUNCATED),
    ]


def _compare(
    file: Path,
    config: AcceleratorConfig,
    compiled: Compiled,
    program: Program,
    golden: dict[str, npt.NDArray[np.int64]],
) -> None:
    answer = np.frombuffer(file.read_bytes(), np.uint8).reshape(-1, config.stream_bits // 8)
    outputs = compiled.outputs(program.read_answer(answer), every_layer=True)
    assert len(outputs) == len(compiled.network.operations)
    for name, values in outputs.items():
        np.testing.assert_array_equal(values, golden[name][0], f"{file.name}: {name}")
