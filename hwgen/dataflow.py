"""What a dataflow is: a cell, and a controller at the array's edge.

Everything else (tiles of cells, skew, streams) is the same for every dataflow and stands in
``grid.py``, ``skew.py`` and ``array.py``. The two dataflows are ``weight_stationary.py`` and
``output_stationary.py``.

Around a cell::

                 weight_in   sum_in
                     │          │
    act_in ─────► ┌──▼──────────▼──┐
                  │      cell      │ ─────► act_out
    controls ───► └──┬──────────┬──┘
                     │          │
                weight_out   sum_out

West to east travel activations, north to south weights and sums, one register a cell. Control bits
travel east too, one column a cycle, in lines of registers that belong to the grid; a cell obeys its
bits in the cycle in which they arrive. What they mean is between the cell and its controller.
"""

from typing import ClassVar

from amaranth.lib.wiring import In, Out

from pe_library import Accumulator, ProcessingElement
from pe_library.shared import SharedComponent

from .config import ArrayConfig

__all__ = ["Cell", "Controller"]


class Cell(SharedComponent):
    """One place of the array: a PE's arithmetic and the registers around it.

    Parameters
    ----------
    pe : ProcessingElement
        The arithmetic.
    accumulator : Accumulator
        The running sums.

    Members
    -------
    en : In(1)
        Advance enable; all cells of an array share it.
    act_in, act_out : In(lanes * activation.bits), Out(lanes * activation.bits)
        Activations.
    CONTROL : In(1)
        For each name in :attr:`controls`, a bit that is never set without ``en``.
    weight_in, weight_out : In(lanes * weight.bits), Out(lanes * weight.bits)
        Weights.
    sum_in, sum_out : In(accumulator.bits), Out(accumulator.bits)
        Sums, two's complement.
    """

    #: Short name of the dataflow, in names of definitions.
    dataflow: ClassVar[str]
    #: Names of the control bits.
    controls: ClassVar[tuple[str, ...]]

    def __init__(self, pe: ProcessingElement, accumulator: Accumulator) -> None:
        self.pe = pe
        self.accumulator = accumulator
        buses = self.eastward(pe) | self.southward(pe, accumulator)
        super().__init__(
            {"en": In(1)}
            | dict.fromkeys(self.controls, In(1))
            | {f"{name}_in": In(width) for name, width in buses.items()}
            | {f"{name}_out": Out(width) for name, width in buses.items()}
        )

    @classmethod
    def eastward(cls, pe: ProcessingElement) -> dict[str, int]:
        """Return the widths in bits of the buses that pass a cell from west to east."""
        return {"act": pe.lanes * pe.activation.bits}

    @classmethod
    def southward(cls, pe: ProcessingElement, accumulator: Accumulator) -> dict[str, int]:
        """Return the widths in bits of the buses that pass a cell from north to south."""
        return {"weight": pe.lanes * pe.weight.bits, "sum": accumulator.bits}

    @property
    def definition(self) -> str:
        return f"cell_{self.dataflow}"


class Controller(SharedComponent):
    """The handshakes and control bits of an array.

    Parameters
    ----------
    config : ArrayConfig
        The array.

    Members
    -------
    en : In(1)
        Advance enable; nothing is accepted and nothing moves without it.
    act_valid, act_last, act_ready : In(1), In(1), Out(1)
        Handshake of the activations, and whether this beat is the last of its pass.
    weight_valid, weight_ready : In(1), Out(1)
        Handshake of the weights.
    CONTROL : Out(rows)
        The control bit of each row, row 0 lowest, for column 0 now; for each name in
        :attr:`controls`.
    sum_valid, sum_last : Out(1), Out(1)
        Whether sums leave the array now, and whether they are the last of their pass.
    """

    #: Short name of the dataflow, in names of definitions.
    dataflow: ClassVar[str]
    #: Names of the control bits, as in the dataflow's cell.
    controls: ClassVar[tuple[str, ...]]

    def __init__(self, config: ArrayConfig) -> None:
        self.rows = config.rows
        self.cols = config.cols
        self.pipeline = config.pe.pipeline
        #: Enabled cycles from an accepted (last) beat of activations to its (first) sums.
        self.latency = config.latency
        super().__init__(
            {
                "en": In(1),
                "act_valid": In(1),
                "act_last": In(1),
                "act_ready": Out(1),
                "weight_valid": In(1),
                "weight_ready": Out(1),
                "sum_valid": Out(1),
                "sum_last": Out(1),
            }
            | {name: Out(config.rows) for name in self.controls}
        )

    @property
    def definition(self) -> str:
        return f"controller_{self.dataflow}"
