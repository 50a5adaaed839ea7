"""The sending half of the link: responses, and the ring of answer bytes."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream
from amaranth.lib.memory import Memory, ReadPort, WritePort
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pe_library.shared import SharedComponent

from .crc import Crc32
from .frames import AGAIN, END, MAX_PAYLOAD, MAX_READS, MORE, RESPONSE_SYNC, Identification, Kind
from .inbox import ring_bits

__all__ = ["Outbox"]


class Outbox(SharedComponent):
    """Keeps the bytes of answers until the host has them, and makes responses (``frames.py``).

    A byte of a response takes 12 cycles, which is less than any line does.

    Parameters
    ----------
    identification : Identification
        Answers HELLO; whose sizes it has.

    Members
    -------
    i : In(stream of {data, last})
        Answers. None is taken while the end of the one before is in the ring.
    o : Out(stream of 8)
    clear, session, received, taken, hello, write, again, read, seek, got
        Of the :class:`~boards.link.inbox.Inbox`.
    """

    def __init__(self, identification: Identification) -> None:
        self.identification = identification
        beat = data.StructLayout({"data": identification.stream_bits, "last": 1})
        strobes = ("clear", "hello", "write", "again", "read", "seek")
        super().__init__(
            {
                "i": In(stream.Signature(beat)),
                "o": Out(stream.Signature(8)),
                "session": In(8),
                "received": In(ring_bits(identification.receive_ring)),
                "taken": In(ring_bits(identification.receive_ring)),
                "got": In(ring_bits(identification.transmit_ring)),
                **{name: In(1) for name in strobes},
            }
        )

    @property
    def definition(self) -> str:
        return "outbox"

    def body(self) -> Module:
        m = Module()
        # What is not written yet is not used: block RAM needs no logic against that.
        memory: Memory = Memory(
            shape=8,
            depth=self.identification.transmit_ring,
            init=[],
            attrs={"no_rw_check": 1},  # type: ignore[dict-item]
        )
        m.submodules.memory = memory
        written = Signal.like(self.got)  # place behind the last answer byte
        ended = Signal()  # which is the last of its answer
        self._answers(m, memory.write_port(), written, ended)
        self._responses(m, memory.read_port(), written, ended)
        return m

    def _answers(self, m: Module, write: WritePort, written: Signal, ended: Signal) -> None:
        """Put answers into the ring."""
        ring = self.identification.transmit_ring
        size = self.identification.stream_bits // 8
        place = Signal(range(size))  # of the next byte in its beat
        # A register, as all of the accelerator waits for it: a byte goes in every second cycle.
        room = Signal()
        m.d.sync += room.eq((written != self.got ^ ring) & ~write.en)
        m.d.comb += [
            write.addr.eq(written),
            write.data.eq(self.i.payload.data.word_select(place, 8)),
            write.en.eq(self.i.valid & ~ended & room),
            self.i.ready.eq(room & ~ended & (place == size - 1)),
        ]
        with m.If(write.en):
            m.d.sync += [written.eq(written + 1), place.eq(place + 1)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += ended.eq(self.i.payload.last)
        with m.If(ended & (written == self.got)):
            m.d.sync += ended.eq(0)
        with m.If(self.clear):
            m.d.sync += [written.eq(0), ended.eq(0), place.eq(0)]

    def _responses(self, m: Module, read: ReadPort, written: Signal, ended: Signal) -> None:
        """Send one response after the other, as they are due."""
        about = self.identification.encode()
        m.submodules.crc = crc = Crc32()
        hello, write, again, seek = (
            Signal(name=f"due_{n}") for n in ("hello", "write", "again", "seek")
        )
        reads = Signal(range(MAX_READS + 1))
        sent = Signal.like(self.got)  # place of the next answer byte to send
        waiting = Signal.like(self.got)  # answer bytes from there on
        header = Signal(72)
        length = header[:8]  # when all before it was sent
        part = Signal(5)  # one-hot
        sync, head, check, payload, tail = part
        left = Signal(8)  # bytes of this part that are still to come, the present one included
        identifying = Signal()  # the payload is the identification
        byte = Signal(8)
        count = Signal(3)
        source = Signal(8)
        found = Signal(8)  # by the memories
        # The identification is read from its end on, as `left` counts.
        letters: Memory = Memory(shape=8, depth=256, init=[0, *reversed(about)])
        m.submodules.letters = letters
        letter = letters.read_port()
        m.d.comb += [
            waiting.eq(written - sent),
            read.addr.eq(sent),
            read.en.eq(1),
            letter.addr.eq(left),
            letter.en.eq(1),
            self.o.payload.eq(byte),
            crc.bit.eq(Mux(tail, ~crc.crc[0], byte[0])),
            crc.clear.eq(sync),
        ]
        m.d.sync += found.eq(Mux(identifying, letter.data, read.data))
        with m.If(sync):
            m.d.comb += source.eq(RESPONSE_SYNC)
        with m.Elif(head):
            m.d.comb += source.eq(header[:8])
        with m.Elif(check | tail):
            m.d.comb += source.eq(crc.crc[:8])
        with m.Else():
            m.d.comb += source.eq(found)

        with m.FSM():
            with m.State("idle"):
                m.d.sync += [part.eq(1), left.eq(1), identifying.eq(hello)]
                kind, size = Signal(8), Signal(8)
                whole = waiting <= MAX_PAYLOAD
                with m.If(hello):
                    m.d.comb += [kind.eq(Kind.HELLO), size.eq(len(about))]
                with m.Elif(reads.any()):
                    m.d.comb += [kind.eq(Kind.READ), size.eq(Mux(whole, waiting, MAX_PAYLOAD))]
                with m.Else():
                    m.d.comb += kind.eq(Kind.STATUS)
                with m.If(again):
                    m.d.comb += kind[exact_log2(AGAIN)].eq(1)
                with m.If(waiting.any()):
                    m.d.comb += kind[exact_log2(MORE)].eq(1)
                with m.If(ended & whole & waiting.any()):
                    m.d.comb += kind[exact_log2(END)].eq(1)
                places = [Cat(place, Const(0, 16 - len(place)))
                          for place in (self.received, self.taken, sent)]  # fmt: skip
                m.d.sync += header.eq(Cat(kind, self.session, *places, size))
                with m.If(seek):
                    m.d.sync += [sent.eq(self.got), seek.eq(0)]
                with m.Elif(hello | write | reads.any()):
                    m.d.sync += [hello.eq(0), write.eq(0), again.eq(0)]
                    with m.If(~hello & reads.any()):
                        m.d.sync += reads.eq(reads - 1)
                    m.next = "look"
            with m.State("look"):  # the memories give the byte
                m.next = "find"
            with m.State("find"):
                m.next = "fetch"
            with m.State("fetch"):
                m.d.sync += byte.eq(source)
                with m.If(head & (left != 1)):  # the length stays
                    m.d.sync += header.eq(header[8:])
                with m.If(payload & ~identifying):
                    m.d.sync += sent.eq(sent + 1)
                m.next = "sum"
            with m.State("sum"):
                m.d.comb += crc.en.eq(1)
                m.d.sync += [byte.eq(byte.rotate_right(1)), count.eq(count + 1)]
                with m.If(count == 7):
                    m.next = "offer"
            with m.State("offer"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += left.eq(left - 1)
                    m.next = "look"
                    with m.If(left == 1):
                        m.d.sync += part.eq(part << 1)
                        with m.If(sync):
                            m.d.sync += left.eq(9)
                        with m.If(head):
                            m.d.sync += left.eq(1)
                        with m.If(check):
                            m.d.sync += left.eq(length)
                        with m.If(payload | (check & (length == 0))):
                            m.d.sync += [part.eq(1 << 4), left.eq(4)]
                        with m.If(tail):
                            m.next = "idle"

        # What comes wins over what is answered.
        for due, came in ((hello, self.hello), (write, self.write), (again, self.again),
                          (seek, self.seek)):  # fmt: skip
            with m.If(came):
                m.d.sync += due.eq(1)
        with m.If(self.read & (reads != MAX_READS)):
            m.d.sync += reads.eq(reads + 1)
        with m.If(self.clear):
            m.d.sync += [write.eq(1), again.eq(0), reads.eq(0), seek.eq(1)]
