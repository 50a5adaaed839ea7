"""Registers in a stream: of its ``ready`` (a skid buffer), or of its ``valid`` and payload."""

from amaranth.hdl import Module, Mux, Shape, ShapeLike, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out

from pe_library.shared import SharedComponent

__all__ = ["Skid", "Stage"]


class Stage(SharedComponent):
    """A register for each payload: ``o.valid`` and ``o.payload`` are registers, a cycle later.

    Parameters
    ----------
    shape : shape-like
        Of the payload.
    name : str
        For the Verilog.

    Members
    -------
    i, o : In, Out(stream)
        ``i.ready`` follows ``o.ready`` in the same cycle.
    """

    def __init__(self, shape: ShapeLike, name: str) -> None:
        self.width = Shape.cast(shape).width
        self.name = name
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    @property
    def definition(self) -> str:
        return f"stage_{self.name}"

    def body(self) -> Module:
        m = Module()
        payload = Signal(self.width, reset_less=True)
        m.d.comb += [self.i.ready.eq(~self.o.valid | self.o.ready), self.o.payload.eq(payload)]
        with m.If(self.i.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid), payload.eq(self.i.payload)]
        return m


class Skid(SharedComponent):
    """Keeps the one payload that comes in the cycle in which ``o`` turns out not to be ready.

    So what comes before it does not wait for a ``ready`` that comes a long way.

    Parameters
    ----------
    shape : shape-like
        Of the payload.
    name : str
        For the Verilog.

    Members
    -------
    i : In(stream)
        ``ready`` is a register.
    o : Out(stream)
        No cycle later.
    """

    def __init__(self, shape: ShapeLike, name: str) -> None:
        self.width = Shape.cast(shape).width
        self.name = name
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    @property
    def definition(self) -> str:
        return f"skid_{self.name}"

    @classmethod
    def behind(cls, m: Module, source: stream.Interface, name: str) -> stream.Interface:
        """Put one, of this name, behind a stream of ``m``, and return its ``o``."""
        m.submodules[name] = skid = cls(source.payload.shape(), name)
        m.d.comb += [
            skid.i.valid.eq(source.valid),
            skid.i.payload.eq(source.payload),
            source.ready.eq(skid.i.ready),
        ]
        return skid.o

    def body(self) -> Module:
        m = Module()
        kept = Signal(self.width, reset_less=True)
        full = Signal()
        m.d.comb += [
            self.i.ready.eq(~full),
            self.o.valid.eq(self.i.valid | full),
            self.o.payload.eq(Mux(full, kept, self.i.payload)),
        ]
        m.d.sync += full.eq(self.o.valid & ~self.o.ready)
        with m.If(~full):
            m.d.sync += kept.eq(self.i.payload)
        return m
