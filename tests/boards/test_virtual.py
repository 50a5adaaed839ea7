"""The virtual board: a port that acts as a board's, clients that fail, and a line that does."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from boards.catalog import find_board
from boards.host import Accelerator, SerialLine
from boards.link.core import BoardCore
from boards.link.frames import Kind, Request
from boards.link.session import Session
from boards.link.testing import EchoCore, FaultyLine
from boards.pll import choose_setting
from boards.top import make_top
from boards.virtual import VirtualBoard
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.errors import UserError
from hwgen.network.load import load_network
from hwgen.verilog import emit_verilog
from testbench.golden_network import run_network

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
OPTIONS = {"pe": "int8", "rows": 2, "cols": 2, "activation_buffer": 8192, "weight_buffer": 8192}
CONFIG = AcceleratorConfig.from_options(OPTIONS)
#: Cycles of silence after which the rest of a frame is not waited for.
TIMEOUT = 20_000
SETTLE = 3 * TIMEOUT


def board_of(make, **options):
    core = make(CONFIG, divisor=4, board="virtual", options=OPTIONS, timeout=TIMEOUT, **options)
    return VirtualBoard([emit_verilog(core)], core.definition, divisor=4, settle=SETTLE)


@pytest.fixture(scope="module")
def board():
    with board_of(BoardCore) as running:
        yield running


@pytest.fixture(scope="module")
def echo():
    with board_of(EchoCore) as running:
        yield running


def rest(board):
    """Wait until time stands still."""
    before = -1
    while before != (before := board.cycles):
        time.sleep(0.1)
    return before


def test_digits_on_a_board(board):
    """The network of the examples, a sample after the other, equal to the golden model."""
    network = load_network(EXAMPLES / "digits_int8.onnx")
    inputs = np.asarray(network.encode(np.load(EXAMPLES / "digits_x.npy")[:1]), np.int64)
    with Accelerator.open(board.port, CONFIG) as accelerator:
        found = accelerator.run(network, inputs)
    assert (found.outputs == run_network(network, inputs)[network.output]).all()


def test_time_stands_still_while_nothing_happens(board):
    cycles = rest(board)
    time.sleep(0.5)
    assert board.cycles - cycles < 100
    with Accelerator.open(board.port):
        pass
    assert board.cycles > cycles + 1000


def test_a_host_that_is_killed_blocks_nothing(echo):
    """In the middle of a frame, and with answers that it never took."""
    script = (
        "import sys; from boards.host import SerialLine; from boards.link.session import Session\n"
        "import itertools, os\n"
        "s = Session(SerialLine(sys.argv[1], 115200))\n"
        "answers = s.exchange(bytes([n % 256]) * 800 for n in itertools.count())\n"
        "next(answers); next(answers)\n"
        "s.line.write(bytes([0xA5, 0x03, s._session, 0, 0, 200]))\n"
        "os._exit(9)\n"
    )
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", script, echo.port], check=False)
        assert run.returncode == 9
    with SerialLine(echo.port, 115200) as line:
        packets = [bytes([n]) * 808 for n in range(5)]
        assert list(Session(line).exchange(packets)) == packets


def test_half_a_frame_is_forgotten_at_rest(echo):
    with SerialLine(echo.port, 115200) as line:
        line.write(Request(Kind.WRITE, 0, 0, bytes(200)).encode()[:100])
        rest(echo)
        session = Session(line)
    assert session.statistics.sent == 2 * 11  # one HELLO, one RESET


def spoil(board, rate, packets, timeout=20.0):
    """Echo packets over a line with faults; return the line."""
    with SerialLine(board.port, 115200) as port:
        line = FaultyLine(port, rate, np.random.default_rng(1))
        session = Session(line, timeout=timeout)
        for sent, answer in zip(packets, session.exchange(packets), strict=True):
            assert answer == sent
        return line, session


def test_faults(echo):
    rng = np.random.default_rng(2)
    packets = [rng.bytes(8 * int(n)) for n in rng.integers(1, 100, 12)]
    line, _ = spoil(echo, 1e-3, packets)
    assert line.faults > 5


@pytest.mark.slow
def test_soak():
    """10 MB of echo, with thousands of damaged frames.

    ``pytest tests/boards/test_virtual.py -m slow -k soak -s``, some 10 minutes of an idle processor.
    """
    rng = np.random.default_rng(3)
    packets = [rng.bytes(8 * int(n)) for n in rng.integers(1, 5000, 500)]
    with board_of(EchoCore) as board:
        start = time.monotonic()
        line, session = spoil(board, 1e-4, packets)
        seconds = time.monotonic() - start
        total = sum(map(len, packets))
        print(f"{total:,} bytes, {line.faults:,} faults, {board.cycles:,} cycles, {seconds:.0f} s")
        print(session.statistics)
    assert total > 9_500_000
    assert line.faults > 2000


@pytest.mark.slow
def test_soak_of_a_network():
    """Samples with faults on the line, each equal to the golden model."""
    network = load_network(EXAMPLES / "digits_int8.onnx")
    inputs = np.asarray(network.encode(np.load(EXAMPLES / "digits_x.npy")), np.int64)
    with board_of(BoardCore) as board, SerialLine(board.port, 115200) as port:
        line = FaultyLine(port, 3e-4, np.random.default_rng(4))
        found = Accelerator(line, CONFIG, timeout=20).run(network, inputs)
    assert (found.outputs == run_network(network, inputs)[network.output]).all()
    assert line.faults > 20


def test_the_port_goes_with_the_board():
    with board_of(EchoCore) as board:
        line = SerialLine(board.port, 115200)
        session = Session(line, timeout=1)
        answers = session.exchange(bytes(800) for _ in range(100))
        next(answers)
    with pytest.raises(UserError, match=r"must (stay connected|answer within)"):
        list(answers)
    line.close()


def test_serve_simulates_a_build_from_its_pins(tmp_path):
    """The board's own top, pads and PLL; it ends cleanly when it is told to."""
    board = find_board("icebreaker")
    core = EchoCore(CONFIG, divisor=4, timeout=TIMEOUT)
    top = make_top(
        board, choose_setting(board.family, board.clock_hz, board.clock_hz), core.definition
    )
    (tmp_path / "core.v").write_text(emit_verilog(core))
    (tmp_path / "top.v").write_text(top.verilog)
    (tmp_path / "icebreaker.bin").write_bytes(b"")
    description = {
        "board": "icebreaker", "bitstream": "icebreaker.bin", "pins": top.pins, "divisor": 4,
    }  # fmt: skip
    (tmp_path / "board.json").write_text(json.dumps(description))
    script = "import sys, pathlib, boards.virtual as v; v.serve(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        port = process.stdout.readline().strip()
        with SerialLine(port, 115200) as line:
            packets = [bytes([n]) * 80 for n in range(3)]
            assert list(Session(line).exchange(packets)) == packets
        process.terminate()
        assert process.stdout.read().endswith(" cycles\n")
    assert process.returncode == 0


def test_verilog_that_does_not_compile_is_a_sentence():
    with pytest.raises(UserError, match="verilator_bin failed with exit status 1"):
        VirtualBoard(["module top(input clk, rst, rx, output tx, busy); oops"], "top", divisor=4)
