"""Energy of a mapped netlist: what each toggle and each cycle of the clock costs.

By the Liberty model (internal power tables, and charging of loads):

- A toggle of an output costs half C·V² of the net that it drives, and the cell's internal energy at
  the slew of the input and the load of the output.
- A toggle of an input costs the internal energy that the library gives for the pin itself.
- A cycle of the clock costs the internal energy of its two edges in every flip-flop, whatever else
  happens.

A table is read for rising and falling edges, and the mean is taken: toggles alternate. Where a pin
has several tables, one for each input that may cause the toggle or each state of the others, their
mean is taken too. Tables are interpolated linearly, and beyond their ends extrapolated likewise.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from testbench.tools import JobFailed

from .liberty import Library
from .netlist import Netlist

__all__ = ["CellEnergy", "Pin", "cell_energies", "energy_per_cycle"]


class Pin(NamedTuple):
    """What timing analysis says of a pin: slews in ns, and the capacitance of its net in fF."""

    rise: float
    fall: float
    load: float


@dataclass(frozen=True)
class CellEnergy:
    """What one cell of a netlist takes.

    Attributes
    ----------
    clock : float
        Energy of a clock cycle, in pJ; 0 for a cell without a clock pin.
    toggle : mapping
        Energy of a toggle of each pin but the clock's, in pJ.
    """

    clock: float
    toggle: Mapping[str, float]


def energy_per_cycle(
    netlist: Netlist, energies: Mapping[str, CellEnergy], toggles: Mapping[str, float]
) -> float:
    """Return the dynamic energy of a clock cycle in pJ; ``toggles`` are per net and cycle.

    Raises
    ------
    JobFailed
        If a net that is no constant has no count.
    """
    total = 0.0
    missing = set()
    for name, instance in netlist.instances.items():
        cell = netlist.library.cells[instance.cell]
        total += energies[name].clock
        for pin, net in instance.pins.items():
            if pin in cell.clocks or net.startswith("1'b"):
                continue
            if net in toggles:
                total += energies[name].toggle[pin] * toggles[net]
            else:
                missing.add(net)
    if missing:
        raise JobFailed(
            "failed", f"{len(missing)} nets have no count of toggles, {min(missing)} first"
        )
    return total


def cell_energies(netlist: Netlist, pins: Mapping[str, Pin]) -> dict[str, CellEnergy]:
    """Return the energies of each cell; ``pins`` are named ``CELL/PIN``.

    Raises
    ------
    JobFailed
        If a pin is not there, or the library's tables are not understood.
    """
    library = netlist.library
    found = {}
    for name, instance in netlist.instances.items():
        cell = library.cells[instance.cell]
        tables = _tables(library, instance.cell)
        clock, toggle = 0.0, {}
        for pin, net in instance.pins.items():
            if net.startswith("1'b"):
                continue
            try:
                here = pins[f"{name}/{pin}"]
                from_pins = {
                    related: pins[f"{name}/{related}"]
                    for table in tables.get(pin, [])
                    for related in table.related
                    if not instance.pins.get(related, "1'b").startswith("1'b")
                }
            except KeyError as error:
                raise JobFailed("failed", f"OpenSTA left out the pin {error}") from error
            energy = _internal(tables.get(pin, []), here, from_pins)
            if pin in cell.clocks:
                clock += 2 * energy
                continue
            if pin in cell.outputs:
                energy += 0.5 * here.load * library.voltage**2 * 1e-3
            toggle[pin] = energy
        found[name] = CellEnergy(clock, toggle)
    return found


# ---- the tables of a library ---------------------------------------------------------------------


@dataclass
class _Table:
    """Internal power of a pin: tables by edge, and the inputs that it is related to."""

    related: list[str]
    edges: dict[str, tuple[list[float], list[float], "np.ndarray"]] = field(default_factory=dict)


def _internal(tables: list[_Table], here: Pin, from_pins: Mapping[str, Pin]) -> float:
    """Return the mean internal energy of a toggle, in pJ."""
    found = []
    for table in tables:
        causes = [from_pins[related] for related in table.related if related in from_pins]
        if table.related and not causes:
            continue  # the input is tied to a constant
        for cause in causes or [here]:
            for edge, (slews, loads, values) in table.edges.items():
                slew = {"rise_power": cause.rise, "fall_power": cause.fall}.get(
                    edge, (cause.rise + cause.fall) / 2
                )
                by_slew = [_line(loads, row, here.load) for row in values]
                found.append(_line(slews, by_slew, slew))
    return sum(found) / len(found) if found else 0.0


def _line(xs: list[float], ys: "list[float] | np.ndarray", x: float) -> float:
    if len(xs) < 2:
        return float(ys[0])
    i = min(max(int(np.searchsorted(xs, x)) - 1, 0), len(xs) - 2)
    return float(ys[i] + (ys[i + 1] - ys[i]) * (x - xs[i]) / (xs[i + 1] - xs[i]))


class _Group(NamedTuple):
    """A Liberty group: ``kind (name) { attributes, groups }``."""

    kind: str
    name: str
    attributes: dict[str, str]
    groups: "list[_Group]"


_TOKEN = re.compile(r'/\*.*?\*/|"(?:[^"\\]|\\.)*"|[{}();:]|[^\s{}();:"\\]+', re.DOTALL)


def _parse(tokens: Iterator[str], kind: str, name: str) -> _Group:
    """Read what is in a group, its opening brace read."""
    group = _Group(kind, name, {}, [])
    words: list[str] = []
    for token in tokens:
        if token == "}":
            break
        if token == "{":
            if words:
                group.groups.append(_parse(tokens, words[0], " ".join(words[1:])))
            words = []
        elif token == ";":
            if words:
                group.attributes[words[0]] = " ".join(words[1:])
            words = []
        elif token not in "():" and not token.startswith("/*"):
            words.append(token.strip('"'))
    return group


def _group(text: str, head: "re.Match[str]") -> _Group:
    kind, name = head[1], head[2]
    return _parse((m[0] for m in _TOKEN.finditer(text, head.end())), kind, name)


_HEAD = r'\b({})\s*\(\s*"?({})"?\s*\)\s*\{{'


@lru_cache(maxsize=8)
def _templates(library: Library) -> dict[str, _Group]:
    heads = re.finditer(_HEAD.format("power_lut_template", r"[^\")]+?"), library.text)
    return {head[2]: _group(library.text, head) for head in heads}


@lru_cache(maxsize=4096)
def _tables(library: Library, cell: str) -> dict[str, list[_Table]]:
    """Return the internal power of the pins of a cell, energies in pJ, loads in fF, slews in ns."""
    head = re.search(_HEAD.format("cell", re.escape(cell)), library.text)
    if head is None:
        raise JobFailed("failed", f"library {library.name} has no group of the cell {cell}")
    found: dict[str, list[_Table]] = {}
    for pin in _group(library.text, head).groups:
        for power in pin.groups if pin.kind == "pin" else []:
            if power.kind != "internal_power":
                continue
            table = _Table(power.attributes.get("related_pin", "").split())
            for edge in power.groups:
                if edge.kind in ("rise_power", "fall_power", "power"):
                    table.edges[edge.kind] = _lookup(library, edge)
            found.setdefault(pin.name, []).append(table)
    return found


def _lookup(library: Library, edge: _Group) -> tuple[list[float], list[float], "np.ndarray"]:
    """Return a table as slews, loads, and energies (slews × loads)."""
    template = _templates(library).get(edge.name)
    given = (template.attributes if template else {}) | edge.attributes
    axes: dict[str, list[float]] = {"slew": [0.0], "load": [0.0]}
    order = []
    for place in ("1", "2"):
        variable = given.get(f"variable_{place}", "")
        if f"index_{place}" in given and edge.name != "scalar":
            axis = "load" if "capacitance" in variable else "slew"
            scale = library.femtofarads if axis == "load" else library.nanoseconds
            axes[axis] = [scale * x for x in _numbers(given[f"index_{place}"])]
            order.append(axis)
    values = np.array(_numbers(given["values"])) * library.femtofarads * 1e-3
    shape = [len(axes[axis]) for axis in order]
    if values.size != int(np.prod(shape)):
        raise JobFailed(
            "failed", f"library {library.name}: a table of {values.size} is not {shape}"
        )
    values = values.reshape(shape or [1])
    if order == ["load", "slew"]:
        values = values.T
    return axes["slew"], axes["load"], values.reshape(len(axes["slew"]), len(axes["load"]))


def _numbers(text: str) -> list[float]:
    return [float(word) for word in re.split(r"[\s,\\]+", text) if word]
