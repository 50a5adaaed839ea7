"""Buffers: block RAM in banks, read and written in vectors of different lengths."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from pe_library.shared import SharedComponent

__all__ = ["BankedBuffer"]


class BankedBuffer(SharedComponent):
    """A memory of granules, of which a vector is read and a vector is written in each cycle.

    A vector begins at any granule. Granule i lies in bank ``i % banks``, so that neighbours can be
    had at once; vectors are rotated on their way. With vectors of one granule it is one plain RAM.

    Reading takes one cycle, and the data stay until the next ``read_en``. What is written in the
    cycle in which it is read may be read old or new.

    Parameters
    ----------
    granule_bits : int
        Width of a granule.
    granules : int
        Capacity.
    read, write : int
        Granules in a vector that is read, and written.
    name : str
        For the Verilog.

    Members
    -------
    read_en, read_addr, read_data
        ``read_data`` follows ``read_en`` by one cycle, first granule lowest.
    write_mask, write_addr, write_data
        A bit of the mask for each granule of the vector.
    """

    def __init__(self, granule_bits: int, granules: int, read: int, write: int, name: str) -> None:
        self.granule_bits = granule_bits
        self.granules = granules
        self.read = read
        self.write = write
        self.name = name
        self.banks = 1 << ceil_log2(max(read, write))
        self.address_bits = ceil_log2(granules)
        super().__init__(
            {
                "read_en": In(1),
                "read_addr": In(self.address_bits),
                "read_data": Out(read * granule_bits),
                "write_mask": In(write),
                "write_addr": In(self.address_bits),
                "write_data": In(write * granule_bits),
            }
        )

    @property
    def definition(self) -> str:
        return f"buffer_{self.name}"

    def body(self) -> Module:
        m = Module()
        banks = self.banks
        place_bits = ceil_log2(banks)
        rows = -(-self.granules // banks)
        width = self.granule_bits

        first = self.write_addr[:place_bits]
        first_read = self.read_addr[:place_bits]
        first_read_q = Signal(place_bits)
        with m.If(self.read_en):
            m.d.sync += first_read_q.eq(first_read)
        parts = Array([self.write_data.word_select(i, width) for i in range(self.write)])
        found = []
        for bank in range(banks):
            memory: Memory = Memory(shape=width, depth=rows, init=[])
            m.submodules[f"bank_{bank}"] = memory
            read, write = memory.read_port(), memory.write_port()
            row, write_row = self.read_addr[place_bits:], self.write_addr[place_bits:]
            # A vector that begins beyond this bank reaches it in the next row.
            m.d.comb += [
                read.en.eq(self.read_en),
                read.addr.eq(row + (bank < first_read)),
                write.addr.eq(write_row + (bank < first)),
            ]
            which = Signal(max(place_bits, 1), name=f"which_{bank}")  # granule for this bank
            m.d.comb += which.eq((bank - first)[:place_bits] if place_bits else 0)
            m.d.comb += [
                write.en.eq(Mux(which < self.write, self.write_mask.bit_select(which, 1), 0)),
                write.data.eq(parts[which] if self.write > 1 else self.write_data),
            ]
            data = Signal(width, name=f"data_{bank}")
            m.d.comb += data.eq(read.data)
            found.append(data)
        for i in range(self.read):
            way = Array([found[(i + shift) % banks] for shift in range(banks)])
            m.d.comb += self.read_data.word_select(i, width).eq(
                way[first_read_q] if place_bits else found[0]
            )
        return m
