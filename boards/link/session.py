"""The host's half of the link: windows, time-outs and repetition, over any line of bytes."""

import random
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self

from hwgen.errors import UserError

from .frames import (
    AGAIN,
    END,
    LAST,
    MAX_PAYLOAD,
    MAX_READS,
    MORE,
    SEEK,
    Identification,
    Kind,
    Request,
    Response,
    ResponseDecoder,
)

__all__ = ["Line", "Session", "Statistics"]

#: Seconds without a response after which a request counts as lost, at the least and at the most:
#: more than the board waits for the rest of a frame, and than a USB adapter holds bytes back.
SHORTEST_WAIT, LONGEST_WAIT = 0.05, 2.0
#: HELLOs are as far apart, as nothing is known of the line yet.
HELLO_WAIT = 0.5


class Line(Protocol):
    """A line of bytes to a board.

    Its methods raise UserError, in a sentence for the user, when the line is gone.
    """

    def write(self, data: bytes) -> None:
        """Send bytes; may wait."""

    def read(self, seconds: float) -> bytes:
        """Return what has come; wait for the first byte, but not longer than that."""

    def close(self) -> None:
        """Release the line."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def now(self) -> float:
        """Return the time in seconds, from any beginning."""
        return time.monotonic()


@dataclass
class Statistics:
    """What a session did.

    Attributes
    ----------
    sent, received : int
        Bytes on the line.
    rewinds, seeks, timeouts : int
        Times that programs were sent again, that answers were asked for again, and that nothing
        came.
    """

    sent: int = 0
    received: int = 0
    rewinds: int = 0
    seeks: int = 0
    timeouts: int = 0


class Session:
    """A session with a board: packets of bytes to it, and a packet of answer to each.

    Parameters
    ----------
    line : Line
        Where the board is.
    timeout : float
        Seconds without any progress after which the board counts as gone, or as stuck.
    name : str
        Of the line, for messages.

    Raises
    ------
    UserError
        If no board answers, or one of another link version.

    Attributes
    ----------
    identification : Identification
        Of the board.
    statistics : Statistics
    """

    def __init__(self, line: Line, *, timeout: float = 5.0, name: str = "the line") -> None:
        self.line = line
        self.timeout = timeout
        self.name = name
        self.statistics = Statistics()
        self._decoder = ResponseDecoder()
        self._session = 0
        self.wait = HELLO_WAIT
        hello = self._ask(Request(Kind.HELLO), Kind.HELLO)
        try:
            self.identification = Identification.decode(hello.payload)
        except ValueError as error:
            raise UserError(
                f"port must be a board of this hwgen, not {name} ({error}): load a bitstream that "
                "this version has built"
            ) from None
        self._in_use = hello.session
        self.reset()

    def reset(self) -> None:
        """Begin anew: the board forgets every packet and answer."""
        others = [n for n in range(1, 256) if n not in (self._in_use, self._session)]
        self._session = self._in_use = random.SystemRandom().choice(others)
        self._ask(Request(Kind.RESET, self._session), Kind.STATUS)
        # Places in the streams, from the session's beginning on.
        self.received = 0  # program bytes that the board has
        self.taken = 0  # of those, bytes that have left its ring
        self.got = 0  # answer bytes that we have
        self.dirty = False  # an exchange was broken off

    # ---- requests and responses --------------------------------------------------------------

    def _ask(self, request: Request, kind: Kind) -> Response:
        """Repeat a request until its response has come, and find out how fast the line is."""
        garbage = 0
        give_up = self.line.now() + self.timeout
        while (start := self.line.now()) < give_up:
            self._send(request)
            while (left := start + self.wait - self.line.now()) > 0:
                data = self.line.read(left)
                garbage += len(data)
                for response in self.decode(data):
                    if response.kind == kind:
                        # A round of 26 bytes at least took so long; the longest is of 540.
                        pace = 25 * (self.line.now() - start)
                        self.wait = min(LONGEST_WAIT, SHORTEST_WAIT + pace)
                        return response
            self.give_up()
        what = f"{garbage} bytes, none of them a frame" if garbage else "no answer"
        raise UserError(
            f"port must have a board with an accelerator of hwgen, not {self.name}: {what} within "
            f"{self.timeout:g} s; check the port, the baud rate and that the bitstream is loaded"
        )

    def _is_ours(self, response: Response) -> bool:
        return response.kind == Kind.HELLO or response.session == self._session

    def send(self, kind: Kind, offset: int, payload: bytes = b"", flags: int = 0) -> None:
        """Send a request of this session."""
        self._send(Request(kind, self._session, offset, payload, flags))

    def _send(self, request: Request) -> None:
        frame = request.encode()
        self.statistics.sent += len(frame)
        self.line.write(frame)

    def decode(self, data: bytes) -> Iterator[Response]:
        """Return the responses of this session that some bytes complete."""
        self.statistics.received += len(data)
        return filter(self._is_ours, self._decoder.decode(data))

    def give_up(self) -> None:
        """Stop to wait for the rest of a response."""
        self._decoder.give_up()

    # ---- packets -----------------------------------------------------------------------------

    def exchange(self, packets: Iterable[bytes]) -> Iterator[bytes]:
        """Send packets and return their answers, in order; the next is sent while one is answered.

        Parameters
        ----------
        packets : iterable of bytes
            Each a whole number of beats, at least one.

        Raises
        ------
        UserError
            If the line or the board is gone, or stuck. The session is of no use then.
        """
        if self.dirty:
            self.reset()
        return _Exchange(self, iter(packets)).run()


class _Exchange:
    """Packets on their way: what was sent, what is in flight, and what has come.

    Places are counted from the session's beginning on; frames hold them modulo a ring's size twice.
    """

    def __init__(self, session: Session, packets: Iterator[bytes]) -> None:
        board = session.identification
        self.session = session
        self.packets = packets
        self.ring = board.receive_ring
        self.answer_ring = board.transmit_ring
        self.read_window = min(MAX_READS, self.answer_ring // MAX_PAYLOAD)
        self.beat = board.stream_bits // 8
        self.waiting = bytearray()  # program bytes from `session.received` on
        self.ends: deque[int] = deque()  # of programs without an answer
        self.sent = session.received  # place of the next byte to send
        self.highest = session.received  # place behind all bytes that were ever sent
        self.more = True  # there may be more packets
        self.reads = 0  # READs that are not answered
        self.flowing = False  # the board has answer bytes
        self.seek = False  # answer bytes were lost, ask for them
        self.seeking = False  # that was done
        self.deadline = 0.0  # then what is in flight counts as lost
        self.rewound = -1  # place to which programs were rewound last
        self.answer = bytearray()

    def run(self) -> Iterator[bytes]:
        """Return the answers as they come."""
        session, line = self.session, self.session.line
        session.dirty = True
        self._alive()
        moved = heard = line.now()
        while True:
            self._fill()
            if not self.ends:
                break
            self._write()
            self._read()
            before = (session.received, session.taken, session.got)
            for response in session.decode(line.read(max(0.0, self.deadline - line.now()))):
                heard = line.now()
                yield from self._understand(response)
            now = line.now()
            if before != (session.received, session.taken, session.got):
                moved = now
                self._alive()
            elif now - moved > session.timeout:
                self._complain(answering=heard > moved)
            elif now >= self.deadline:
                session.statistics.timeouts += 1
                session.give_up()
                self._rewind()
                self.seek, self.reads, self.rewound = True, 0, -1
        session.dirty = False

    def _alive(self) -> None:
        """Put the time-out off: what is in flight is answered as it should be."""
        self.deadline = self.session.line.now() + self.session.wait

    def _complain(self, *, answering: bool) -> None:
        name, seconds = self.session.name, self.session.timeout
        if answering:
            raise UserError(
                f"program must make progress within {seconds:g} s, {name} answers but waits: give "
                "a longer timeout if the network takes so long, or reset the board"
            )
        raise UserError(
            f"board at {name} must answer within {seconds:g} s, it does no more: check cable and "
            "power, and open it again"
        )

    # ---- programs ----------------------------------------------------------------------------

    def _fill(self) -> None:
        """Take packets, so that a ring of bytes is ready to be sent."""
        behind = self.session.received + len(self.waiting)
        while self.more and behind - self.sent < self.ring:
            packet = next(self.packets, None)
            if packet is None:
                self.more = False
            elif not packet or len(packet) % self.beat:
                raise ValueError(
                    f"packet must have a positive multiple of {self.beat} bytes, not {len(packet)}"
                )
            else:
                self.waiting += packet
                behind += len(packet)
                self.ends.append(behind)

    def _write(self) -> None:
        """Send what the board has room for, in the longest frames."""
        session = self.session
        while end := next((end for end in self.ends if end > self.sent), 0):
            # The board holds one end at a time: it is rid of the one before when it took more.
            before = [place for place in self.ends if place <= self.sent]
            held = bool(before) and session.taken <= before[-1]
            stop = min(end - self.beat if held else end, self.sent + MAX_PAYLOAD)
            if stop <= self.sent or stop > session.taken + self.ring:
                return
            first = self.sent - session.received
            payload = bytes(self.waiting[first : first + stop - self.sent])
            session.send(Kind.WRITE, self.sent, payload, LAST if stop == end else 0)
            self.sent = stop
            self.highest = max(self.highest, stop)

    def _rewind(self) -> None:
        """Send everything again that the board does not have."""
        if self.sent > self.session.received:
            self.session.statistics.rewinds += 1
        self.sent = self.rewound = self.session.received
        self._alive()

    # ---- answers -----------------------------------------------------------------------------

    def _read(self) -> None:
        """Ask for answer bytes: in advance while they flow, else when nothing is on its way."""
        session = self.session
        wanted = self.reads
        if self.flowing:
            wanted = self.read_window
        elif self.sent == session.received:
            wanted = 1
        if self.seek:
            session.statistics.seeks += 1
            session.send(Kind.READ, session.got, flags=SEEK)
            self.reads, self.seek, self.seeking = self.reads + 1, False, True
        while self.reads < wanted:
            session.send(Kind.READ, session.got)
            self.reads += 1

    def _understand(self, response: Response) -> Iterator[bytes]:
        """Take a response in; return the answer that it completes, if any."""
        session = self.session
        # Both only grow, and by less than the modulus.
        received = session.received + (response.received - session.received) % (2 * self.ring)
        if received <= self.highest:
            del self.waiting[: received - session.received]
            session.received = received
            self.sent = max(self.sent, received)
        taken = session.taken + (response.taken - session.taken) % (2 * self.ring)
        if taken <= session.received:
            session.taken = taken
        if response.flags & AGAIN and self.rewound != session.received:
            self._rewind()

        if response.kind == Kind.STATUS:
            self.flowing = bool(response.flags & MORE)
        elif response.kind == Kind.READ:
            self.reads = max(0, self.reads - 1)
            if (response.offset - session.got) % (2 * self.answer_ring):
                self.seek = not self.seeking
                return
            self.seeking = False
            self._alive()
            session.got += len(response.payload)
            self.answer += response.payload
            self.flowing = len(response.payload) == MAX_PAYLOAD
            if response.flags & END:
                self.flowing = False
                self.ends.popleft()
                yield bytes(self.answer)
                self.answer.clear()
