"""Valid/ready streams under cocotb: sources and sinks that idle at random, and what moves them.

For benches (``testbench/benches``), which run inside a simulator. All streams of a design move in
one coroutine, :meth:`Streams.run`, because waking a coroutine is what costs the time: each stream
is asked once a cycle what it drives, and once what it saw. What is read at a rising edge is the
state of the cycle that ends there; what is written there holds in the cycle that begins.
"""

import json
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from .compiled import ProtocolError

__all__ = ["Sink", "Source", "Streams", "bench_parameters", "packed_beats", "unpack_beats"]

#: Period of the clock, in ns.
PERIOD = 10


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
    seed : int
        Of the idling and of the idle payloads.
    """

    def __init__(
        self, dut: Any, name: str, beats: Iterable[int], *, offer: float = 1.0, seed: int = 0
    ) -> None:
        self.name = name
        #: Cycle in which each beat was accepted.
        self.cycles: list[int] = []
        self._valid, self._payload = dut[f"{name}__valid"], dut[f"{name}__payload"]
        self._ready = _reader(dut[f"{name}__ready"])
        self._width = len(_reader(self._payload)())
        self._offer = offer
        self._random = random.Random(f"{seed} {name}")
        self._beats = iter(beats)
        self._beat = next(self._beats, None)
        self._offered = False
        self._up = False  # valid, as it is driven
        self._rest()

    @property
    def exhausted(self) -> bool:
        """Whether every beat was accepted."""
        return self._beat is None

    def drive(self) -> None:
        """Choose what to drive in the cycle that begins."""
        if self._offered:
            return
        if self._beat is not None and (self._offer >= 1 or self._random.random() < self._offer):
            self._offered = True
            self._payload.value = self._beat
            if not self._up:
                self._valid.value = 1
                self._up = True
        elif self._up:
            self._rest()

    def sample(self, cycle: int) -> bool:
        """Look at the cycle that ends; return whether a beat was transferred."""
        ready = self._ready()
        if ready != "1" or not self._offered:
            if ready not in ("0", "1"):
                raise ProtocolError(f"cycle {cycle}: {self.name}: ready is {ready}")
            return False
        self.cycles.append(cycle)
        self._beat = next(self._beats, None)
        self._offered = False
        return True

    def _rest(self) -> None:
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
    seed : int
        Of the idling.
    """

    def __init__(self, dut: Any, name: str, *, accept: float = 1.0, seed: int = 0) -> None:
        self.name = name
        #: The accepted payloads as binary digits, the highest first (:func:`unpack_beats`).
        self.beats: list[str] = []
        #: Cycle in which each beat was accepted.
        self.cycles: list[int] = []
        #: Cycles in which a beat was there and was not accepted.
        self.stalls: list[int] = []
        self._ready = dut[f"{name}__ready"]
        self._valid = _reader(dut[f"{name}__valid"])
        self._payload = _reader(dut[f"{name}__payload"])
        self._accept = accept
        self._random = random.Random(f"{seed} {name}")
        self._held: str | None = None
        self._up = False  # ready, as it is driven
        self._ready.value = 0

    def drive(self) -> None:
        """Choose what to drive in the cycle that begins."""
        up = self._accept >= 1 or self._random.random() < self._accept
        if up != self._up:
            self._up = up
            self._ready.value = int(up)

    def sample(self, cycle: int) -> bool:
        """Look at the cycle that ends; return whether a beat was transferred."""
        valid = self._valid()
        if valid != "1":
            if valid != "0":
                raise ProtocolError(f"cycle {cycle}: {self.name}: valid is {valid}")
            if self._held is not None:
                raise ProtocolError(
                    f"cycle {cycle}: {self.name}: valid was withdrawn before the transfer"
                )
            return False
        beat = self._payload()
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


