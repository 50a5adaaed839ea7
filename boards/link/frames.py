"""The frames of the host link: the one description of the format, in Python.

The host asks, the board answers; it never speaks unasked. Numbers are little-endian.

========  =====================================================================================
request   0xA5, kind, session, offset (2), length, check, payload (length), CRC-32 (4)
response  0x5A, kind, session, received (2), taken (2), offset (2), length, check,
          payload (length), CRC-32 (4)
========  =====================================================================================

The CRC-32 (that of zip files) covers everything behind the first byte, and nothing of a frame has
an effect unless it is right. ``check``, the lowest byte of the CRC-32 of what is before it, only
saves time: a damaged length is not believed.

Programs and answers are two streams of bytes, a whole number of beats each, and packets in them.
Places in them count from the RESET on, modulo twice the size of the board's ring.

======  ==========================================================================================
HELLO   Answered with the :class:`Identification`. Belongs to no session.
RESET   Begins the session that the frame names: ends the accelerator's program, empties the rings,
        both streams begin at 0. Answered with STATUS.
WRITE   Bytes of programs, the first of them at ``offset``; with the flag LAST they end a program.
        They are taken all or, if bytes before them are missing or there is no room (or an earlier
        program's end is still in the ring, and this were another), not at all; then the next
        response has the flag AGAIN. Answered with STATUS.
READ    The host has got the answer bytes before ``offset``: the board forgets them. Answered with
        READ and those behind what the last response held, or with the flag SEEK, behind
        ``offset``. A response ends where a program's answer does, with the flag END; the next
        answer follows when the host has got all of this one.
======  ==========================================================================================

A response says of the programs how many bytes were received, and how many of them have left the
ring; ``offset`` is the place of the payload. One STATUS may answer several WRITEs, and a READ
answers them as well. Its flag MORE says that there are answer bytes that no response has held
before it. Requests of another session, unknown ones and damaged ones are not answered.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any

from pe_library.checks import check_choice

__all__ = [
    "AGAIN",
    "END",
    "LAST",
    "LINK_VERSION",
    "MAX_PAYLOAD",
    "MAX_READS",
    "MORE",
    "REQUEST_SYNC",
    "RESPONSE_SYNC",
    "SEEK",
    "Identification",
    "Kind",
    "Request",
    "RequestDecoder",
    "Response",
    "ResponseDecoder",
]

#: Version of everything that this module says.
LINK_VERSION = 1
#: First bytes of frames: different, so that a line that echoes is no board.
REQUEST_SYNC, RESPONSE_SYNC = 0xA5, 0x5A
#: Bytes of payload in a frame, at the most.
MAX_PAYLOAD = 255
#: READs that a board remembers; it drops one more.
MAX_READS = 7
_MAGIC = b"hwgn"
#: What the options of an accelerator are deflated with: their names, and common values.
_WORDS = (
    b'"overflow":"error","max_k":,"accumulator_bits":,"name":"multiplier":"logic"","terms":"zero":'
    b'"code","exponent_bits":,"activation_signed":true,false,"weight_bits":,"activation_bits":,'
    b'"pe_options":{"thresholds":,"lanes":,"pipeline":"requantize":"shift","threshold","multiplier"'
    b'"stream_bits":128,"parameter_buffer":,"accumulator_buffer":,"weight_buffer":,'
    b'"activation_buffer":16384,32768,65536,"dataflow":"os","ws","cols":,"rows":16,"pe":"lightpe2"'
    b'"bnn32","int8",{"pe":"int8","rows":8,"cols":8,"activation_buffer":4096,"weight_buffer":8192,'
)


class Kind(IntEnum):
    """Lower bits of the byte ``kind``; a STATUS is a response only, WRITE and RESET requests."""

    HELLO = 1
    RESET = 2
    WRITE = 3
    READ = 4
    STATUS = 5


class Flag(IntFlag):
    """Upper bits of the byte ``kind``."""

    AGAIN = 0x20
    MORE = 0x40
    TOP = 0x80


#: Flags of requests: a WRITE ends its program; a READ goes back to its offset.
LAST = SEEK = Flag.TOP
#: Flags of responses.
END, MORE, AGAIN = Flag.TOP, Flag.MORE, Flag.AGAIN
_FLAGS = int(Flag.TOP | Flag.MORE | Flag.AGAIN)


@dataclass(frozen=True)
class Identification:
    """What a board says of itself, in 55 bytes and the options, deflated.

    Attributes
    ----------
    digest : bytes
        First 16 bytes of the configuration's SHA-256.
    stream_bits : int
        Width of a beat.
    receive_ring, transmit_ring : int
        Bytes for programs and for answers, 512 to 16384, powers of two.
    clock_hz : int
        Clock of the accelerator, up to 4 GHz.
    name : str
        Of the board, up to 24 ASCII characters.
    options : mapping
        The plain options that the configuration was made of; empty if the board does not say.

    Raises
    ------
    ValueError
        If one of them is out of range, or the options have no room: some 200 characters that are
        no names of options.
    """

    digest: bytes
    stream_bits: int
    receive_ring: int = 1024
    transmit_ring: int = 1024
    clock_hz: int = 0
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for ring in ("receive_ring", "transmit_ring"):
            check_choice(ring, getattr(self, ring), [1 << n for n in range(9, 15)])
        if len(self.digest) != 16:
            raise ValueError(f"digest must have 16 bytes, not {len(self.digest)}")
        if not (self.name.isascii() and len(self.name) <= 24):
            raise ValueError(f"name must be up to 24 ASCII characters, not {self.name!r}")
        size = len(self.encode())
        if size > MAX_PAYLOAD:
            raise ValueError(
                f"options must leave an identification of {MAX_PAYLOAD} bytes, not {size}"
            )

    def encode(self) -> bytes:
        """Return the payload that answers a HELLO."""
        deflate = zlib.compressobj(9, wbits=-15, zdict=_WORDS)
        options = json.dumps(dict(self.options), separators=(",", ":")).encode()
        return b"".join(
            (
                _MAGIC,
                bytes([LINK_VERSION]),
                self.digest,
                *(n.to_bytes(2, "little") for n in (self.stream_bits, *self._rings)),
                self.clock_hz.to_bytes(4, "little"),
                self.name.encode().ljust(24, b"\0"),
                deflate.compress(options) + deflate.flush(),
            )
        )

    @property
    def _rings(self) -> tuple[int, int]:
        return self.receive_ring, self.transmit_ring

    @classmethod
    def decode(cls, payload: bytes) -> "Identification":
        """Take such a payload apart.

        Raises
        ------
        ValueError
            If it is none, or of another version.
        """
        if payload[:4] != _MAGIC:
            raise ValueError(f"identification must begin with {_MAGIC!r}, not {payload[:4]!r}")
        if payload[4] != LINK_VERSION:
            raise ValueError(f"link version must be {LINK_VERSION}, not {payload[4]}")
        bits, receive, transmit = (
            int.from_bytes(payload[n : n + 2], "little") for n in (21, 23, 25)
        )
        clock_hz = int.from_bytes(payload[27:31], "little")
        name = payload[31:55].rstrip(b"\0").decode()
        options = json.loads(zlib.decompressobj(wbits=-15, zdict=_WORDS).decompress(payload[55:]))
        return cls(payload[5:21], bits, receive, transmit, clock_hz, name, options)


def _encode(sync: int, header: bytes, payload: bytes) -> bytes:
    body = header + bytes([zlib.crc32(header) & 0xFF]) + payload
    return bytes([sync]) + body + zlib.crc32(body).to_bytes(4, "little")


@dataclass(frozen=True)
class Request:
    """A frame from the host to the board; ``offset`` is taken modulo 65536."""

    kind: Kind
    session: int = 0
    offset: int = 0
    payload: bytes = b""
    flags: int = 0

    def encode(self) -> bytes:
        """Return the frame."""
        header = bytes([self.kind | self.flags, self.session])
        header += (self.offset & 0xFFFF).to_bytes(2, "little") + bytes([len(self.payload)])
        return _encode(REQUEST_SYNC, header, self.payload)


@dataclass(frozen=True)
class Response:
    """A frame from the board to the host."""

    kind: Kind
    session: int = 0
    received: int = 0
    taken: int = 0
    offset: int = 0
    payload: bytes = b""
    flags: int = 0

    def encode(self) -> bytes:
        """Return the frame."""
        header = bytes([self.kind | self.flags, self.session])
        for number in (self.received, self.taken, self.offset):
            header += number.to_bytes(2, "little")
        return _encode(RESPONSE_SYNC, header + bytes([len(self.payload)]), self.payload)


class _Decoder:
    """Finds the frames of one direction among any bytes.

    Parameters
    ----------
    sync : int
        The first byte of a frame.
    header : int
        Bytes between it and the check.
    """

    def __init__(self, sync: int, header: int) -> None:
        self._sync = sync
        self._header = header
        self._waiting = b""

    def _bodies(self, data: bytes) -> Iterator[bytes]:
        """Take bytes as they come; return header and payload, without check, of right frames."""
        self._waiting += data
        size = self._header
        while True:
            start = self._waiting.find(self._sync)
            self._waiting = self._waiting[start:] if start >= 0 else b""
            body = self._waiting[1:]
            if len(body) <= size:
                return
            right = body[size] == zlib.crc32(body[:size]) & 0xFF
            if right:
                whole = size + 1 + body[size - 1]
                if len(body) < whole + 4:
                    return
                right = body[whole : whole + 4] == zlib.crc32(body[:whole]).to_bytes(4, "little")
            if right:
                self._waiting = body[whole + 4 :]
                yield body[:size] + body[size + 1 : whole]
            else:  # a frame may begin at any byte behind
                self._waiting = body

    def give_up(self) -> None:
        """Stop to wait for the rest of a frame: nothing has come for long."""
        self._waiting = self._waiting[1:]


class RequestDecoder(_Decoder):
    """Finds requests among any bytes."""

    def __init__(self) -> None:
        super().__init__(REQUEST_SYNC, 5)

    def decode(self, data: bytes) -> Iterator[Request]:
        """Take bytes as they come; return the requests that they complete."""
        for body in self._bodies(data):
            offset = int.from_bytes(body[2:4], "little")
            if (code := body[0] & ~_FLAGS) in set(Kind):
                yield Request(Kind(code), body[1], offset, body[5:], body[0] & _FLAGS)


class ResponseDecoder(_Decoder):
    """Finds responses among any bytes."""

    def __init__(self) -> None:
        super().__init__(RESPONSE_SYNC, 9)

    def decode(self, data: bytes) -> Iterator[Response]:
        """Take bytes as they come; return the responses that they complete."""
        for body in self._bodies(data):
            received, taken, offset = (int.from_bytes(body[n : n + 2], "little") for n in (2, 4, 6))
            if (code := body[0] & ~_FLAGS) in set(Kind):
                yield Response(
                    Kind(code), body[1], received, taken, offset, body[9:], body[0] & _FLAGS
                )
