"""The accelerator on AXI: two AXI4-Streams for programs and answers, an AXI4-Lite for registers."""

from dataclasses import dataclass

from amaranth.hdl import (
    Cat,
    ClockDomain,
    ClockSignal,
    Const,
    DomainRenamer,
    Module,
    ResetSignal,
    Signal,
    Value,
)
from amaranth.lib.wiring import In, Out

from pe_library.shared import SharedComponent

from .accelerator import Accelerator
from .commands import Status
from .config import AcceleratorConfig

__all__ = ["IDENTIFICATION", "MAP_VERSION", "REGISTERS", "AxiAccelerator", "Register"]

#: What the register ``identification`` holds: in memory, the letters "hwgn".
IDENTIFICATION = int.from_bytes(b"hwgn", "little")
#: Version of the register map.
MAP_VERSION = 1
#: Width of addresses of the AXI4-Lite.
ADDRESS_BITS = 12
#: AXI4-Lite responses.
OKAY, SLVERR = 0, 2


@dataclass(frozen=True)
class Register:
    """A register of the AXI4-Lite, 32 bits.

    Attributes
    ----------
    name : str
    offset : int
        Address in bytes.
    access : str
        ``"read"`` or ``"write"``; a write register reads as 0.
    meaning : str
        A sentence for the documentation.
    """

    name: str
    offset: int
    access: str
    meaning: str


#: The register map.
REGISTERS = (
    Register("identification", 0x00, "read", "The letters hwgn: 0x6E677768."),
    Register("map_version", 0x04, "read", "Version of this register map: 1."),
    Register("configuration_0", 0x08, "read", "First 32 bits of the configuration's SHA-256."),
    Register("configuration_1", 0x0C, "read", "The 32 bits behind them."),
    Register("status", 0x10, "read", "Status of the last program that ended; 0 is success."),
    Register("idle", 0x14, "read", "Bit 0: no program is going on; its answer is on its way."),
    Register(
        "cycles_0",
        0x18,
        "read",
        "Cycles of the present program so far, or of the last: low 32 bits. Reading them latches "
        "the high ones.",
    ),
    Register("cycles_1", 0x1C, "read", "The high 32 bits, as they were when cycles_0 was read."),
    Register("programs", 0x20, "read", "Programs that ended, modulo 2**32."),
    Register("errors", 0x24, "read", "Those of them that ended with an error."),
    Register(
        "reset",
        0x28,
        "write",
        "Writing 1 ends the program that is going on, if any: the rest of its packet is taken and "
        "dropped, and its answer ends with a closing beat of status 6 and 0 cycles. The counters "
        "stay.",
    ),
)


class _Inner(Accelerator):
    """The accelerator under a name that is not that of its array."""

    @property
    def definition(self) -> str:
        return "accelerator"


