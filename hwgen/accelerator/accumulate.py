"""Accumulation over the passes that belong to one block of output channels."""

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from pe_library.shared import SharedComponent

from .config import AcceleratorConfig
from .nest import LoopNest
from .registers import MODES, loops_of, registers_layout

__all__ = ["Accumulate"]


class Accumulate(SharedComponent):
    """Adds up passes, or takes their maximum, pixel by pixel; hands on the last one's results.

    One beat a cycle; a result leaves 1 cycle after the last of its sums came. A pass has as many
    beats as the accumulator buffer has words, or fewer. Sums of an output-stationary array are
    handed on as they are.

    Members
    -------
    start : In(1)
        Begin a run.
    registers : In(struct)
        See ``registers.py``.
    i : In(stream of {sums, last})
        ``last``: the last beat of a pass.
    o : Out(stream of {sums, last})
        Results; ``last``: the last of a block of output channels.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        layout = data.StructLayout({"sums": config.array.cols * config.sum_bits, "last": 1})
        super().__init__(
            {
                "start": In(1),
                "registers": In(registers_layout(config)),
                "i": In(stream.Signature(layout)),
                "o": Out(stream.Signature(layout)),
            }
        )

    @property
    def definition(self) -> str:
        return "accumulate"

    def body(self) -> Module:
        m = Module()
        cols, depth = self.config.array.cols, self.config.accumulator_words
        bits = self.config.sum_bits
        memory: Memory = Memory(shape=cols * bits, depth=depth, init=[])
        m.submodules.memory = memory
        write = memory.write_port()
        read = memory.read_port(transparent_for=(write,))
        maximum = self.registers.mode[MODES["maximum"]]
        # Passes of a block of output channels: those that are summed, and then those of its pixels.
        loops = loops_of(self.config)
        counted = (*loops.summed, *(loop for loop in loops.outside if loop in loops.pixels))
        m.submodules.passes = passes = LoopNest(len(counted), {})
        for i, loop in enumerate(counted):
            extent: Value = self.registers[f"extent_{loop}"]
            if self.config.array.dataflow == "os" and loop in loops.summed:
                # What comes out of the array is summed already.
                extent = Mux(self.registers.mode[MODES["direct"]], extent, 0)
            m.d.comb += getattr(passes, f"extent_{i}").eq(extent)

        place = Signal(ceil_log2(depth))
        following = Signal.like(place)
        first = Signal()  # this is the first of the passes that are summed
        final = Signal(name="final_pass")  # this is the last of them
        ends = Signal()  # this is the last of a block of output channels
        take = Signal()
        m.d.comb += [
            self.i.ready.eq(~self.o.valid | self.o.ready),
            take.eq(self.i.valid & self.i.ready),
            final.eq(passes.at_end[: len(loops.summed)].all()),
            ends.eq(self.i.payload.last & passes.at_end.all()),
            following.eq(Mux(self.i.payload.last, 0, place + 1)),
            # Read ahead: the place of the next beat is known.
            read.addr.eq(Mux(take, following, place)),
            read.en.eq(1),
            write.addr.eq(place),
            write.en.eq(take & ~final),
            passes.next.eq(take & self.i.payload.last & ~ends),
            passes.start.eq(self.start | (take & ends)),
        ]
        with m.If(take):
            m.d.sync += place.eq(following)
            with m.If(self.i.payload.last):
                m.d.sync += first.eq(final)
        with m.If(self.start):
            m.d.sync += [place.eq(0), first.eq(1)]

        totals: list[Value] = []
        for c in range(cols):
            new = Signal(signed(bits), name=f"new_{c}")
            old = Signal(signed(bits), name=f"old_{c}")
            total = Signal(signed(bits), name=f"total_{c}")
            m.d.comb += [
                new.eq(self.i.payload.sums.word_select(c, bits)),
                old.eq(read.data.word_select(c, bits)),
                total.eq(
                    Mux(first | (maximum & (new > old)), new, Mux(maximum, old, new + old))
                ),
                write.data.word_select(c, bits).eq(total),
            ]  # fmt: skip
            totals.append(total)
        with m.If(self.i.ready):
            m.d.sync += [
                self.o.valid.eq(self.i.valid & final),
                self.o.payload.last.eq(ends),
                *(
                    self.o.payload.sums.word_select(c, bits).eq(total)
                    for c, total in enumerate(totals)
                ),
            ]
        return m
