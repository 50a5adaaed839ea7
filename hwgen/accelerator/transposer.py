"""From words of many channels of one pixel to beats of few channels of many pixels."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out

from pe_library.shared import SharedComponent

__all__ = ["Transposer"]


class Transposer(SharedComponent):
    """Collects ``rows`` words of ``rows`` parts each, and gives ``rows`` beats.

    Beat t has part t of each word, that of the first word lowest. Words come and beats leave in
    step, one of each in a cycle: the parts lie in a square, which moves towards row 0 while a chunk
    of words enters behind its last row, and then towards column 0, where the chunk leaves part by
    part while the next one enters behind the last column; and so on in turns. The first beat is
    offered in the cycle after the last word.

    A chunk leaves alone if no word is offered with its first beat; words then wait until it has
    left.

    Parameters
    ----------
    rows : int
        Words of a chunk, parts of a word.
    width : int
        Bits of a part.

    Members
    -------
    i, o : In, Out(stream of {data, last})
        Words, beats. ``last`` of a chunk's last word is that of its last beat.
    """

    def __init__(self, rows: int, width: int) -> None:
        self.rows = rows
        self.width = width
        layout = data.StructLayout({"data": rows * width, "last": 1})
        super().__init__({"i": In(stream.Signature(layout)), "o": Out(stream.Signature(layout))})

    @property
    def definition(self) -> str:
        return "transposer"

    def body(self) -> Module:
        m = Module()
        rows, width = self.rows, self.width
        square = [
            [Signal(width, name=f"part_{i}_{j}", reset_less=True) for j in range(rows)]
            for i in range(rows)
        ]
        across = Signal()  # whether it moves towards column 0
        count = Signal(range(rows))
        first = Signal()
        final = Signal(name="last_word")
        coming = Signal()  # a chunk comes
        begun = Signal()  # its first word has come
        leaving = Signal()  # a chunk leaves
        last = Signal()  # what its last beat carries
        step = Signal()
        m.d.comb += [
            first.eq(count == 0),
            final.eq(count == rows - 1),
            coming.eq(Mux(first, self.i.valid, begun)),
            self.i.ready.eq((first | begun) & (~leaving | self.o.ready)),
            self.o.valid.eq(leaving & (~coming | self.i.valid)),
            self.o.payload.last.eq(last & final),
            self.o.payload.data.eq(Mux(across, Cat(row[0] for row in square), Cat(square[0]))),
            step.eq(Mux(coming, self.i.valid & self.i.ready, leaving & self.o.ready)),
        ]
        with m.If(step):
            m.d.sync += [begun.eq(coming), count.eq(Mux(final, 0, count + 1))]
            with m.If(final):
                m.d.sync += [
                    across.eq(~across),
                    leaving.eq(coming),
                    last.eq(self.i.payload.last),
                ]
            for i in range(rows):
                for j in range(rows):
                    word = self.i.payload.data.word_select
                    below = square[i + 1][j] if i + 1 < rows else word(j, width)
                    beside = square[i][j + 1] if j + 1 < rows else word(i, width)
                    m.d.sync += square[i][j].eq(Mux(across, beside, below))
        return m
