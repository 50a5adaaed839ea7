"""The systolic array: grid, skew, deskew and controller behind three valid/ready streams."""

from typing import Any

from amaranth.hdl import Module
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out

from pe_library.shared import SharedComponent

from .config import ArrayConfig
from .dataflow import Cell, Controller
from .grid import Grid
from .output_stationary import OutputStationaryCell, OutputStationaryController
from .skew import Skew
from .weight_stationary import WeightStationaryCell, WeightStationaryController

__all__ = ["DATAFLOWS", "SystolicArray"]

#: The dataflows by name: their cell and their controller.
DATAFLOWS: dict[str, tuple[type[Cell], type[Controller]]] = {
    "ws": (WeightStationaryCell, WeightStationaryController),
    "os": (OutputStationaryCell, OutputStationaryController),
}


class SystolicArray(SharedComponent):
    """A rows × cols array of one PE between valid/ready streams.

    Inside there is one advance enable: whenever a sum waits at ``o_sum`` for ``ready``, everything
    stands still, so nothing is lost; idle inputs let the array run on. ``o_sum.ready`` reaches
    ``i_act.ready`` and ``i_weight.ready`` in the same cycle, and so does each input's ``valid`` the
    other's ``ready``; there is no such path to ``o_sum``. ``rst`` must be held for a cycle after
    power-up; while it is, inputs must not be ``valid``, because what ``ready`` says then is void.

    A *pass* is what the array does between two ``last`` beats.

    - Weight-stationary: ``rows`` beats of weights, the bottom row first; then M beats of
      activations, one vector of ``rows * lanes`` codes each; M beats of sums. The weights of the
      next pass load meanwhile. Throughput: a pass takes ``max(M, rows)`` cycles.
    - Output-stationary: D beats of activations (``lanes`` codes for each row) in step with D beats
      of weights (``lanes`` codes for each column); then ``rows`` beats of sums, the bottom row
      first, while the next pass runs. Throughput: a pass takes ``max(D, rows)`` cycles.

    Latency is :attr:`latency` (``rows + cols + pipeline``) cycles from the acceptance of a beat of
    activations (output-stationary: of the last beat) to its (first) sums, stalls not counted.

    Parameters
    ----------
    config : ArrayConfig
        The configuration.

    Members
    -------
    i_act : In(stream.Signature(StructLayout({"data": rows * lanes * activation.bits, "last": 1})))
        Activations, row 0 and lane 0 lowest, and the mark of a pass's last beat.
    i_weight : In(stream.Signature(cols * lanes * weight.bits))
        Weights, column 0 and lane 0 lowest.
    o_sum : Out(stream.Signature(StructLayout({"data": cols * accumulator.bits, "last": 1})))
        Sums, two's complement, column 0 lowest, and the mark of a pass's last beat.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        self.cell, controller = DATAFLOWS[config.dataflow]
        self.controller = controller(config)
        self.widths = self.cell.eastward(config.pe)
        self.widths |= self.cell.southward(config.pe, config.accumulator)
        act = data.StructLayout({"data": config.rows * self.widths["act"], "last": 1})
        sums = data.StructLayout({"data": config.cols * self.widths["sum"], "last": 1})
        super().__init__(
            {
                "i_act": In(stream.Signature(act)),
                "i_weight": In(stream.Signature(config.cols * self.widths["weight"])),
                "o_sum": Out(stream.Signature(sums)),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from an accepted (last) beat of activations to its (first) sums."""
        return self.config.latency

    @property
    def definition(self) -> str:
        return self.config.name

    def body(self) -> Module:
        m = Module()
        rows, cols = self.config.rows, self.config.cols

        m.submodules.controller = controller = self.controller
        m.submodules.grid = grid = Grid(
            rows, cols, self.cell, self.config.pe, self.config.accumulator
        )
        m.submodules.act_skew = act_skew = Skew(rows, self.widths["act"])
        m.submodules.weight_skew = weight_skew = Skew(cols, self.widths["weight"])
        m.submodules.sum_deskew = sum_deskew = Skew(cols, self.widths["sum"], descending=True)

        for skew, name in ((act_skew, "act"), (weight_skew, "weight"), (sum_deskew, "sum")):
            skew.i.name = f"{name}_before_{skew.kind}"  # the wires' names in the Verilog
            skew.o.name = f"{name}_after_{skew.kind}"
        en = controller.en
        m.d.comb += [
            en.eq(~self.o_sum.valid | self.o_sum.ready),
            controller.act_valid.eq(self.i_act.valid),
            controller.act_last.eq(self.i_act.payload.last),
            controller.weight_valid.eq(self.i_weight.valid),
            self.i_act.ready.eq(controller.act_ready),
            self.i_weight.ready.eq(controller.weight_ready),
            self.o_sum.valid.eq(controller.sum_valid),
            self.o_sum.payload.last.eq(controller.sum_last),
        ]
        for part in (grid, act_skew, weight_skew, sum_deskew):
            m.d.comb += part.en.eq(en)

        m.d.comb += [
            act_skew.i.eq(self.i_act.payload.data),
            grid.act_in.eq(act_skew.o),
            *(
                getattr(grid, f"{name}_in").eq(getattr(controller, name))
                for name in self.cell.controls
            ),
            weight_skew.i.eq(self.i_weight.payload),
            grid.weight_in.eq(weight_skew.o),
            sum_deskew.i.eq(grid.sum_out),
            self.o_sum.payload.data.eq(sum_deskew.o),
        ]
        return m

    def layout(self) -> dict[str, dict[str, Any]]:
        """Describe each stream: codes in a beat, bits of a code, and where ``last`` is."""
        config, pe = self.config, self.config.pe
        return {
            "i_act": {
                "parts": "rows",
                "lanes": pe.lanes,
                "bits": pe.activation.bits,
                "last_bit": config.rows * self.widths["act"],
            },
            "i_weight": {"parts": "cols", "lanes": pe.lanes, "bits": pe.weight.bits},
            "o_sum": {
                "parts": "cols",
                "lanes": 1,
                "bits": config.accumulator.bits,
                "last_bit": config.cols * self.widths["sum"],
            },
        }
