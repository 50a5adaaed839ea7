"""Register slices of streams: of ``ready`` (a skid buffer), of ``valid`` and payload, of both."""

from amaranth.hdl import Module, Mux, Shape, ShapeLike, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out

from pe_library.shared import SharedComponent

__all__ = ["Skid", "Slot", "Stage", "sliced"]


class _Slice(SharedComponent):
    """What stands between two streams of the same payload.

    Parameters
    ----------
    shape : shape-like
        Of the payload.
    name : str
        For the Verilog.
    """

    def __init__(self, shape: ShapeLike, name: str) -> None:
        self.width = Shape.cast(shape).width
        self.name = name
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    @property
    def definition(self) -> str:
        return f"{type(self).__name__.lower()}_{self.name}"

    @classmethod
    def behind(cls, m: Module, source: stream.Interface, name: str) -> stream.Interface:
        """Put one, of this name, behind a stream of ``m``, and return its ``o``."""
        m.submodules[f"{name}_{cls.__name__.lower()}"] = between = cls(source.payload.shape(), name)
        m.d.comb += [
            between.i.valid.eq(source.valid),
            between.i.payload.eq(source.payload),
            source.ready.eq(between.i.ready),
        ]
        return between.o


class Stage(_Slice):
    """A register for each payload.

    Members
    -------
    i, o : In, Out(stream)
        ``o.valid`` and ``o.payload`` are registers, a cycle later; ``i.ready`` follows ``o.ready``
        in the same cycle.
    """

    def body(self) -> Module:
        m = Module()
        payload = Signal(self.width, reset_less=True)
        m.d.comb += [self.i.ready.eq(~self.o.valid | self.o.ready), self.o.payload.eq(payload)]
        with m.If(self.i.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid), payload.eq(self.i.payload)]
        return m


class Slot(_Slice):
    """A register for one payload in two cycles, which is filled when it is empty.

    Members
    -------
    i, o : In, Out(stream)
        All of ``i.ready``, ``o.valid`` and ``o.payload`` are registers; ``o`` is a cycle later.
    """

    def body(self) -> Module:
        m = Module()
        payload = Signal(self.width, reset_less=True)
        m.d.comb += [self.i.ready.eq(~self.o.valid), self.o.payload.eq(payload)]
        m.d.sync += self.o.valid.eq(Mux(self.o.valid, ~self.o.ready, self.i.valid))
        with m.If(~self.o.valid):
            m.d.sync += payload.eq(self.i.payload)
        return m


class Skid(_Slice):
    """Keeps the one payload that comes in the cycle in which ``o`` turns out not to be ready.

    So what comes before it does not wait for a ``ready`` that comes a long way.

    Members
    -------
    i, o : In, Out(stream)
        ``i.ready`` is a register; ``o`` is no cycle later.
    """

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


def sliced(m: Module, source: stream.Interface, name: str) -> stream.Interface:
    """Return a stream of ``m`` a cycle later, with registers in both directions."""
    return Stage.behind(m, Skid.behind(m, source, name), name)
