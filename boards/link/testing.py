"""What the link is tried with: a core that echoes, a simulated line, and one with faults."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from amaranth.hdl import Module

from testbench.compiled import CompiledModel

from .core import BoardCore
from .link import Link
from .session import Line

__all__ = ["EchoCore", "FaultyLine", "LockstepLine", "SimulatedSpi", "uart_wave"]

Wave = npt.NDArray[np.uint8]


class EchoCore(BoardCore):
    """A core that answers each packet with the same packet."""

    @property
    def definition(self) -> str:
        return f"{self.config.name}_echo"

    def _engine(self, m: Module, link: Link) -> None:
        m.d.comb += [
            link.answer.valid.eq(link.program.valid),
            link.answer.payload.eq(link.program.payload),
            link.program.ready.eq(link.answer.ready),
        ]


def uart_wave(data: bytes, divisor: float) -> Wave:
    """Return the levels of a line that carries bytes, one for each cycle."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8)[:, None], axis=1, bitorder="little")
    frames = np.pad(bits, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1))).ravel()
    edges = np.round(np.arange(len(frames) + 1) * divisor).astype(int)
    return np.repeat(frames, np.diff(edges))


class LockstepLine(Line):
    """A UART to a compiled core that runs only while the host waits: no time passes between.

    Parameters
    ----------
    model : CompiledModel
        Of a core with ``rx`` and ``tx``.
    divisor : int
        Cycles of a bit.
    clock_hz : float
        Cycles of a second.
    mismatch : float
        Of the host's baud rate, such as 0.02 for bits that are 2 % too long.

    Attributes
    ----------
    cycles : int
        Run so far.
    """

    def __init__(
        self, model: CompiledModel, divisor: int, clock_hz: float, *, mismatch: float = 0.0
    ) -> None:
        self.model = model
        self.divisor = divisor
        self.clock_hz = clock_hz
        self.cycles = 0
        self._bit = divisor * (1 + mismatch)
        self._to_send: Wave = np.zeros(0, np.uint8)
        self._heard: Wave = np.zeros(0, np.uint8)  # levels not understood yet

    @property
    def pending(self) -> int:
        """Cycles that it takes to send what was written."""
        return len(self._to_send)

    def now(self) -> float:
        return self.cycles / self.clock_hz

    def write(self, data: bytes) -> None:
        self._to_send = np.concatenate([self._to_send, uart_wave(data, self._bit)])

    def read(self, seconds: float) -> bytes:
        end = self.now() + seconds
        while True:
            data = self._run(80 * self.divisor)
            if data or self.now() >= end:
                return data

    def close(self) -> None:
        self.model.close()

    def _run(self, cycles: int) -> bytes:
        wave = np.ones(cycles, np.uint8)
        now = self._to_send[:cycles]
        wave[: len(now)] = now
        self._to_send = self._to_send[cycles:]
        levels = self.model.vectors({"rx": wave[:, None]}, "tx")[:, 0] & 1
        self.cycles += cycles
        heard = np.concatenate([self._heard, levels])
        found = bytearray()
        place = 0
        while True:
            low = np.flatnonzero(heard[place:] == 0)
            place = place + int(low[0]) if len(low) else len(heard)
            middles = place + np.round((np.arange(10) + 0.5) * self._bit).astype(int)
            if middles[-1] >= len(heard):
                break
            bits = heard[middles]
            if bits[9]:
                found += np.packbits(bits[1:9], bitorder="little").tobytes()
            place = int(middles[-1])
        self._heard = heard[place:]
        return bytes(found)


class SimulatedSpi:
    """What spidev offers, of a compiled core with ``sck``, ``mosi``, ``cs`` and ``miso``.

    Parameters
    ----------
    model : CompiledModel
    half : int
        Cycles of half a period of ``sck``, at least 4.
    """

    def __init__(self, model: CompiledModel, half: int = 4) -> None:
        self.model = model
        self.half = half

    def xfer2(self, data: list[int]) -> list[int]:
        """Exchange bytes while the core is selected."""
        half = self.half
        bits = np.unpackbits(np.array(data, np.uint8))
        mosi = np.pad(np.repeat(bits, 2 * half), 2 * half)
        sck = np.pad(np.tile(np.repeat(np.array([0, 1], np.uint8), half), len(bits)), 2 * half)
        cs = np.ones(len(sck), np.uint8)
        cs[half:-half] = 0
        ports = {"mosi": mosi[:, None], "sck": sck[:, None], "cs": cs[:, None]}
        miso = self.model.vectors(ports, "miso")[:, 0] & 1
        return list(np.packbits(miso[3 * half - 1 : -2 * half : 2 * half]).tolist())

    def close(self) -> None:
        """Nothing is to be released."""


class FaultyLine(Line):
    """A line that loses, repeats and damages bytes.

    Parameters
    ----------
    line : Line
        The line itself.
    rate : float
        Probability of a fault, for each byte in either direction.
    rng : Generator

    Attributes
    ----------
    faults : int
        So far.
    """

    def __init__(self, line: Line, rate: float, rng: np.random.Generator) -> None:
        self.line = line
        self.rate = rate
        self.rng = rng
        self.faults = 0

    def _spoil(self, data: bytes) -> bytes:
        spoilt = bytearray()
        last = 0
        for place in np.flatnonzero(self.rng.random(len(data)) < self.rate):
            byte = data[place]
            faults: tuple[Callable[[], bytes], ...] = (
                lambda: b"",
                lambda byte=byte: bytes([byte, byte]),  # type: ignore[misc]
                lambda byte=byte: bytes([byte ^ 1 << int(self.rng.integers(8))]),  # type: ignore[misc]
            )
            spoilt += data[last:place] + faults[int(self.rng.integers(3))]()
            last = int(place) + 1
            self.faults += 1
        return bytes(spoilt + data[last:])

    def now(self) -> float:
        return self.line.now()

    def write(self, data: bytes) -> None:
        self.line.write(self._spoil(data))

    def read(self, seconds: float) -> bytes:
        return self._spoil(self.line.read(seconds))

    def close(self) -> None:
        self.line.close()
