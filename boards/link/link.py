"""The link: frames over a line of bytes on one side, programs and answers on the other."""

from amaranth.hdl import Module
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out

from pe_library.checks import check_integer
from pe_library.shared import SharedComponent

from .frames import Identification
from .inbox import Inbox
from .outbox import Outbox

__all__ = ["Link"]


class Link(SharedComponent):
    """Answers a host's requests (``frames.py``): it feeds an accelerator, and brings its answers.

    It only reacts: time-outs, repetition and windows are the host's. A line must take at least 12
    cycles for a byte. Payload is 255 of 266 bytes of a full WRITE, 255 of 270 of a READ's response.

    Parameters
    ----------
    identification : Identification
        What a HELLO is answered with, and whose sizes it has.
    timeout : int
        Cycles after which the rest of a frame is not waited for, 16 to 2**30; rounded up to a power
        of two.

    Members
    -------
    i : In(stream of 8), o : Out(stream of 8)
        The line. Bytes of ``i`` stay valid until they are taken, 8 cycles.
    program : Out(stream of {data, last}), answer : In(stream of {data, last})
        To and from the accelerator.
    clear : Out(1)
        A session begins: in this cycle the accelerator must be reset, and may lose beats.
    """

    def __init__(self, identification: Identification, timeout: int) -> None:
        check_integer("timeout", timeout, 16, 1 << 30)
        self.identification = identification
        self.timeout = timeout
        beat = stream.Signature(data.StructLayout({"data": identification.stream_bits, "last": 1}))
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "o": Out(stream.Signature(8)),
                "program": Out(beat),
                "answer": In(beat),
                "clear": Out(1),
            }
        )

    @property
    def definition(self) -> str:
        return "link"

    def body(self) -> Module:
        m = Module()
        m.submodules.inbox = inbox = Inbox(self.identification, self.timeout)
        m.submodules.outbox = outbox = Outbox(self.identification)
        m.d.comb += [
            inbox.i.valid.eq(self.i.valid),
            inbox.i.payload.eq(self.i.payload),
            self.i.ready.eq(inbox.i.ready),
            self.o.valid.eq(outbox.o.valid),
            self.o.payload.eq(outbox.o.payload),
            outbox.o.ready.eq(self.o.ready),
            self.program.valid.eq(inbox.o.valid),
            self.program.payload.eq(inbox.o.payload),
            inbox.o.ready.eq(self.program.ready),
            outbox.i.valid.eq(self.answer.valid),
            outbox.i.payload.eq(self.answer.payload),
            self.answer.ready.eq(outbox.i.ready),
            self.clear.eq(inbox.clear),
        ]
        shared = ("clear", "session", "received", "taken", "hello", "write", "again", "read",
                  "seek", "got")  # fmt: skip
        m.d.comb += [getattr(outbox, name).eq(getattr(inbox, name)) for name in shared]
        return m
