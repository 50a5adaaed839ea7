"""Delay lines at the edges of an array: skew and deskew.

In a systolic array lane ``i`` of an operand enters ``i`` cycles after lane 0, and the sums leave in
the same slant. A :class:`Skew` slants a bus of lanes, or straightens one (``descending``). It is
built from groups of :data:`GROUP` lanes, all alike, and whole-group delays, so that a skew of any
size needs only a handful of definitions.
"""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib.wiring import In, Out

from pe_library.shared import SharedComponent

__all__ = ["GROUP", "Delay", "Skew"]

#: Lanes of a skew, and rows and columns of a tile of cells, that make one definition.
GROUP = 16


def _register(m: Module, en: Value, value: Value, name: str) -> Value:
    """Return ``value`` one enabled cycle later."""
    later = Signal(len(value), name=name, reset_less=True)
    with m.If(en):
        m.d.sync += later.eq(value)
    return later


class Delay(SharedComponent):
    """Delay a bus by a number of enabled cycles.

    Parameters
    ----------
    cycles : int
        The delay, at least 1.
    width : int
        Bits of the bus.

    Members
    -------
    en : In(1)
        Advance enable.
    i, o : In(width), Out(width)
        The bus, and the bus ``cycles`` enabled cycles later.
    """

    def __init__(self, cycles: int, width: int) -> None:
        self.cycles = cycles
        self.width = width
        super().__init__({"en": In(1), "i": In(width), "o": Out(width)})

    @property
    def definition(self) -> str:
        return f"delay_{self.cycles}x{self.width}"

    def body(self) -> Module:
        m = Module()
        value: Value = self.i
        for step in range(self.cycles):
            value = _register(m, self.en, value, f"step_{step}")
        m.d.comb += self.o.eq(value)
        return m


class Skew(SharedComponent):
    """Delay lane ``i`` of a bus by ``i`` enabled cycles, or by ``lanes - 1 - i`` if ``descending``.

    Parameters
    ----------
    lanes : int
        Number of lanes, at least 1.
    width : int
        Bits of one lane.
    descending : bool
        Whether the first lane waits longest (deskew) rather than the last.

    Members
    -------
    en : In(1)
        Advance enable.
    i, o : In(lanes * width), Out(lanes * width)
        The lanes before and after, lane 0 lowest. There is no register in the lane of delay 0.
    """

    def __init__(self, lanes: int, width: int, *, descending: bool = False) -> None:
        self.lanes = lanes
        self.width = width
        self.descending = descending
        super().__init__({"en": In(1), "i": In(lanes * width), "o": Out(lanes * width)})

    @property
    def kind(self) -> str:
        """What it does: ``skew`` or ``deskew``."""
        return "deskew" if self.descending else "skew"

    @property
    def definition(self) -> str:
        return f"{self.kind}_{self.lanes}x{self.width}"

    def body(self) -> Module:
        return self._lines() if self.lanes <= GROUP else self._groups()

    def _lines(self) -> Module:
        """Build a line of registers for each lane."""
        m = Module()
        outputs = []
        for lane in range(self.lanes):
            value = self.i[lane * self.width : (lane + 1) * self.width]
            for step in range(self.lanes - 1 - lane if self.descending else lane):
                value = _register(m, self.en, value, f"lane_{lane}_{step}")
            outputs.append(value)
        m.d.comb += self.o.eq(Cat(outputs))
        return m

    def _groups(self) -> Module:
        """Build skewed groups; group ``g`` waits ``g * GROUP`` cycles more than the first."""
        m = Module()
        for group, near in enumerate(range(0, self.lanes, GROUP)):  # `near` lanes wait less
            size = min(GROUP, self.lanes - near)
            first = self.lanes - near - size if self.descending else near
            part = slice(first * self.width, (first + size) * self.width)
            value = self.i[part]
            for step in range(group):
                delay = Delay(GROUP, size * self.width)
                m.submodules[f"delay_{group}_{step}"] = delay
                m.d.comb += [delay.en.eq(self.en), delay.i.eq(value)]
                value = delay.o
                value.name = f"group_{group}_after_{step + 1}"
            inner = Skew(size, self.width, descending=self.descending)
            m.submodules[f"group_{group}"] = inner
            m.d.comb += [inner.en.eq(self.en), inner.i.eq(value), self.o[part].eq(inner.o)]
        return m
