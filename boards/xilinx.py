"""Xilinx boards, for Vivado: sources, constraints and scripts. Vivado itself makes the bitstream.

Two things are written for a board. Where the FPGA's logic has a UART, its whole top: the same core
behind the same link as on the boards of :mod:`boards.catalog`. And for all, those of a Zynq's
processors too, the accelerator on AXI with what packages it as an IP for the block design.
"""

import json
import re
from pathlib import Path
from typing import Any

from amaranth.hdl import ClockSignal, Const, Instance, Module, Signal
from amaranth.lib import io

from hwgen.accelerator.axi import ADDRESS_BITS
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.errors import UserError
from hwgen.generate import Generated, check_output, generate_accelerator, write_files
from hwgen.verilog import tool_versions

from .build import Build, describe_design, make_core, to_toml
from .catalog import XilinxBoard
from .top import BoardTop, plan_files

__all__ = [
    "XilinxTop",
    "ip_files",
    "top_files",
    "write_xilinx",
]

#: Clock that an IP is constrained to by itself, unless told otherwise.
IP_HZ = 100e6
#: Families whose block designs offer the IP: its Verilog is that of any.
_FAMILIES = (
    "artix7", "kintex7", "virtex7", "spartan7", "zynq",
    "kintexu", "virtexu", "kintexuplus", "virtexuplus", "zynquplus",
)  # fmt: skip


# ---- the top -----------------------------------------------------------------------------------


class XilinxTop(BoardTop):
    """Pads, MMCM and reset around a core; the clock is on a global buffer.

    Parameters
    ----------
    board : XilinxBoard
    setting : Setting
        The core's clock.
    core : str
        Name of the core's module.
    """

    def _clock(self, m: Module, platform: Any) -> Any:
        port = platform.request(platform.default_clk, dir="-")
        m.submodules.clock_pad = pad = io.Buffer(io.Direction.Input, port)
        if not self.setting.parameters:
            m.submodules.clock_net = Instance("BUFG", i_I=pad.i, o_O=ClockSignal())
            return Const(1)
        locked, feedback, made = Signal(), Signal(), Signal()
        ports = {f"p_{name}": value for name, value in self.setting.parameters.items()}
        # Nothing depends on the phase between pad and core, so the feedback needs no buffer.
        m.submodules.mmcm = Instance(
            "MMCME2_BASE", **ports, i_CLKIN1=pad.i, i_RST=Const(0), i_PWRDWN=Const(0),
            i_CLKFBIN=feedback, o_CLKFBOUT=feedback, o_CLKOUT0=made, o_LOCKED=locked,
        )  # fmt: skip
        m.submodules.clock_net = Instance("BUFG", i_I=made, o_O=ClockSignal())
        return locked


# ---- the board -------------------------------------------------------------------------------

#: Before the bitstream is written.
_TIMING = """\
foreach kind {max min} {
    set slack [get_property SLACK [get_timing_paths -delay_type $kind]]
    if {$slack < 0} {
        puts "ERROR: the clock is missed by [expr {-$slack}] ns; no bitstream is written"
        exit 1
    }
}
"""


def top_files(build: Build) -> tuple[dict[str, str], dict[str, Any]]:
    """Return a board's sources by name, and what describes the build.

    Files: ``core.v``, ``top.v``; ``top.xdc``, pins and clock; ``top.tcl``, which makes ``top.bit``
    and stops if it misses the clock; ``accelerator.toml`` and ``board.json``.

    Parameters
    ----------
    build : Build
        Of a :class:`XilinxBoard` that :attr:`~XilinxBoard.has_top`.

    Raises
    ------
    UserError
        If the clock or the baud rate cannot be made.
    """
    board, setting = build.board, build.setting()
    name, core = make_core(build, setting)
    platform = board.platform()
    platform.add_file("core.v", core)
    files = plan_files(platform, XilinxTop(board, setting, name))
    bitstream = re.compile(r"^write_bitstream", re.MULTILINE)
    script, found = bitstream.subn(lambda match: _TIMING + match[0], files["top.tcl"])
    assert found == 1, "the script of amaranth.vendor has changed"
    description = describe_design(build, setting) | {
        "clock_parameters": dict(setting.parameters),
        "versions": tool_versions(),
        "bitstream": "top.bit",
    }
    return {
        "core.v": core,
        "top.v": files["top.v"],
        "top.xdc": files["top.xdc"],
        "top.tcl": script,
        "accelerator.toml": to_toml(build.options),
        "board.json": json.dumps(description, indent=2) + "\n",
    }, description


