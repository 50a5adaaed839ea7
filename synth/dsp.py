"""Registers into the multiplier blocks of ECP5, which Yosys leaves outside.

A ``MULT18X18D`` has registers at its operands and at its product (Lattice FPGA-TN-02205, sysDSP
usage guide). Without them the multiplication alone takes 3.9 ns at speed grade 6. Yosys infers the
bare multiplier only, so this pass moves flip-flops of a mapped netlist into it. What a register
inside does is what the flip-flops did, in every cycle:

- rising edge of one clock, active-high enable, no reset, zero at power-up, no global reset;
- an operand's bits are all flip-flops of equal control or constant zeros, however often a bit
  repeats (a sign); the flip-flops stay if something else reads them, too;
- the product goes nowhere but to flip-flops of equal control; these vanish.

Operands move together or not at all, and all registers of a block have one clock: nextpnr-ecp5
times a block by ``CLK0``, and one with a single operand registered as if it had none.

nextpnr does not look inside: where operands and product are registered, the way between them is in
none of its figures, so that it is given back as a bound (:func:`absorb_registers`).
"""

from collections import Counter
from typing import Any, NamedTuple

__all__ = ["absorb_registers"]

#: Period in ns that the way between a block's registers needs at most, at speed grade 6: Project
#: Trellis' delay from the operands' registers through to the pins of the product, which is longer.
_INSIDE_NS = 3.864

Bit = int | str  # a net, or "0", "1", "x"

#: What a flip-flop is unless its parameters say otherwise.
_DEFAULTS = {"GSR": "ENABLED", "CEMUX": "1", "CLKMUX": "CLK", "LSRMUX": "LSR", "REGSET": "RESET"}
#: What it has to be for a block to do the same.
_NEEDED = {"GSR": "DISABLED", "CLKMUX": "CLK", "LSRMUX": "LSR", "REGSET": "RESET"}


class _Control(NamedTuple):
    clock: Bit
    enable: Bit


def absorb_registers(module: dict[str, Any], within: str = "") -> float:
    """Move registers into the multiplier blocks of a netlist, in place.

    Parameters
    ----------
    module : dict
        A flat module as Yosys' ``write_json`` has it, mapped by ``synth_ecp5``.
    within : str
        Only flip-flops whose names begin so are moved.

    Returns
    -------
    float
        The least period in ns that is safe inside the blocks, whatever nextpnr finds around them;
        0 if it finds it all.
    """
    return _Absorber(module, within).run()


