"""The accelerator on AXI, driven by cocotbext-axi."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.accelerator.axi import (
    IDENTIFICATION,
    MAP_VERSION,
    REGISTERS,
    AxiAccelerator,
)
from hwgen.accelerator.commands import Status
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.compiler.compile import compile_network
from hwgen.network.graph import Network
from hwgen.verilog import emit_verilog
from testbench.cocotb_lane import run_bench
from testbench.golden_network import run_network

pytest.importorskip("cocotbext.axi", reason="cocotbext-axi is not installed")

has_icarus = pytest.mark.skipif(
    shutil.which("iverilog") is None, reason="iverilog is not installed (apt install iverilog)"
)
NARROW = {
    "pe": "int8", "rows": 4, "cols": 4, "activation_buffer": 1000, "weight_buffer": 900,
    "accumulator_buffer": 640, "parameter_buffer": 700,
}  # fmt: skip
WIDE = {
    "pe": "lightpe1", "rows": 6, "cols": 9, "requantize": "shift", "stream_bits": 128,
    "activation_buffer": 1000, "weight_buffer": 900, "accumulator_buffer": 720,
    "parameter_buffer": 700,
}  # fmt: skip


def damage(program: np.ndarray, beat: int, bit: int) -> np.ndarray:
    damaged = program.copy()
    damaged[beat, bit >> 3] ^= 1 << (bit & 7)
    return damaged


@pytest.mark.parametrize(
    ("simulator", "options"),
    [
        pytest.param("verilator", NARROW, id="verilator"),
        pytest.param("verilator", WIDE, id="verilator wide"),
        pytest.param("icarus", NARROW, id="icarus", marks=has_icarus),
    ],
)
def test_axi(
    simulator: str,
    options: dict[str, Any],
    small_network: Callable[[AcceleratorConfig, int], Network],
    tmp_path: Path,
) -> None:
    config = AcceleratorConfig.from_options(options)
    cases, arrays = [], {}
    for seed in range(2):
        network = small_network(config, seed)
        compiled = compile_network(network, config)
        tensor = network.tensors[network.input]
        inputs = np.random.default_rng(seed).integers(tensor.low, tensor.high + 1, tensor.shape)
        program = compiled.program(inputs, every_layer=True)
        cases.append((compiled, program, run_network(network, inputs[None])))
        arrays[f"program_{seed}"] = program.beats()
    beats = arrays["program_0"]
    opcodes = beats[:, 7]
    # The first SET stands behind the first LOAD of activations, weights and parameters.
    command = int(np.flatnonzero((opcodes == 1) & (np.roll(opcodes, -1) == 1))[-1])
    damaged = [
        (damage(beats, command, 5), Status.WRONG_CHECK),
        (damage(beats, command, 60), Status.ILLEGAL_COMMAND),
        (damage(beats, command, 55), Status.ILLEGAL_REGISTER),
        (damage(beats, 0, 47), Status.OUT_OF_RANGE),
        (beats[:7], Status.TRUNCATED),
    ]
    arrays |= {f"damaged_{i}": packet for i, (packet, _) in enumerate(damaged)}
    np.savez(tmp_path / "programs.npz", **arrays)
    answers = tmp_path / "answers"
    answers.mkdir()
    accelerator = AxiAccelerator(config)
    found = run_bench(
        emit_verilog(accelerator),
        accelerator.definition,
        "testbench.benches.axi_bench",
        simulator=simulator,
        seed=1,
        parameters={
            "programs": str(tmp_path / "programs.npz"),
            "answers": str(answers),
            "statuses": [int(status) for _, status in damaged],
            "registers": {register.name: register.offset for register in REGISTERS},
            "constants": {
                "identification": IDENTIFICATION,
                "map_version": MAP_VERSION,
                "configuration_0": int(config.digest[:8], 16),
                "configuration_1": int(config.digest[8:16], 16),
            },
            "aborted": int(Status.ABORTED),
        },
        directory=tmp_path,
    )
    assert found["tests"] == (9 if simulator == "verilator" else 10)
    files = sorted(answers.iterdir())
    assert len(files) == 12  # six tests, two programs
    for file in files:
        compiled, program, golden = cases[int(file.name[-1])]
        answer = np.frombuffer(file.read_bytes(), np.uint8).reshape(-1, config.stream_bits // 8)
        outputs = compiled.outputs(program.read_answer(answer), every_layer=True)
        assert len(outputs) == 3
        for name, values in outputs.items():
            np.testing.assert_array_equal(values, golden[name][0], f"{file.name}: {name}")


def test_register_map() -> None:
    assert [register.offset for register in REGISTERS] == list(range(0, 4 * len(REGISTERS), 4))
    assert len({register.name for register in REGISTERS}) == len(REGISTERS)
    assert {register.access for register in REGISTERS} == {"read", "write"}
    meanings = {register.name: register.meaning for register in REGISTERS}
    assert f"0x{IDENTIFICATION:08X}" in meanings["identification"]
    assert f"status {Status.ABORTED:d} " in meanings["reset"]
    assert f" {MAP_VERSION}." in meanings["map_version"]
    assert len(Status.__members__) == len(set(map(int, Status)))  # no two are one number
