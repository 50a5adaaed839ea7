"""What is measured: a unit of the generator, and the registers it stands between.

Area is counted on the unit itself. Timing is measured with the unit inside a *ring* of registers,
so that neither pins nor pads decide it: every input comes from a flip-flop, every output goes to
one, and of the ring itself only four pins are left.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Value

from hwgen.accelerator.accelerator import Accelerator
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.array import DATAFLOWS, SystolicArray
from hwgen.config import ArrayConfig
from hwgen.verilog import emit_verilog
from pe_library.checks import check_choice
from pe_library.shared import SharedComponent

__all__ = ["UNITS", "Unit", "array_of", "make_unit"]


def _cell(config: ArrayConfig) -> SharedComponent:
    cell, _ = DATAFLOWS[config.dataflow]
    return cell(config.pe, config.accumulator)


#: The kinds of units: what of a configuration is measured. ``pe`` is one cell of the dataflow, the
#: arithmetic and the registers that it has in an array; ``array`` is the whole array with its
#: streams, as `hwgen generate` writes it; ``accelerator`` the array with its buffers, sequencer and
#: post-processing (`hwgen generate --accelerator`), of an AcceleratorConfig.
UNITS: dict[str, Callable[[Any], SharedComponent]] = {
    "pe": _cell,
    "array": SystolicArray,
    "accelerator": Accelerator,
}


@dataclass(frozen=True)
class Unit:
    """A unit under measurement.

    Attributes
    ----------
    kind : str
        One of :data:`UNITS`.
    config : ArrayConfig
        The array that it is, or is of.
    top : str
        Name of its module.
    verilog : str
        Its text, all modules.
    ports : tuple of (name, is_input, width)
        All but ``clk`` and ``rst``.
    """

    kind: str
    config: ArrayConfig
    top: str
    verilog: str
    ports: tuple[tuple[str, bool, int], ...]

    @property
    def sha256(self) -> str:
        """Hash of the Verilog."""
        return hashlib.sha256(self.verilog.encode()).hexdigest()

    @property
    def macs_per_cycle(self) -> int:
        """Products in a cycle."""
        return self.config.pe.lanes if self.kind == "pe" else self.config.macs_per_cycle

    @property
    def header(self) -> str:
        """The Verilog list of its ports, ``clk`` and ``rst`` first."""
        ports = [
            f"{'input' if is_input else 'output'} [{width - 1}:0] {name}"
            for name, is_input, width in self.ports
        ]
        return ", ".join(["input clk", "input rst", *ports])

    @property
    def box(self) -> str:
        """The Verilog of a black box in its place."""
        return f"(* blackbox *) module {self.top}({self.header});\nendmodule\n"

    def ring(self) -> str:
        """Return the Verilog of the module ``ring``, with the unit as its instance ``unit``.

        Ports: ``clk``, ``rst``, ``serial_in``, ``serial_out``. The inputs are the bits of one shift
        register; ``rst`` is registered likewise. Outputs are registered, and the registers folded
        into a signature, a shift register with an exclusive-or before each bit.
        """
        inputs = [(name, width) for name, is_input, width in self.ports if is_input]
        outputs = [(name, width) for name, is_input, width in self.ports if not is_input]
        n, m = (sum(width for _, width in ports) for ports in (inputs, outputs))
        connections = [".clk(clk)", ".rst(reset_q)"]
        for ports, bus in ((inputs, "drive_q"), (outputs, "seen")):
            low = 0
            for name, width in ports:
                connections.append(f".{name}({bus}[{low + width - 1}:{low}])")
                low += width
        return f"""module ring(input clk, input rst, input serial_in, output serial_out);
  reg reset_q;
  reg [{n - 1}:0] drive_q;
  wire [{m - 1}:0] seen;
  reg [{m - 1}:0] seen_q;
  reg [{m - 1}:0] signature_q;
  always @(posedge clk) begin
    reset_q <= rst;
    drive_q <= {{drive_q, serial_in}};
    seen_q <= seen;
    signature_q <= {{signature_q, signature_q[{m - 1}]}} ^ seen_q;
  end
  assign serial_out = signature_q[{m - 1}];
  {self.top} unit({", ".join(connections)});
endmodule
"""


def make_unit(kind: str, config: ArrayConfig | AcceleratorConfig) -> Unit:
    """Emit a unit of a configuration.

    Raises
    ------
    ValueError
        If there is no such kind.
    """
    check_choice("unit", kind, UNITS)
    component = UNITS[kind](config)
    ports = tuple(
        ("__".join(path), member.flow.name == "In", len(Value.cast(value)))
        for path, member, value in component.signature.flatten(component)
    )
    # Comments, waivers of lints among them, decide nothing that is measured.
    verilog = re.sub(r"^(//|/\*).*\n", "", emit_verilog(component), flags=re.MULTILINE)
    return Unit(kind, array_of(config), component.definition, verilog, ports)


def array_of(config: ArrayConfig | AcceleratorConfig) -> ArrayConfig:
    """Return the array of a configuration, which is the whole of it unless of an accelerator."""
    return config.array if isinstance(config, AcceleratorConfig) else config
