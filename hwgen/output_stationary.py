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

    Operands and control bits are registered, then the operands are multiplied; a finished sum
    stands in ``sum_out`` ``2 + pipeline`` cycles after its last operands. Control bit 0 marks a
    beat as valid, bit 1 as the last one; bit 2 takes ``sum_in`` from the cell above.
    """

    dataflow = "os"
    control_bits = 3

    def body(self) -> Module:
        m = Module()
        m.submodules.arithmetic = arithmetic = self.pe.create(self.accumulator)
        shift = self.control_in[2]
        act = Signal(len(self.act_in), reset_less=True)
        weight = Signal(len(self.weight_in), reset_less=True)
        running = Signal(len(self.sum_in))
        drain = Signal(len(self.sum_in), reset_less=True)
        wave = self.control_out[:2]  # valid and last, of the operands in the registers

        with m.If(self.en):
            m.d.sync += [
                act.eq(self.act_in),
                weight.eq(self.weight_in),
                self.control_out.eq(self.control_in),
            ]
            for stage in range(self.pe.pipeline):  # follow the products through the PE
                delayed = Signal(2, name=f"wave_{stage}")
                m.d.sync += delayed.eq(wave)
                wave = delayed
            valid, last = wave
            with m.If(shift):
                m.d.sync += drain.eq(self.sum_in)
            with m.If(valid):
                m.d.sync += running.eq(Mux(last, 0, arithmetic.partial_out))
                with m.If(last):
                    m.d.sync += drain.eq(arithmetic.partial_out)

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
    control_bits = 3

    def body(self) -> Module:
        m = Module()
        pair = Signal()
        last = Signal()
        free = Signal()
        pairs = Signal(self.rows - 1)  # pairs and last beats enter row r after r cycles
        lasts = Signal(self.rows + self.pipeline)
        pair_way, last_way = Cat(pair, pairs), Cat(last, lasts)
        m.d.comb += [
            # A last beat keeps `rows` cycles distance from the one before: the drain needs them.
            free.eq(self.en & ~(self.act_last & lasts[: self.rows - 1].any())),
            self.act_ready.eq(free & self.weight_valid),
            self.weight_ready.eq(free & self.act_valid),
            pair.eq(free & self.act_valid & self.weight_valid),
            last.eq(pair & self.act_last),
        ]

        # The bottom row of column 0 has finished when a last beat has come through `lasts`. Then
        # the column drains for `rows` cycles, in the i-th of which the rows below row i shift.
        draining = Signal()
        shifts = Signal(self.rows)
        final = Signal()
        m.d.comb += final.eq(~shifts[-1])
        with m.If(self.en):
            m.d.sync += [pairs.eq(pair_way), lasts.eq(last_way), shifts.eq(shifts << 1)]
            with m.If(lasts[-1]):
                m.d.sync += [draining.eq(1), shifts.eq(~1)]
            with m.Elif(final):
                m.d.sync += draining.eq(0)

        # The last column, where the deskew lines the sums up, is `cols - 1` cycles further.
        valid = Signal(self.cols - 1)
        final_later = Signal(self.cols - 1, reset_less=True)
        valid_way, final_way = Cat(draining, valid), Cat(final, final_later)
        with m.If(self.en):
            m.d.sync += [valid.eq(valid_way), final_later.eq(final_way)]
        m.d.comb += [
            self.control.eq(
                Cat(
                    (pair_way[row], last_way[row], draining & shifts[row])
                    for row in range(self.rows)
                )
            ),
            self.sum_valid.eq(valid_way[-1]),
            self.sum_last.eq(final_way[-1]),
        ]
        return m
