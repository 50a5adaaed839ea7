"""What a dataflow is: a cell, and a controller at the array's edge.

Everything else (tiles of cells, skew, streams) is the same for every dataflow and stands in
``grid.py``, ``skew.py`` and ``array.py``. The two dataflows are ``weight_stationary.py`` and
``output_stationary.py``.

Around a cell::

                  weight_in   sum_in
                      │          │
    act_in ──────► ┌──▼──────────▼──┐ ──────► act_out
    control_in ──► │      cell      │ ──────► control_out
                   └──┬──────────┬──┘
                 weight_out   sum_out

West to east travel activations and control bits, one register a cell; north to south travel weights
and sums. What the control bits mean is between the cell and its controller.
"""

from typing import ClassVar

from amaranth.lib.wiring import In, Out

from pe_library import Accumulator, ProcessingElement
from pe_library.shared import SharedComponent

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
    control_in, control_out : In(control_bits), Out(control_bits)
        Control bits.
    weight_in, weight_out : In(lanes * weight.bits), Out(lanes * weight.bits)
        Weights.
    sum_in, sum_out : In(accumulator.bits), Out(accumulator.bits)
        Sums, two's complement.
    """

    #: Short name of the dataflow, in names of definitions.
    dataflow: ClassVar[str]
    #: Control bits of a row.
    control_bits: ClassVar[int]

    def __init__(self, pe: ProcessingElement, accumulator: Accumulator) -> None:
        self.pe = pe
        self.accumulator = accumulator
        widths = self.widths(pe, accumulator)
        super().__init__(
            {"en": In(1)}
            | {f"{name}_in": In(width) for name, width in widths.items()}
            | {f"{name}_out": Out(width) for name, width in widths.items()}
        )

    @classmethod
    def widths(cls, pe: ProcessingElement, accumulator: Accumulator) -> dict[str, int]:
        """Return the width in bits of each bus that passes through a cell, by its name."""
        return {
            "act": pe.lanes * pe.activation.bits,
            "control": cls.control_bits,
            "weight": pe.lanes * pe.weight.bits,
            "sum": accumulator.bits,
        }

    @property
    def definition(self) -> str:
        return f"cell_{self.dataflow}"


class Controller(SharedComponent):
    """The handshakes and control bits of an array.

    Parameters
    ----------
    rows, cols : int
        Shape of the array.
    pipeline : int
        Registers inside the PEs.

    Members
    -------
    en : In(1)
        Advance enable; nothing is accepted and nothing moves without it.
    act_valid, act_last, act_ready : In(1), In(1), Out(1)
        Handshake of the activations, and whether this beat is the last of its pass.
    weight_valid, weight_ready : In(1), Out(1)
        Handshake of the weights.
    control : Out(rows * control_bits)
        Control bits of each row, row 0 lowest, for column 0 now.
    sum_valid, sum_last : Out(1), Out(1)
        Whether sums leave the array now, and whether they are the last of their pass.
    """

    #: Short name of the dataflow, in names of definitions.
    dataflow: ClassVar[str]
    #: Control bits of a row, as in the dataflow's cell.
    control_bits: ClassVar[int]

    def __init__(self, rows: int, cols: int, pipeline: int) -> None:
        self.rows = rows
        self.cols = cols
        self.pipeline = pipeline
        super().__init__(
            {
                "en": In(1),
                "act_valid": In(1),
                "act_last": In(1),
                "act_ready": Out(1),
                "weight_valid": In(1),
                "weight_ready": Out(1),
                "control": Out(rows * self.control_bits),
                "sum_valid": Out(1),
                "sum_last": Out(1),
            }
        )

    @property
    def latency(self) -> int:
        """Enabled cycles from an accepted (last) beat of activations to its (first) sums.

        One register at the operands, ``pipeline`` and one at the sum; one more for each further
        row and column on the way to the far corner.
        """
        return self.rows + self.cols + self.pipeline

    @property
    def definition(self) -> str:
        return f"controller_{self.dataflow}"
