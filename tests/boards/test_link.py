# amaranth: UnusedElaboratable=no
"""The link's RTL, bit by bit on its line, against what `frames.py` says."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from amaranth.sim import Simulator

import boards
from boards.catalog import BOARDS
from boards.host import SpiLine
from boards.link.core import BoardCore
from boards.link.frames import (
    AGAIN,
    END,
    LAST,
    MAX_PAYLOAD,
    MORE,
    SEEK,
    Identification,
    Kind,
    Request,
    RequestDecoder,
    Response,
    ResponseDecoder,
)  # fmt: skip
from boards.link.session import Session
from boards.link.testing import EchoCore, FaultyLine, LockstepLine, SimulatedSpi, uart_wave
from boards.link.uart import UartReceiver, UartTransmitter
from boards.pll import choose_setting
from boards.top import make_top
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.compiler.program import Load, Program, Store
from hwgen.errors import UserError
from hwgen.verilog import emit_verilog
from testbench.compiled import CompiledModel

OPTIONS = {"pe": "int8", "rows": 2, "cols": 2, "activation_buffer": 8192}
CONFIG = AcceleratorConfig.from_options(OPTIONS)
CLOCK = 1e6
#: Silence after which the board drops the rest of a frame.
TIMEOUT = 512
RING = 1024


def line_to(core, **options):
    model = CompiledModel(emit_verilog(core), core.definition)
    return LockstepLine(model, core.divisor, CLOCK, **options)


def echo_line(**options):
    core = EchoCore(CONFIG, divisor=4, clock_hz=CLOCK, board="echo", timeout=TIMEOUT)
    return line_to(core, **options)


# ---- the format ------------------------------------------------------------------------------


def test_frames_are_as_the_table_says():
    frame = Request(Kind.WRITE, 7, 0x1234, b"abc", LAST).encode()
    assert frame[:6] == bytes([0xA5, 0x83, 7, 0x34, 0x12, 3])
    assert frame[6] == zlib.crc32(frame[1:6]) & 0xFF
    assert frame[7:10] == b"abc"
    assert frame[10:] == zlib.crc32(frame[1:10]).to_bytes(4, "little")
    frame = Response(Kind.READ, 7, 1, 2, 3, b"z", END).encode()
    assert frame[:10] == bytes([0x5A, 0x84, 7, 1, 0, 2, 0, 3, 0, 1])
    assert len(frame) == 11 + 1 + 4


def test_decoders_find_frames_among_any_bytes():
    rng = np.random.default_rng(1)
    for make, decoder in (
        (lambda p: Request(Kind.WRITE, 1, len(p), p), RequestDecoder()),
        (lambda p: Response(Kind.READ, 1, 2, 3, len(p), p), ResponseDecoder()),
    ):
        frames = [make(rng.bytes(int(rng.integers(MAX_PAYLOAD + 1)))) for _ in range(50)]
        stream = b"".join(rng.bytes(int(rng.integers(20))) + f.encode() for f in frames)
        stream += bytes(300)
        found = []
        while stream:
            size = int(rng.integers(1, 100))
            found += decoder.decode(stream[:size])
            stream = stream[size:]
        assert found == frames


def test_no_damaged_frame_is_believed():
    rng = np.random.default_rng(2)
    frame = Request(Kind.WRITE, 1, 2, rng.bytes(20)).encode()
    for place in range(8 * len(frame)):
        damaged = bytearray(frame)
        damaged[place // 8] ^= 1 << place % 8
        assert list(RequestDecoder().decode(bytes(damaged) + bytes(300))) == []


def test_identification_holds_what_was_put_in():
    about = Identification(bytes(range(16)), 64, 1024, 2048, 12_000_000, "icebreaker", OPTIONS)
    assert Identification.decode(about.encode()) == about
    assert len(about.encode()) < 100
    with pytest.raises(ValueError, match=r"receive_ring must be one of 512, .*16384, not 1000"):
        Identification(bytes(16), 64, receive_ring=1000)
    with pytest.raises(ValueError, match="name must be up to 24 ASCII characters, not 'é'"):
        Identification(bytes(16), 64, name="é")
    with pytest.raises(ValueError, match="identification of 255 bytes, not "):
        Identification(bytes(16), 64, options={"x": np.random.default_rng(1).bytes(200).hex()})


# ---- the UART --------------------------------------------------------------------------------


def received(wave, divisor):
    """Return what a UartReceiver makes of a line."""
    dut = UartReceiver(divisor)
    found = bytearray()

    async def bench(ctx):
        ctx.set(dut.o.ready, 1)
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(3)
        for level in wave:
            ctx.set(dut.rx, int(level))
            _, _, valid, byte = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            if valid:
                found.append(byte)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return bytes(found)


IDLE = np.ones(60, np.uint8)


@pytest.mark.parametrize("mismatch", [-0.02, 0, 0.02])
@pytest.mark.parametrize("divisor", [4, 5, 12])
def test_uart_receives_at_either_end_of_the_tolerance(divisor, mismatch):
    data = bytes([0, 255, 0x55, 0xAA, *np.random.default_rng(3).bytes(20)])
    wave = uart_wave(data, divisor * (1 + mismatch))
    assert received(np.concatenate([wave, IDLE]), divisor) == data


def test_uart_drops_a_byte_without_stop_bit_and_a_spike():
    broken = uart_wave(b"x", 8)
    broken[-8:] = 0
    spike = np.array([1, 0, 0, 1], np.uint8)
    wave = [uart_wave(b"a", 8), broken, spike[-1:], IDLE, uart_wave(b"b", 8), IDLE, spike, IDLE,
            uart_wave(b"c", 8), IDLE]  # fmt: skip
    assert received(np.concatenate(wave), 8) == b"abc"


def test_uart_sends_without_gaps():
    dut = UartTransmitter(4)
    data = b"hwgn"
    levels = []

    async def send(ctx):
        for byte in data:
            ctx.set(dut.i.payload, byte)
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
        ctx.set(dut.i.valid, 0)

    async def listen(ctx):
        for _ in range(len(data) * 40 + 20):
            *_, level = await ctx.tick().sample(dut.tx)
            levels.append(level)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(send)
    simulator.add_testbench(listen)
    simulator.run()
    start = levels.index(0)
    assert levels[start : start + 160] == uart_wave(data, 4).tolist()
    assert all(levels[:start] + levels[start + 160 :])


# ---- requests, one after the other -----------------------------------------------------------


class EchoModel:
    """A board that echoes, when everything has come to rest."""

    def __init__(self):
        self.session = 0
        self.begin(0)

    def begin(self, session):
        self.session = session
        self.program = b""  # everything received
        self.ends = []
        self.got = self.sent = 0

    @property
    def written(self):
        """The bytes that the answer's ring has room for, up to the end of a packet not got yet."""
        limit = min(len(self.program) // 8 * 8, self.got + RING)
        return min([limit, *(end for end in self.ends if end > self.got)])

    @property
    def taken(self):
        return min(len(self.program), self.written // 8 * 8 + 8)

    @property
    def marked(self):
        """Whether the ring still holds an end: its beat was not handed over."""
        return bool(self.ends) and self.ends[-1] > self.written // 8 * 8

    def response(self, kind, flags=0, payload=b"", offset=None):
        offset = self.sent if offset is None else offset
        numbers = (len(self.program), self.taken, offset)
        return Response(kind, self.session, *(n % (2 * RING) for n in numbers), payload, flags)

    def answer(self, request):
        """Take a request; return the response's kind, payload and flags but MORE, or None."""
        if request.kind == Kind.RESET:
            self.begin(request.session)
            return Kind.STATUS, b"", 0
        if request.session != self.session:
            return None
        if request.kind == Kind.WRITE:
            room = self.taken + RING - len(self.program)
            refused = request.offset % (2 * RING) != len(self.program) % (2 * RING)
            refused |= len(request.payload) > room or bool(request.flags and self.marked)
            if not refused:
                self.program += request.payload
                if request.flags:
                    self.ends.append(len(self.program))
            return Kind.STATUS, b"", AGAIN if refused else 0
        if request.kind == Kind.READ:
            self.got += (request.offset - self.got) % (2 * RING)
            if request.flags:
                self.sent = self.got
            return None  # what it is answered with depends on what comes to rest first
        return None


def damage(frame, rng):
    """Return a frame that lost, repeats or changed something."""
    frame = bytearray(frame)
    place = int(rng.integers(len(frame)))
    kind = int(rng.integers(4))
    if kind == 0:
        del frame[place]
    elif kind == 1:
        frame.insert(place, frame[place])
        if frame[1:] == frame[:-1] or len(set(frame[-2:])) == 1:
            frame[1] ^= 1
    elif kind == 2:
        del frame[place:]
    else:
        frame[place] ^= 1 << int(rng.integers(8))
    return bytes(frame)


def listen(line):
    """Return what comes until nothing does for so long that a frame in pieces is forgotten."""
    heard = b""
    while more := line.read((line.pending + 2 * TIMEOUT) / CLOCK):
        heard += more
    return heard


def test_random_requests_and_damage():
    """Whatever comes, the board is where the model is: places, refusals, payload, flags."""
    rng = np.random.default_rng(4)
    line = echo_line()
    board = EchoModel()
    decoder = ResponseDecoder()

    def ask(frame):
        line.write(frame)
        return list(decoder.decode(listen(line)))

    counts = {"damaged": 0, "refused": 0, "full": 0, "read": 0, "ends": 0}
    ask(Request(Kind.RESET, 9).encode())
    board.begin(9)
    for i in range(200):
        slow = i // 50 % 2  # the host reads little, and both rings fill
        choice = rng.choice(["write", "write", "write", "read", "read", "reset", "other", "noise"],
                            p=[0.2, 0.15, 0.15, 0.2, 0.1, 0.02, 0.08, 0.1])  # fmt: skip
        size = int(rng.choice([0, 1, 8, 40, MAX_PAYLOAD]))
        end = bool(rng.integers(3) == 0)
        if slow:
            choice = "write" if choice == "read" and rng.integers(8) else choice
            size, end = MAX_PAYLOAD, bool(rng.integers(20) == 0)
        if end:
            size = max(8 - len(board.program) % 8, size - (len(board.program) + size) % 8)
        offset = len(board.program) + int(rng.choice([0, 0, 0, 0, 1, 8, RING, -8]))
        if choice == "write":
            request = Request(Kind.WRITE, board.session, offset, rng.bytes(size), LAST * end)
        elif choice == "read":
            known = int(rng.integers(board.got, board.sent + 1)) if board.sent > board.got else 0
            seek = SEEK * int(rng.integers(2)) if board.sent >= board.got else SEEK
            request = Request(Kind.READ, board.session, max(known, board.got), b"", seek)
        elif choice == "reset":
            request = Request(Kind.RESET, int(rng.integers(256)))
        else:
            request = Request(Kind.WRITE, (board.session + 1) % 256, offset, rng.bytes(size))
        frame = request.encode()
        if choice == "noise":
            counts["damaged"] += 1
            frame = damage(
                Request(Kind.WRITE, board.session, offset, rng.bytes(size)).encode(), rng
            )
            assert ask(frame) == []
        elif choice == "read":
            written = board.written
            board.answer(request)
            first = board.sent
            (response,) = ask(frame)
            payload = board.program[first : first + len(response.payload)]
            assert response.payload == payload
            # What the READ makes room for may begin to flow before the response does.
            ready = min(written - first, MAX_PAYLOAD)
            assert ready <= len(payload) <= min(ready + 2, MAX_PAYLOAD)
            board.sent += len(payload)
            ended = bool(payload) and board.sent in board.ends
            flags = END * ended | MORE * bool(payload)
            assert response == Response(
                Kind.READ, board.session, response.received, response.taken,
                first % (2 * RING), payload, flags,
            )  # fmt: skip
            counts["read"] += len(payload)
            counts["ends"] += ended
        else:
            full = len(request.payload) > board.taken + RING - len(board.program)
            counts["full"] += full and choice == "write"
            expected = board.answer(request)
            responses = ask(frame)
            if expected is None:
                assert responses == []
            else:
                (response,) = responses
                assert (response.kind, response.payload) == expected[:2]
                assert response.flags & AGAIN == expected[2]
                assert response.session == board.session
                counts["refused"] += bool(expected[2])
        # At rest: an empty WRITE changes nothing.
        (response,) = ask(Request(Kind.WRITE, board.session, len(board.program)).encode())
        numbers = [n % (2 * RING) for n in (len(board.program), board.taken)]
        assert [response.received, response.taken] == numbers
        if choice == "reset":
            board.sent = 0
    assert min(counts.values()) > 1, counts


def test_a_damaged_length_is_not_believed():
    """What follows at once is heard: the board does not wait for bytes that were never sent."""
    line = echo_line()
    frame = bytearray(Request(Kind.WRITE).encode())
    frame[5] = 200
    line.write(bytes(frame) + Request(Kind.HELLO).encode())
    (response,) = ResponseDecoder().decode(listen(line))
    assert response.kind == Kind.HELLO


def test_half_a_frame_is_forgotten():
    line = echo_line()
    hello = Request(Kind.HELLO).encode()
    line.write(Request(Kind.WRITE, 0, 0, bytes(200)).encode()[:100])
    assert listen(line) == b""
    line.write(hello)
    assert list(ResponseDecoder().decode(listen(line)))
    # Without the silence, the frame behind it is taken for its rest.
    line.write(Request(Kind.WRITE, 0, 0, bytes(200)).encode()[:100] + hello)
    assert listen(line) == b""


# ---- sessions --------------------------------------------------------------------------------


def packets(rng, count, size):
    return [rng.bytes(8 * int(rng.integers(1, size // 8))) for _ in range(count)]


@pytest.mark.parametrize("mismatch", [-0.02, 0.0, 0.02])
def test_exchange_echoes(mismatch):
    line = echo_line(mismatch=mismatch)
    session = Session(line)
    assert session.identification.name == "echo"
    sent = packets(np.random.default_rng(5), 6, 1200)
    assert list(session.exchange(sent)) == sent
    assert session.statistics.timeouts == session.statistics.rewinds == 0
    assert session.statistics.seeks == 0


def test_exchange_over_spi():
    core = EchoCore(CONFIG, "spi", clock_hz=CLOCK, board="spi", timeout=TIMEOUT)
    session = Session(SpiLine(SimulatedSpi(CompiledModel(emit_verilog(core), core.definition))))
    sent = packets(np.random.default_rng(6), 3, 400)
    assert list(session.exchange(sent)) == sent


def test_exchange_over_the_spi_of_a_whole_top():
    board = BOARDS["icebreaker"]
    core = EchoCore(CONFIG, "spi", clock_hz=12e6, board="spi", timeout=TIMEOUT)
    pins = {"sck": "4", "mosi": "2", "miso": "47", "cs": "45"}
    top = make_top(board, choose_setting("ice40", 12e6, 12e6), core.definition, pins)
    for name, pin in pins.items():
        assert f"set_io {top.pins[name]} {pin}" in top.constraints
    wires = ", ".join(f".{top.pins[name]}(pad_{name})" for name in pins)
    inputs = ("clk", "rst", "sck", "mosi", "cs")
    bench = "\n".join([
        f"module bench({', '.join(inputs)}, miso);",
        *(f"  input {name};\n  wire {name};\n  wire pad_{name} = {name};" for name in inputs),
        "  output miso;\n  wire pad_miso;\n  wire miso = pad_miso;",
        f"  top top(.{top.pins['clk']}(pad_clk), {wires});\nendmodule",
    ])  # fmt: skip
    pads = Path(boards.__file__).with_name("models") / "pads.v"
    text = "\n".join([emit_verilog(core), top.verilog, pads.read_text(), bench])
    device = SimulatedSpi(CompiledModel(text, "bench"))
    for _ in range(40):  # until the reset is over
        device.xfer2([0] * 16)
    sent = packets(np.random.default_rng(8), 2, 300)
    assert list(Session(SpiLine(device)).exchange(sent)) == sent


def test_exchange_begins_anew_after_it_was_broken_off():
    session = Session(echo_line())
    first = session.exchange([bytes(800)] * 3)
    next(first)
    first.close()
    sent = packets(np.random.default_rng(7), 3, 100)
    assert list(session.exchange(sent)) == sent


@pytest.mark.parametrize("rate", [5e-4, 3e-3])
def test_exchange_survives_faults(rate):
    rng = np.random.default_rng(8)
    line = FaultyLine(echo_line(), rate, rng)
    session = Session(line, timeout=60)
    sent = packets(rng, 8, 1000) if rate < 1e-3 else packets(rng, 6, 400)
    assert list(session.exchange(sent)) == sent
    assert line.faults > 2


class Losing(FaultyLine):
    """A line that loses each frame for which a function says so."""

    def __init__(self, line, loses):
        super().__init__(line, 0, np.random.default_rng(0))
        self.loses = loses
        self.requests, self.responses = RequestDecoder(), ResponseDecoder()

    def write(self, data):
        for frame in self.requests.decode(data):
            if not self.loses(frame):
                self.line.write(frame.encode())

    def read(self, seconds):
        frames = self.responses.decode(self.line.read(seconds))
        return b"".join(frame.encode() for frame in frames if not self.loses(frame))


def first(*conditions):
    """Return what loses one frame for each condition, in this order."""
    left = list(conditions)

    def loses(frame):
        if left and left[0](frame):
            del left[0]
            return True
        return False

    return loses


def is_write(frame):
    return isinstance(frame, Request) and frame.kind == Kind.WRITE


def is_answer(frame):
    return isinstance(frame, Response) and frame.kind == Kind.READ and len(frame.payload) > 0


def is_seek(frame):
    return isinstance(frame, Request) and frame.kind == Kind.READ and frame.flags == SEEK


def is_last(frame):
    return is_write(frame) and frame.flags == LAST


def is_end(frame):
    return is_answer(frame) and bool(frame.flags & END)


@pytest.mark.parametrize(
    "conditions",
    [
        (is_write,), (is_write, is_write), (is_last,), (is_last, is_last), (is_answer,), (is_end,),
        (is_answer, is_seek), (is_answer, is_seek, is_seek), (is_answer, is_answer),
        (is_end, is_seek), (is_write, is_answer, is_seek),
    ],
    ids=lambda conditions: " ".join(condition.__name__ for condition in conditions),
)  # fmt: skip
def test_exchange_survives_each_loss(conditions):
    """Also that of what repairs another."""
    line = Losing(echo_line(), first(*conditions))
    session = Session(line, timeout=1)
    sent = [np.random.default_rng(n).bytes(800) for n in range(2)]
    assert list(session.exchange(sent)) == sent


def test_packets_are_whole_beats():
    session = Session(echo_line())
    with pytest.raises(ValueError, match="packet must have a positive multiple of 8 bytes, not 12"):
        list(session.exchange([bytes(12)]))


def test_a_board_that_answers_and_stands_still_is_named():
    line = echo_line()
    session = Session(line, timeout=0.5, name="it")
    # The board never gives the echo of a program whose end it does not know.
    session.exchange([bytes(8)])
    exchange = session.exchange(iter([bytes(8)]))
    session.send = lambda kind, offset, payload=b"", flags=0: type(session).send(
        session, kind, offset, payload, 0 if kind == Kind.WRITE else flags
    )
    with pytest.raises(UserError, match=r"must make progress within 0.5 s, it answers but waits"):
        list(exchange)


# ---- efficiency ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def accelerator_line():
    return line_to(BoardCore(CONFIG, divisor=4, clock_hz=CLOCK, timeout=TIMEOUT))


def efficiency(line, program, payload):
    """Return the share of the line's time in which payload was carried."""
    session = Session(line)
    start = line.cycles
    (answer,) = session.exchange([program])
    assert answer[-1] == 0
    return payload(program, answer) * 10 * line.divisor / (line.cycles - start)


def test_nine_tenths_of_the_line_are_program(accelerator_line):
    words = np.random.default_rng(9).integers(0, 256, (2000, 2), dtype=np.uint8)
    program = Program(CONFIG, [Load("activation", 0, words)]).beats().tobytes()
    share = efficiency(accelerator_line, program, lambda program, _: len(program))
    assert 0.9 <= share <= 0.96, share


def test_nine_tenths_of_the_line_are_answer(accelerator_line):
    words = np.random.default_rng(10).integers(0, 256, (8, 2), dtype=np.uint8)
    program = Program(CONFIG, [Load("activation", 0, words), Store(0, 2000)]).beats().tobytes()
    share = efficiency(accelerator_line, program, lambda _, answer: len(answer))
    assert 0.9 <= share <= 0.95, share


def test_rings_and_clock_have_bounds():
    with pytest.raises(ValueError, match="divisor must be an integer from 4 to 65536, not 3"):
        UartReceiver(3)
    with pytest.raises(ValueError, match="transport must be one of 'uart', 'spi', not 'i2c'"):
        BoardCore(CONFIG, "i2c")
    with pytest.raises(ValueError, match="clock_hz must be an integer from 10000 to"):
        BoardCore(CONFIG, clock_hz=1)
