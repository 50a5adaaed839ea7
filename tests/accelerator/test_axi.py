"""The accelerator on AXI, driven by cocotbext-axi."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwgen.accelerator.axi import (
    IDENTIFICATION,
    MAP_VERSION,
    REGISTERS,
    AxiAccelerator,
)
from hwgen.accelerator.commands import Status
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.network.graph import Network
from hwgen.verilog import emit_verilog
from testbench.axi import check_axi

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
    accelerator = AxiAccelerator(config)
    verilog = emit_verilog(accelerator)
    networks = [small_network(config, seed) for seed in range(2)]
    found = check_axi(
        verilog, accelerator.definition, config, networks, tmp_path, simulator=simulator
    )
    assert found.tests == (9 if simulator == "verilator" else 10)
    assert found.compared == 12  # six tests, two programs


def test_register_map() -> None:
    assert [register.offset for register in REGISTERS] == list(range(0, 4 * len(REGISTERS), 4))
    assert len({register.name for register in REGISTERS}) == len(REGISTERS)
    assert {register.access for register in REGISTERS} == {"read", "write"}
    meanings = {register.name: register.meaning for register in REGISTERS}
    assert f"0x{IDENTIFICATION:08X}" in meanings["identification"]
    assert f"status {Status.ABORTED:d} " in meanings["reset"]
    assert f" {MAP_VERSION}." in meanings["map_version"]
    assert len(Status.__members__) == len(set(map(int, Status)))  # no two are one number
