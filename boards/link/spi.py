"""Bytes over SPI: the board is the peripheral, mode 0, highest bit first."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out

from pe_library.shared import SharedComponent

__all__ = ["SpiPeripheral"]


class SpiPeripheral(SharedComponent):
    """Exchanges bytes with a controller, whose clock it samples.

    ``sck`` may have an eighth of the core's frequency. While nothing is offered, zeros are sent,
    and the controller may send zeros between its frames: no frame begins with one. Chip select
    frames bytes, nothing else: raising it within a byte drops that.

    Members
    -------
    sck, mosi, cs : In(1)
        Asynchronous; ``cs`` is low while selected.
    miso : Out(1)
        Changes up to 4 cycles after ``sck`` falls.
    i, o : streams of 8
        Bytes to and from the controller; one of ``o`` is offered until the next has come.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "sck": In(1),
                "mosi": In(1),
                "cs": In(1),
                "miso": Out(1),
                "i": In(stream.Signature(8)),
                "o": Out(stream.Signature(8)),
            }
        )

    @property
    def definition(self) -> str:
        return "spi_peripheral"

    def body(self) -> Module:
        m = Module()
        sck, mosi, cs = Signal(3), Signal(2), Signal(2, init=0b11)
        m.d.sync += [
            sck.eq(Cat(self.sck, sck[:2])),
            mosi.eq(Cat(self.mosi, mosi[0])),
            cs.eq(Cat(self.cs, cs[0])),
        ]
        rising, falling = sck[1] & ~sck[2], ~sck[1] & sck[2]
        place = Signal(3)
        received = Signal(7)
        to_send = Signal(8)
        m.d.comb += self.miso.eq(to_send[7])
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        # A byte is taken as its first bit is sampled: selected or not, it then waits for that.
        waiting = Signal()
        with m.If(cs[1] | (falling & (place == 0))):
            m.d.sync += [to_send.eq(0), waiting.eq(self.i.valid)]
            with m.If(self.i.valid):
                m.d.sync += to_send.eq(self.i.payload)
        with m.Elif(falling):
            m.d.sync += to_send.eq(Cat(0, to_send))
        with m.If(cs[1]):
            m.d.sync += place.eq(0)
        with m.Elif(rising):
            m.d.comb += self.i.ready.eq(waiting & (place == 0))
            m.d.sync += [received.eq(Cat(mosi[1], received)), place.eq(place + 1)]
            with m.If(place == 7):
                m.d.sync += [self.o.payload.eq(Cat(mosi[1], received)), self.o.valid.eq(1)]
        return m
