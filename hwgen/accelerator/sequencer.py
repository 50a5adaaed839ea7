"""The sequencer: it reads a program, fills the buffers, starts runs, and closes the answer."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out

from pe_library.shared import SharedComponent

from .commands import BUFFERS, Opcode, Status
from .config import AcceleratorConfig
from .registers import register_widths, registers_layout

__all__ = ["Sequencer"]


class Sequencer(SharedComponent):
    """Executes programs (``commands.py``), one command after another.

    A SET and a RUN take a cycle, a LOAD one and its beats; RUN, STORE and LOAD of activations wait
    until the run before has ended, so that loads of weights and parameters overlap with it.
    Registers that a program does not SET are 0.

    Members
    -------
    i : In(stream of {data, last}), o : Out(stream of {data, last})
        Program and closing beat. ``o`` is offered while nothing is running.
    start : Out(1), running : In(1)
        Begin a run, one cycle after its registers; whether it, or a store, is going on.
    registers : Out(struct)
        Of the present run.
    load_mask : Out(buffers)
        For each buffer, whether ``load_data`` is written to ``load_addr`` in this cycle.
    store : Out(1), store_addr, store_last : Out
        Begin a store; first and last granule.
    status : Out(8), cycles : Out(56), idle : Out(1)
        Of the last program; whether no program is going on.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        beat = stream.Signature(data.StructLayout({"data": config.stream_bits, "last": 1}))
        widest = max(self.beats_of(name) for name in BUFFERS) * config.stream_bits
        super().__init__(
            {
                "i": In(beat),
                "o": Out(beat),
                "start": Out(1),
                "running": In(1),
                "registers": Out(registers_layout(config)),
                "load_mask": Out(len(BUFFERS)),
                "load_addr": Out(24),
                "load_data": Out(widest),
                "store": Out(1),
                "store_addr": Out(24),
                "store_last": Out(24),
                "status": Out(8),
                "cycles": Out(56),
                "idle": Out(1),
            }
        )

    def beats_of(self, buffer: str) -> int:
        """Return the beats of one word of a buffer."""
        return -(-self.config.buffers[buffer][0] // self.config.stream_bits)

    @property
    def definition(self) -> str:
        return "sequencer"

    def body(self) -> Module:
        m = Module()
        word = self.i.payload.data[:64]
        opcode, number, value = word[56:], word[48:56], word[:32]
        wanted, wait = number[:7], number[7]
        address, count = word[24:48], word[:24]
        widths = register_widths(self.config)

        staged = Signal(registers_layout(self.config))
        check = Signal(32)
        status = Signal(8)
        cycles = Signal(56)
        begun = Signal()
        buffer = Signal(range(len(BUFFERS)))
        left = Signal(24)  # words still to come after this one
        to_write = Signal(24)
        part = Signal(range(max(self.beats_of(name) for name in BUFFERS)))
        beats = Array([self.beats_of(name) - 1 for name in BUFFERS])
        ending = Signal()  # the program's last beat was taken
        busy = Signal()
        m.d.comb += [
            busy.eq(self.running | self.start | self.store),
            self.status.eq(status),
            self.cycles.eq(cycles),
            self.idle.eq(~begun),
        ]
        m.d.sync += [self.start.eq(0), self.store.eq(0), self.load_mask.eq(0)]
        with m.If(begun & ~self.o.valid):
            m.d.sync += cycles.eq(cycles + 1)

        def fits(name: str) -> Value:
            return address + count < self.config.buffers[name][1]

        error = Signal(8)
        without_data = Mux(self.i.payload.last, Status.TRUNCATED, Status.OK)
        with m.FSM():
            with m.State("command"):
                waits = (opcode == Opcode.RUN) | (opcode == Opcode.STORE)
                waits |= (opcode == Opcode.LOAD) & (wait | (wanted == BUFFERS["activation"]))
                m.d.comb += self.i.ready.eq(~(waits & busy))
                with m.If(self.i.valid & ~begun):
                    m.d.sync += [begun.eq(1), cycles.eq(1), status.eq(0)]
                with m.If(self.i.valid & self.i.ready):
                    with m.Switch(opcode):
                        with m.Case(Opcode.SET):
                            with m.If(word[32:48].any()):
                                m.d.comb += error.eq(Status.ILLEGAL_COMMAND)
                            with m.If(number >= len(widths)):
                                m.d.comb += error.eq(Status.ILLEGAL_REGISTER)
                            with m.Switch(number):
                                for i, name in enumerate(widths):
                                    with m.Case(i):
                                        m.d.sync += staged[name].eq(value)  # type: ignore[index]
                            m.d.sync += check.eq(check.rotate_left(1) ^ value ^ (number << 24))
                        with m.Case(Opcode.LOAD):
                            m.d.comb += error.eq(Status.ILLEGAL_COMMAND)
                            for name, place in BUFFERS.items():
                                with m.If(wanted == place):
                                    m.d.comb += error.eq(
                                        Mux(fits(name), without_data, Status.OUT_OF_RANGE)
                                    )
                            m.d.sync += [
                                buffer.eq(wanted), to_write.eq(address), left.eq(count), part.eq(0)
                            ]  # fmt: skip
                            m.next = "load"
                        with m.Case(Opcode.RUN):
                            with m.If(word[32:56].any()):
                                m.d.comb += error.eq(Status.ILLEGAL_COMMAND)
                            with m.Elif(value != check):
                                m.d.comb += error.eq(Status.WRONG_CHECK)
                            with m.Else():
                                m.d.sync += [self.start.eq(1), self.registers.eq(staged)]
                            m.d.sync += check.eq(0)
                        with m.Case(Opcode.STORE):
                            with m.If(number.any()):
                                m.d.comb += error.eq(Status.ILLEGAL_COMMAND)
                            with m.Elif(~fits("activation")):
                                m.d.comb += error.eq(Status.OUT_OF_RANGE)
                            with m.Else():
                                m.d.sync += self.store.eq(1)
                            m.d.sync += [self.store_addr.eq(address),
                                         self.store_last.eq(address + count)]  # fmt: skip
                        with m.Default():
                            m.d.comb += error.eq(Status.ILLEGAL_COMMAND)
                    with m.If(error != Status.OK):
                        m.d.sync += status.eq(error)
                        m.next = "discard"
                    with m.If(self.i.payload.last):
                        m.next = "drain"
            with m.State("load"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    width = self.config.stream_bits
                    with m.Switch(part):
                        for i in range(len(self.load_data) // width):
                            with m.Case(i):
                                m.d.sync += self.load_data.word_select(i, width).eq(
                                    self.i.payload.data
                                )
                    m.d.comb += ending.eq((part == beats[buffer]) & (left == 0))
                    m.d.sync += part.eq(part + 1)
                    with m.If(part == beats[buffer]):
                        m.d.sync += [
                            part.eq(0), left.eq(left - 1), to_write.eq(to_write + 1),
                            self.load_addr.eq(to_write), self.load_mask.eq(1 << buffer),
                        ]  # fmt: skip
                    with m.If(ending):
                        m.next = "command"
                    with m.If(self.i.payload.last):
                        with m.If(~ending):
                            m.d.sync += status.eq(Status.TRUNCATED)
                        m.next = "drain"
            with m.State("discard"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid & self.i.payload.last):
                    m.next = "drain"
            with m.State("drain"):
                with m.If(~busy):
                    m.next = "close"
            with m.State("close"):
                m.d.comb += [
                    self.o.valid.eq(1),
                    self.o.payload.data.eq(Cat(cycles, status)),
                    self.o.payload.last.eq(1),
                ]
                with m.If(self.o.ready):
                    # The next program finds nothing of this one: what it does not SET is 0.
                    m.d.sync += [begun.eq(0), check.eq(0), staged.eq(0)]
                    m.next = "command"
        return m
