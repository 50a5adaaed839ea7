"""The core of a board: accelerator and host link between a line's few wires."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Module, ResetSignal, Signal
from amaranth.lib.wiring import In, Out

from hwgen.accelerator.accelerator import Accelerator
from hwgen.accelerator.config import AcceleratorConfig
from pe_library.checks import check_choice, check_integer
from pe_library.shared import SharedComponent

from .frames import Identification
from .link import Link
from .spi import SpiPeripheral
from .uart import UartReceiver, UartTransmitter

__all__ = ["BoardCore"]

#: Seconds after which the rest of a frame is not waited for.
FRAME_TIMEOUT = 0.02


class BoardCore(SharedComponent):
    """An accelerator that is driven by frames (``frames.py``) over a UART or SPI.

    A RESET of the link resets the accelerator, whatever it is doing. ``rst`` must be held for a
    cycle after power-up.

    Parameters
    ----------
    config : AcceleratorConfig
    transport : str
        ``"uart"`` or ``"spi"``.
    divisor : int
        Cycles of a UART's bit, 4 to 65536; no matter to SPI.
    clock_hz : float
        Frequency of ``clk``, 10 kHz to 1 GHz.
    board : str
        Name that the board gives to a host, up to 24 ASCII characters.
    options : mapping, optional
        The plain options that ``config`` was made of, so that a host need not be told.
    receive_ring, transmit_ring : int
        Bytes of the link's buffers for programs and answers, 512 to 16384, powers of two.
    timeout : int, optional
        Cycles after which the rest of a frame is not waited for, 16 to 2**30, rounded up to a power
        of two; else those of 20 ms.

    Members
    -------
    rx : In(1), tx : Out(1)
        With ``transport="uart"``.
    sck, mosi, cs : In(1), miso : Out(1)
        With ``transport="spi"``.
    busy, error : Out(1)
        For lamps: a program is going on; the last one ended with an error.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        transport: Literal["uart", "spi"] = "uart",
        *,
        divisor: int = 12,
        clock_hz: float = 12e6,
        board: str = "",
        options: Mapping[str, Any] | None = None,
        receive_ring: int = 1024,
        transmit_ring: int = 1024,
        timeout: int | None = None,
    ) -> None:
        check_choice("transport", transport, ("uart", "spi"))
        check_integer("clock_hz", round(clock_hz), 10_000, 1_000_000_000)
        self.config = config
        self.transport = transport
        self.divisor = divisor
        self.timeout = int(FRAME_TIMEOUT * clock_hz) if timeout is None else timeout
        self.identification = Identification(
            bytes.fromhex(config.digest)[:16], config.stream_bits, receive_ring, transmit_ring,
            round(clock_hz), board, options or {},
        )  # fmt: skip
        line = {"rx": In(1), "tx": Out(1)}
        if transport == "spi":
            line = {"sck": In(1), "mosi": In(1), "cs": In(1), "miso": Out(1)}
        super().__init__({**line, "busy": Out(1), "error": Out(1)})

    @property
    def definition(self) -> str:
        return f"{self.config.name}_core"

    def body(self) -> Module:
        m = Module()
        m.submodules.link = link = Link(self.identification, self.timeout)
        if self.transport == "uart":
            m.submodules.receiver = receiver = UartReceiver(self.divisor)
            m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
            from_host, to_host = receiver.o, transmitter.i
            m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx)]
        else:
            m.submodules.spi = spi = SpiPeripheral()
            from_host, to_host = spi.o, spi.i
            m.d.comb += [
                spi.sck.eq(self.sck),
                spi.mosi.eq(self.mosi),
                spi.cs.eq(self.cs),
                self.miso.eq(spi.miso),
            ]
        m.d.comb += [
            link.i.valid.eq(from_host.valid),
            link.i.payload.eq(from_host.payload),
            from_host.ready.eq(link.i.ready),
            to_host.valid.eq(link.o.valid),
            to_host.payload.eq(link.o.payload),
            link.o.ready.eq(to_host.ready),
        ]

        self._engine(m, link)
        return m

    def _engine(self, m: Module, link: Link) -> None:
        """Put the accelerator behind the link."""
        # The accelerator has a reset of its own, and a name that is not that of its array.
        m.domains.engine = ClockDomain("engine", local=True)
        # From a register, as its way to all of the accelerator is long; nothing passes meanwhile.
        reset = Signal(reset_less=True)
        m.d.sync += reset.eq(ResetSignal() | link.clear)
        m.d.comb += [
            ClockSignal("engine").eq(ClockSignal()),
            ResetSignal("engine").eq(reset),
        ]
        renamed = replace(self.config, array=replace(self.config.array, name="accelerator"))
        accelerator = Accelerator(renamed)
        m.submodules.accelerator = DomainRenamer("engine")(accelerator)
        m.d.comb += [
            accelerator.i.valid.eq(link.program.valid & ~reset),
            accelerator.i.payload.eq(link.program.payload),
            link.program.ready.eq(accelerator.i.ready & ~reset),
            link.answer.valid.eq(accelerator.o.valid & ~reset),
            link.answer.payload.eq(accelerator.o.payload),
            accelerator.o.ready.eq(link.answer.ready),
            self.busy.eq(~accelerator.idle),
            self.error.eq(accelerator.status != 0),
        ]
