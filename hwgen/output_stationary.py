"""Output-stationary dataflow: sums stay, activations travel east, weights south.

A pass computes one tile of rows × cols sums, one step of the reduction (``lanes`` products) a beat.
Time is counted in enabled cycles. Activations and weights of a beat meet at row r and column c
after r + c cycles. The last beat of a pass carries a last bit: where it passes, the finished sum
moves to a drain register and the running sum restarts from zero, so that the next pass follows at
once. The drain registers of a column are a chain to the south:

- The bottom row leaves first. The chain starts when the bottom row has finished; by then the rows
  above have finished too (they did so earlier) and have waited in their drain registers.
- Row r takes from above r times and then stops, because all that lay above has passed; its
  register is free again just when the wavefront of a pass that ended ``rows`` cycles later arrives.

Hence passes of at least ``rows`` beats lose no cycle; a shorter one has its last beat held back.
"""

from amaranth.hdl import Cat, Module, Mux, Signal

from .dataflow import Cell, Controller

__all__ = ["OutputStationaryCell", "OutputStationaryController"]


class OutputStationaryCell(Cell):
    """Cell of the output-stationary dataflow: sums the products, drains the sum.

    Operands are registered, then multiplied. ``valid`` adds the products to the running sum,
    ``1 + pipeline`` cycles after their operands entered; ``last`` comes with the last ``valid``,
    and puts the finished sum into the drain register, which is ``sum_out``; ``shift`` takes
    ``sum_in`` there from the cell above.
    """

    dataflow = "os"
    controls = ("valid", "last", "shift")

    def body(self) -> Module:
        m = Module()
        m.submodules.arithmetic = arithmetic = self.pe.create(self.accumulator)
        act = Signal(len(self.act_in), reset_less=True)
        weight = Signal(len(self.weight_in), reset_less=True)
        running = Signal(len(self.sum_in))
        drain = Signal(len(self.sum_in), reset_less=True)

        with m.If(self.en):
            m.d.sync += [act.eq(self.act_in), weight.eq(self.weight_in)]
        with m.If(self.valid):
            m.d.sync += running.eq(Mux(self.last, 0, arithmetic.partial_out))
        with m.If(self.last):
            m.d.sync += drain.eq(arithmetic.partial_out)
        with m.Elif(self.shift):
            m.d.sync += drain.eq(self.sum_in)

        if self.pe.pipeline:
            m.d.comb += arithmetic.en.eq(self.en)
        m.d.comb += [
            arithmetic.activations.eq(act),
            arithmetic.weights.eq(weight),
            arithmetic.partial_in.eq(running),
            self.act_out.eq(act),
            self.weight_out.eq(weight),
            self.sum_out.eq(drain),
        ]
        return m


class OutputStationaryController(Controller):
    """Controller of the output-stationary dataflow.

    A pass is the same number of beats of activations and of weights, accepted in pairs, the final
    activations with ``act_last``; ``rows`` beats of sums follow, the bottom row first, the first of
    them ``latency`` cycles after the final pair and the final one with ``sum_last``.
    """

    dataflow = "os"
    controls = ("valid", "last", "shift")

    def body(self) -> Module:
        m = Module()
        pair = Signal()
        last = Signal()
        free = Signal()
        # What was accepted, on its way to the cells: through the PE, then row after row. It
        # arrives with the products, and when it has passed the bottom row of column 0, that row
        # has finished.
        way = self.rows + self.pipeline
        pairs, lasts = Signal(way), Signal(way)
        rows = slice(self.pipeline, way)
        m.d.comb += [
            # A last beat keeps `rows` cycles distance from the one before: the drain needs them.
            free.eq(self.en & ~(self.act_last & lasts[: self.rows - 1].any())),
            self.act_ready.eq(free & self.weight_valid),
            self.weight_ready.eq(free & self.act_valid),
            pair.eq(free & self.act_valid & self.weight_valid),
            last.eq(pair & self.act_last),
        ]

        # Then column 0 drains for `rows` cycles, in the i-th of which the rows below row i shift.
        draining = Signal()
        shifts = Signal(self.rows)
        final_step = Signal()
        m.d.comb += final_step.eq(~shifts[-1])
        with m.If(self.en):
            m.d.sync += [
                pairs.eq(Cat(pair, pairs)),
                lasts.eq(Cat(last, lasts)),
                shifts.eq(shifts << 1),
            ]
            with m.If(lasts[-1]):
                m.d.sync += [draining.eq(1), shifts.eq(~1)]
            with m.Elif(final_step):
                m.d.sync += draining.eq(0)

        # The last column, where the deskew lines the sums up, is `cols - 1` cycles further.
        valid = Signal(self.cols - 1)
        final_later = Signal(self.cols - 1, reset_less=True)
        valid_way, final_way = Cat(draining, valid), Cat(final_step, final_later)
        with m.If(self.en):
            m.d.sync += [valid.eq(valid_way), final_later.eq(final_way)]
        m.d.comb += [
            self.valid.eq(pairs[rows]),
            self.last.eq(lasts[rows]),
            self.shift.eq(Mux(draining, shifts, 0)),
            self.sum_valid.eq(valid_way[-1]),
            self.sum_last.eq(final_way[-1]),
        ]
        return m
