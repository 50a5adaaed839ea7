"""Damaged and random programs end with the right status, and the next valid one runs as ever."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from hwgen.accelerator import commands
from hwgen.accelerator.accelerator import Accelerator
from hwgen.accelerator.commands import Opcode, Status
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.accelerator.registers import LOOPS, MODES, loops_of, register_widths
from hwgen.compiler.compile import compile_network
from hwgen.network.graph import Network
from hwgen.verilog import emit_verilog
from testbench.compiled import CompiledModel
from testbench.golden_network import run_network

MASK24 = (1 << 24) - 1
#: Random words sent for each configuration.
WORDS = 150_000
#: Packets between two valid programs.
BETWEEN = 40
#: Iterations that a run of a packet may have: it shall end within the model's patience.
LONGEST = 20_000

CONFIGS = {
    # A parameter takes several beats, the other words one; no capacity is a power of two.
    "int8": {
        "pe": "int8", "rows": 4, "cols": 4, "activation_buffer": 1000, "weight_buffer": 900,
        "accumulator_buffer": 640, "parameter_buffer": 700,
    },
    # Wide beats; words of activations are smaller than a vector, and a weight takes two beats.
    "int8 shift 128": {
        "pe": "int8", "rows": 6, "cols": 18, "requantize": "shift", "stream_bits": 128,
        "activation_buffer": 1024, "weight_buffer": 2048, "accumulator_buffer": 1440,
        "parameter_buffer": 700,
    },
    # A word of activations takes two beats; registers are narrow.
    "int8 aligned": {
        "pe": "int8", "rows": 16, "cols": 4, "layout": "aligned", "loop_bits": 6, "register_sets": 1,
        "activation_buffer": 1000, "weight_buffer": 900, "accumulator_buffer": 640,
        "parameter_buffer": 700,
    },
    "int8 os": {
        "pe": "int8", "rows": 3, "cols": 4, "dataflow": "os", "activation_buffer": 1000,
        "weight_buffer": 900, "accumulator_buffer": 640, "parameter_buffer": 700,
    },
}  # fmt: skip


# ---- what is expected --------------------------------------------------------------------------


@dataclass
class Expected:
    """How a packet must end: status, beats before the closing one (None where not known)."""

    status: int = Status.OK
    beats: list[bytes | None] = field(default_factory=list)
    iterations: int = 0
    runs: int = 0
    stores: int = 0


class Rules:
    """The rules of commands, read from ``commands.py`` and not from the circuit."""

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.size = config.stream_bits // 8
        self.words = (config.activation_words, config.weight_words, config.parameter_words)
        self.beats = tuple(
            -(-bits // config.stream_bits)
            for bits in (config.activation_bits, config.weight_bits, config.parameter_bits)
        )
        self.widths = list(register_widths(config).items())
        self.mode = list(register_widths(config)).index("mode")
        #: Words of the activation buffer, where known.
        self.activations: list[bytes | None] = [None] * config.activation_words

    def commands(self, program: bytes) -> Iterator[int]:
        """Return which beats of a legal program are commands."""
        at = 0
        while at * self.size < len(program):
            yield at
            word = int.from_bytes(program[at * self.size :][:8], "little")
            at += 1
            if word >> 56 == Opcode.LOAD:
                at += ((word & MASK24) + 1) * self.beats[word >> 48 & 0x7F]

    def stored(self, beats: bytes) -> bytes:
        """Return what a STORE sends of a word that was loaded."""
        kept = int.from_bytes(beats, "little") & (1 << self.config.activation_bits) - 1
        return kept.to_bytes(len(beats), "little")

    def expect(self, packet: bytes) -> Expected:
        """Execute a packet as far as its answer depends on it."""
        found = Expected()
        registers = {name: 0 for name, _ in self.widths}
        sets: list[int] = []
        place, size = 0, self.size
        while place < len(packet):
            word = int.from_bytes(packet[place : place + 8], "little")
            place += size
            opcode, number, low = word >> 56, word >> 48 & 0xFF, word & 0xFFFFFFFF
            address, count = word >> 24 & MASK24, (word & MASK24) + 1
            status = Status.OK
            if opcode == Opcode.SET:
                if number >= len(self.widths):
                    status = Status.ILLEGAL_REGISTER
                elif word >> 32 & 0xFFFF:
                    status = Status.ILLEGAL_COMMAND
                else:
                    name, width = self.widths[number]
                    registers[name] = low & (1 << width) - 1
                    sets.append(word)
            elif opcode == Opcode.LOAD:
                buffer = number & 0x7F
                if buffer > 2:
                    status = Status.ILLEGAL_COMMAND
                elif address + count > self.words[buffer]:
                    status = Status.OUT_OF_RANGE
                else:
                    each = self.beats[buffer] * size
                    data = packet[place : place + count * each]
                    place += count * each
                    if len(data) < count * each:
                        status = Status.TRUNCATED
                    if buffer == 0:
                        for i in range(len(data) // each):
                            self.activations[address + i] = self.stored(data[i * each :][:each])
            elif opcode == Opcode.RUN:
                if word >> 32 & MASK24:
                    status = Status.ILLEGAL_COMMAND
                elif low != commands.check_of(sets):
                    status = Status.WRONG_CHECK
                else:
                    self.run(registers, found)
                    sets = []
            elif opcode == Opcode.STORE:
                if number:
                    status = Status.ILLEGAL_COMMAND
                elif address + count > self.words[0]:
                    status = Status.OUT_OF_RANGE
                else:
                    found.stores += 1
                    for loaded in self.activations[address : address + count]:
                        found.beats += self.split(loaded, self.beats[0])
            else:
                status = Status.ILLEGAL_COMMAND
            if status != Status.OK:
                found.status = status
                break
        return found

    def split(self, loaded: bytes | None, beats: int) -> list[bytes | None]:
        if loaded is None:
            return [None] * beats
        return [loaded[i : i + self.size] for i in range(0, len(loaded), self.size)]

    def run(self, registers: dict[str, int], found: Expected) -> None:
        extents = [registers[f"extent_{i}"] + 1 for i in range(LOOPS)]
        direct = registers["mode"] >> MODES["direct"] & 1
        if self.config.array.dataflow == "os" and not direct:  # results of a pass
            extents[0] = min(extents[0], self.config.array.rows)
        found.iterations += int(np.prod(extents, dtype=object))
        found.runs += 1
        mode, config = registers["mode"], self.config
        if not mode >> MODES["to_host"] & 1:
            self.activations = [None] * len(self.activations)
            return
        bits = config.sum_bits if mode >> MODES["raw"] & 1 else config.array.pe.activation.bits
        vectors = int(np.prod([extents[loop] for loop in loops_of(config).out]))
        found.beats += [None] * (vectors * -(-config.array.cols * bits // config.stream_bits))


# ---- what is sent ------------------------------------------------------------------------------


class Packets:
    """Random packets of several kinds; ``count`` counts the random words in them."""

    def __init__(self, rules: Rules, programs: list[bytes], seed: int) -> None:
        self.rules = rules
        self.size = rules.size
        self.programs = programs
        self.random = random.Random(seed)
        self.count = 0

    def beat(self, word: int) -> bytes:
        """Return a command's beat; what lies above it is random."""
        self.count += 1
        return word.to_bytes(8, "little") + self.random.randbytes(self.size - 8)

    def uniform(self) -> bytes:
        """Return uniform random words; in every second packet legal SETs come first."""
        random, words = self.random, []
        if random.random() < 0.5:
            words += [commands.set_register(random.randrange(len(self.rules.widths)), 0)] * 3
        words += [random.getrandbits(64) for _ in range(random.randint(1, 24))]
        return b"".join(map(self.beat, words))

    def place(self, words: int) -> tuple[int, int]:
        """Return address and number of words minus 1, mostly at the edges of what fits."""
        random = self.random
        chance = random.random()
        if chance < 0.1:
            return random.getrandbits(24), random.getrandbits(24)
        if chance < 0.2:  # fits modulo 2**24
            return random.choice((MASK24, 1 << 23)), random.choice((0, 1, 1 << 23, MASK24))
        count = random.choice((0, 0, 1, 2, 5, random.randrange(words)))
        if chance < 0.7:
            return random.randrange(words - count), count
        return max(0, words - 1 - count + random.choice((0, 0, 0, 1, -1))), count

    def nearly_legal(self) -> bytes:
        """Return commands that are mostly legal: runs are short, checks mostly right."""
        random, rules = self.random, self.rules
        parts: list[bytes] = []
        sets: list[int] = []
        for name in random.sample(range(LOOPS), random.randint(0, LOOPS)):
            sets.append(commands.set_register(name, random.randint(0, 2)))
        parts += map(self.beat, sets)
        for _ in range(random.randint(1, 8)):
            opcode = random.choice((1, 1, 1, 2, 2, 3, 3, 4, 4, random.getrandbits(8)))
            word = opcode << 56
            if opcode == Opcode.SET:
                number = random.choice((random.randrange(len(rules.widths)), rules.mode))
                if random.random() < 0.03:
                    number = random.randint(len(rules.widths), 255)
                value = random.getrandbits(32) if number >= LOOPS else random.randint(0, 2)
                word |= number << 48 | value
                sets.append(word)
            elif opcode == Opcode.LOAD:
                buffer = random.choice((0, 0, 0, 1, 1, 2, 2, random.randint(3, 127)))
                address, count = self.place(rules.words[min(buffer, 2)])
                word |= random.getrandbits(1) << 55 | buffer << 48 | address << 24 | count
            elif opcode == Opcode.RUN:
                word |= commands.check_of(sets)
                sets = []
            elif opcode == Opcode.STORE:
                address, count = self.place(rules.words[0])
                word |= address << 24 | count
            if random.random() < 0.03:
                word ^= 1 << random.randrange(64)
            parts.append(self.beat(word))
            if opcode == Opcode.LOAD and buffer < 3 and count < max(rules.words):
                beats = (count + 1) * rules.beats[buffer]
                if random.random() < 0.1:
                    beats = max(0, beats + random.choice((-1, 1)))
                parts.append(random.randbytes(beats * self.size))
        packet = b"".join(parts)
        if random.random() < 0.2:
            packet = packet[: random.randint(1, len(packet) // self.size) * self.size]
        return packet

    def mutated(self) -> bytes:
        """Return a real program, damaged."""
        random, size = self.random, self.size
        program = random.choice(self.programs)
        starts = list(self.rules.commands(program))
        beats = [program[i : i + size] for i in range(0, len(program), size)]
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            way = random.choice(("flip", "flip", "cut", "extend", "drop", "double", "swap", "word"))
            at = random.choice((random.randrange(len(program) // size), *random.sample(starts, 2)))
            at = min(at, len(beats) - 1)
            if way == "flip":
                value = int.from_bytes(beats[at], "little") ^ 1 << random.randrange(8 * size)
                beats[at] = value.to_bytes(size, "little")
            elif way == "cut":
                beats = beats[: at + 1]
            elif way == "extend":
                beats += [random.randbytes(size) for _ in range(random.randint(1, 5))]
            elif way == "drop" and len(beats) > 1:
                del beats[at : at + random.choice((1, 1, 2, 10, 100))]
                beats = beats or [random.randbytes(size)]
            elif way == "double":
                beats[at:at] = beats[at : at + random.choice((1, 1, 2, 10, 100))]
            elif way == "swap":
                other = random.randrange(len(beats))
                beats[at], beats[other] = beats[other], beats[at]
            elif way == "word":
                beats[at] = random.randbytes(size)
        self.count += len(beats)
        return b"".join(beats)


# ---- the device --------------------------------------------------------------------------------


class Device:
    """The accelerator in simulation; ``exchange`` checks that a packet was taken whole."""

    def __init__(self, config: AcceleratorConfig) -> None:
        self.model = CompiledModel(emit_verilog(Accelerator(config)), config.name)
        self.size = config.stream_bits // 8
        self.sent = 0

    def exchange(self, packet: bytes, **options: Any) -> list[bytes]:
        def progress(_cycles: int, sent: int) -> None:
            self.sent = sent

        beats = np.frombuffer(packet, np.uint8).reshape(-1, self.size)
        answer = self.model.exchange(beats, progress=progress, patience=LONGEST * 20, **options)
        assert self.sent == len(beats), "the answer ended before the program"
        return [row.tobytes() for row in answer]


class Fuzz:
    """A device, its rules, valid programs with their results, and how often what came."""

    def __init__(
        self, config: AcceleratorConfig, make: Callable[[AcceleratorConfig, int], Network]
    ) -> None:
        self.config = config
        self.device = Device(config)
        self.rules = Rules(config)
        self.valid = []
        for seed in range(4):
            network = make(config, seed)
            compiled = compile_network(network, config)
            tensor = network.tensors[network.input]
            inputs = np.random.default_rng(seed).integers(tensor.low, tensor.high + 1, tensor.shape)
            golden = run_network(network, inputs[None])
            self.valid.append((compiled, compiled.program(inputs, every_layer=True), golden))
        self.programs = [program.beats().tobytes() for _, program, _ in self.valid]
        self.statuses: dict[Status, int] = {}
        self.runs = self.stores = self.checked = 0

    def check_valid(self, turn: int) -> None:
        """Run a valid program: all layers equal the golden model."""
        compiled, program, golden = self.valid[turn % len(self.valid)]
        expected = self.rules.expect(program.beats().tobytes())
        assert expected.status == Status.OK
        answer = self.device.exchange(program.beats().tobytes())
        beats = np.frombuffer(b"".join(answer), np.uint8).reshape(-1, self.device.size)
        outputs = compiled.outputs(program.read_answer(beats), every_layer=True)
        for name, values in outputs.items():
            np.testing.assert_array_equal(values, golden[name][0], name)

    def check(self, packet: bytes, options: dict[str, Any]) -> None:
        """Send a packet: its answer is what the rules say."""
        expected = self.rules.expect(packet)
        assert expected.iterations <= LONGEST, "the test must not ask for such a run"
        answer = self.device.exchange(packet, **options)
        closing = int.from_bytes(answer[-1][:8], "little")
        assert closing >> 56 == expected.status
        assert not any(answer[-1][8:])
        assert len(answer) - 1 == len(expected.beats)
        for beat, wanted in zip(answer, expected.beats, strict=False):
            if wanted is not None:
                assert beat == wanted
                self.checked += 1
        cycles, beats = closing & (1 << 56) - 1, len(packet) // self.device.size
        if not options and not expected.runs and not expected.stores:
            assert cycles == beats + 1  # a beat a cycle
        assert cycles > beats
        self.statuses[Status(expected.status)] += 1
        self.runs += expected.runs
        self.stores += expected.stores


def idling(rng: random.Random) -> dict[str, Any]:
    """Return options of an exchange: in every third packet streams idle."""
    if rng.random() < 2 / 3:
        return {}
    return {"offer": rng.choice((0.3, 0.8, 1.0)), "accept": rng.choice((0.2, 0.7, 1.0)),
            "seed": rng.getrandbits(30)}  # fmt: skip


@pytest.fixture(params=CONFIGS, scope="module")
def config(request: pytest.FixtureRequest) -> AcceleratorConfig:
    return AcceleratorConfig.from_options(CONFIGS[request.param])


@pytest.fixture(scope="module")
def fuzz(
    config: AcceleratorConfig, small_network: Callable[[AcceleratorConfig, int], Network]
) -> Iterator[Fuzz]:
    made = Fuzz(config, small_network)
    yield made
    made.device.model.close()


def run_kind(fuzz: Fuzz, kind: str, words: int) -> None:
    rng = random.Random(kind)
    packets = Packets(fuzz.rules, fuzz.programs, rng.getrandbits(30))
    fuzz.statuses = dict.fromkeys(set(Status) - {Status.ABORTED}, 0)  # that one is the bus's
    fuzz.runs = fuzz.stores = fuzz.checked = sent = 0
    while packets.count < words:
        for _ in range(BETWEEN):
            fuzz.check(getattr(packets, kind)(), idling(rng))
            sent += 1
        fuzz.check_valid(sent // BETWEEN)
    print(kind, packets.count, "words,", sent, "packets,", fuzz.runs, "runs,", fuzz.stores,
          "stores,", fuzz.checked, "stored beats,", fuzz.statuses)  # fmt: skip


def test_uniform_words(fuzz: Fuzz) -> None:
    run_kind(fuzz, "uniform", WORDS // 5)
    assert fuzz.statuses[Status.ILLEGAL_COMMAND] > 100


def test_nearly_legal_words(fuzz: Fuzz) -> None:
    run_kind(fuzz, "nearly_legal", WORDS * 2 // 5)
    assert min(fuzz.statuses.values()) > 50
    assert min(fuzz.runs, fuzz.stores, fuzz.checked) > 500


def test_mutated_programs(fuzz: Fuzz) -> None:
    run_kind(fuzz, "mutated", 2 * WORDS)
    assert min(count for status, count in fuzz.statuses.items() if status != 2) > 0
    assert fuzz.runs > 50
