"""The driver: right answers, and a sentence for whatever can be wrong."""

import os
import sys
import threading
import tty
from dataclasses import replace

import numpy as np
import pytest

from boards.host import Accelerator, SerialLine, SpiLine
from boards.link.core import BoardCore
from boards.link.frames import LINK_VERSION, Identification, Kind, RequestDecoder, Response
from boards.link.session import Line
from boards.link.testing import LockstepLine
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.compiler.compile import Compiled, compile_network
from hwgen.errors import UserError
from hwgen.verilog import emit_verilog
from testbench.compiled import CompiledModel
from testbench.golden_network import run_network
from testbench.random_networks import random_network

OPTIONS = {"pe": "int8", "rows": 2, "cols": 2, "activation_buffer": 8192, "weight_buffer": 8192}
CONFIG = AcceleratorConfig.from_options(OPTIONS)
OTHER = AcceleratorConfig.from_options({**OPTIONS, "rows": 3})


@pytest.fixture(scope="module")
def verilog():
    core = BoardCore(CONFIG, divisor=4, clock_hz=1e6, board="sim", options=OPTIONS)
    return emit_verilog(core), core.definition


@pytest.fixture
def line(verilog):
    return LockstepLine(CompiledModel(*verilog), 4, 1e6)


def sample_of(network, rng, samples):
    tensor = network.tensors[network.input]
    return rng.integers(tensor.low, tensor.high + 1, (samples, *tensor.shape))


# ---- answers ---------------------------------------------------------------------------------


def test_networks_equal_the_golden_model(line):
    """A network, compiled and not; the board says which configuration it holds."""
    rng = np.random.default_rng(1)
    done = []
    with Accelerator(line) as board:
        assert board.config == CONFIG
        for _ in range(3):
            network = random_network(CONFIG, rng, size=4)
            inputs = sample_of(network, rng, 3)
            expected = run_network(network, inputs)[network.output]
            for form in (network, compile_network(network, CONFIG)):
                found = board.run(form, inputs, progress=done.append)
                assert (found.outputs == expected).all()
                assert len(found.cycles) == 3
    assert done == [1, 2, 3] * 6
    assert board.session.statistics.timeouts == board.session.statistics.rewinds == 0


def test_execute_returns_the_closing_beat(line):
    network = random_network(CONFIG, np.random.default_rng(2), size=3)
    sample = sample_of(network, np.random.default_rng(3), 1)[0]
    program = compile_network(network, CONFIG).program(sample)
    board = Accelerator(line)
    answer = board.execute(program.beats())
    assert program.read_answer(answer).status == 0
    assert board.execute(b"\xff" * 8)[-1, 7] == 1  # an illegal command


# ---- errors ----------------------------------------------------------------------------------


class Script(Line):
    """A device that answers each request as a function says, in a time that it keeps itself."""

    def __init__(self, answer):
        self.answer = answer
        self.heard = b""
        self.time = 0.0

    def now(self):
        return self.time

    def write(self, data):
        self.heard += self.answer(data)

    def read(self, seconds):
        heard, self.heard = self.heard, b""
        self.time += 0 if heard else max(seconds, 1e-3)
        return heard

    def close(self):
        pass


def refused(answer, *arguments):
    with pytest.raises(UserError) as caught:
        Accelerator(Script(answer), *arguments, timeout=2, name="COM1")
    return str(caught.value)


def hello(payload):
    """Answer HELLOs with a payload, everything else with a STATUS."""
    decoder = RequestDecoder()

    def answer(data):
        return b"".join(
            Response(Kind.HELLO, payload=payload).encode()
            if request.kind == Kind.HELLO
            else Response(Kind.STATUS, request.session).encode()
            for request in decoder.decode(data)
        )

    return answer


ABOUT = Identification(bytes.fromhex(CONFIG.digest)[:16], 64, options=OPTIONS).encode()


def test_nobody_answers():
    assert refused(lambda _: b"") == (
        "port must have a board with an accelerator of hwgen, not COM1: no answer within 2 s; check "
        "the port, the baud rate and that the bitstream is loaded"
    )


@pytest.mark.parametrize("answer", [lambda _: b"OK\r\n", lambda data: data], ids=["text", "echo"])
def test_a_foreign_device_answers(answer):
    assert "bytes, none of them a frame within 2 s" in refused(answer)


def test_another_kind_of_board_answers():
    assert refused(hello(b"another")) == (
        "port must be a board of this hwgen, not COM1 (identification must begin with b'hwgn', not "
        "b'anot'): load a bitstream that this version has built"
    )


def test_another_version_of_the_link():
    newer = ABOUT[:4] + bytes([LINK_VERSION + 1]) + ABOUT[5:]
    assert f"(link version must be {LINK_VERSION}, not {LINK_VERSION + 1})" in refused(hello(newer))


def test_another_configuration():
    text = refused(hello(ABOUT), OTHER)
    assert text == (
        f"board must hold the configuration {OTHER.digest[:32]} ('int8'), not {CONFIG.digest[:32]} "
        "(pe int8, rows 2, cols 2, activation_buffer 8192, weight_buffer 8192): build the bitstream "
        "with the program's options (`hwgen build`) and load it, or compile for the board's"
    )
    network = random_network(OTHER, np.random.default_rng(4), size=3)
    board = Accelerator(Script(hello(ABOUT)))
    with pytest.raises(UserError, match="board must hold the configuration"):
        board.run(compile_network(network, OTHER), sample_of(network, np.random.default_rng(5), 1))


