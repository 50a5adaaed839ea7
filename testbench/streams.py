"""Valid/ready streams under cocotb: sources and sinks that idle at random, and what drives them.

For benches (``testbench/benches``), which run inside a simulator. All streams of a design move in
one coroutine, :meth:`Streams.run`, because waking a coroutine is what costs the time: each stream
is asked once a cycle what to drive, and once what it saw. What is read at a rising edge is the
state of the cycle that ends there; what is written there holds in the cycle that begins.
"""

import json
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from .compiled import ProtocolError

__all__ = [
    "Sink",
    "Source",
    "Streams",
    "bench_parameters",
    "packed_beats",
    "unpack_fields",
]

#: Period of the clock, in ns.
PERIOD = 10


class Stream(Protocol):
    """One stream of a design, from the side of the bench."""

    def drive(self) -> None:
        """Choose what the bench drives in the cycle that begins."""

    def sample(self, cycle: int) -> bool:
        """Look at the cycle that ends; tell whether a beat was transferred."""


class Source:
    """Drives a stream into the design.

    A beat that was offered stays until it is accepted. In idle cycles the payload is random, since
    nothing may depend on it.

    Parameters
    ----------
    dut : cocotb handle
        The design.
    name : str
        The stream: its ports are ``NAME__valid``, ``NAME__payload`` and ``NAME__ready``.
    beats : iterable of int
        The payloads to send, each 0 to ``2**width - 1``.
    offer : float
        Probability that a beat is offered in a cycle, 0 to 1.
    seed : int or str
        Of the idling and of the idle payloads.
    """

    def __init__(
        self,
        dut: Any,
        name: str,
        beats: Iterable[int],
        *,
        offer: float = 1.0,
        seed: int | str = 0,
    ) -> None:
        self.name = name
        #: Cycle in which each beat was accepted.
        self.cycles: list[int] = []
        self._valid, self._payload, self._ready = _ports(dut, name)
        self._width = len(self._payload)
        self._beats = iter(beats)
        self._beat = next(self._beats, None)
        self._offer = offer
        self._random = random.Random(f"{seed} {name}")
        self._offered = False
        self._idle()

    @property
    def exhausted(self) -> bool:
        """Whether every beat was accepted."""
        return self._beat is None

    def drive(self) -> None:
        if self._offered:
            return
        if self._beat is not None and (self._offer >= 1 or self._random.random() < self._offer):
            self._offered = True
            self._payload.value = self._beat
            if not self._up:
                self._valid.value = 1
                self._up = True
        elif self._up:
            self._idle()

    def sample(self, cycle: int) -> bool:
        if not _bit(self._ready, cycle) or not self._offered:
            return False
        self.cycles.append(cycle)
        self._beat = next(self._beats, None)
        self._offered = False
        return True

    def _idle(self) -> None:
        self._up = False
        self._valid.value = 0
        self._payload.value = self._random.getrandbits(self._width)


