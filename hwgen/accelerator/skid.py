"""A skid buffer: a stream's ``ready`` becomes a register, and nothing waits longer."""

from amaranth.hdl import Module, Mux, Shape, ShapeLike, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out

from pe_library.shared import SharedComponent

__all__ = ["Skid"]


class Skid(SharedComponent):
    """Keeps the one payload that comes in the cycle in which ``o`` turns out not to be ready.

    So what comes before it does not wait for a ``ready`` that comes a long way.

    Parameters
    ----------
    shape : shape-like
        Of the payload.

    Members
    -------
    i : In(stream)
        ``ready`` is a register.
    o : Out(stream)
        No cycle later.
    """

    def __init__(self, shape: ShapeLike) -> None:
        self.width = Shape.cast(shape).width
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    @property
    def definition(self) -> str:
        return f"skid_{self.width}"

    @classmethod
    def behind(cls, m: Module, source: stream.Interface, name: str) -> stream.Interface:
        """Put one, of this name, behind a stream of ``m``, and return its ``o``."""
        m.submodules[name] = skid = cls(source.payload.shape())
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
