"""The bench of an accelerator on AXI: programs, registers, damaged programs and soft resets.

Runs in a simulator's process; :mod:`testbench.cocotb_lane` starts it. Both ends of every channel
are cocotbext-axi's, with random pauses. The host has made the programs and reads the answers.

Parameters: ``programs``, a file with the valid programs (``program_0`` and so on, bytes) and the
damaged ones (``damaged_0`` and so on); ``statuses``, how those must end; ``answers``, the folder in
which the answers to valid programs are left; ``registers``, offset by name; ``constants``, value by
name, of registers that hold always the same; ``aborted``, the status after a soft reset.
"""

import functools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import (
    AxiLiteBus,
    AxiLiteMaster,
    AxiResp,
    AxiStreamBus,
    AxiStreamFrame,
    AxiStreamSink,
    AxiStreamSource,
)
from cocotbext.axi.axil_channels import AxiLiteAWTransaction, AxiLiteWTransaction

from testbench.streams import PERIOD, bench_parameters


@functools.cache
def parameters() -> dict[str, Any]:
    """Return what the host asked for."""
    return bench_parameters()


@functools.cache
def packets(kind: str) -> list[bytes]:
    """Return the programs of a kind."""
    with np.load(parameters()["programs"]) as file:
        names = sorted(name for name in file if name.startswith(kind))
        return [file[name].tobytes() for name in names]


def pauses(rng: random.Random, share: float) -> Iterator[bool]:
    """Pause in a share of the cycles, in bursts of up to 8."""
    while True:
        pause = rng.random() < share
        for _ in range(rng.randint(1, 8)):
            yield pause


async def watch(dut: Any, valid: str, *payload: str) -> None:
    """Check that what is offered on an output channel stays until it is taken."""
    ready, edge = valid.replace("valid", "ready"), RisingEdge(dut.clk)
    held = None
    while True:
        await edge
        seen = [str(dut[name].value) for name in payload] if str(dut[valid].value) == "1" else None
        assert held is None or seen == held, f"{valid}: {held} became {seen} before it was taken"
        held = None if str(dut[ready].value) == "1" or str(dut.rst.value) == "1" else seen


class Host:
    """What drives the accelerator.

    Parameters
    ----------
    dut : cocotb handle
        The accelerator.
    idle : float
        Share of the cycles in which each channel pauses.
    """

    def __init__(self, dut: Any, idle: float) -> None:
        self.dut = dut
        self.random = random.Random(cocotb.RANDOM_SEED)
        self.source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), dut.clk, dut.rst)
        self.sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis"), dut.clk, dut.rst)
        self.lite = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        self.write_channels = (self.lite.write_if.aw_channel, self.lite.write_if.w_channel)
        if idle:
            for channel in (self.source, self.sink, *self.write_channels,
                            self.lite.write_if.b_channel, self.lite.read_if.ar_channel,
                            self.lite.read_if.r_channel):  # fmt: skip
                rng = random.Random(self.random.random())
                channel.set_pause_generator(pauses(rng, idle))

    @classmethod
    async def start(cls, dut: Any, idle: float = 0.0) -> "Host":
        """Start the clock and the checks, and reset."""
        Clock(dut.clk, PERIOD, "ns").start()
        host = cls(dut, idle)
        dut.rst.value = 1
        await ClockCycles(dut.clk, 3)
        dut.rst.value = 0
        await ClockCycles(dut.clk, 1)
        for channel in (
            ("m_axis_tvalid", "m_axis_tdata", "m_axis_tlast", "m_axis_tkeep"),
            ("s_axil_bvalid", "s_axil_bresp"),
            ("s_axil_rvalid", "s_axil_rdata", "s_axil_rresp"),
        ):
            cocotb.start_soon(watch(dut, *channel))
        return host

    async def read(self, name: str) -> int:
        """Return a register."""
        found = await self.lite.read(parameters()["registers"][name], 4)
        assert found.resp == AxiResp.OKAY, f"{name}: {found.resp}"
        return int.from_bytes(found.data, "little")

    async def write(self, name: str, data: bytes, offset: int = 0) -> AxiResp:
        """Write some bytes of a register; return the response."""
        found = await self.lite.write(parameters()["registers"][name] + offset, data)
        return found.resp

    async def write_strobed(self, name: str, data: int, strobe: int) -> AxiResp:
        """Write a register with any data in the bytes that are not to be written."""
        channels = self.lite.write_if
        address = parameters()["registers"][name]
        await channels.aw_channel.send(AxiLiteAWTransaction(awaddr=address))
        await channels.w_channel.send(AxiLiteWTransaction(wdata=data, wstrb=strobe))
        return AxiResp((await channels.b_channel.recv()).bresp)

    async def cycles(self) -> int:
        """Return the cycles, read low word first."""
        low = await self.read("cycles_0")
        return low | await self.read("cycles_1") << 32

    async def send(self, packet: bytes) -> None:
        """Queue a packet; ``tkeep`` is random, since nothing may depend on it."""
        keep = [self.random.getrandbits(1) for _ in packet]
        await self.source.send(AxiStreamFrame(packet, tkeep=keep))

    async def receive(self) -> tuple[bytes, int, int]:
        """Return an answer, its status and its cycles."""
        frame = await self.sink.recv(compact=False)
        assert all(frame.tkeep), "tkeep must be all ones"
        answer = bytes(frame.tdata)
        beat = self.source.width // 8
        closing = int.from_bytes(answer[-beat:], "little")
        assert closing >> 64 == 0
        return answer, closing >> 56, closing & ((1 << 56) - 1)

    async def check_idle(self, programs: int, errors: int, status: int) -> None:
        """Check the registers that count while nothing is going on."""
        assert await self.read("idle") == 1
        assert await self.read("programs") == programs
        assert await self.read("errors") == errors
        assert await self.read("status") == status


