"""Bytes over a serial line: 8 data bits, lowest first, no parity, one stop bit."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out

from pe_library.checks import check_integer
from pe_library.shared import SharedComponent

__all__ = ["UartReceiver", "UartTransmitter"]


class UartReceiver(SharedComponent):
    """Takes bytes from a line.

    Each bit is sampled in its middle; the sender's clock may be 2 % off at any divisor. A byte
    without a stop bit is dropped, and the next begins after the line was high again.

    Parameters
    ----------
    divisor : int
        Cycles of a bit, 4 to 65536.

    Members
    -------
    rx : In(1)
        The line; asynchronous.
    o : Out(stream of 8)
        A byte is offered until the next one has come, 10 bits later.
    """

    def __init__(self, divisor: int) -> None:
        check_integer("divisor", divisor, 4, 65536)
        self.divisor = divisor
        super().__init__({"rx": In(1), "o": Out(stream.Signature(8))})

    @property
    def definition(self) -> str:
        return f"uart_receiver_{self.divisor}"

    def body(self) -> Module:
        m = Module()
        line = Signal(2, init=0b11)  # through two registers: the line may change at any time
        rx = line[1]
        m.d.sync += line.eq(Cat(self.rx, line[0]))
        timer = Signal(range(self.divisor))
        sample = Signal()
        place = Signal(range(10))
        bits = Signal(8)
        m.d.comb += sample.eq(timer == 0)
        m.d.sync += timer.eq(timer - 1)
        with m.If(sample):
            m.d.sync += timer.eq(self.divisor - 1)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.FSM():
            with m.State("idle"):
                # Rather early than late: a fast sender's next start bit must not be missed.
                m.d.sync += [timer.eq((self.divisor - 1) // 2 - 1), place.eq(0)]
                with m.If(~rx):
                    m.next = "byte"
            with m.State("byte"):
                with m.If(sample):
                    m.d.sync += [place.eq(place + 1), bits.eq(Cat(bits[1:], rx))]
                    with m.If((place == 0) & rx):  # no start bit, a spike
                        m.next = "idle"
                    with m.If(place == 9):
                        m.d.sync += [self.o.payload.eq(bits), self.o.valid.eq(rx)]
                        m.next = "idle"
                        with m.If(~rx):
                            m.next = "break"
            with m.State("break"):
                with m.If(rx):
                    m.next = "idle"
        return m


class UartTransmitter(SharedComponent):
    """Puts bytes on a line, without a gap if they come fast enough.

    Parameters
    ----------
    divisor : int
        Cycles of a bit, 4 to 65536.

    Members
    -------
    i : In(stream of 8)
        One byte in 10 bits; it is taken when its start bit begins.
    tx : Out(1)
        The line.
    """

    def __init__(self, divisor: int) -> None:
        check_integer("divisor", divisor, 4, 65536)
        self.divisor = divisor
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1)})

    @property
    def definition(self) -> str:
        return f"uart_transmitter_{self.divisor}"

    def body(self) -> Module:
        m = Module()
        timer = Signal(range(self.divisor))
        bits = Signal(9)  # what follows; ones behind the stop bit
        left = Signal(range(10))
        line = Signal(init=1)
        next_bit = Signal()
        m.d.comb += [
            self.tx.eq(line),
            next_bit.eq(timer == 0),
            self.i.ready.eq(next_bit & (left == 0)),
        ]
        with m.If(next_bit):
            with m.If(left != 0):
                m.d.sync += [
                    line.eq(bits[0]), bits.eq(Cat(bits[1:], 1)), left.eq(left - 1),
                    timer.eq(self.divisor - 1),
                ]  # fmt: skip
            with m.Elif(self.i.valid):
                m.d.sync += [
                    line.eq(0), bits.eq(Cat(self.i.payload, 1)), left.eq(9),
                    timer.eq(self.divisor - 1),
                ]  # fmt: skip
        with m.Else():
            m.d.sync += timer.eq(timer - 1)
        return m