class Streams:
    """The clock of a design, its reset, and the loop that moves its streams.

    Parameters
    ----------
    dut : cocotb handle
        The design, with the ports ``clk`` and ``rst``. Its clock is started.
    """

    def __init__(self, dut: Any) -> None:
        self._rst = dut.rst
        self._edge = RisingEdge(dut.clk)  # one object for all cycles: making one takes 1 µs
        #: Cycles since the reset.
        self.cycle = 0
        Clock(dut.clk, PERIOD, "ns").start()

    async def reset(self) -> None:
        """Hold ``rst`` for two cycles; what follows is cycle 0."""
        self._rst.value = 1
        for _ in range(2):
            await self._edge
        self._rst.value = 0
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
            If the design breaks the protocol or hangs, or a ``valid`` or ``ready`` is unknown.
        """
        streams: list[Source | Sink] = [*sources, sink]
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
            self.cycle = cycle = cycle + 1
            if idle > patience:
                missing = "" if beats is None else f"; {beats - len(taken)} beats are missing"
                raise ProtocolError(
                    f"cycle {cycle}: nothing was transferred for {patience} cycles{missing}"
                )

    async def finish(self, sources: Sequence[Source], sink: Sink, cycles: int) -> None:
        """Check that all was sent, and that in ``cycles`` more nothing else comes out.

        Raises
        ------
        ProtocolError
            If not, or as :meth:`run` does.
        """
        for source in sources:
            if not source.exhausted:
                raise ProtocolError(
                    f"cycle {self.cycle}: {source.name} has beats left that nothing took"
                )
        wanted, stalls = len(sink.beats), len(sink.stalls)
        await self.run(sources, sink, cycles=cycles, patience=cycles)
        if len(sink.beats) > wanted or len(sink.stalls) > stalls:
            raise ProtocolError(f"cycle {self.cycle}: {sink.name} has beats beyond the {wanted}")


def _reader(handle: Any) -> Callable[[], str]:
    """Return what reads a handle as binary digits, X and Z among them.

    ``handle.value`` does the same and then makes an object of it, which takes five times as long:
    without that step a cycle of a 16×16 array takes 14 µs in place of 17.
    """
    return handle._handle.get_signal_val_binstr


def bench_parameters() -> dict[str, Any]:
    """Return the parameters that the host gave to the bench, a JSON file named by $HWGEN_BENCH."""
    return json.loads(Path(os.environ["HWGEN_BENCH"]).read_text(encoding="utf-8"))


def packed_beats(data: npt.NDArray[np.uint8], segments: npt.NDArray[np.int64]) -> Iterator[int]:
    """Give the beats of a :class:`hwgen.tiling.Beats`, by its fields, as integers."""
    size = data.shape[1]
    memory = data.tobytes()
    for first, count in segments.tolist():
        for start in range(first * size, (first + count) * size, size):
            yield int.from_bytes(memory[start : start + size], "little")


def unpack_beats(
    beats: Sequence[str], bits: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Take beats apart: signed fields, and a bit on top.

    Parameters
    ----------
    beats : sequence of str
        Binary digits, the highest first; the same number in each, a multiple of ``bits`` plus one.
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
    fields = (len(beats[0]) - 1) // bits if beats else 0
    values = np.empty((len(beats), fields), dtype=np.int64)
    last = np.empty(len(beats), dtype=np.uint8)
    step = max(1, (1 << 18) // max(1, fields))  # beats at a time: bounds the 64 bytes of a field
    for start in range(0, len(beats), step):
        part = beats[start : start + step]
        digits = np.frombuffer("".join(part).encode(), dtype=np.uint8) - ord("0")
        digits = digits.reshape(len(part), -1)[:, ::-1]
        unknown = (digits > 1).any(axis=1)
        if unknown.any():
            beat = start + int(unknown.argmax())
            raise ProtocolError(f"beat {beat} is neither 0 nor 1 everywhere: {beats[beat]}")
        places = digits[:, :-1].reshape(len(part), fields, bits)
        sign = places[:, :, -1:].repeat(64 - bits, axis=2)
        whole = np.packbits(np.concatenate([places, sign], axis=2), axis=2, bitorder="little")
        values[start : start + step] = whole.view("<i8")[:, :, 0]
        last[start : start + step] = digits[:, -1]
    return values, last