class _Absorber:
    def __init__(self, module: dict[str, Any], within: str) -> None:
        self.module = module
        self.cells: dict[str, Any] = module["cells"]
        self.controls: dict[str, _Control] = {}  # of the flip-flops that may move
        self.driver: dict[Bit, str] = {}  # which of them drives a net
        self.takes: dict[Bit, str] = {}  # which of them has a net as its data
        self.readers: Counter[Bit] = Counter()
        for name, cell in self.cells.items():
            for pin, bits in cell["connections"].items():
                if cell["port_directions"][pin] != "output":
                    self.readers.update(bits)
            if name.startswith(within) and (control := _control(cell)):
                self.controls[name] = control
                self.driver[_net(cell, "Q")] = name
                self.takes[_net(cell, "DI")] = name
        for port in module["ports"].values():
            if port["direction"] != "input":
                self.readers.update(port["bits"])

    def run(self) -> float:
        inside = 0.0
        for cell in [c for c in self.cells.values() if c["type"] == "MULT18X18D" and _bare(c)]:
            operands = [self.operand(cell, port) for port in "AB"]
            clocks = {control.clock for control in operands if control}
            if None in operands or len(clocks) != 1:
                operands = []
                clocks = set()
            product = self.product(cell)
            if product and clocks | {product.clock} != {product.clock}:
                product = None
            registers = dict(zip(("INPUTA", "INPUTB"), operands, strict=False))
            for port in "AB"[: len(operands)]:
                self.move_operand(cell, port)
            if product:
                registers["OUTPUT"] = product
                self.move_product(cell)
            _configure(cell, {key: control for key, control in registers.items() if control})
            if operands and product:
                inside = _INSIDE_NS
        self.forget_dead_nets()
        return inside

    def operand(self, cell: dict[str, Any], port: str) -> _Control | None:
        """Return the control of the flip-flops that drive an operand, None if it has to stay."""
        nets = {_net(cell, f"{port}{i}") for i in range(18)} - {"0", "x"}
        names = {self.driver.get(net) for net in nets}
        controls = {self.controls.get(name) if name else None for name in names}
        return controls.pop() if len(controls) == 1 else None

    def product(self, cell: dict[str, Any]) -> _Control | None:
        """Return the control of the flip-flops that the product goes to, None if it has to stay."""
        nets = [net for _, net in self.product_nets(cell)]
        if any(self.readers[net] > 1 for net in nets):
            return None
        names = {self.takes.get(net) for net in nets}
        controls = {self.controls.get(name) if name else None for name in names}
        return controls.pop() if len(controls) == 1 else None

    def product_nets(self, cell: dict[str, Any]) -> list[tuple[str, Bit]]:
        """Return the pins of the product that something reads, and their nets."""
        pins = [(f"P{i}", _net(cell, f"P{i}")) for i in range(36)]
        return [(pin, net) for pin, net in pins if self.readers[net]]

    def move_operand(self, cell: dict[str, Any], port: str) -> None:
        for i in range(18):
            pin = f"{port}{i}"
            net = _net(cell, pin)
            if net in ("0", "x"):
                continue
            name = self.driver[net]
            data = _net(self.cells[name], "DI")
            cell["connections"][pin] = [data]
            self.readers[net] -= 1
            self.readers[data] += 1
            if not self.readers[net]:
                self.remove(name)

    def move_product(self, cell: dict[str, Any]) -> None:
        for pin, net in self.product_nets(cell):
            name = self.takes[net]
            cell["connections"][pin] = [_net(self.cells[name], "Q")]
            self.remove(name)

    def remove(self, name: str) -> None:
        cell = self.cells.pop(name)
        del self.controls[name], self.driver[_net(cell, "Q")]
        data = _net(cell, "DI")
        if self.takes[data] == name:
            del self.takes[data]
        for pin, bits in cell["connections"].items():
            if pin != "Q":
                self.readers.subtract(bits)

    def forget_dead_nets(self) -> None:
        """Take the names off the nets that nothing drives any more."""
        alive: set[Bit] = set()
        for cell in self.cells.values():
            for pin, bits in cell["connections"].items():
                if cell["port_directions"][pin] != "input":
                    alive.update(bits)
        for port in self.module["ports"].values():
            if port["direction"] != "output":
                alive.update(port["bits"])
        for wire in self.module["netnames"].values():
            wire["bits"] = [b if b in alive or isinstance(b, str) else "x" for b in wire["bits"]]


def _net(cell: dict[str, Any], pin: str) -> Bit:
    """Return the net at a pin of one bit, ``"x"`` if nothing is there."""
    bits: list[Bit] = cell["connections"].get(pin, [])
    return bits[0] if bits else "x"


def _control(cell: dict[str, Any]) -> _Control | None:
    """Return the control of a flip-flop that a block's register could be, else None."""
    if cell["type"] != "TRELLIS_FF":
        return None
    is_ = _DEFAULTS | {name: value.strip() for name, value in cell["parameters"].items()}
    if any(is_[name] != value for name, value in _NEEDED.items()):
        return None
    if _net(cell, "LSR") not in ("0", "x") or is_["CEMUX"] not in ("CE", "1"):
        return None
    return _Control(_net(cell, "CLK"), _net(cell, "CE") if is_["CEMUX"] == "CE" else "1")


def _bare(cell: dict[str, Any]) -> bool:
    """Whether a block is as Yosys infers it: no registers yet, signs that do not change."""
    return all(
        value.strip() == "NONE"
        for name, value in cell["parameters"].items()
        if name.startswith("REG_") and name.endswith("_CLK")
    ) and all(isinstance(_net(cell, pin), str) for pin in ("SIGNEDA", "SIGNEDB", "SOURCEA"))


def _configure(cell: dict[str, Any], registers: dict[str, _Control]) -> None:
    """Turn registers of a block on."""
    if not registers:
        return
    enables = list(dict.fromkeys(control.enable for control in registers.values()))
    # An input that nothing drives floats high, so the reset is tied.
    pins: dict[str, Bit] = {"CLK0": next(iter(registers.values())).clock, "RST0": "0"}
    pins |= {f"CE{i}": enable for i, enable in enumerate(enables)}
    cell["connections"] |= {pin: [net] for pin, net in pins.items()}
    cell["port_directions"] |= dict.fromkeys(pins, "input")
    cell["parameters"] |= {"GSR": "DISABLED"}
    for name, control in registers.items():
        cell["parameters"] |= {
            f"REG_{name}_CLK": "CLK0",
            f"REG_{name}_CE": f"CE{enables.index(control.enable)}",
            f"REG_{name}_RST": "RST0",
        }