# ---- the IP ----------------------------------------------------------------------------------

#: Vivado's definition of each interface of the accelerator.
_BUSES = {
    "s_axis": "xilinx.com:interface:axis:1.0",
    "m_axis": "xilinx.com:interface:axis:1.0",
    "s_axil": "xilinx.com:interface:aximm:1.0",
}


def _wrapper(generated: Generated[AcceleratorConfig]) -> str:
    """Return ``NAME_ip``: the accelerator with clock and reset as AXI has them.

    Attributes tell Vivado which ports are an interface, so that the module can be put into a block
    design without being packaged, too. No frequency is among them: it is the design's.
    """
    name, sidecar = generated.config.name, generated.sidecar
    top, ports = sidecar["top"], sidecar["ports"]
    buses = ":".join(_BUSES)
    lines = [
        '  (* X_INTERFACE_INFO = "xilinx.com:signal:clock:1.0 aclk CLK" *)',
        f'  (* X_INTERFACE_PARAMETER = "XIL_INTERFACENAME aclk, ASSOCIATED_BUSIF {buses}, '
        'ASSOCIATED_RESET aresetn" *)',
        "  input wire aclk,",
        '  (* X_INTERFACE_INFO = "xilinx.com:signal:reset:1.0 aresetn RST" *)',
        '  (* X_INTERFACE_PARAMETER = "XIL_INTERFACENAME aresetn, POLARITY ACTIVE_LOW" *)',
        "  input wire aresetn,",
    ]
    connections = ["    .clk(aclk),", "    .rst(~aresetn),"]
    for port in ports[2:]:
        bus, _, wire = port["name"].rpartition("_")
        if port["name"] == "s_axil_awaddr":
            lines.append(
                '  (* X_INTERFACE_PARAMETER = "XIL_INTERFACENAME s_axil, PROTOCOL AXI4LITE, '
                f'DATA_WIDTH 32, ADDR_WIDTH {ADDRESS_BITS}" *)'
            )
        span = f"[{port['width'] - 1}:0] " if port["width"] > 1 else ""
        lines += [
            f'  (* X_INTERFACE_INFO = "{_BUSES[bus]} {bus} {wire.upper()}" *)',
            f"  {port['direction']} wire {span}{port['name']},",
        ]
        connections.append(f"    .{port['name']}({port['name']}),")
    for block in (lines, connections):
        block[-1] = block[-1].removesuffix(",")
    declared, connected = "\n".join(lines), "\n".join(connections)
    return f"""\
// {top} for Vivado; aresetn must be low for a cycle after power-up.
module {name}_ip (
{declared}
);
  {top} accelerator (
{connected}
  );
endmodule
"""


def _registers(generated: Generated[AcceleratorConfig]) -> str:
    """Return the register map as a Tcl list: name, offset, access, meaning."""
    return "".join(
        f"    {r['name']} 0x{r['offset']:02X} {r['access']}-only {{{r['meaning']}}}\n"
        for r in generated.sidecar["axi_lite"]
    )


