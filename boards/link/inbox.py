"""The receiving half of the link: requests, and the ring of program bytes."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, stream
from amaranth.lib.memory import Memory, ReadPort, WritePort
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from pe_library.shared import SharedComponent

from .crc import Crc32
from .frames import LAST, REQUEST_SYNC, SEEK, Identification, Kind

__all__ = ["Inbox", "ring_bits"]


def ring_bits(size: int) -> int:
    """Return the width of places in a stream of bytes through a ring: they tell full from empty."""
    return ceil_log2(size) + 1


class Inbox(SharedComponent):
    """Takes requests apart (``frames.py``) and programs out of them.

    The payload of a WRITE goes into the ring as it comes, behind what is valid there, and becomes
    valid when its CRC was right. A byte takes 8 cycles, one more at the end of a frame. A frame
    whose bytes cease to come for ``timeout`` cycles is forgotten.

    Parameters
    ----------
    identification : Identification
        Whose sizes it has.
    timeout : int
        In cycles; rounded up to a power of two.

    Members
    -------
    i : In(stream of 8)
    o : Out(stream of {data, last})
        Programs.
    clear : Out(1)
        For one cycle: a session begins, everything is empty in the next one.
    session : Out(8), received, taken : Out
        What responses say.
    hello, write, again, read, seek : Out(1)
        For one cycle: a response is due; a WRITE was dropped; a READ came, with SEEK.
    got : Out
        Place behind the answer bytes that the host has.
    """

    def __init__(self, identification: Identification, timeout: int) -> None:
        self.identification = identification
        self.timeout = timeout
        beat = data.StructLayout({"data": identification.stream_bits, "last": 1})
        strobes = ("clear", "hello", "write", "again", "read", "seek")
        place = ring_bits(identification.receive_ring)
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "o": Out(stream.Signature(beat)),
                "session": Out(8),
                "received": Out(place),
                "taken": Out(place),
                "got": Out(ring_bits(identification.transmit_ring)),
                **{name: Out(1) for name in strobes},
            }
        )

    @property
    def definition(self) -> str:
        return "inbox"

    def body(self) -> Module:
        m = Module()
        ring = self.identification.receive_ring
        # What is not valid yet is not read: block RAM needs no logic against that.
        memory: Memory = Memory(shape=8, depth=ring, init=[], attrs={"no_rw_check": 1})  # type: ignore[dict-item]
        m.submodules.memory = memory
        write, read = memory.write_port(), memory.read_port()
        end = Signal.like(self.received)  # of a program that is in the ring, if `marked`
        marked = Signal()
        ending = Signal()
        self._requests(m, write, end, marked)
        self._beats(m, read, ending)
        m.d.comb += ending.eq(marked & (self.taken == end))
        with m.If(ending & self.o.valid & self.o.ready):
            m.d.sync += marked.eq(0)
        with m.If(self.clear):
            m.d.sync += [
                marked.eq(0), self.received.eq(0), self.taken.eq(0), self.got.eq(0)
            ]  # fmt: skip
        return m

    def _requests(self, m: Module, write: WritePort, end: Signal, marked: Signal) -> None:
        """Receive frames, and carry out what they ask for."""
        ring = self.identification.receive_ring
        m.submodules.crc = crc = Crc32()
        header = Signal(40)  # kind, session, offset, length
        kind, session, offset, length = header[:8], header[8:16], header[16:32], header[32:]
        count = Signal(3)  # bits of the present byte that the CRC has
        step = Signal()  # the byte is complete
        left = Signal(8)  # bytes of this part of the frame
        believed = Signal()
        lost = Signal()  # there was no room
        place = Signal.like(self.received)  # of the next byte of payload
        silence = Signal(ceil_log2(self.timeout) + 1)
        hunting = Signal()
        m.d.comb += [
            step.eq(self.i.valid & (count == 7)),
            self.i.ready.eq(step),
            crc.en.eq(self.i.valid),
            crc.bit.eq(self.i.payload.bit_select(count, 1)),
            crc.clear.eq(hunting),
            write.addr.eq(place),
            write.data.eq(self.i.payload),
        ]
        with m.If(self.i.valid):
            m.d.sync += count.eq(count + 1)
        m.d.sync += [silence.eq(silence + 1), self.clear.eq(0)]
        with m.If(step | hunting):
            m.d.sync += silence.eq(0)
        with m.If(step):
            m.d.sync += left.eq(left - 1)

        def give_up_late() -> None:
            with m.If(silence[-1]):
                m.next = "hunt"

        with m.FSM():
            with m.State("hunt"):
                m.d.comb += hunting.eq(1)
                m.d.sync += left.eq(5)
                with m.If(step & (self.i.payload == REQUEST_SYNC)):
                    m.next = "header"
            with m.State("header"):
                with m.If(step):
                    m.d.sync += header.eq(Cat(header[8:], self.i.payload))
                    with m.If(left == 1):
                        m.next = "check"
                give_up_late()
            with m.State("check"):
                m.d.sync += [place.eq(self.received), lost.eq(0)]
                with m.If(count == 0):
                    m.d.sync += believed.eq(self.i.payload == crc.crc[:8])
                with m.If(step):
                    m.next = "hunt"
                    with m.If(believed & (length == 0)):
                        m.d.sync += left.eq(4)
                        m.next = "tail"
                    with m.Elif(believed):
                        m.d.sync += left.eq(length)
                        m.next = "payload"
                give_up_late()
            with m.State("payload"):
                with m.If(step):
                    with m.If(place == self.taken ^ ring):
                        m.d.sync += lost.eq(1)
                    with m.Else():
                        m.d.comb += write.en.eq(1)
                        m.d.sync += place.eq(place + 1)
                    with m.If(left == 1):
                        m.d.sync += left.eq(4)
                        m.next = "tail"
                give_up_late()
            with m.State("tail"):
                with m.If(step & (left == 1)):
                    m.next = "judge"
                give_up_late()
            with m.State("judge"):
                m.next = "hunt"
                with m.If(crc.match):
                    self._obey(m, kind, session, offset, place, lost, end, marked)

    def _obey(
        self, m: Module, kind: Value, session: Value, offset: Value, place: Signal,
        lost: Signal, end: Signal, marked: Signal,
    ) -> None:  # fmt: skip
        """Carry out a request: its CRC was right."""
        top = kind[7]
        assert LAST == SEEK == 1 << 7
        refused = Signal()
        wanted = offset[: len(self.received)]
        m.d.comb += refused.eq(lost | (wanted != self.received) | (top & marked))
        with m.Switch(kind[:5]):
            with m.Case(Kind.HELLO):
                m.d.comb += self.hello.eq(1)
            with m.Case(Kind.RESET):
                m.d.sync += [self.clear.eq(1), self.session.eq(session)]
        with m.If(session == self.session):
            with m.Switch(kind[:5]):
                with m.Case(Kind.WRITE):
                    m.d.comb += [self.write.eq(1), self.again.eq(refused)]
                    with m.If(~refused):
                        m.d.sync += self.received.eq(place)
                        with m.If(top):
                            m.d.sync += [end.eq(place), marked.eq(1)]
                with m.Case(Kind.READ):
                    m.d.comb += [self.read.eq(1), self.seek.eq(top)]
                    m.d.sync += self.got.eq(offset)

    def _beats(self, m: Module, read: ReadPort, ending: Signal) -> None:
        """Make beats of the bytes that are valid."""
        size = self.identification.stream_bits // 8
        beat = self.o.payload.data
        filled = Signal(range(size))
        arriving = Signal()  # the memory gives a byte
        m.d.comb += [read.addr.eq(self.taken), self.o.payload.last.eq(ending)]
        m.d.sync += arriving.eq(0)
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(arriving):
            m.d.sync += [beat.eq(Cat(beat[8:], read.data)), filled.eq(filled + 1)]
            with m.If(filled == size - 1):
                m.d.sync += self.o.valid.eq(1)
        with m.Elif(~self.o.valid & (self.taken != self.received)):
            m.d.comb += read.en.eq(1)
            m.d.sync += [arriving.eq(1), self.taken.eq(self.taken + 1)]
        with m.If(self.clear):
            m.d.sync += [self.o.valid.eq(0), arriving.eq(0), filled.eq(0)]
