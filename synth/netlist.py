"""A mapped netlist: one flat module of library cells, as Yosys's JSON has it.

Every net gets a plain name (``n17``) and every cell too (``u4``), whatever stood in the design, so
that no two tools can disagree on how names are escaped. What a designer knows, the names of
registers and ports, is kept beside them (:attr:`Netlist.known`).
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from testbench.tools import JobFailed

from .liberty import Library

__all__ = ["Delays", "Instance", "Netlist"]

#: For each cell and each of its outputs: how long a rising and a falling edge take, in ps.
Delays = Mapping[str, Mapping[str, tuple[int, int]]]

_CONSTANTS = {"0": "1'b0", "1": "1'b1"}


@dataclass
class Instance:
    """A cell: its type, and the net at each pin that is connected."""

    cell: str
    pins: dict[str, str]


@dataclass
class Netlist:
    """A flat module.

    Attributes
    ----------
    top : str
        Its name.
    ports : dict
        Direction (``"input"`` or ``"output"``) and nets, lowest bit first, of each port.
    instances : dict
        The cells by name.
    known : dict
        The name that a net has in the design, e.g. ``sum_out[3]``, of those that have one.
    library : Library
        What the cells are of.
    """

    top: str
    ports: dict[str, tuple[str, list[str]]]
    instances: dict[str, Instance]
    known: dict[str, str]
    library: Library

    @classmethod
    def from_json(cls, text: str, top: str, library: Library) -> "Netlist":
        """Read what ``write_json`` wrote of a flat, mapped module.

        Raises
        ------
        JobFailed
            If a cell is not one of the library's.
        """
        module = json.loads(text)["modules"][top]

        def net(bit: int | str) -> str:
            return f"n{bit}" if isinstance(bit, int) else _CONSTANTS[bit]

        instances = {}
        for index, (name, cell) in enumerate(module["cells"].items()):
            if cell["type"] not in library.cells:
                raise JobFailed(
                    "failed",
                    f"{top} did not map to cells of {library.name}: {name} is a {cell['type']}",
                )
            pins = {pin: net(bits[0]) for pin, bits in cell["connections"].items() if bits}
            instances[f"u{index}"] = Instance(cell["type"], pins)
        ports = {
            name: (port["direction"], [net(bit) for bit in port["bits"]])
            for name, port in module["ports"].items()
        }
        known: dict[str, str] = {}
        # The name that lies highest in the hierarchy is the one that others come to see.
        for name, wire in sorted(
            module["netnames"].items(), key=lambda item: (item[0].count("."), item[0])
        ):
            if not wire["hide_name"]:
                for index, bit in enumerate(wire["bits"]):
                    place = f"[{index}]" if len(wire["bits"]) > 1 else ""
                    known.setdefault(net(bit), name + place)
        return cls(top, ports, instances, known, library)

    # ---- questions -----------------------------------------------------------------------------

    @property
    def cells_by_type(self) -> dict[str, int]:
        """How many cells there are of each type."""
        return dict(sorted(Counter(i.cell for i in self.instances.values()).items()))

    def area(self, *, sequential: bool = False) -> float:
        """Return the area of all cells, or of the flip-flops alone, in µm²."""
        cells = (self.library.cells[i.cell] for i in self.instances.values())
        return math.fsum(c.area for c in cells if c.flip_flop or not sequential)

    @property
    def nets(self) -> list[str]:
        """All nets, constants left out, in order."""
        found = dict.fromkeys(n for _, nets in self.ports.values() for n in nets)
        for instance in self.instances.values():
            found.update(dict.fromkeys(instance.pins.values()))
        return [name for name in found if name not in _CONSTANTS.values()]

    def outputs(self, instance: Instance) -> Iterator[tuple[str, str]]:
        """Give the output pins of a cell that are connected, and their nets."""
        for pin in self.library.cells[instance.cell].outputs:
            if pin in instance.pins:
                yield pin, instance.pins[pin]

    def readable(self, name: str) -> str:
        """Return what a cell is called in the design: the name of the net that it drives."""
        names = [self.known.get(net, "") for _, net in self.outputs(self.instances[name])]
        return next(filter(None, names), name)

    # ---- changes -------------------------------------------------------------------------------

    def insert_buffers(self, limit: int) -> int:
        """Put balanced trees of buffers on every net of more than ``limit`` loads; count buffers.

        A load is an input pin or an output port. Nets that clock flip-flops are left alone: a
        clock tree is made when the cells are placed. Every net has at most ``limit`` loads
        afterwards.
        """
        buffer = self.library.tree_buffer
        cell = self.library.cells[buffer]
        (source,), (target,) = cell.inputs, cell.outputs
        # A load is where its net's name stands: a pin of a cell, or a bit of an output port.
        loads: dict[str, list[tuple[dict[str, str], str] | tuple[list[str], int]]] = {}
        clocks: set[str] = set()
        for instance in self.instances.values():
            kind = self.library.cells[instance.cell]
            clocks.update(instance.pins[pin] for pin in kind.clocks)
            for pin, net in instance.pins.items():
                if pin in kind.inputs:
                    loads.setdefault(net, []).append((instance.pins, pin))
        for direction, nets in self.ports.values():
            if direction == "output":
                for bit, net in enumerate(nets):
                    loads.setdefault(net, []).append((nets, bit))
        inserted = 0
        for net, sinks in loads.items():
            if net in clocks or net in _CONSTANTS.values():
                continue
            while len(sinks) > limit:
                groups = -(-len(sinks) // limit)
                above: list[tuple[dict[str, str], str] | tuple[list[str], int]] = []
                for group in range(groups):
                    new = Instance(buffer, {source: net, target: f"b{inserted}"})
                    part = sinks[len(sinks) * group // groups : len(sinks) * (group + 1) // groups]
                    for names, place in part:
                        names[place] = f"b{inserted}"  # type: ignore[index]
                    if net in self.known:
                        self.known[f"b{inserted}"] = self.known[net]
                    self.instances[f"buf{inserted}"] = new
                    above.append((new.pins, source))
                    inserted += 1
                sinks = above
        return inserted

    # ---- text ----------------------------------------------------------------------------------

    def verilog(self, delays: Delays | None = None) -> str:
        """Return the module as structural Verilog.

        With ``delays`` (in ps, :data:`Delays`) every cell gets parameters ``PIN_rise`` and
        ``PIN_fall``.
        """
        lines = [f"module {self.top}({', '.join(self.ports)});"]
        for name, (direction, nets) in self.ports.items():
            width = f"[{len(nets) - 1}:0] " if len(nets) > 1 else ""
            lines.append(f"  {direction} {width}{name};")
        lines += [f"  wire {name};" for name in self.nets]
        for name, (direction, nets) in self.ports.items():
            for index, net in enumerate(nets):
                bit = f"{name}[{index}]" if len(nets) > 1 else name
                if direction == "input":
                    lines.append(f"  assign {net} = {bit};")
                else:
                    lines.append(f"  assign {bit} = {net};")
        for name, instance in self.instances.items():
            pins = ", ".join(f".{pin}({net})" for pin, net in instance.pins.items())
            parameters = ""
            if delays is not None:
                given = (
                    f".{pin}_{edge}({delay})"
                    for pin, _ in self.outputs(instance)
                    for edge, delay in zip(("rise", "fall"), delays[name][pin], strict=True)
                )
                parameters = f" #({', '.join(given)})"
            lines.append(f"  {instance.cell}{parameters} {name}({pins});")
        return "\n".join([*lines, "endmodule", ""])
