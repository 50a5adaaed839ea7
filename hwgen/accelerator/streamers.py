"""Streamers: they read a buffer in the order of a loop nest and offer what they find."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from pe_library.shared import SharedComponent

from .config import AcceleratorConfig
from .nest import LoopNest
from .registers import LOOPS, MODES, loops_of, registers_layout
from .slices import Skid

__all__ = ["ActivationStreamer", "WeightStreamer", "chosen", "vector_layout"]


def vector_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Return what the activation streamer offers in a cycle, as its ``o`` says."""
    return data.StructLayout(
        {
            "codes": config.vector * config.granule_bits,
            "place": ceil_log2(config.word),
            "last": 1,
            "second": 1,
        }
    )


def chosen(value: Value, place: Value, width: int) -> Value:
    """Return the part of so many bits at a place; the lowest one if there are no places."""
    return value.word_select(place, width) if len(place) else value[:width]


class ActivationStreamer(SharedComponent):
    """Reads activations, with padding, one vector a cycle.

    A vector is the longest that anybody takes: ``max(rows * lanes, cols)`` codes. There is no
    bubble.

    Members
    -------
    start : In(1)
        Begin.
    registers : In(struct)
        See ``registers.py``; stable during a run.
    read_en, read_addr, read_data
        Port of the activation buffer.
    o : Out(stream of {codes, place, last, second})
        ``place``: in ``codes``, the vector for who takes fewer of them, if a word of the buffer has
        several. ``last``: the last beat of a pass.
        ``second``: channel blocks with an odd index, which of an addition are its second input.
    """

    #: Cycles from ``start`` to the first beat: the nest, the buffer, what was read.
    latency = 3

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.address_bits = (config.granules - 1).bit_length()
        super().__init__(
            {
                "start": In(1),
                "registers": In(registers_layout(config)),
                "read_en": Out(1),
                "read_addr": Out(self.address_bits),
                "read_data": In(config.vector * config.granule_bits),
                "o": Out(stream.Signature(vector_layout(config))),
            }
        )

    @property
    def definition(self) -> str:
        return "activation_streamer"

    def body(self) -> Module:
        m = Module()
        config, registers, loops = self.config, self.registers, loops_of(self.config)
        direct = registers.mode[MODES["direct"]]
        values = {"act": self.address_bits}
        if config.pads:
            values |= dict.fromkeys(("y", "x"), config.loop_bits)
        m.submodules.nest = nest = LoopNest(LOOPS, config.loop_bits, values)
        # So that no counter waits for `ready` of the beats, the nest is up to a step ahead of them.
        m.submodules.ahead = ahead = Skid(
            data.StructLayout(values | {"tail": 1, "last": 1, "second": 1}), "activations_ahead"
        )
        m.d.comb += nest.start.eq(self.start)
        for i in range(LOOPS):
            m.d.comb += getattr(nest, f"extent_{i}").eq(registers[f"extent_{i}"])
        pass_ends = Signal()
        of_pass = Cat(nest.at_end[loop] for loop in loops.inside).all()
        m.d.comb += pass_ends.eq(of_pass)
        if config.array.dataflow == "os":  # `rows` pixels, for which a pass sums everything
            with m.If(~direct):
                summed = Cat(nest.at_end[loop] for loop in loops.summed).all()
                m.d.comb += [
                    nest.extent_0.eq(config.array.rows - 1),
                    pass_ends.eq(of_pass & summed),
                ]
        m.d.comb += [
            ahead.i.valid.eq(nest.valid),
            nest.next.eq(nest.valid & ahead.i.ready),
            ahead.i.payload.tail.eq(nest.at_end[loops.summed[0]]),
            ahead.i.payload.last.eq(pass_ends),
            ahead.i.payload.second.eq(nest.odd[loops.summed[0]]),
            *(ahead.i.payload[name].eq(getattr(nest, name)) for name in values),
        ]
        for name in values:
            m.d.comb += getattr(nest, f"{name}_base").eq(registers[f"{name}_base"])
            for i in range(LOOPS):
                port = f"{name}_step_{i}"
                m.d.comb += getattr(nest, port).eq(registers[port])

        advance = Signal()
        found = Signal()  # there is something at read_data
        within = Signal(init=1)
        inside = Signal(reset_less=True)
        beyond = Signal(config.vector, reset_less=True)  # granules behind the last channel
        last = Signal(reset_less=True)
        second = Signal(reset_less=True)
        step = ahead.o.payload
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            ahead.o.ready.eq(advance),
            self.read_en.eq(advance),  # step or not, as the enable of wide memories has a long way
            self.read_addr.eq(step.act),
        ]
        if config.pads:
            # Places left of or above the input are negative: as unsigned numbers, great.
            m.d.comb += within.eq((step.y < registers.height) & (step.x < registers.width))
        bits = config.granule_bits
        pad = registers.pad.replicate(config.granule)
        # Words of which the array takes a part, and others all that they read, have no tail.
        whole = config.aligned and config.read_codes <= config.array.cols

        def padded(codes: Value, known: Value) -> Value:
            return Cat(Mux(known[i], codes.word_select(i, bits), pad) for i in range(config.vector))

        known = Signal(config.vector)  # of what was read, those that are codes of the tensor
        m.d.comb += known.eq(inside.replicate(config.vector) & ~beyond)
        codes = Signal(len(self.o.payload.codes), reset_less=True)
        with m.If(advance):
            m.d.sync += [
                found.eq(ahead.o.valid),
                inside.eq(within),
                last.eq(step.last),
                second.eq(step.second),
                self.o.valid.eq(found),
                self.o.payload.last.eq(last),
                self.o.payload.second.eq(second),
            ]
            if not whole:
                m.d.sync += beyond.eq(
                    Cat(step.tail & (registers.tail <= i) for i in range(config.vector))
                )
            # Block RAM is slow: with register slices nothing but a register is right behind it.
            m.d.sync += codes.eq(
                self.read_data if config.register_slices else padded(self.read_data, known)
            )
        place_1 = Signal.like(self.o.payload.place, name="place_1", reset_less=True)
        place = Signal.like(place_1, name="place", reset_less=True)
        with m.If(advance):
            m.d.sync += [place_1.eq(step.act), place.eq(place_1)]
        m.d.comb += self.o.payload.place.eq(place)
        if config.register_slices:
            known_then = Signal.like(known, reset_less=True)
            with m.If(advance):
                m.d.sync += known_then.eq(known)
            m.d.comb += self.o.payload.codes.eq(padded(codes, known_then))
        else:
            m.d.comb += self.o.payload.codes.eq(codes)
        return m