def keep_answer(test: str, number: int, answer: bytes) -> None:
    """Leave an answer for the host to compare."""
    (Path(parameters()["answers"]) / f"{test}-{number}").write_bytes(answer)


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(idle=[0.0, 0.5])
async def programs_in_a_row(dut: Any, idle: float) -> None:
    """Queue all programs at once; answers come in order, and registers tell of the last."""
    host = await Host.start(dut, idle)
    await host.check_idle(0, 0, 0)
    valid = packets("program")
    for packet in valid:
        await host.send(packet)
    cycles = 0
    for i in range(len(valid)):
        answer, status, cycles = await host.receive()
        assert status == 0
        keep_answer(f"row-{idle}", i, answer)
    await host.check_idle(len(valid), 0, 0)
    assert await host.cycles() == cycles


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(idle=[0.0, 0.5])
async def damaged_programs(dut: Any, idle: float) -> None:
    """Damaged programs end with their status, and the next is right."""
    host = await Host.start(dut, idle)
    valid, programs = packets("program"), 0
    for i, (packet, wanted) in enumerate(
        zip(packets("damaged"), parameters()["statuses"], strict=True)
    ):
        await host.send(packet)
        _, status, cycles = await host.receive()
        assert status == wanted
        await host.check_idle(programs + 1, i + 1, wanted)
        assert await host.cycles() == cycles
        await host.send(valid[i % len(valid)])
        answer, status, _ = await host.receive()
        assert status == 0
        keep_answer(f"damaged-{idle}", i % len(valid), answer)
        programs += 2
        await host.check_idle(programs, i + 1, 0)


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(idle=[0.0, 0.6])
async def registers(dut: Any, idle: float) -> None:
    """Read and write everything, in any order of addresses and data."""
    host = await Host.start(dut, idle)
    offsets, constants = parameters()["registers"], parameters()["constants"]
    for _ in range(2):
        for name, value in constants.items():
            assert await host.read(name) == value, name
    end = max(offsets.values()) + 4
    for address in (end, end + 4, 0x100, 0x800, 0xFFC):
        assert (await host.lite.read(address, 4)).resp == AxiResp.SLVERR, hex(address)
        assert (await host.lite.write(address, bytes(4))).resp == AxiResp.SLVERR, hex(address)
    for name in offsets:
        wanted = AxiResp.OKAY if name == "reset" else AxiResp.SLVERR
        assert await host.write(name, b"\xff\xff\xff\xff") == wanted, name
        assert await host.write(name, b"\xff", 2) == wanted, name
    assert await host.read("reset") == 0
    # Address long before data, and the other way round; several writes under way.
    for first, second in (host.write_channels, host.write_channels[::-1]):
        for channel in (first, second):
            channel.clear_pause_generator()
            channel.pause = False
        second.pause = True
        writes = [
            host.lite.init_write(address, bytes(4))
            for address in (offsets["reset"], 0x800, offsets["reset"], offsets["idle"])
        ]
        await ClockCycles(dut.clk, 20)
        assert not writes[0].is_set()
        second.pause = False
        found = []
        for event in writes:
            await event.wait()
            found.append(event.data.resp)
        assert found == [AxiResp.OKAY, AxiResp.SLVERR, AxiResp.OKAY, AxiResp.SLVERR]
    # Several reads under way, and nobody takes their data at first.
    host.lite.read_if.r_channel.clear_pause_generator()
    host.lite.read_if.r_channel.pause = True
    reads = [(value, host.lite.init_read(offsets[name], 4)) for name, value in constants.items()]
    await ClockCycles(dut.clk, 20)
    host.lite.read_if.r_channel.pause = False
    for value, event in reads:
        await event.wait()
        assert int.from_bytes(event.data.data, "little") == value
    await host.check_idle(0, 0, 0)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def cycles_while_running(dut: Any) -> None:
    """Cycles go up while a program is going on, and stay when it has ended."""
    host = await Host.start(dut)
    packet = packets("program")[0]
    await host.send(packet)
    await ClockCycles(dut.clk, 10)
    # The reset is written by a 1 in its lowest byte, and by nothing else.
    for data, strobe in ((0xFFFFFFFF, 0b1110), (0xFFFFFFFE, 0b1111)):
        assert await host.write_strobed("reset", data, strobe) == AxiResp.OKAY
    before = await host.cycles()
    for _ in range(10):
        assert await host.read("idle") == 0
        now = await host.cycles()
        assert before < now
        before = now
    *_, cycles = await host.receive()
    assert await host.cycles() == cycles
    await ClockCycles(dut.clk, 20)
    assert await host.cycles() == cycles
    # A reset while nothing is going on changes nothing but that count.
    assert await host.write("reset", b"\x01") == AxiResp.OKAY
    await host.check_idle(1, 0, 0)
    assert await host.cycles() == 0


