"""Streamers: they read a buffer in the order of a loop nest and offer what they find."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out

from pe_library.shared import SharedComponent

from .config import AcceleratorConfig
from .nest import LoopNest
from .registers import LOOPS, MODES, loops_of, registers_layout

__all__ = ["ActivationStreamer", "WeightStreamer"]


def _read_ahead(m: Module, streamer: SharedComponent, nest: LoopNest, address: Value) -> Value:
    """Read at the nest's address, and offer the data a cycle later; return the advance enable."""
    advance = Signal()
    valid = Signal()
    m.d.comb += [
        advance.eq(~valid | streamer.o.ready),
        nest.next.eq(nest.valid & advance),
        streamer.read_en.eq(nest.next),
        streamer.read_addr.eq(address),
        streamer.o.valid.eq(valid),
    ]
    with m.If(advance):
        m.d.sync += valid.eq(nest.valid)
    return advance


class ActivationStreamer(SharedComponent):
    """Reads activations, with padding, one vector a cycle.

    A vector is the widest that anybody takes: ``max(rows * lanes, cols)`` codes. Latency from
    ``start`` to the first beat is 2 cycles, and there is no bubble.

    Members
    -------
    start : In(1)
        Begin.
    registers : In(struct)
        See ``registers.py``; stable during a run.
    read_en, read_addr, read_data
        Port of the activation buffer.
    o : Out(stream of {codes, last, second})
        ``last``: the last beat of a pass. ``second``: channel blocks with an odd index, which of an
        addition are its second input.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.vector = config.vector
        layout = data.StructLayout(
            {"codes": self.vector * config.granule_bits, "last": 1, "second": 1}
        )
        self.address_bits = (config.activation_words - 1).bit_length()
        super().__init__(
            {
                "start": In(1),
                "registers": In(registers_layout(config)),
                "read_en": Out(1),
                "read_addr": Out(self.address_bits),
                "read_data": In(self.vector * config.granule_bits),
                "o": Out(stream.Signature(layout)),
            }
        )

    @property
    def definition(self) -> str:
        return "activation_streamer"

    def body(self) -> Module:
        m = Module()
        registers, loops = self.registers, loops_of(self.config)
        m.submodules.nest = nest = LoopNest(LOOPS, {"act": self.address_bits, "y": 16, "x": 16})
        m.d.comb += nest.start.eq(self.start)
        for i in range(LOOPS):
            m.d.comb += getattr(nest, f"extent_{i}").eq(registers[f"extent_{i}"])
        pass_ends = Signal()
        of_pass = Cat(nest.at_end[loop] for loop in loops.inside).all()
        m.d.comb += pass_ends.eq(of_pass)
        if self.config.array.dataflow == "os":  # `rows` pixels, for which a pass sums everything
            with m.If(~registers.mode[MODES["direct"]]):
                summed = Cat(nest.at_end[loop] for loop in loops.summed).all()
                m.d.comb += [
                    nest.extent_0.eq(self.config.array.rows - 1),
                    pass_ends.eq(of_pass & summed),
                ]
        for name in nest.values:
            m.d.comb += getattr(nest, f"{name}_base").eq(registers[f"{name}_base"])
            for i in range(LOOPS):
                step = f"{name}_step_{i}"
                m.d.comb += getattr(nest, step).eq(registers[step])

        advance = _read_ahead(m, self, nest, nest.act)
        inside = Signal()
        tail = Signal()
        last = Signal()
        second = Signal()
        m.d.comb += [
            self.o.payload.last.eq(last),
            self.o.payload.second.eq(second),
        ]
        with m.If(advance):
            m.d.sync += [
                # Places left of or above the input are negative: as unsigned numbers, great.
                inside.eq((nest.y < registers.height) & (nest.x < registers.width)),
                tail.eq(nest.at_end[loops.summed[0]]),
                last.eq(pass_ends),
                second.eq(nest.odd[loops.summed[0]]),
            ]
        bits = self.config.granule_bits
        pad = registers.pad.replicate(self.config.granule)
        for i in range(self.vector):
            beyond = tail & (registers.tail <= i)
            m.d.comb += self.o.payload.codes.word_select(i, bits).eq(
                Mux(inside & ~beyond, self.read_data.word_select(i, bits), pad)
            )
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
        m.submodules.nest = nest = LoopNest(1 + len(loops), {"address": self.address_bits})
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
        _read_ahead(m, self, nest, nest.address)
        m.d.comb += self.o.payload.eq(self.read_data)
        return m
