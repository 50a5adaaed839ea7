"""Rectangles of cells, built as tiles of tiles.

Up to :data:`~hwgen.skew.GROUP` rows and columns a grid holds cells; a larger one holds grids. So a
256×256 array is 256 instances of one definition of 256 cells, and neither Amaranth nor a reader
ever meets a list of 65,536.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from pe_library import Accumulator, ProcessingElement
from pe_library.shared import SharedComponent

from .dataflow import Cell
from .skew import GROUP

__all__ = ["Grid"]


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
    NAME_in, NAME_out
        For each bus of the cell and each control bit: a part for each row (eastward buses, control
        bits) or column (southward buses), row or column 0 lowest.
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
        self.eastward = cell.eastward(pe) | dict.fromkeys(cell.controls, 1)
        self.southward = cell.southward(pe, accumulator)
        ports = {"en": In(1)}
        for buses, parts in ((self.eastward, rows), (self.southward, cols)):
            for name, width in buses.items():
                ports |= {f"{name}_in": In(parts * width), f"{name}_out": Out(parts * width)}
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

        def parts(name: str, width: int, starts: range) -> list[Value]:
            bus = getattr(self, f"{name}_in")
            return [bus[start * width : min(start + size, starts.stop) * width] for start in starts]

        # What enters the next block, for each block of the row (east) or of the columns (south).
        east = {name: parts(name, width, row_starts) for name, width in self.eastward.items()}
        south = {name: parts(name, width, col_starts) for name, width in self.southward.items()}
        for r, row in enumerate(row_starts):
            if size == 1:  # the cells take their control bits from the row's lines
                controls = {name: self._line(m, name, row) for name in self.cell.controls}
                for name, bits in controls.items():
                    east[name][row] = bits[-1]
            for c, col in enumerate(col_starts):
                block: Cell | Grid
                if size == 1:
                    block = self.cell(self.pe, self.accumulator)
                    m.submodules[f"cell_{row}_{col}"] = block
                    for name, bits in controls.items():
                        m.d.comb += getattr(block, name).eq(bits[col])
                else:
                    height, width = min(size, self.rows - row), min(size, self.cols - col)
                    block = Grid(height, width, self.cell, self.pe, self.accumulator)
                    m.submodules[f"grid_{r}_{c}"] = block
                m.d.comb += block.en.eq(self.en)
                for buses, place in ((east, r), (south, c)):
                    for name, values in buses.items():
                        if hasattr(block, f"{name}_in"):
                            m.d.comb += getattr(block, f"{name}_in").eq(values[place])
                            values[place] = out = getattr(block, f"{name}_out")
                            out.name = f"{name}_{r}_{c}"
        for name, values in (east | south).items():
            m.d.comb += getattr(self, f"{name}_out").eq(Cat(values))
        return m

    def _line(self, m: Module, name: str, row: int) -> Value:
        """Return a row's control bit in each column now, and on top what leaves to the east."""
        line = Signal(self.cols, name=f"{name}_line_{row}")
        now = Signal(self.cols, name=f"{name}_{row}")
        way = Cat(getattr(self, f"{name}_in")[row], line)
        m.d.comb += now.eq(Mux(self.en, way, 0))
        with m.If(self.en):
            m.d.sync += line.eq(way)
        return Cat(now, line[-1])