def test_a_board_that_does_not_say_what_it_holds():
    about = Identification(bytes.fromhex(CONFIG.digest)[:16], 64).encode()
    board = Accelerator(Script(hello(about)))
    network = random_network(CONFIG, np.random.default_rng(6), size=3)
    with pytest.raises(UserError, match="config must be given: this board does not say"):
        board.run(network, [])
    assert "(it does not say what)" in refused(hello(about), OTHER)


def test_a_board_that_falls_silent():
    answer = hello(ABOUT)
    line = Script(answer)
    board = Accelerator(line, timeout=2, name="COM1")
    line.answer = lambda _: b""
    with pytest.raises(UserError) as caught:
        board.execute(bytes(8))
    assert str(caught.value) == (
        "board at COM1 must answer within 2 s, it does no more: check cable and power, and open it "
        "again"
    )


class Broken(Compiled):
    """A program whose first command is none."""

    def program(self, inputs, **options):
        program = super().program(inputs, **options)
        beats = program.beats()
        beats[0, 7] = 0xFF
        return replace_beats(program, beats)


def replace_beats(program, beats):
    class Changed(type(program)):
        def beats(self):
            return beats

    return Changed(program.config, program.commands)


def test_a_status_of_the_accelerator(line):
    network = random_network(CONFIG, np.random.default_rng(7), size=3)
    compiled = compile_network(network, CONFIG)
    broken = Broken(**{name: getattr(compiled, name) for name in Compiled.__dataclass_fields__})
    with pytest.raises(
        UserError, match=r"sample 0 must end with status 0 \(OK\), not 1 \(ILLEGAL_"
    ):
        Accelerator(line).run(broken, sample_of(network, np.random.default_rng(8), 2))


def test_inputs_are_of_the_network(line):
    network = random_network(CONFIG, np.random.default_rng(9), size=3)
    shape = network.tensors[network.input].shape
    with pytest.raises(ValueError, match="1000"):
        Accelerator(line).run(network, np.full((1, *shape), 1000))


# ---- ports -----------------------------------------------------------------------------------


@pytest.fixture
def terminal():
    """Return the master of a pseudo-terminal, and the path of its port."""
    master, slave = os.openpty()
    tty.setraw(slave)
    yield master, os.ttyname(slave)
    os.close(slave)
    os.close(master)


def test_pyserial_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(UserError) as caught:
        Accelerator.open("/dev/ttyUSB0")
    assert str(caught.value) == (
        "pyserial must be installed to talk to a board: pip install 'hwgen[boards]'"
    )


def test_there_is_no_such_port():
    with pytest.raises(UserError) as caught:
        Accelerator.open("/dev/ttyNone")
    assert str(caught.value) == (
        "port must be a serial port of this machine, there is no /dev/ttyNone: connect the board"
    )


def test_the_port_is_no_serial_port(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="port must be a serial port, not "):
        Accelerator.open(str(tmp_path / "file"))


def test_the_port_is_in_use(terminal):
    port = terminal[1]
    line = SerialLine(port, 115200)
    with pytest.raises(UserError) as caught:
        Accelerator.open(port)
    assert str(caught.value) == (
        f"port {port} must be free, another program has it open: close that"
    )
    line.close()
    SerialLine(port, 115200).close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_the_port_may_not_be_used(tmp_path):
    (tmp_path / "port").write_text("")
    (tmp_path / "port").chmod(0)
    with pytest.raises(UserError, match=r"must be readable and writable: add yourself .*dialout"):
        Accelerator.open(str(tmp_path / "port"))


def test_no_board_behind_the_port(terminal):
    with pytest.raises(UserError, match=f"not {terminal[1]}: no answer within 0.2 s"):
        Accelerator.open(terminal[1], timeout=0.2)


def test_the_port_disappears():
    master, slave = os.openpty()
    tty.setraw(slave)
    port = os.ttyname(slave)
    os.close(slave)
    answer = hello(ABOUT)

    def serve():
        while True:
            data = os.read(master, 4096)
            if replies := answer(data):
                os.write(master, replies)
            if data[1] & 7 == Kind.WRITE:
                os.close(master)
                return

    thread = threading.Thread(target=serve)
    with SerialLine(port, 115200) as line:
        thread.start()
        board = Accelerator(line, name=port)
        with pytest.raises(UserError, match=rf"port {port} must stay connected, it is gone \("):
            board.execute(bytes(8))
        thread.join()


def test_spi_device_disappears():
    class Gone:
        def xfer2(self, _):
            raise OSError("no such device")

        def close(self):
            pass

    with pytest.raises(UserError, match=r"SPI device must stay connected, it is gone \(no such"):
        Accelerator(SpiLine(Gone()))


@pytest.mark.parametrize(
    ("port", "sentence"),
    [
        ("spi:0", r"port must be spi:BUS.DEVICE or spi:BUS.DEVICE:HZ, not spi:0$"),
        ("spi:0.99", r"spidev must be installed|must be an SPI controller of this machine"),
    ],
)
def test_spi_port_that_is_none(port, sentence):
    with pytest.raises(UserError, match=sentence):
        Accelerator.open(port)


def test_digest_is_of_the_whole_configuration():
    assert replace(CONFIG, weight_buffer=4096).digest[:32] != CONFIG.digest[:32]
