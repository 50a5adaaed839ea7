"""Post-processing: bias and requantization, each column with its own parameters."""

from abc import abstractmethod

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out

from pe_library.shared import SharedComponent

from .config import AcceleratorConfig
from .direct import rounding_shift_away
from .registers import MODES, registers_layout

__all__ = ["REQUANTIZERS", "Multiplier", "PostProcess", "Requantizer", "Shift", "Threshold"]


class Requantizer(SharedComponent):
    """From a sum to a code, for one column.

    Members
    -------
    en : In(1)
        Advance enable.
    sum : In(signed(sum_bits))
        With the bias.
    parameters : In(...)
        Of the channel, bias left out; in the same cycle as ``sum``.
    zero_point, low, high : In(signed(17))
        Added at the end; bounds of the code. Stable.
    code : Out(activation.bits)
        :attr:`latency` enabled cycles later.
    """

    #: Enabled cycles from the sum to the code.
    latency: int

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "en": In(1),
                "sum": In(signed(config.sum_bits)),
                "parameters": In(config.channel_bits - config.sum_bits),
                **dict.fromkeys(("zero_point", "low", "high"), In(signed(17))),
                "code": Out(config.array.pe.activation.bits),
            }
        )

    @property
    def definition(self) -> str:
        return f"requantize_{type(self).__name__.lower()}"

    @abstractmethod
    def stages(self, m: Module) -> Value:
        """Return what :attr:`code` is, one register short of :attr:`latency`."""

    def body(self) -> Module:
        m = Module()
        code = self.stages(m)
        with m.If(self.en):
            m.d.sync += self.code.eq(code)
        return m

    def _clamped(self, m: Module, scaled: Value) -> Value:
        total = Signal(signed(len(scaled) + 1))
        m.d.comb += total.eq(scaled + self.zero_point)
        return Mux(total < self.low, self.low, Mux(total > self.high, self.high, total))


class Multiplier(Requantizer):
    """Fixed-point multiplication as TFLite rounds it, then clamping.

    Parameters of a channel: ``multiplier`` (31 bits), ``shift`` (6 bits, signed, -31 to 7). The
    arithmetic is that of ``hwgen.network.requantize.FixedPoint``.
    """

    latency = 4

    def stages(self, m: Module) -> Value:
        multiplier, shift = self.parameters[:31], self.parameters[31:].as_signed()
        left = Signal(3)
        right = Signal(5)
        right_1 = Signal(5)
        right_2 = Signal(5)
        product = Signal(signed(len(self.sum) + 32))
        high = Signal(signed(len(self.sum)))
        scaled = Signal(signed(len(self.sum)))
        m.d.comb += [
            left.eq(Mux(shift > 0, shift[:3], 0)),
            right.eq(Mux(shift < 0, (-shift)[:5], 0)),
        ]
        with m.If(self.en):
            m.d.sync += [
                product.eq((self.sum << left)[: len(self.sum)].as_signed() * multiplier),
                right_1.eq(right),
                high.eq((product + (1 << 30)) >> 31),
                right_2.eq(right_1),
                scaled.eq(rounding_shift_away(high, right_2)),
            ]
        return self._clamped(m, scaled)


class Shift(Requantizer):
    """Shift right with ties to even, or left, then clamp.

    Parameter of a channel: ``shift`` (6 bits, signed, to the right where positive, -31 to 31). The
    arithmetic is that of ``hwgen.network.requantize.RoundingShift``.
    """

    latency = 2

    def stages(self, m: Module) -> Value:
        shift = self.parameters.as_signed()
        right = Signal(5)
        left = Signal(5)
        scaled = Signal(signed(2 * len(self.sum)))
        odd = self.sum.bit_select(right, 1)  # whether the result, rounded down, is odd
        nudge = Mux(right == 0, 0, ((Const(1) << right) >> 1) - 1 + odd)
        m.d.comb += [
            right.eq(Mux(shift > 0, shift[:5], 0)),
            left.eq(Mux(shift < 0, (-shift)[:5], 0)),
        ]
        with m.If(self.en):
            m.d.sync += scaled.eq(((self.sum + nudge) >> right) << left)
        return self._clamped(m, scaled)