class WeightStreamer(SharedComponent):
    """Reads weights in the order of the buffer, ``rows`` words for each block that is summed.

    Output-stationary, it reads those of a block of output channels again for each of its passes.

    Members
    -------
    start, registers
        As of the :class:`ActivationStreamer`.
    read_en, read_addr, read_data
        Port of the weight buffer.
    o : Out(stream)
        What enters the array in a cycle.
    """

    #: Cycles from ``start`` to the first beat: the nest, the buffer.
    latency = 2

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.address_bits = (config.weight_words - 1).bit_length()
        super().__init__(
            {
                "start": In(1),
                "registers": In(registers_layout(config)),
                "read_en": Out(1),
                "read_addr": Out(self.address_bits),
                "read_data": In(config.weight_bits),
                "o": Out(stream.Signature(config.weight_bits)),
            }
        )

    @property
    def definition(self) -> str:
        return "weight_streamer"

    def body(self) -> Module:
        m = Module()
        order = loops_of(self.config)
        loops = (*order.summed, *order.outside)
        m.submodules.nest = nest = LoopNest(
            1 + len(loops), self.config.loop_bits, {"address": self.address_bits}
        )
        m.submodules.ahead = ahead = Skid(self.address_bits, "weights_ahead")
        m.d.comb += [
            nest.start.eq(self.start),
            nest.extent_0.eq(self.config.array.rows - 1),
            nest.address_base.eq(self.registers.weight_base),
            nest.address_step_0.eq(1),
        ]
        for i, loop in enumerate(loops, 1):
            step = self.registers.weight_back if loop in order.pixels else 1
            m.d.comb += [
                getattr(nest, f"extent_{i}").eq(self.registers[f"extent_{loop}"]),
                getattr(nest, f"address_step_{i}").eq(step),
            ]
        advance = Signal()
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            ahead.i.valid.eq(nest.valid),
            ahead.i.payload.eq(nest.address),
            nest.next.eq(nest.valid & ahead.i.ready),
            ahead.o.ready.eq(advance),
            self.read_en.eq(advance),
            self.read_addr.eq(ahead.o.payload),
        ]
        m.d.comb += self.o.payload.eq(self.read_data)
        with m.If(advance):
            m.d.sync += self.o.valid.eq(ahead.o.valid)
        return m
