"""What a design maps to: cell counts by type after synthesis with Yosys.

Counts come from ``stat -json``; a field that is not there is an error, never a zero.
"""

import json
from dataclasses import dataclass

from pe_library.checks import check_choice
from testbench.yosys import run_yosys

__all__ = ["TARGETS", "Target", "mapped_cells"]


@dataclass(frozen=True)
class Target:
    """A synthesis target.

    Attributes
    ----------
    name : str
        How users call it.
    script : str
        Yosys commands, with ``{top}`` for the name of the top module, that leave one flat module.
    dsp_cells : tuple of str
        The types of the multiplier blocks it may hold, whether or not the script uses them.
    """

    name: str
    script: str
    dsp_cells: tuple[str, ...] = ()


_ICE40 = ("SB_MAC16",)
_ECP5 = ("MULT18X18D", "ALU54B")
_XC7 = ("DSP48E1",)

#: All targets by name. ECP5 goes without wide LUTs: PFUMX and L6MUX21 trees hold up to twice the
#: LUTs. Pins are left out: what is counted is a part of a design.
TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        # The operators as they were written ($add, $mul), before anything is mapped.
        Target("rtl", "hierarchy -check -top {top}; proc; flatten; opt -full", ("$mul",)),
        Target("ice40", "synth_ice40 -dsp -top {top}", _ICE40),
        Target("ice40-nodsp", "synth_ice40 -top {top}", _ICE40),
        Target("ecp5", "synth_ecp5 -nowidelut -top {top}", _ECP5),
        Target("ecp5-nodsp", "synth_ecp5 -nowidelut -nodsp -top {top}", _ECP5),
        Target(
            "xc7",
            "synth_xilinx -family xc7 -flatten -noiopad -noclkbuf -top {top}",
            _XC7,
        ),
    )
}


def mapped_cells(verilog: str, top: str, target: str) -> dict[str, int]:
    """Return how many cells of each type a design maps to.

    Parameters
    ----------
    verilog : str
        The design.
    top : str
        Name of its top module.
    target : str
        One of :data:`TARGETS`.

    Raises
    ------
    ValueError
        If there is no such target.
    UserError, RuntimeError
        If Yosys is not installed or fails (:func:`~testbench.yosys.run_yosys`), or its statistics
        are not as expected.
    """
    check_choice("target", target, TARGETS)
    script = TARGETS[target].script.format(top=top)
    report = run_yosys(
        f"read_verilog design.v; {script}; tee -q -o cells.json stat -json",
        {"design.v": verilog},
        ["cells.json"],
    )["cells.json"]
    return read_cells(report, top)


def read_cells(report: str, top: str) -> dict[str, int]:
    """Return the cells by type that a ``stat -json`` of one flat module names."""
    try:
        statistics = json.loads(report)
        modules, design = list(statistics["modules"]), statistics["design"]
        cells = {str(kind): int(count) for kind, count in design["num_cells_by_type"].items()}
        total = int(design["num_cells"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RuntimeError(f"stat -json lacks {error!r}:\n{report[:2000]}") from error
    if modules != [f"\\{top}"]:
        raise RuntimeError(f"one flat module {top} was expected, not {', '.join(modules)}")
    if sum(cells.values()) != total:
        raise RuntimeError(f"stat -json counts {total} cells, but by type {cells}")
    return cells
