"""Buffers: block RAM, and activations in vectors of two lengths.

Activations are read in vectors of ``rows * lanes`` codes, for the array, and of ``cols`` codes,
past it; they are written in vectors of ``cols``. Addresses count granules of as many codes as both
lengths are multiples of. Where every vector begins at a multiple of its own length
(:attr:`.AcceleratorConfig.aligned`), a word of the memory is the longer vector; where not, granules
lie in banks, and vectors are rotated.
"""

from amaranth.hdl import Array, Module, Mux, Signal, Value
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from pe_library.shared import SharedComponent

from .config import AcceleratorConfig

__all__ = ["ActivationBuffer", "AlignedBuffer", "BankedBuffer", "WordBuffer", "activation_buffer"]


class WordBuffer(SharedComponent):
    """A memory of words that are read as a whole and written part by part.

    Reading takes one cycle, and the data stay until the next ``read_en``. What is read of a word in
    the cycle in which it is written is undefined.

    Parameters
    ----------
    width : int
        Of a word.
    words : int
        Capacity.
    part : int
        Width of what is written at once; the last part of a word may be narrower.
    name : str
        For the Verilog.
    ports : int
        2, or 1: then nothing is read in a cycle in which something is written.

    Members
    -------
    read_en, read_addr, read_data
        ``read_data`` follows ``read_en`` by one cycle.
    write_mask, write_addr, write_data
        A bit of the mask for each part, lowest first.
    """

    def __init__(self, width: int, words: int, part: int, name: str, ports: int = 2) -> None:
        self.ports = ports
        self.width = width
        self.words = words
        self.part = part
        self.parts = -(-width // part)
        self.name = name
        super().__init__(
            {
                "read_en": In(1),
                "read_addr": In(ceil_log2(words)),
                "read_data": Out(width),
                "write_mask": In(self.parts),
                "write_addr": In(ceil_log2(words)),
                "write_data": In(width),
            }
        )

    @property
    def definition(self) -> str:
        return f"buffer_{self.name}"

    def body(self) -> Module:
        m = Module()
        read_en, read_addr, write_addr = self.read_en, self.read_addr, self.write_addr
        if self.ports == 1:
            writes, address = Signal(), Signal.like(self.read_addr)
            m.d.comb += [
                writes.eq(self.write_mask.any()),
                address.eq(Mux(writes, self.write_addr, self.read_addr)),
            ]
            read_en, read_addr, write_addr = self.read_en & ~writes, address, address
        # Whole parts are one memory; the last one, if narrower, is another.
        whole = self.width // self.part * self.part
        for start, end in ((0, whole), (whole, self.width)):
            if start == end:
                continue
            # Nobody uses what is read while it is written: block RAM needs no logic against that.
            memory: Memory = Memory(
                shape=end - start, depth=self.words, init=[], attrs={"no_rw_check": "1"}
            )
            m.submodules += memory
            read = memory.read_port()
            write = memory.write_port(granularity=min(self.part, end - start))
            m.d.comb += [
                read.en.eq(read_en),
                read.addr.eq(read_addr),
                self.read_data[start:end].eq(read.data),
                write.en.eq(self.write_mask[start // self.part :]),
                write.addr.eq(write_addr),
                write.data.eq(self.write_data[start:end]),
            ]
        return m


class ActivationBuffer(SharedComponent):
    """The activation buffer: vectors for runs, words for LOAD and STORE.

    What is written can be read from the second cycle after on, as there is a register slice.

    Members
    -------
    read_en, read_addr, read_data
        The vector at a granule, or the word that holds it, follows ``read_en`` by one cycle, and
        stays until the next one.
    write_en, write_addr, write_data
        ``cols`` codes to a granule.
    load_en, load_addr, load_data
        A word; not in the cycle of a ``write_en``.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        address = (config.granules - 1).bit_length()
        super().__init__(
            {
                "read_en": In(1),
                "read_addr": In(address),
                "read_data": Out(config.vector * config.granule_bits),
                "write_en": In(1),
                "write_addr": In(address),
                "write_data": In(config.array.cols * config.array.pe.activation.bits),
                "load_en": In(1),
                "load_addr": In((config.activation_words - 1).bit_length()),
                "load_data": In(config.activation_bits),
            }
        )

    @property
    def definition(self) -> str:
        return "buffer_activation"


class AlignedBuffer(ActivationBuffer):
    """Words as long as the longer vector; of a shorter one all of its word is read."""

    def body(self) -> Module:
        m = Module()
        config = self.config
        width, part = config.activation_bits, len(self.write_data)
        m.submodules.memory = memory = WordBuffer(
            width, config.activation_words, part, "activation_words"
        )
        place_bits = ceil_log2(config.word)  # of the address: the granule in its word
        m.d.comb += [
            memory.read_en.eq(self.read_en),
            memory.read_addr.eq(self.read_addr[place_bits:]),
            self.read_data.eq(memory.read_data),
        ]
        first = self.write_addr[: ceil_log2(memory.parts)]
        mask = Signal.like(memory.write_mask, name="mask")
        address = Signal.like(memory.write_addr, name="address", reset_less=True)
        written = Signal.like(memory.write_data, name="written", reset_less=True)
        domain = config.slice_domain
        with m.If(self.load_en):
            m.d[domain] += [mask.eq(~0), address.eq(self.load_addr), written.eq(self.load_data)]
        with m.Else():
            m.d[domain] += [
                mask.eq(Mux(self.write_en, 1 << first, 0)),
                address.eq(self.write_addr[place_bits:]),
                written.eq(self.write_data.replicate(memory.parts)),
            ]
        m.d.comb += [
            memory.write_mask.eq(mask),
            memory.write_addr.eq(address),
            memory.write_data.eq(written),
        ]
        return m


class BankedBuffer(ActivationBuffer):
    """Vectors begin at any granule; a word is a granule.

    Granule i lies in bank ``i % banks``, so that neighbours can be had at once; vectors are rotated
    on their way.
    """

    def body(self) -> Module:
        m = Module()
        config = self.config
        width = config.granule_bits
        written = len(self.write_data) // width  # granules
        banks = 1 << ceil_log2(config.vector)
        place_bits = ceil_log2(banks)
        rows = -(-config.granules // banks)

        mask = Signal(written)
        address = Signal.like(self.write_addr, name="address", reset_less=True)
        data = Signal.like(self.write_data, name="data", reset_less=True)
        m.d[config.slice_domain] += [
            mask.eq(Mux(self.load_en, 1, self.write_en.replicate(written))),
            address.eq(Mux(self.load_en, self.load_addr, self.write_addr)),
            data.eq(Mux(self.load_en, self.load_data, self.write_data)),
        ]
        first = address[:place_bits]
        first_read = self.read_addr[:place_bits]
        first_read_q = Signal(place_bits)
        with m.If(self.read_en):
            m.d.sync += first_read_q.eq(first_read)
        parts = Array([data.word_select(i, width) for i in range(written)])
        found: list[Value] = []
        for bank in range(banks):
            m.submodules[f"bank_{bank}"] = memory = WordBuffer(width, rows, width, "bank")
            row, write_row = self.read_addr[place_bits:], address[place_bits:]
            which = Signal(place_bits, name=f"which_{bank}")  # granule for this bank
            m.d.comb += [
                which.eq((bank - first)[:place_bits]),
                # A vector that begins beyond this bank reaches it in the next row.
                memory.read_en.eq(self.read_en),
                memory.read_addr.eq(row + (bank < first_read)),
                memory.write_addr.eq(write_row + (bank < first)),
                memory.write_mask.eq(Mux(which < written, mask.bit_select(which, 1), 0)),
                memory.write_data.eq(parts[which]),
            ]
            found.append(memory.read_data)
        for i in range(config.vector):
            way = Array([found[(i + shift) % banks] for shift in range(banks)])
            m.d.comb += self.read_data.word_select(i, width).eq(way[first_read_q])
        return m


def activation_buffer(config: AcceleratorConfig) -> ActivationBuffer:
    """Return the buffer that a configuration's layout of activations needs."""
    return (AlignedBuffer if config.aligned else BankedBuffer)(config)
