"""Accumulation over the passes that belong to one block of output channels."""

from itertools import pairwise

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from pe_library.shared import SharedComponent

from .config import AcceleratorConfig
from .nest import LoopNest
from .product import delayed, registered
from .registers import MODES, loops_of, registers_layout

__all__ = ["Accumulate"]


class Accumulate(SharedComponent):
    """Adds up passes, or takes their maximum, pixel by pixel; hands on the last one's results.

    One beat a cycle; a result leaves :meth:`latency` cycles after the last of its sums came. A pass
    has as many beats as the accumulator buffer has words, or fewer. Sums of an output-stationary
    array are handed on as they are.

    Members
    -------
    start : In(1)
        Begin a run.
    registers : In(struct)
        See ``registers.py``.
    i : In(stream of {sums, last}, always ready)
        ``last``: the last beat of a pass.
    o : Out(stream of {sums, last}, always ready)
        Results; ``last``: the last of a block of output channels.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        layout = data.StructLayout({"sums": config.array.cols * config.sum_bits, "last": 1})
        super().__init__(
            {
                "start": In(1),
                "registers": In(registers_layout(config)),
                "i": In(stream.Signature(layout, always_ready=True)),
                "o": Out(stream.Signature(layout, always_ready=True)),
            }
        )

    @staticmethod
    def latency(config: AcceleratorConfig) -> int:
        """Return the cycles from a sum to its result: the old sum is read, the total made."""
        return 2 + config.register_slices

    @property
    def definition(self) -> str:
        return "accumulate"

    def body(self) -> Module:
        m = Module()
        cols, depth = self.config.array.cols, self.config.accumulator_words
        bits = self.config.sum_bits
        # What is read of a word that is being written is not used.
        attrs = {"no_rw_check": "1"}
        memory: Memory = Memory(shape=cols * bits, depth=depth, init=[], attrs=attrs)
        m.submodules.memory = memory
        write = memory.write_port()
        read = memory.read_port()
        maximum = self.registers.mode[MODES["maximum"]]
        # Passes of a block of output channels: those that are summed, and then those of its pixels.
        loops = loops_of(self.config)
        counted = (*loops.summed, *(loop for loop in loops.outside if loop in loops.pixels))
        m.submodules.passes = passes = LoopNest(len(counted), self.config.loop_bits, {})
        for i, loop in enumerate(counted):
            extent: Value = self.registers[f"extent_{loop}"]
            if self.config.array.dataflow == "os" and loop in loops.summed:
                # What comes out of the array is summed already.
                extent = Mux(self.registers.mode[MODES["direct"]], extent, 0)
            m.d.comb += getattr(passes, f"extent_{i}").eq(extent)

        # What a beat is added to is read in the cycle before it comes. With register slices both
        # wait a cycle then. Its total is made in the next cycle, and written in the one after that.
        # So totals are forwarded to the beats that come next, where they have the same place: near,
        # as one is made; far, as it is written; or as it was written just now, or before that.
        waits = self.config.register_slices
        ages = range(1, 3 + waits)  # of a beat, in cycles; when it is older, its total can be read
        place = Signal(ceil_log2(depth))
        following = Signal.like(place)
        first = Signal()  # this is the first of the passes that are summed
        final = Signal(name="final_pass")  # this is the last of them
        ends = Signal()  # this is the last of a block of output channels
        valid = [self.i.valid, *(Signal(name=f"valid_{age}") for age in ages)]
        places = [place, *(Signal.like(place, name=f"place_{age}") for age in ages)]
        for earlier, later in (*pairwise(valid), *pairwise(places)):
            m.d.sync += later.eq(earlier)
        m.d.comb += [
            final.eq(passes.at_end[: len(loops.summed)].all()),
            ends.eq(self.i.payload.last & passes.at_end.all()),
            following.eq(Mux(self.i.payload.last, 0, place + 1)),
            # Read ahead: the place of the next beat is known.
            read.addr.eq(Mux(self.i.valid, following, place)),
            write.data.eq(self.o.payload.sums),
            passes.next.eq(self.i.valid & self.i.payload.last & ~ends),
            passes.start.eq(self.start | (self.i.valid & ends)),
        ]
        with m.If(self.i.valid):
            m.d.sync += place.eq(following)
            with m.If(self.i.payload.last):
                m.d.sync += first.eq(final)
        with m.If(self.start):
            m.d.sync += [place.eq(0), first.eq(1)]
        same = Cat(came & (read.addr == there) for came, there in zip(valid, places, strict=True))
        near, far, *older = registered(m, same, "same")
        sources: Value = Signal(4)  # of what a beat is added to, one of them: it costs few gates
        m.d.comb += sources.eq(Mux(first, 0, Mux(near, 1, Mux(far, 2, Mux(older[0], 4, 8)))))
        fresh: Value = first
        if waits:
            sources, fresh = registered(m, sources, "sources"), registered(m, first, "fresh")
        final_then, ends_then = delayed(m, final, 1 + waits), delayed(m, ends, 1 + waits)
        m.d.sync += [
            write.addr.eq(places[1 + waits]),
            write.en.eq(valid[1 + waits] & ~final_then),
            self.o.valid.eq(valid[1 + waits] & final_then),
            self.o.payload.last.eq(ends_then),
        ]

        nothing = Cat(Const(0, bits - 1), maximum)  # the least sum, of which another is the maximum
        for c in range(cols):
            total = Signal(signed(bits), name=f"total_{c}")
            difference = Signal(signed(bits + 1), name=f"difference_{c}")
            result = registered(m, total, f"result_{c}")
            written = registered(m, result, f"written_{c}")
            stored = read.data.word_select(c, bits)
            beat: Value = self.i.payload.sums.word_select(c, bits)
            if waits:  # a block RAM is slow, and far away
                stored = registered(m, Mux(older[1], written, stored), f"stored_{c}")
                beat = registered(m, beat, f"beat_{c}")
            found = [Mux(source, value, 0) for source, value in
                     zip(sources, (total, result, written, stored), strict=True)]  # fmt: skip
            before = found[0] | found[1] | found[2] | found[3] | Mux(fresh, nothing, 0)
            new = registered(m, beat, f"new_{c}", signed(bits))
            old = registered(m, before, f"old_{c}", signed(bits))
            m.d.comb += [
                self.o.payload.sums.word_select(c, bits).eq(result),
                difference.eq(old - new),
                total.eq(Mux(maximum, Mux(difference < 0, new, old), new + old)),
            ]
        return m