class Threshold(Requantizer):
    """Count the thresholds that the sum reaches, upwards or downwards from a base.

    Parameters of a channel: the thresholds (``sum_bits`` each), ``base`` (a code), ``falling`` (1
    bit). The arithmetic is that of ``hwgen.network.requantize.Thresholds`` on codes.
    """

    latency = 2

    def stages(self, m: Module) -> Value:
        count = self.config.thresholds
        bits = len(self.code)
        reached = Signal(range(count + 1))
        base = self.parameters[count * len(self.sum) :][:bits]
        base_1 = Signal(bits)
        falling = self.parameters[-1]
        falling_1 = Signal()
        met = [
            self.sum >= self.parameters.word_select(i, len(self.sum)).as_signed()
            for i in range(count)
        ]
        with m.If(self.en):
            m.d.sync += [reached.eq(sum(met)), base_1.eq(base), falling_1.eq(falling)]
        return Mux(falling_1, base_1 - reached, base_1 + reached)


REQUANTIZERS: dict[str, type[Requantizer]] = {
    "multiplier": Multiplier,
    "shift": Shift,
    "threshold": Threshold,
}


class PostProcess(SharedComponent):
    """Adds the bias and requantizes ``cols`` sums a cycle, or lets them pass with their bias.

    Members
    -------
    start, registers
        Begin a run; see ``registers.py``.
    read_en, read_addr, read_data
        Port of the parameter buffer.
    i : In(stream of {sums, last})
        ``last``: the next beat is of the next block of channels.
    o : Out(stream)
        Codes, or sums, lowest channel first. Latency 2 cycles for sums, more by the requantizer's
        for codes.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.address_bits = (config.parameter_words - 1).bit_length()
        cols = config.array.cols
        super().__init__(
            {
                "start": In(1),
                "registers": In(registers_layout(config)),
                "read_en": Out(1),
                "read_addr": Out(self.address_bits),
                "read_data": In(config.parameter_bits),
                "i": In(
                    stream.Signature(data.StructLayout({"sums": cols * config.sum_bits, "last": 1}))
                ),
                "o": Out(stream.Signature(cols * config.sum_bits)),
            }
        )

    @property
    def definition(self) -> str:
        return "postprocess"

    def body(self) -> Module:
        m = Module()
        config, registers = self.config, self.registers
        cols, bits = config.array.cols, config.array.pe.activation.bits
        requantizer = REQUANTIZERS[config.requantize]
        raw = registers.mode[MODES["raw"]]
        block = Signal(self.address_bits)
        sums = Signal(cols * config.sum_bits)
        valid = Signal(2 + requantizer.latency)
        advance = Signal()
        take = Signal()
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            take.eq(self.i.valid & advance),
            self.i.ready.eq(advance),
            self.o.valid.eq(Mux(raw, valid[1], valid[-1])),
            self.read_en.eq(advance),
            self.read_addr.eq(block),
        ]
        with m.If(advance):
            m.d.sync += [
                sums.eq(self.i.payload.sums),
                valid.eq(Cat(self.i.valid, valid)),
            ]
            with m.If(take & self.i.payload.last):
                m.d.sync += block.eq(block + 1)
        with m.If(self.start):
            m.d.sync += [block.eq(registers.parameter_base), valid.eq(0)]
        for c in range(cols):
            parameters = self.read_data.word_select(c, config.channel_bits)
            biased = Signal(signed(config.sum_bits), name=f"biased_{c}")
            rest = Signal(config.channel_bits - config.sum_bits, name=f"rest_{c}")
            with m.If(advance):
                m.d.sync += [
                    biased.eq(sums.word_select(c, config.sum_bits) + parameters[: config.sum_bits]),
                    rest.eq(parameters[config.sum_bits :]),
                ]
            m.submodules[f"requantize_{c}"] = unit = requantizer(config)
            m.d.comb += [
                unit.en.eq(advance),
                unit.sum.eq(biased),
                unit.parameters.eq(rest),
                *(getattr(unit, n).eq(registers[n]) for n in ("zero_point", "low", "high")),
            ]
            # Codes lie close together, sums in 32 bits each.
            with m.If(raw):
                m.d.comb += self.o.payload.word_select(c, config.sum_bits).eq(biased)
            with m.Else():
                m.d.comb += self.o.payload[c * bits :][:bits].eq(unit.code)
        return m