class Sink:
    """Accepts a stream from the design, and checks that the design keeps to the protocol.

    Once ``valid`` is up it stays, and so does the payload, until the beat is accepted.

    Parameters
    ----------
    dut : cocotb handle
        The design.
    name : str
        The stream: its ports are ``NAME__valid``, ``NAME__payload`` and ``NAME__ready``.
    accept : float
        Probability that a beat is accepted in a cycle, 0 to 1.
    seed : int or str
        Of the idling.
    """

    def __init__(
        self, dut: Any, name: str, *, accept: float = 1.0, seed: int | str = 0
    ) -> None:
        self.name = name
        #: The payloads, as the simulator writes them: binary digits, the highest first.
        self.beats: list[str] = []
        #: Cycle in which each beat was accepted.
        self.cycles: list[int] = []
        #: Cycles in which a beat was there and was not accepted.
        self.stalls: list[int] = []
        self._valid, self._payload, self._ready = _ports(dut, name)
        self._accept = accept
        self._random = random.Random(f"{seed} {name}")
        self._held: str | None = None
        self._up = False
        self._ready.value = 0

    def drive(self) -> None:
        up = self._accept >= 1 or self._random.random() < self._accept
        if up != self._up:
            self._up = up
            self._ready.value = int(up)

    def sample(self, cycle: int) -> bool:
        if not _bit(self._valid, cycle):
            if self._held is not None:
                raise ProtocolError(
                    f"cycle {cycle}: {self.name}: valid was withdrawn before the transfer"
                )
            return False
        beat = str(self._payload.value)
        if self._held is not None and beat != self._held:
            raise ProtocolError(
                f"cycle {cycle}: {self.name}: payload changed before the transfer, "
                f"from {self._held} to {beat}"
            )
        if not self._up:
            self._held = beat
            self.stalls.append(cycle)
            return False
        self._held = None
        self.beats.append(beat)
        self.cycles.append(cycle)
        return True

    def fields(self, bits: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        """Return the beats taken apart: signed fields of ``bits`` bits, and a bit on top.

        Raises
        ------
        ProtocolError
            If a bit is neither 0 nor 1.
        """
        return unpack_fields(self.beats, len(self._payload), bits)


class Streams:
    """The clock of a design, its reset, and the loop that moves its streams.

    Parameters
    ----------
    dut : cocotb handle
        The design, with the ports ``clk`` and ``rst``. Its clock is started.
    """

    def __init__(self, dut: Any) -> None:
        self._dut = dut
        self._edge = RisingEdge(dut.clk)  # one object for all cycles: making one takes 1 µs
        #: Cycles since the reset.
        self.cycle = 0
        Clock(dut.clk, PERIOD, "ns").start()

    async def reset(self) -> None:
        """Hold ``rst`` for two cycles; what follows is cycle 0."""
        self._dut.rst.value = 1
        for _ in range(2):
            await self._edge
        self._dut.rst.value = 0
        self.cycle = 0

    async def run(
        self,
        sources: Sequence[Source],
        sink: Sink,
        *,
        beats: int | None = None,
        cycles: int | None = None,
        patience: int = 10_000,
    ) -> None:
        """Move the streams until the sink has taken ``beats`` in all, or for ``cycles``.

        Parameters
        ----------
        sources, sink
            The streams; they go on where they stood.
        beats : int, optional
            Stop when the sink has so many.
        cycles : int, optional
            Stop after so many cycles.
        patience : int
            Cycles without a transfer on any stream after which the design counts as hung.

        Raises
        ------
        ProtocolError
            If the design breaks the protocol or hangs, or ``valid``, ``ready`` or a valid payload
            is neither 0 nor 1.
        """
        streams: tuple[Stream, ...] = (*sources, sink)
        edge, cycle, taken = self._edge, self.cycle, sink.beats
        end = None if cycles is None else cycle + cycles
        idle = 0
        while cycle != end and (beats is None or len(taken) < beats):
            for stream in streams:
                stream.drive()
            await edge
            idle += 1
            for stream in streams:
                if stream.sample(cycle):
                    idle = 0
            cycle += 1
            self.cycle = cycle
            if idle > patience:
                missing = "" if beats is None else f"; {beats - len(taken)} beats are missing"
                raise ProtocolError(
                    f"cycle {cycle}: nothing was transferred for {patience} cycles{missing}"
                )

    async def finish(self, sources: Sequence[Source], sink: Sink, cycles: int) -> None:
        """Go on for ``cycles`` and check that all was sent and nothing more comes out."""
        for source in sources:
            if not source.exhausted:
                raise ProtocolError(
                    f"cycle {self.cycle}: {source.name} has beats left that nothing took"
                )
        count = len(sink.beats)
        await self.run(sources, sink, cycles=cycles, patience=cycles)
        if len(sink.beats) > count:
            raise ProtocolError(
                f"cycle {self.cycle}: {len(sink.beats) - count} beats of {sink.name} more than "
                "expected"
            )


def _ports(dut: Any, name: str) -> tuple[Any, Any, Any]:
    """Return the handles of a stream: valid, payload, ready."""
    return dut[f"{name}__valid"], dut[f"{name}__payload"], dut[f"{name}__ready"]


def _bit(handle: Any, cycle: int) -> bool:
    """Return the value of a bit, which must be 0 or 1."""
    value = handle.value
    try:
        return bool(value)
    except ValueError:
        raise ProtocolError(f"cycle {cycle}: {handle._name} is {value}") from None


def packed_beats(
    data: npt.NDArray[np.uint8], segments: npt.NDArray[np.int64]
) -> Iterator[int]:
    """Give the beats of a :class:`hwgen.tiling.Beats`, by its fields, as integers."""
    size = data.shape[1]
    memory = data.tobytes()
    for first, count in segments.tolist():
        for start in range(first * size, (first + count) * size, size):
            yield int.from_bytes(memory[start : start + size], "little")


def unpack_fields(
    beats: Sequence[str], width: int, bits: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Take beats apart.

    Parameters
    ----------
    beats : sequence of str
        Binary digits, the highest first.
    width : int
        Digits of a beat: a multiple of ``bits``, and one more.
    bits : int
        Width of a field, 1 to 64.

    Returns
    -------
    values : array of int64, shape (beats, fields)
        The fields, two's complement, the lowest first.
    last : array of uint8, shape (beats,)
        The bit on top.

    Raises
    ------
    ProtocolError
        If a digit is neither 0 nor 1.
    """
    fields = width // bits
    values = np.empty((len(beats), fields), dtype=np.int64)
    last = np.empty(len(beats), dtype=np.uint8)
    step = max(1, (1 << 18) // fields)  # beats at a time: bounds the 64 bytes for each field
    for start in range(0, len(beats), step):
        part = slice(start, start + step)
        text = "".join(beats[part]).encode()
        digits = np.frombuffer(text, dtype=np.uint8).reshape(-1, width) - ord("0")
        if digits.max() > 1:
            bad = start + int(np.argmax(digits.max(axis=1) > 1))
            raise ProtocolError(f"beat {bad} is {beats[bad]}")
        last[part] = digits[:, 0]
        places = digits[:, :0:-1].reshape(-1, fields, bits)
        sign = places[:, :, -1:].repeat(64 - bits, axis=2)
        whole = np.packbits(np.concatenate([places, sign], axis=2), axis=2, bitorder="little")
        values[part] = whole.view("<i8")[:, :, 0]
    return values, last


def bench_parameters() -> dict[str, Any]:
    """Return the parameters that the host gave to the bench, a JSON file named by $HWGEN_BENCH."""
    return json.loads(Path(os.environ["HWGEN_BENCH"]).read_text(encoding="utf-8"))
