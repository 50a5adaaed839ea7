"""Weight-stationary dataflow: weights stay, activations travel east, partial sums south.

A pass multiplies M vectors of activations with one set of weights, and the next set is loaded
meanwhile. Time is counted in enabled cycles:

- The set enters row by row, the *bottom* row first, through the shadow registers of row 0. Row r
  shifts at the beats i ≥ r only, so that a beat disturbs no shadow that lies deeper than the new
  weights have come. Column c lags by c cycles, as the wavefront does.
- The first activation of a pass carries a swap bit: at row r and column c, r + c cycles later, the
  shadow becomes the weight as the activation becomes the operand. A row's shadow is thus free from
  the moment the wavefront has passed it, and loading can follow right behind.

Hence a new pass may begin ``max(rows, M)`` cycles after the one before it, and with M ≥ rows no
cycle is lost between passes.
"""

from amaranth.hdl import Cat, Module, Mux, Signal

from .dataflow import Cell, Controller

__all__ = ["WeightStationaryCell", "WeightStationaryController"]


class WeightStationaryCell(Cell):
    """Cell of the weight-stationary dataflow: ``sum_out`` is ``sum_in`` plus the products.

    Activations are registered, then multiplied. Latency from ``act_in`` to ``sum_out`` is
    ``2 + pipeline`` cycles, from ``sum_in`` one cycle. ``load`` shifts ``weight_in`` into the
    shadow register, which is ``weight_out``; ``swap`` comes with the first activations that the
    shadow is to multiply.
    """

    dataflow = "ws"
    controls = ("swap", "load")

    def body(self) -> Module:
        m = Module()
        m.submodules.arithmetic = arithmetic = self.pe.create(self.accumulator)
        act = Signal(len(self.act_in), reset_less=True)
        shadow = Signal(len(self.weight_in), reset_less=True)
        weight = Signal(len(self.weight_in), reset_less=True)
        partial = Signal(len(self.sum_in), reset_less=True)

        with m.If(self.en):
            m.d.sync += [act.eq(self.act_in), partial.eq(arithmetic.partial_out)]
        with m.If(self.load):
            m.d.sync += shadow.eq(self.weight_in)
        with m.If(self.swap):
            m.d.sync += weight.eq(shadow)

        if self.pe.pipeline:
            m.d.comb += arithmetic.en.eq(self.en)
        m.d.comb += [
            arithmetic.activations.eq(act),
            arithmetic.weights.eq(weight),
            arithmetic.partial_in.eq(self.sum_in),
            self.act_out.eq(act),
            self.weight_out.eq(shadow),
            self.sum_out.eq(partial),
        ]
        return m


class WeightStationaryController(Controller):
    """Controller of the weight-stationary dataflow.

    A pass is ``rows`` beats of weights (bottom row first) and any number of beats of activations,
    the final one with ``act_last``; sums leave one beat for one beat, ``latency`` cycles later. The
    first activation of a pass waits for its weights. The first weights of the pass after wait for
    that activation, which they may accompany: ``weight_ready`` follows ``act_valid`` in the same
    cycle.
    """

    dataflow = "ws"
    controls = ("swap", "load")

    def body(self) -> Module:
        m = Module()
        first = Signal(init=1)  # the next activations begin a pass
        loaded = Signal()  # the shadows hold a whole set
        reach = Signal(self.rows, init=1)  # rows that the next beat of weights gets to
        act = Signal()
        swap = Signal()
        load = Signal()
        m.d.comb += [
            self.act_ready.eq(self.en & (~first | loaded)),
            act.eq(self.act_valid & self.act_ready),
            swap.eq(act & first),
            self.weight_ready.eq(self.en & (~loaded | swap)),
            load.eq(self.weight_valid & self.weight_ready),
        ]
        with m.If(act):
            m.d.sync += first.eq(self.act_last)
        with m.If(swap):
            m.d.sync += loaded.eq(0)
        with m.If(load):
            m.d.sync += reach.eq(Cat(1, reach))
            with m.If(reach[-1]):
                m.d.sync += [reach.eq(1), loaded.eq(1)]

        swaps = Signal(self.rows - 1)  # a swap enters row r after r cycles
        valid = Signal(self.latency)
        last = Signal(self.latency, reset_less=True)
        swap_way = Cat(swap, swaps)
        with m.If(self.en):
            m.d.sync += [
                swaps.eq(swap_way),
                valid.eq(Cat(act, valid)),
                last.eq(Cat(self.act_last, last)),
            ]
        m.d.comb += [
            self.swap.eq(swap_way),
            self.load.eq(Mux(load, reach, 0)),
            self.sum_valid.eq(valid[-1]),
            self.sum_last.eq(last[-1]),
        ]
        return m
