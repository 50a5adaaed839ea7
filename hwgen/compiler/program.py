"""Programs: commands with their data, and what the answer holds."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hwgen.accelerator import commands
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.accelerator.registers import MODES, loops_of, register_widths

__all__ = ["Answer", "Load", "Program", "Run", "Store", "words_of_bits"]

IntArray = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


def words_of_bits(fields: Sequence[tuple[IntArray, int]]) -> Bytes:
    """Pack fields of any width into words.

    Parameters
    ----------
    fields : sequence of (array of shape (words, count), bits)
        The first is lowest; values are taken modulo ``2**bits``; at most 63 bits.

    Returns
    -------
    uint8 array (words, bytes)
    """
    spread = [
        ((np.asarray(values, np.int64)[..., None] >> np.arange(bits)) & 1)
        .astype(np.uint8)
        .reshape(len(values), -1)
        for values, bits in fields
    ]
    return np.packbits(np.concatenate(spread, axis=1), axis=1, bitorder="little")


@dataclass(frozen=True, eq=False)
class Load:
    """Write words into a buffer.

    Attributes
    ----------
    buffer : str
        ``"activation"``, ``"weight"`` or ``"parameter"``.
    address : int
    data : uint8 array (words, bytes)
    wait : bool
        Until the run before has ended.
    """

    buffer: str
    address: int
    data: Bytes
    wait: bool = False


@dataclass(frozen=True, eq=False)
class Run:
    """A run with all its registers.

    Attributes
    ----------
    registers : mapping of name to value
        Those left out are 0.
    """

    registers: Mapping[str, int]

    def has(self, mode: str) -> bool:
        """Tell whether a bit of the register ``mode`` is set."""
        return bool(self.registers.get("mode", 0) >> MODES[mode] & 1)

    def extent(self, loop: int) -> int:
        """Return the iterations of a loop."""
        return self.registers.get(f"extent_{loop}", 0) + 1


@dataclass(frozen=True, eq=False)
class Store:
    """Send words of the activation buffer."""

    address: int
    words: int


Command = Load | Run | Store


@dataclass(frozen=True, eq=False)
class Answer:
    """What a program answered.

    Attributes
    ----------
    status : int
        See :class:`~hwgen.accelerator.commands.Status`.
    cycles : int
        From the program's first beat to the closing one.
    parts : list of int64 arrays
        For each RUN to the host and each STORE: vectors (vectors, cols) of codes or sums, words
        (words, codes).
    """

    status: int
    cycles: int
    parts: list[IntArray]


@dataclass(eq=False)
class Program:
    """A program for one configuration.

    Attributes
    ----------
    config : AcceleratorConfig
    commands : list
        :class:`Load`, :class:`Run` and :class:`Store`.
    """

    config: AcceleratorConfig
    commands: list[Command] = field(default_factory=list)

    @property
    def beat_bytes(self) -> int:
        """Bytes in a beat of the stream."""
        return self.config.stream_bits // 8

    def beats_of(self, bits: int) -> int:
        """Return the beats that so many bits take."""
        return -(-bits // self.config.stream_bits)

    def sets_before_runs(self) -> Iterator[tuple[Command, list[int]]]:
        """Return each command and the SET words before it: registers keep what did not change."""
        numbers = {name: i for i, name in enumerate(register_widths(self.config))}
        widths = register_widths(self.config)
        held: dict[str, int] | None = None
        for command in self.commands:
            sets: list[int] = []
            if isinstance(command, Run):
                for name, number in numbers.items():
                    value = command.registers.get(name, 0) & ((1 << widths[name]) - 1)
                    if held is None or held[name] != value:
                        sets.append(commands.set_register(number, value))
                    held = {**(held or dict.fromkeys(numbers, -1)), name: value}
            yield command, sets

    def beats(self) -> Bytes:
        """Return the whole program, uint8 of shape (beats, bytes of a beat)."""
        size = self.beat_bytes
        chunks: list[Bytes] = []

        def add(words: Sequence[int]) -> None:
            block = np.zeros((len(words), size), np.uint8)
            block[:, :8] = np.array(words, np.uint64).astype("<u8").view(np.uint8).reshape(-1, 8)
            chunks.append(block)

        for command, sets in self.sets_before_runs():
            if isinstance(command, Run):
                add([*sets, commands.run(commands.check_of(sets))])
            elif isinstance(command, Store):
                add([commands.store(command.address, command.words)])
            else:
                words, width = command.data.shape
                add([commands.load(command.buffer, command.address, words, wait=command.wait)])
                padded = np.zeros((words, -(-width // size) * size), np.uint8)
                padded[:, :width] = command.data
                chunks.append(padded.reshape(-1, size))
        return np.concatenate(chunks)

    # ---- the answer --------------------------------------------------------------------------

    def vectors(self, run: Run) -> int:
        """Return the vectors of results of a run."""
        return math.prod(map(run.extent, loops_of(self.config).out))

    def parts(self) -> Iterator[tuple[int, int, int]]:
        """Return of each part of the answer: words, fields of a word, bits of a field."""
        config = self.config
        code = config.array.pe.activation.bits
        for command in self.commands:
            if isinstance(command, Store):
                yield command.words, config.word * config.granule, code
            elif isinstance(command, Run) and command.has("to_host"):
                raw = command.has("raw")
                yield self.vectors(command), config.array.cols, config.sum_bits if raw else code

    @property
    def answer_beats(self) -> int:
        """Beats of the answer, the closing one included."""
        return 1 + sum(words * self.beats_of(n * bits) for words, n, bits in self.parts())

    def read_answer(self, beats: Bytes) -> Answer:
        """Take an answer apart.

        Parameters
        ----------
        beats : uint8 array (beats, bytes of a beat)

        Raises
        ------
        ValueError
            If it has another length than this program's.
        """
        closing = int.from_bytes(beats[-1, :8].tobytes(), "little")
        status, cycles = closing >> 56, closing & ((1 << 56) - 1)
        if status:
            return Answer(status, cycles, [])
        if len(beats) != self.answer_beats:
            raise ValueError(f"answer must have {self.answer_beats} beats, not {len(beats)}")
        parts, start = [], 0
        for words, count, bits in self.parts():
            each = self.beats_of(count * bits)
            block = beats[start : start + words * each].reshape(words, -1)
            start += words * each
            spread = np.unpackbits(block, axis=1, bitorder="little")[:, : count * bits]
            weights = np.int64(1) << np.arange(bits)
            if bits == self.config.sum_bits:
                weights[-1] *= -1
            found = spread.reshape(words, count, bits) @ weights
            parts.append(found)
        return Answer(status, cycles, parts)
