"""The words of a program, as the sequencer reads them.

A program is a packet of the input stream: commands of 64 bits, one in a beat (lowest bits), and
behind each LOAD its data. ``last`` ends it; the answer, results and a closing beat, is a packet of
the output stream.

========  =====================================================================================
SET       56: 0x01, 48: register, 0: value (32 bits). Writes a register of the next run; all are 0
          when a program begins. Waits for the run before where there is one set of registers.
LOAD      56: 0x02, 55: wait, 48: buffer, 24: address, 0: words - 1. That many words follow, each
          in whole beats, lowest bits first. Waits for the run before if told so, and always if
          the buffer is that of activations.
RUN       56: 0x03, 0: :func:`check_of` all SETs since the last RUN. Waits for the run before.
STORE     56: 0x04, 24: address, 0: words - 1. Sends words of the activation buffer, each in
          whole beats. Waits for the run before.
========  =====================================================================================

Bits that are not named are 0. The closing beat holds the number of cycles from the program's first
beat to this one (lower 56 bits), and the status (8 bits, :class:`Status`): with the first error the
rest of the program is dropped, and what was running ends.
"""

from collections.abc import Iterable
from enum import IntEnum

__all__ = ["BUFFERS", "Opcode", "Status", "check_of", "load", "run", "set_register", "store"]


class Opcode(IntEnum):
    """The highest byte of a command."""

    SET = 1
    LOAD = 2
    RUN = 3
    STORE = 4


class Status(IntEnum):
    """How a program ended."""

    OK = 0
    ILLEGAL_COMMAND = 1
    ILLEGAL_REGISTER = 2
    OUT_OF_RANGE = 3
    WRONG_CHECK = 4
    TRUNCATED = 5
    ABORTED = 6  # by the soft reset of `axi.py`


#: Buffers by the number that LOAD gives.
BUFFERS = {"activation": 0, "weight": 1, "parameter": 2}


def set_register(number: int, value: int) -> int:
    """Return the word of a SET; the value is taken modulo 2**32."""
    return Opcode.SET << 56 | number << 48 | value & 0xFFFFFFFF


def load(buffer: str, address: int, words: int, *, wait: bool = False) -> int:
    """Return the word of a LOAD of 1 to 2**24 words."""
    return Opcode.LOAD << 56 | wait << 55 | BUFFERS[buffer] << 48 | address << 24 | (words - 1)


def run(check: int) -> int:
    """Return the word of a RUN."""
    return Opcode.RUN << 56 | check


def store(address: int, words: int) -> int:
    """Return the word of a STORE of 1 to 2**24 words."""
    return Opcode.STORE << 56 | address << 24 | (words - 1)


def check_of(sets: Iterable[int]) -> int:
    """Return the check over the words of SETs, 32 bits: rotate by one and exclusive-or, each.

    It guards against a damaged program: random words do not start a run.
    """
    check = 0
    for word in sets:
        check = (check << 1 | check >> 31) & 0xFFFFFFFF
        check ^= (word & 0xFFFFFFFF) ^ (word >> 48 & 0xFF) << 24
    return check