class AxiAccelerator(SharedComponent):
    """An accelerator between AXI4-Streams, with an AXI4-Lite for control and status.

    The streams carry what those of the :class:`Accelerator` do, a register in each direction: no
    output depends on an input of the same cycle. Every program gets one answer, even if a soft
    reset ends it; the next program is taken when the answer of the one before is on its way. All
    answers of the AXI4-Lite come within 2 cycles of what they answer; one read at a time. ``rst``
    must be held for a cycle after power-up.

    Parameters
    ----------
    config : AcceleratorConfig
        The configuration.

    Members
    -------
    s_axis_{tdata, tvalid, tready, tlast, tkeep}
        Programs. Beats are whole: ``tkeep`` is ignored.
    m_axis_{tdata, tvalid, tready, tlast, tkeep}
        Answers; ``tkeep`` is all ones.
    s_axil_*
        Registers (:data:`REGISTERS`), 32 bits, at 12 address bits, the lowest two ignored. Other
        addresses, and writes to what can only be read, are answered with SLVERR. Address and data
        of a write may come in any order.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        bits = config.stream_bits
        super().__init__(
            {
                "s_axis_tdata": In(bits),
                "s_axis_tvalid": In(1),
                "s_axis_tready": Out(1),
                "s_axis_tlast": In(1),
                "s_axis_tkeep": In(bits // 8),
                "m_axis_tdata": Out(bits),
                "m_axis_tvalid": Out(1),
                "m_axis_tready": In(1),
                "m_axis_tlast": Out(1),
                "m_axis_tkeep": Out(bits // 8),
                "s_axil_awaddr": In(ADDRESS_BITS),
                "s_axil_awprot": In(3),
                "s_axil_awvalid": In(1),
                "s_axil_awready": Out(1),
                "s_axil_wdata": In(32),
                "s_axil_wstrb": In(4),
                "s_axil_wvalid": In(1),
                "s_axil_wready": Out(1),
                "s_axil_bresp": Out(2),
                "s_axil_bvalid": Out(1),
                "s_axil_bready": In(1),
                "s_axil_araddr": In(ADDRESS_BITS),
                "s_axil_arprot": In(3),
                "s_axil_arvalid": In(1),
                "s_axil_arready": Out(1),
                "s_axil_rdata": Out(32),
                "s_axil_rresp": Out(2),
                "s_axil_rvalid": Out(1),
                "s_axil_rready": In(1),
            }
        )

    @property
    def definition(self) -> str:
        return f"{self.config.name}_axi"

    def body(self) -> Module:
        m = Module()
        clear = Signal()  # the soft reset, for one cycle
        # The accelerator has a reset of its own.
        m.domains.engine = ClockDomain("engine", local=True)
        accelerator = _Inner(self.config)
        m.submodules.accelerator = DomainRenamer("engine")(accelerator)
        m.d.comb += [
            ClockSignal("engine").eq(ClockSignal()),
            ResetSignal("engine").eq(ResetSignal() | clear),
        ]

        status = Signal(8)
        programs = Signal(32)
        errors = Signal(32)
        begun = self._streams(m, accelerator, clear, status, programs, errors)

        latched = Signal(32)
        cycles = accelerator.cycles
        digest = self.config.digest
        values: dict[str, Value | int] = {
            "identification": IDENTIFICATION,
            "map_version": MAP_VERSION,
            "configuration_0": int(digest[:8], 16),
            "configuration_1": int(digest[8:16], 16),
            "status": status,
            "idle": ~begun,
            "cycles_0": cycles[:32],
            "cycles_1": latched,
            "programs": programs,
            "errors": errors,
        }
        self._reads(m, values, latched, cycles[32:])
        self._writes(m, clear)
        return m

    def _streams(
        self,
        m: Module,
        accelerator: Accelerator,
        clear: Signal,
        status: Signal,
        programs: Signal,
        errors: Signal,
    ) -> Signal:
        """Connect the streams; return whether a program is going on."""
        begun = Signal()  # the first beat of a program was taken, and its answer is not closed
        ended = Signal()  # its last beat was taken
        dropped = Signal()  # a soft reset ended it
        held = Signal()  # a beat waits for the accelerator
        room = Signal()
        closing = Signal()
        beat = accelerator.i.payload
        data = Signal(self.config.stream_bits)
        last = Signal()
        m.d.comb += [
            self.s_axis_tready.eq(~clear & ~ended & (dropped | ~held | accelerator.i.ready)),
            accelerator.i.valid.eq(held),
            beat.data.eq(data),
            beat.last.eq(last),
            self.m_axis_tkeep.eq(-1),
            room.eq(~self.m_axis_tvalid | self.m_axis_tready),
            accelerator.o.ready.eq(room),
        ]
        with m.If(accelerator.i.ready):
            m.d.sync += held.eq(0)
        with m.If(self.s_axis_tvalid & self.s_axis_tready):
            m.d.sync += [
                held.eq(~dropped), data.eq(self.s_axis_tdata), last.eq(self.s_axis_tlast),
                begun.eq(1), ended.eq(self.s_axis_tlast),
            ]  # fmt: skip

        answer = Signal.like(accelerator.o.payload)
        offered = Signal()
        m.d.comb += [offered.eq(accelerator.o.valid), answer.eq(accelerator.o.payload)]
        with m.If(dropped):
            m.d.comb += [
                offered.eq(ended),
                answer.data.eq(Cat(Const(0, 56), Const(Status.ABORTED, 8))),
                answer.last.eq(1),
            ]
        m.d.comb += closing.eq(room & offered & answer.last & ~clear)
        with m.If(room):
            m.d.sync += [
                self.m_axis_tvalid.eq(offered & ~clear),
                self.m_axis_tdata.eq(answer.data),
                self.m_axis_tlast.eq(answer.last),
            ]
        with m.If(closing):
            m.d.sync += [
                begun.eq(0), ended.eq(0), dropped.eq(0), status.eq(answer.data[56:64]),
                programs.eq(programs + 1), errors.eq(errors + answer.data[56:64].any()),
            ]  # fmt: skip
        with m.If(clear):
            m.d.sync += [held.eq(0), dropped.eq(begun)]
        return begun

    def _reads(
        self, m: Module, values: dict[str, Value | int], latched: Signal, high: Value
    ) -> None:
        """Answer reads of the AXI4-Lite."""
        m.d.comb += self.s_axil_arready.eq(~self.s_axil_rvalid)
        with m.If(self.s_axil_rvalid & self.s_axil_rready):
            m.d.sync += self.s_axil_rvalid.eq(0)
        with m.If(self.s_axil_arvalid & self.s_axil_arready):
            m.d.sync += [
                self.s_axil_rvalid.eq(1), self.s_axil_rdata.eq(0), self.s_axil_rresp.eq(OKAY)
            ]  # fmt: skip
            with m.Switch(self.s_axil_araddr[2:]):
                for register in REGISTERS:
                    with m.Case(register.offset >> 2):
                        m.d.sync += self.s_axil_rdata.eq(values.get(register.name, 0))
                        if register.name == "cycles_0":
                            m.d.sync += latched.eq(high)
                with m.Default():
                    m.d.sync += self.s_axil_rresp.eq(SLVERR)

    def _writes(self, m: Module, clear: Signal) -> None:
        """Answer writes of the AXI4-Lite."""
        addressed = Signal()  # the address has come
        filled = Signal()  # the data have
        address = Signal(ADDRESS_BITS - 2)
        ones = Signal()  # the lowest bit, where it is written
        m.d.comb += [self.s_axil_awready.eq(~addressed), self.s_axil_wready.eq(~filled)]
        m.d.sync += clear.eq(0)
        with m.If(self.s_axil_awvalid & self.s_axil_awready):
            m.d.sync += [addressed.eq(1), address.eq(self.s_axil_awaddr[2:])]
        with m.If(self.s_axil_wvalid & self.s_axil_wready):
            m.d.sync += [filled.eq(1), ones.eq(self.s_axil_wdata[0] & self.s_axil_wstrb[0])]
        with m.If(self.s_axil_bvalid & self.s_axil_bready):
            m.d.sync += self.s_axil_bvalid.eq(0)
        with m.If(addressed & filled & ~self.s_axil_bvalid):
            m.d.sync += [
                addressed.eq(0), filled.eq(0), self.s_axil_bvalid.eq(1),
                self.s_axil_bresp.eq(SLVERR),
            ]  # fmt: skip
            with m.Switch(address):
                for register in REGISTERS:
                    if register.access == "write":
                        with m.Case(register.offset >> 2):
                            m.d.sync += [self.s_axil_bresp.eq(OKAY), clear.eq(ones)]
