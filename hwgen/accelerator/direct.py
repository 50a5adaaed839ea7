"""The way past the array: activations as sums, for pooling and residual additions."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out

from pe_library.formats import Bipolar, Integer
from pe_library.pe import signed_value
from pe_library.shared import SharedComponent

from .config import AcceleratorConfig
from .registers import registers_layout

__all__ = ["Direct", "rounding_shift_away"]


def rounding_shift_away(value: Value, shift: Value) -> Value:
    """Return ``value >> shift`` rounded to the nearest, ties away from zero (signed)."""
    half = (Const(1) << shift) >> 1
    nudge = Mux(shift == 0, 0, half - value[-1])
    return (value + nudge) >> shift


class Direct(SharedComponent):
    """``(value - zero) << left``, then a fixed-point multiplication; one vector a cycle.

    The arithmetic is that of ``hwgen.network.graph.Rescale``. Latency is 1 cycle, 3 where
    requantization has multipliers.

    Members
    -------
    registers : In(struct)
        ``direct_*``.
    i : In(stream of {codes, last, second})
        Codes of ``cols`` channels.
    o : Out(stream of {sums, last})
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        bits = config.array.cols * config.array.pe.activation.bits
        super().__init__(
            {
                "registers": In(registers_layout(config)),
                "i": In(
                    stream.Signature(data.StructLayout({"codes": bits, "last": 1, "second": 1}))
                ),
                "o": Out(
                    stream.Signature(
                        data.StructLayout({"sums": config.array.cols * config.sum_bits, "last": 1})
                    )
                ),
            }
        )

    @property
    def definition(self) -> str:
        return "direct"

    def body(self) -> Module:
        m = Module()
        config, registers = self.config, self.registers
        multiplies = config.requantize == "multiplier"
        stages = 3 if multiplies else 1
        valid = Signal(stages)
        last = Signal(stages)
        advance = Signal()
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(advance),
            self.o.valid.eq(valid[-1]),
            self.o.payload.last.eq(last[-1]),
        ]
        with m.If(advance):
            m.d.sync += [
                valid.eq(Cat(self.i.valid, valid)),
                last.eq(Cat(self.i.payload.last, last)),
            ]

        def chosen(name: str) -> Value:
            second = self.i.payload.second
            return Mux(second, registers[f"{name}_1"], registers[f"{name}_0"])

        zero = Signal(signed(17))
        left = Signal(5)
        m.d.comb += [zero.eq(chosen("direct_zero")), left.eq(chosen("direct_left"))]
        if multiplies:
            multiplier = Signal(31)
            right = Signal(5)
            plain = Signal()
            left_1 = Signal(5)
            right_1 = Signal(5)
            left_2 = Signal(5)
            right_2 = Signal(5)
            plain_1 = Signal()
            plain_2 = Signal()
            m.d.comb += [
                multiplier.eq(chosen("direct_multiplier")),
                right.eq(chosen("direct_right")),
                plain.eq(multiplier == 0),
            ]
            with m.If(advance):
                m.d.sync += [
                    left_1.eq(left), right_1.eq(right), plain_1.eq(plain),
                    left_2.eq(left_1), right_2.eq(right_1), plain_2.eq(plain_1),
                ]  # fmt: skip
        activation = config.array.pe.activation
        bits = activation.bits
        for c in range(config.array.cols):
            code = self.i.payload.codes.word_select(c, bits)
            if isinstance(activation, Bipolar):
                value: Value = Cat(1, ~code).as_signed()  # +1 or -1
            else:
                assert isinstance(activation, Integer)
                value = signed_value(code, activation)
            centred = Signal(signed(18), name=f"centred_{c}")
            m.d.comb += centred.eq(value - zero)
            total = Signal(signed(config.sum_bits), name=f"sum_{c}")
            m.d.comb += self.o.payload.sums.word_select(c, config.sum_bits).eq(total)
            if not multiplies:
                with m.If(advance):
                    m.d.sync += total.eq(centred << left)
                continue
            product = Signal(signed(18 + 32), name=f"product_{c}")
            shifted = Signal(signed(18), name=f"centred_1_{c}")
            high = Signal(signed(config.sum_bits), name=f"high_{c}")
            # ((v << left) * M + 2**30) >> 31 without the bits on the right that are zero
            rounded = Signal(signed(18 + 33), name=f"rounded_{c}")
            m.d.comb += rounded.eq(product + ((Const(1) << ~left_1) >> 1))
            with m.If(advance):
                m.d.sync += [
                    product.eq(centred * Mux(plain, 1, multiplier)),
                    shifted.eq(centred),
                    high.eq(Mux(plain_1, shifted << left_1, rounded >> ~left_1)),
                    total.eq(rounding_shift_away(high, right_2)),
                ]
        return m
