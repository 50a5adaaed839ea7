"""Where results go: into the activation buffer, or to the host."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from pe_library.shared import SharedComponent

from .accumulate import Accumulate
from .config import AcceleratorConfig
from .direct import Direct
from .nest import LoopNest
from .postprocess import PostProcess
from .registers import MODES, loops_of, registers_layout
from .slices import Skid, Slot, Stage

__all__ = ["Results", "Serializer"]


class Serializer(SharedComponent):
    """Sends words in as many beats as each has, lowest bits first; one beat a cycle.

    Members
    -------
    i : In(stream of {data, beats})
        ``beats``: beats minus 1. ``ready`` with the last beat of the word before.
    o : Out(stream)
    """

    def __init__(self, width: int, beat: int) -> None:
        self.beats = -(-width // beat)
        self.beat = beat
        layout = data.StructLayout(
            {"data": self.beats * beat, "beats": max(1, ceil_log2(self.beats))}
        )
        super().__init__({"i": In(stream.Signature(layout)), "o": Out(stream.Signature(beat))})

    @property
    def definition(self) -> str:
        return f"serializer_{self.beats}x{self.beat}"

    def body(self) -> Module:
        m = Module()
        rest = Signal(self.beats * self.beat, reset_less=True)
        left = Signal(max(1, ceil_log2(self.beats)))
        done = Signal(init=1)  # after this beat there is nothing left
        m.d.comb += [
            self.i.ready.eq(done & (~self.o.valid | self.o.ready)),
            self.o.payload.eq(rest[: self.beat]),
        ]
        # What comes next is chosen without `ready`, as a word is wide.
        with m.If(~self.o.valid | self.o.ready):
            with m.If(done):
                m.d.sync += [
                    rest.eq(self.i.payload.data),
                    left.eq(self.i.payload.beats),
                    done.eq(~self.i.valid | (self.i.payload.beats == 0)),
                    self.o.valid.eq(self.i.valid),
                ]
            with m.Else():
                m.d.sync += [rest.eq(rest >> self.beat), left.eq(left - 1), done.eq(left == 1)]
        return m


class Results(SharedComponent):
    """Writes the codes of a run to its output's places, or sends codes or sums to the host.

    Nothing that makes results ever waits. Those for the host go through a FIFO, and before it is
    full, :attr:`hold` keeps operands from the array: all that are on their way have room.
    An output-stationary array gives sums of ``rows`` pixels in each pass, the last one first; those
    beyond the loop over pixels are dropped.
    It also sends words of the activation buffer (a store), one in each two cycles, or in as many as
    it has beats.

    Members
    -------
    start, registers
        Begin a run; see ``registers.py``.
    i : In(stream, always ready)
        ``cols`` codes, or sums.
    hold : Out(1)
        Whether no more operands may enter the array, or pass it, :meth:`hold_latency` cycles after
        the FIFO is as full as it may be (1 to this register, 1 to the slice behind it, if any).
    write_en, write_addr, write_data
        Port of the activation buffer.
    store : In(1), store_addr, store_last : In
        Begin a store; first and last word.
    read_en, read_addr, read_data
        Port of the activation buffer, by words; data are wanted from the cycle after until the next
        ``read_en``.
    o : Out(stream)
        To the host.
    busy, storing : Out(1)
        Whether results of the run are to come, or anything is left to be sent; whether words are
        left to be read.
    """

    #: Cycles from ``store`` to its first word at the serializer, or a register slice: begun, read.
    store_latency = 2
    #: Cycles from a result to it behind the FIFO: at the serializer, or a register slice.
    fifo_latency = 2

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.address_bits = (config.granules - 1).bit_length()
        self.word_bits = (config.activation_words - 1).bit_length()
        self.code_bits = config.array.cols * config.array.pe.activation.bits
        super().__init__(
            {
                "start": In(1),
                "registers": In(registers_layout(config)),
                "i": In(stream.Signature(config.array.cols * config.sum_bits, always_ready=True)),
                "hold": Out(1),
                "write_en": Out(1),
                "write_addr": Out(self.address_bits),
                "write_data": Out(self.code_bits),
                "store": In(1),
                "store_addr": In(self.word_bits),
                "store_last": In(self.word_bits),
                "read_en": Out(1),
                "read_addr": Out(self.word_bits),
                "read_data": In(config.activation_bits),
                "o": Out(stream.Signature(config.stream_bits)),
                "busy": Out(1),
                "storing": Out(1),
            }
        )

    @staticmethod
    def hold_latency(config: AcceleratorConfig) -> int:
        """Return the cycles from a FIFO as full as it may be to when nothing enters any more."""
        return 1 + config.register_slices

    @classmethod
    def to_come(cls, config: AcceleratorConfig) -> int:
        """Return how many results may come after a FIFO as full as it may be."""
        behind = Accumulate.latency(config) + PostProcess.latency(config, raw=False)
        rest = config.array.rows if config.array.dataflow == "os" else 0  # of a pass
        before = max(config.array.latency, Direct.latency(config)) + config.register_slices
        return cls.hold_latency(config) + before + behind + rest

    @classmethod
    def enough(cls, config: AcceleratorConfig) -> int:
        """Return the results in the FIFO from which on ``hold`` is set.

        They take the host longer than the array needs to go on.
        """
        return cls.to_come(config) // 2 + cls.fifo_latency

    @classmethod
    def depth(cls, config: AcceleratorConfig) -> int:
        """Return the results that the FIFO has room for.

        A power of two of them is in the memory, and one in the register behind it.
        """
        return (1 << (cls.enough(config) + cls.to_come(config) - 1).bit_length()) + 1

    def beats(self, bits: int) -> int:
        """Return the beats that so many bits take."""
        return -(-bits // self.config.stream_bits)

    @property
    def definition(self) -> str:
        return "results"

    def body(self) -> Module:
        m = Module()
        registers = self.registers
        to_host = registers.mode[MODES["to_host"]]
        raw = registers.mode[MODES["raw"]]
        loops = loops_of(self.config).out
        m.submodules.nest = nest = LoopNest(
            len(loops), self.config.loop_bits, {"out": self.address_bits}
        )
        m.submodules.serializer = serializer = Serializer(
            max(self.config.array.cols * self.config.sum_bits, self.config.activation_bits),
            self.config.stream_bits,
        )
        m.d.comb += [nest.start.eq(self.start), nest.out_base.eq(registers.out_base)]
        for i, loop in enumerate(loops):
            m.d.comb += [
                getattr(nest, f"extent_{i}").eq(registers[f"extent_{loop}"]),
                getattr(nest, f"out_step_{i}").eq(registers[f"out_step_{i}"]),
            ]
        wanted = Signal(init=1)  # the result is not dropped
        if self.config.array.dataflow == "os":
            final = self.config.array.rows - 1
            extent = Signal.like(nest.extent_0)
            skip, dropped = Signal(range(final + 1)), Signal(range(final + 1))
            m.d.comb += [
                wanted.eq(dropped == skip),
                nest.extent_0.eq(extent),
                extent.eq(registers.extent_0),
            ]
            m.d.sync += skip.eq(0)
            with m.If(~registers.mode[MODES["direct"]]):
                with m.If(registers.extent_0 < final):
                    m.d.sync += skip.eq(final - registers.extent_0)
                with m.Else():
                    m.d.comb += extent.eq(final)
            with m.If(self.start | (nest.next & nest.at_end[0])):
                m.d.sync += dropped.eq(0)
            with m.Elif(self.i.valid & ~wanted):
                m.d.sync += dropped.eq(dropped + 1)
        offered = Signal()
        m.submodules.fifo = fifo = SyncFIFOBuffered(
            width=len(self.i.payload), depth=self.depth(self.config)
        )
        m.d.comb += [
            offered.eq(self.i.valid & wanted),
            nest.next.eq(offered),
            self.write_en.eq(offered & ~to_host),
            self.write_addr.eq(nest.out),
            self.write_data.eq(self.i.payload[: self.code_bits]),
            fifo.w_en.eq(offered & to_host),
            fifo.w_data.eq(self.i.payload),
            self.busy.eq(nest.valid | fifo.r_level.any() | serializer.i.valid | self.o.valid),
        ]
        m.d.sync += self.hold.eq(fifo.r_level >= self.enough(self.config))

        ended = Signal()  # the last word is read
        word = stream.Interface(stream.Signature(len(self.read_data)))  # at read_data, if any
        m.d.comb += [
            self.read_en.eq(self.storing & ~ended & ~word.valid),
            word.payload.eq(self.read_data),
        ]
        with m.If(self.read_en):
            m.d.sync += [
                word.valid.eq(1),
                self.read_addr.eq(self.read_addr + 1),
                ended.eq(self.read_addr == self.store_last),
            ]
        with m.Elif(word.valid & word.ready):
            m.d.sync += [word.valid.eq(0), self.storing.eq(self.storing & ~ended)]
        with m.If(self.store):
            m.d.sync += [self.storing.eq(1), self.read_addr.eq(self.store_addr), ended.eq(0)]

        stored, sent = word, serializer.o
        result: stream.Interface = fifo.r_stream  # type: ignore[assignment]
        if self.config.register_slices:
            # Block RAM is slow, and nothing as wide as a word waits for the host's `ready`.
            stored = Slot.behind(m, stored, "stored")
            result = Skid.behind(m, Stage.behind(m, result, "result"), "result")
            sent = Skid.behind(m, sent, "to_host")
        m.d.comb += [
            stored.ready.eq(serializer.i.ready),
            result.ready.eq(serializer.i.ready),
            serializer.i.valid.eq(stored.valid | result.valid),  # never both
            self.o.valid.eq(sent.valid),
            self.o.payload.eq(sent.payload),
            sent.ready.eq(self.o.ready),
        ]
        with m.If(stored.valid):
            m.d.comb += [
                serializer.i.payload.data.eq(stored.payload),
                serializer.i.payload.beats.eq(self.beats(len(self.read_data)) - 1),
            ]
        with m.Else():
            m.d.comb += [
                serializer.i.payload.data.eq(result.payload),
                serializer.i.payload.beats.eq(
                    Mux(raw, self.beats(len(self.i.payload)), self.beats(self.code_bits)) - 1
                ),
            ]
        return m