def _package_script(generated: Generated[AcceleratorConfig], part: str) -> str:
    """Return the Tcl that packages the IP."""
    config = generated.config
    array = config.array
    return f"""\
# Packages {config.name}_ip, as Vivado's IP in ip/: vivado -mode batch -source ip.tcl
# ip_project/, in which that happens, can be deleted afterwards.
set name {config.name}
set here [file dirname [file normalize [info script]]]

create_project -force ${{name}}_ip [file join $here ip_project] -part {part}
add_files -norecurse [list [file join $here $name.v] [file join $here ${{name}}_ip.v]]
set_property top ${{name}}_ip [current_fileset]
# The clock that the IP is synthesized for out of context; in a design its own clock counts.
set clock [file join $here ${{name}}_ooc.xdc]
add_files -fileset constrs_1 -norecurse $clock
set_property USED_IN {{synthesis implementation out_of_context}} [get_files $clock]
update_compile_order -fileset sources_1

ipx::package_project -root_dir [file join $here ip] -vendor hwgen -library accelerators \\
    -taxonomy /UserIP -import_files -force
set core [ipx::current_core]
set_property version 1.0 $core
set_property display_name "hwgen $name" $core
set_property description {{Accelerator for quantized networks, {array.rows}x{array.cols}}} $core
set_property supported_families {{{" ".join(f"{family} Production" for family in _FAMILIES)}}} $core

# The attributes in ${{name}}_ip.v say which ports are an interface.
foreach bus {{{" ".join(_BUSES)} aclk aresetn}} {{
    if {{[llength [ipx::get_bus_interfaces $bus -of_objects $core]] != 1}} {{
        error "$name.v: Vivado has not found the interface $bus"
    }}
}}
foreach bus {{{" ".join(_BUSES)}}} {{
    ipx::associate_bus_interfaces -busif $bus -clock aclk $core
}}
ipx::associate_bus_interfaces -clock aclk -reset aresetn $core

# The register map, for drivers.
foreach map [ipx::get_memory_maps -of_objects $core] {{
    ipx::remove_memory_map [get_property NAME $map] $core
}}
set map [ipx::add_memory_map s_axil $core]
set_property slave_memory_map_ref s_axil [ipx::get_bus_interfaces s_axil -of_objects $core]
set block [ipx::add_address_block registers $map]
set_property base_address 0 $block
set_property range {1 << ADDRESS_BITS} $block
set_property width 32 $block
set_property usage register $block
foreach {{register offset access meaning}} {{
{_registers(generated)}}} {{
    set object [ipx::add_register $register $block]
    set_property address_offset $offset $object
    set_property size 32 $object
    set_property access $access $object
    set_property description $meaning $object
}}

ipx::create_xgui_files $core
ipx::update_checksums $core
ipx::check_integrity $core
ipx::save_core $core
close_project
puts "the IP hwgen:accelerators:${{name}}_ip:1.0 is in [file join $here ip]"
"""


def ip_files(config: AcceleratorConfig, part: str, hz: float = IP_HZ) -> dict[str, str]:
    """Return the sources of a Vivado IP by name.

    Files: ``NAME.v``, the module ``NAME_axi``; ``NAME_ip.v``, the same with ``aclk`` and
    ``aresetn``; ``NAME_ooc.xdc``, its clock by itself; ``ip.tcl``, which packages it;
    ``NAME.json``, which describes it.

    Parameters
    ----------
    config : AcceleratorConfig
    part : str
        Vivado's name of a part, of the project that packages it; the IP serves any.
    hz : float
        The clock for which the IP is synthesized out of context.
    """
    generated = generate_accelerator(config)
    name = config.name
    return {
        f"{name}.v": generated.verilog,
        f"{name}_ip.v": _wrapper(generated),
        f"{name}_ooc.xdc": f"create_clock -name aclk -period {1e9 / hz:.3f} [get_ports aclk]\n",
        "ip.tcl": _package_script(generated, part),
        f"{name}.json": generated.files[f"{name}.json"],
    }


# ---- files -----------------------------------------------------------------------------------


def write_xilinx(build: Build, output: Path, *, force: bool = False) -> dict[str, Any]:
    """Write what Vivado needs to put an accelerator on a board; return what describes it.

    The files are those of :func:`ip_files` and, if the board's logic has a UART, of
    :func:`top_files`.

    Parameters
    ----------
    build : Build
        Of a :class:`~boards.catalog.XilinxBoard`. Its clock is that of the board's oscillator if
        none is given, or 100 MHz for the IP if the board has none for the logic or no UART.
    output : Path
        The folder, made if need be.
    force : bool
        Replace files that exist.

    Returns
    -------
    dict
        ``board``, ``device``, ``clock_hz``, and ``files``, a list of names; for a top also what
        ``board.json`` holds.

    Raises
    ------
    UserError
        If the clock or the baud rate cannot be had, the configuration's name is that of another
        file, or a file exists and ``force`` is not set. Nothing is written then.
    """
    board, config = build.board, build.config
    assert isinstance(board, XilinxBoard)
    if config.name in ("core", "top"):
        raise UserError(
            f"name must not be that of the board's own files, core or top, not {config.name!r}"
        )
    files: dict[str, str] = {}
    description: dict[str, Any] = {
        "board": board.name, "device": board.device, "clock_hz": build.hz or IP_HZ
    }  # fmt: skip
    if board.has_top:
        build.divisor(build.setting())
        check_output(output, ["top.v"], force=force)
        files, description = top_files(build)
    files |= ip_files(config, board.device, description["clock_hz"])
    write_files(output, files, force=force)
    return description | {"files": list(files)}