@cocotb.test(timeout_time=1, timeout_unit="ms", skip="Icarus" not in cocotb.SIM_NAME)
async def cycles_beyond_32_bits(dut: Any) -> None:
    """Read the high word of the moment in which the low one was read."""
    host = await Host.start(dut)
    await host.send(packets("program")[0])
    await ClockCycles(dut.clk, 10)
    counter = dut.accelerator.sequencer.cycles
    counter.value = 0x12_FFFF_FFF0
    await ClockCycles(dut.clk, 2)
    assert await host.read("cycles_0") >= 0xFFFFFFF0
    await ClockCycles(dut.clk, 20)
    assert await host.read("cycles_1") == 0x12
    assert await host.read("cycles_0") < 0x1000
    assert await host.read("cycles_1") == 0x13


@cocotb.test(timeout_time=3, timeout_unit="ms")
@cocotb.parametrize(idle=[0.0, 0.4])
async def soft_reset(dut: Any, idle: float) -> None:
    """Reset at any time: each program gets one answer, and the next is right."""
    host = await Host.start(dut, idle)
    rng, valid = host.random, packets("program")
    programs = errors = 0
    for trial in range(12):
        packet = valid[trial % len(valid)]
        beats = len(packet) * 8 // host.source.width
        await host.send(packet)
        if trial % 3 == 1:  # the next one waits already
            await host.send(packet)
        # While it comes, runs, or answers; now and then with an answer that nobody takes.
        blocked = trial % 4 == 3
        if blocked:
            host.sink.clear_pause_generator()
            host.sink.pause = True
        await ClockCycles(dut.clk, rng.choice((1, 3, rng.randrange(beats), 3 * beats)))
        await ClockCycles(dut.clk, rng.randrange(1, 8))
        for _ in range(rng.choice((1, 1, 2))):
            assert await host.write("reset", b"\x01") == AxiResp.OKAY
        if blocked:
            await ClockCycles(dut.clk, 20)
            host.sink.pause = False
            if idle:
                host.sink.set_pause_generator(pauses(random.Random(rng.random()), idle))
        await host.send(packet)
        for last in (False, True) if trial % 3 != 1 else (False, False, True):
            answer, status, cycles = await host.receive()
            programs += 1
            if status:
                assert (status, cycles) == (parameters()["aborted"], 0)
                assert not last, "the program after the reset was ended, too"
                errors += 1
            elif last:
                keep_answer(f"reset-{idle}", trial % len(valid), answer)
        await host.check_idle(programs, errors, 0)
    assert 4 <= errors < programs
    await ClockCycles(dut.clk, 100)
    assert host.sink.empty()
