"""The CRC-32 of frames, a bit a cycle."""

from amaranth.hdl import Cat, Module, Mux
from amaranth.lib.wiring import In, Out

from pe_library.shared import SharedComponent

__all__ = ["Crc32"]

#: Of IEEE 802.3, the lowest bit for the highest power.
_POLYNOMIAL = 0xEDB88320
#: The CRC of any data with their own CRC behind.
_RESIDUE = 0x2144DF1C


class Crc32(SharedComponent):
    """The CRC-32 of zip files (CRC-32/ISO-HDLC) over bits, each byte's lowest first.

    Latency 1 cycle. Fed with the complement of its own lowest bit, ``crc`` moves down by one bit,
    which sends it. (``amaranth.lib.crc`` would need a selection of bytes for that, and would be
    defined once for each direction.)

    Members
    -------
    clear : In(1)
        Begin; wins over ``en``.
    en : In(1), bit : In(1)
        Take a bit.
    crc : Out(32), match : Out(1)
        Of the bits so far; whether they end with the CRC of those before.
    """

    def __init__(self) -> None:
        super().__init__(
            {"clear": In(1), "en": In(1), "bit": In(1), "crc": Out(32), "match": Out(1)}
        )

    @property
    def definition(self) -> str:
        return "crc32"

    def body(self) -> Module:
        m = Module()
        # The complement of the usual register: it begins with zeros.
        shifted = Cat(self.crc[1:], 1)
        with m.If(self.clear):
            m.d.sync += self.crc.eq(0)
        with m.Elif(self.en):
            m.d.sync += self.crc.eq(Mux(self.crc[0] ^ self.bit, shifted, shifted ^ _POLYNOMIAL))
        m.d.comb += self.match.eq(self.crc == _RESIDUE)
        return m
