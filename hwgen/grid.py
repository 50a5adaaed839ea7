"""Rectangles of cells, built as tiles of tiles.

Up to :data:`~hwgen.skew.GROUP` rows and columns a grid holds cells; a larger one holds grids. So a
256×256 array is 256 instances of one definition of 256 cells, and neither Amaranth nor a reader
ever meets a list of 65,536.
"""

from amaranth.hdl import Cat, Module, Value
from amaranth.lib.wiring import In, Out

from pe_library import Accumulator, ProcessingElement
from pe_library.shared import SharedComponent

from .dataflow import Cell
from .skew import GROUP

__all__ = ["Grid"]

#: Buses from west to east (a part for each row) and from north to south (one for each column).
_EASTWARD = ("act", "control")
_SOUTHWARD = ("weight", "sum")


class Grid(SharedComponent):
    """A rectangle of cells with its edges as ports.

    Parameters
    ----------
    rows, cols : int
        Shape, each at least 1.
    cell : type
        The dataflow's :class:`~hwgen.dataflow.Cell` class.
    pe, accumulator
        Parameters of the cells.

    Members
    -------
    en : In(1)
        Advance enable.
    act_in, act_out, control_in, control_out
        A part for each row, row 0 lowest, as wide as the cell's port of that name.
    weight_in, weight_out, sum_in, sum_out
        A part for each column, column 0 lowest, as wide as the cell's port of that name.
    """

    def __init__(
        self,
        rows: int,
        cols: int,
        cell: type[Cell],
        pe: ProcessingElement,
        accumulator: Accumulator,
    ) -> None:
        self.rows = rows
        self.cols = cols
        self.cell = cell
        self.pe = pe
        self.accumulator = accumulator
        self.widths = cell.widths(pe, accumulator)
        ports = {"en": In(1)}
        for name, width in self.widths.items():
            width *= rows if name in _EASTWARD else cols
            ports |= {f"{name}_in": In(width), f"{name}_out": Out(width)}
        super().__init__(ports)

    @property
    def definition(self) -> str:
        return f"grid_{self.rows}x{self.cols}"

    def body(self) -> Module:
        m = Module()
        size = 1  # of a block, in cells
        while size * GROUP < max(self.rows, self.cols):
            size *= GROUP
        row_starts = range(0, self.rows, size)
        col_starts = range(0, self.cols, size)

        def part(name: str, start: int, stop: int) -> Value:
            width = self.widths[name]
            return getattr(self, f"{name}_in")[start * width : stop * width]

        # What enters the next block, for each block of the row (east) or of the columns (south).
        east = {
            name: [part(name, row, min(row + size, self.rows)) for row in row_starts]
            for name in _EASTWARD
        }
        south = {
            name: [part(name, col, min(col + size, self.cols)) for col in col_starts]
            for name in _SOUTHWARD
        }
        for r, row in enumerate(row_starts):
            for c, col in enumerate(col_starts):
                block: Cell | Grid
                if size == 1:
                    block = self.cell(self.pe, self.accumulator)
                    m.submodules[f"cell_{row}_{col}"] = block
                else:
                    height, width = min(size, self.rows - row), min(size, self.cols - col)
                    block = Grid(height, width, self.cell, self.pe, self.accumulator)
                    m.submodules[f"grid_{r}_{c}"] = block
                m.d.comb += block.en.eq(self.en)
                for buses, place in ((east, r), (south, c)):
                    for name, values in buses.items():
                        m.d.comb += getattr(block, f"{name}_in").eq(values[place])
                        values[place] = out = getattr(block, f"{name}_out")
                        out.name = f"{name}_{r}_{c}"
        for name, values in (east | south).items():
            m.d.comb += getattr(self, f"{name}_out").eq(Cat(values))
        return m
