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
    until the run before has ended, so that loads of weights and parameters overlap with it. With
    one set of registers, a SET waits, too; with one port of the weights, a LOAD of these.
    Registers that a program does not SET are 0. A beat is executed a cycle after it was taken, or
    later.

    Members
    -------
    i : In(stream of {data, last}), o : Out(stream of {data, last})
        Program and closing beat. ``o`` is offered while nothing is running.
    start : Out(1), running : In(1)
        Begin a run, one cycle after its registers; whether it, or a store, is going on. Who waits
        for its end knows it a cycle later.
    registers : Out(struct)
        Of the present run.
    load_mask : Out(buffers)
        For each buffer, whether something is written to it in this cycle: a beat to part
        ``load_part`` of the word ``load_addr``; of activations, a whole word with its last beat.
    load_data : Out
        The last beats that came, newest highest: as many as a word of activations has.
    store : Out(1), store_addr, store_last : Out
        Begin a store; first and last word.
    status : Out(8), cycles : Out(56), idle : Out(1)
        Of the last program; whether no program is going on.
    """

    #: Cycles from the end of a run or store to when commands know of it.
    latency = 1

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        beat = stream.Signature(data.StructLayout({"data": config.stream_bits, "last": 1}))
        beats = {name: -(-config.buffers[name][0] // config.stream_bits) for name in BUFFERS}
        self.beats = beats  # of a word of each buffer
        self.address_bits = max((config.buffers[name][1] - 1).bit_length() for name in BUFFERS)
        activation_address = (config.activation_words - 1).bit_length()
        super().__init__(
            {
                "i": In(beat),
                "o": Out(beat),
                "start": Out(1),
                "running": In(1),
                "registers": Out(registers_layout(config)),
                "load_mask": Out(len(BUFFERS)),
                "load_part": Out(range(max(beats.values()))),
                "load_addr": Out(self.address_bits),
                "load_data": Out(beats["activation"] * config.stream_bits),
                "store": Out(1),
                "store_addr": Out(activation_address),
                "store_last": Out(activation_address),
                "status": Out(8),
                "cycles": Out(56),
                "idle": Out(1),
            }
        )

    @property
    def definition(self) -> str:
        return "sequencer"

    def body(self) -> Module:
        m = Module()
        widths = register_widths(self.config)
        waits_for_set = self.config.register_sets == 1
        staged = self.registers if waits_for_set else Signal(registers_layout(self.config))
        check = Signal(32)
        status = Signal(8)
        cycles = Signal(56)
        begun = Signal()
        buffer = Signal(range(len(BUFFERS)))
        left = Signal(self.address_bits)  # words still to come after this one
        to_write = Signal(self.address_bits)
        part = Signal.like(self.load_part)
        last_part = Signal()
        whole = Signal()  # the buffer takes whole words
        beats = Array([self.beats[name] - 1 for name in BUFFERS])
        ending = Signal()  # the program's last beat was taken
        busy = Signal()  # from the cycle after a RUN or STORE to the one after its end
        begins = Signal()

        # A beat is decoded as it comes, and executed in a later cycle.
        beat = Signal.like(self.i.payload, reset_less=True)
        valid = Signal()
        take = Signal()
        kind = Signal(len(Opcode))
        is_a = dict(zip(Opcode, kind, strict=True))
        waits = Signal()
        wrong = Signal(8)
        last = Signal.like(self.store_last)
        end = Signal(25)  # the last word of a LOAD or STORE
        opcode, _, address, count, _ = _fields(self.i.payload.data)
        m.d.comb += end.eq(address + count)
        m.d.comb += self.i.ready.eq(~valid | take)
        with m.If(self.i.ready):
            m.d.sync += [
                valid.eq(self.i.valid),
                beat.eq(self.i.payload),
                kind.eq(Cat(opcode == known for known in Opcode)),
                waits.eq(self._waits(self.i.payload.data)),
                wrong.eq(self._error(m, self.i.payload, end)),
                last.eq(end),
            ]
        _, number, address, count, value = _fields(beat.data)
        m.d.comb += [
            self.status.eq(status),
            self.cycles.eq(cycles),
            self.idle.eq(~begun),
            last_part.eq(part == beats[buffer]),
            whole.eq(buffer == BUFFERS["activation"]),
        ]
        late = self.config.slice_domain  # with register slices a cycle after their beat
        m.d[late] += [
            self.load_mask.eq(0),
            self.load_part.eq(part),
            self.load_addr.eq(to_write),
        ]
        # A load waits for nothing: each of its beats is valid once. What commands leave here is
        # gone when the first word is whole; so a register that wide waits for one flip-flop only.
        word = Signal.like(self.load_data, reset_less=True)
        whole_word = Cat(word, beat.data)[self.config.stream_bits :]
        with m.If(valid):
            m.d.sync += word.eq(whole_word)
        m.d.comb += self.load_data.eq(word if late == "sync" else whole_word)
        m.d.sync += [self.start.eq(0), self.store.eq(0)]
        m.d.sync += busy.eq(self.running | self.start | self.store | begins)
        if not waits_for_set:  # a RUN finds them as they were set, at the latest a cycle before
            with m.If(~busy):
                m.d.sync += self.registers.eq(staged)
        with m.If(begun & ~self.o.valid):
            m.d.sync += cycles.eq(cycles + 1)

        error = Signal(8)
        with m.FSM():
            with m.State("command"):
                m.d.comb += [take.eq(valid & ~(waits & busy)), error.eq(wrong)]
                with m.If(valid & ~begun):
                    m.d.sync += [begun.eq(1), cycles.eq(1), status.eq(0)]
                with m.If(take):
                    with m.If(is_a[Opcode.SET]):
                        with m.Switch(number):
                            for i, name in enumerate(widths):
                                with m.Case(i):
                                    m.d.sync += staged[name].eq(value)  # type: ignore[index]
                        m.d.sync += check.eq(check.rotate_left(1) ^ value ^ (number << 24))
                    with m.If(is_a[Opcode.LOAD]):
                        m.d.sync += [
                            buffer.eq(number), to_write.eq(address), left.eq(count), part.eq(0)
                        ]  # fmt: skip
                        m.next = "load"
                    with m.If(is_a[Opcode.RUN]):
                        with m.If(wrong == Status.OK):
                            with m.If(value != check):
                                m.d.comb += error.eq(Status.WRONG_CHECK)
                            with m.Else():
                                m.d.comb += begins.eq(1)
                                m.d.sync += self.start.eq(1)
                        m.d.sync += check.eq(0)
                    with m.If(is_a[Opcode.STORE]):
                        m.d.comb += begins.eq(wrong == Status.OK)
                        m.d.sync += [
                            self.store.eq(wrong == Status.OK),
                            self.store_addr.eq(address),
                            self.store_last.eq(last),
                        ]
                    with m.If(error != Status.OK):
                        m.d.sync += status.eq(error)
                        m.next = "discard"
                    with m.If(beat.last):
                        m.next = "drain"
            with m.State("load"):
                m.d.comb += take.eq(valid)
                with m.If(valid):
                    m.d.comb += ending.eq(last_part & (left == 0))
                    m.d[late] += self.load_mask.eq(Mux(last_part | ~whole, 1 << buffer, 0))
                    m.d.sync += part.eq(part + 1)
                    with m.If(last_part):
                        m.d.sync += [part.eq(0), left.eq(left - 1), to_write.eq(to_write + 1)]
                    with m.If(ending):
                        m.next = "command"
                    with m.If(beat.last):
                        with m.If(~ending):
                            m.d.sync += status.eq(Status.TRUNCATED)
                        m.next = "drain"
            with m.State("discard"):
                m.d.comb += take.eq(valid)
                with m.If(valid & beat.last):
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

    def _waits(self, word: Value) -> Value:
        """Tell whether a command waits for the run before."""
        opcode, number, *_ = _fields(word)
        load = (number[:7] == BUFFERS["activation"]) | number[7]
        if self.config.weight_ports == 1:
            load |= number[:7] == BUFFERS["weight"]
        one_set = self.config.register_sets == 1
        return (
            (opcode == Opcode.RUN)
            | (opcode == Opcode.STORE)
            | ((opcode == Opcode.LOAD) & load)
            | ((opcode == Opcode.SET) & one_set)
        )

    def _error(self, m: Module, payload: "data.View[data.StructLayout]", end: Signal) -> Value:
        """Return the status of a command, as far as it follows from the command alone."""
        word = payload.data
        opcode, number, *_ = _fields(word)
        error = Signal(8, init=Status.ILLEGAL_COMMAND)

        def places(name: str, within: Value | Status) -> Value:
            return Mux(end < self.config.buffers[name][1], within, Status.OUT_OF_RANGE)

        with m.Switch(opcode):
            with m.Case(Opcode.SET):
                with m.If(number >= len(register_widths(self.config))):
                    m.d.comb += error.eq(Status.ILLEGAL_REGISTER)
                with m.Elif(~word[32:48].any()):
                    m.d.comb += error.eq(Status.OK)
            with m.Case(Opcode.LOAD):
                for name, place in BUFFERS.items():
                    with m.If(number[:7] == place):  # its data must follow
                        m.d.comb += error.eq(
                            places(name, Mux(payload.last, Status.TRUNCATED, Status.OK))
                        )
            with m.Case(Opcode.RUN):
                with m.If(~word[32:56].any()):
                    m.d.comb += error.eq(Status.OK)
            with m.Case(Opcode.STORE):
                with m.If(~number.any()):
                    m.d.comb += error.eq(places("activation", Status.OK))
        return error


def _fields(word: Value) -> tuple[Value, Value, Value, Value, Value]:
    """Return opcode, number (of a register; of a buffer and `wait`), address, count and value."""
    return word[56:64], word[48:56], word[24:48], word[:24], word[:32]
