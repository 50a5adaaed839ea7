"""The way past the array: activations as sums, for pooling and residual additions."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out

from pe_library.formats import Bipolar, Integer
from pe_library.pe import signed_value
from pe_library.shared import SharedComponent

from .config import AcceleratorConfig
from .product import Product, RoundingShift, delayed, registered
from .registers import register_widths, registers_layout
from .streamers import chosen, vector_layout

__all__ = ["Direct"]

#: Width of what multiplies a code minus a zero point: at most 2**31.
FACTOR_BITS = 32


class Direct(SharedComponent):
    """``(value - zero) << left``, then a fixed-point multiplication; one vector a cycle.

    Nothing here waits. With register slices the vector is chosen in two cycles, as the words that
    it is a part of are wide, else in the first one.

    The arithmetic is that of ``hwgen.network.graph.Rescale``; without the multiplication where
    requantization has no multipliers.

    Members
    -------
    registers : In(struct)
        ``direct_*``.
    i : In(stream of {codes, place, last, second}, always ready)
        As the :class:`~.streamers.ActivationStreamer` offers it.
    o : Out(stream of {sums, last}, always ready)
        :meth:`latency` cycles later.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "registers": In(registers_layout(config)),
                "i": In(stream.Signature(vector_layout(config), always_ready=True)),
                "o": Out(
                    stream.Signature(
                        data.StructLayout({"sums": config.array.cols * config.sum_bits, "last": 1}),
                        always_ready=True,
                    )
                ),
            }
        )

    @staticmethod
    def latency(config: AcceleratorConfig) -> int:
        """Return the cycles from codes to sums."""
        until = config.register_slices + 1  # chosen, centred
        if config.requantize != "multiplier":
            return until + 1  # shifted
        product = Product.latency(config.value_bits + 1, FACTOR_BITS)
        return until + product + 2 + RoundingShift.latency

    @property
    def definition(self) -> str:
        return "direct"

    def body(self) -> Module:
        m = Module()
        config, registers = self.config, self.registers
        latency = self.latency(config)
        m.d.comb += [
            self.o.valid.eq(delayed(m, self.i.valid, latency, reset=True)),
            self.o.payload.last.eq(delayed(m, self.i.payload.last, latency)),
        ]

        # A vector of `cols` codes may be a part of what was read: first some of them, then one.
        bits = config.array.pe.activation.bits
        width = config.array.cols * bits
        place = self.i.payload.place[: None if config.read_codes > config.array.cols else 0]
        few, place = place[: len(place) // 2], place[len(place) // 2 :]
        vectors: Value = chosen(self.i.payload.codes, place, width << len(few))
        second: Value = self.i.payload.second
        if config.register_slices:
            vectors, few, second = (
                registered(m, value, name)
                for name, value in (("vectors", vectors), ("few", few), ("second", second))
            )
        codes = chosen(vectors, few, width)

        def set_for(name: str) -> Value:
            if f"{name}_0" not in register_widths(config):  # bipolar activations have none
                return Const(0)
            return Mux(second, registers[f"{name}_1"], registers[f"{name}_0"])

        zero = Signal(signed(config.value_bits))
        left = Signal(5)
        m.d.comb += [zero.eq(set_for("direct_zero")), left.eq(set_for("direct_left"))]
        multiplies = config.requantize == "multiplier"
        # Cycles until the left shift; the right one is two later.
        centred_bits = config.value_bits + 1
        factors = (centred_bits, FACTOR_BITS)
        until = 1 + (Product.latency(*factors) if multiplies else 0)  # from `second` on
        left_then = delayed(m, left, until)
        if multiplies:
            # Without a multiplier the factor is 1, which is 2**31 here.
            multiplier = set_for("direct_multiplier")
            factor = registered(m, Cat(multiplier, multiplier == 0), "factor")
            right_then = delayed(m, set_for("direct_right"), until + 2)
        activation = config.array.pe.activation
        for c in range(config.array.cols):
            code = codes.word_select(c, bits)
            if isinstance(activation, Bipolar):
                value: Value = Cat(1, ~code).as_signed()  # +1 or -1
            else:
                assert isinstance(activation, Integer)
                value = signed_value(code, activation)
            centred = registered(m, value - zero, f"centred_{c}", signed(centred_bits))
            total = self.o.payload.sums.word_select(c, config.sum_bits)
            if not multiplies:
                scaled = centred << left_then
                m.d.comb += total.eq(registered(m, scaled, f"scaled_{c}", config.sum_bits))
                continue
            m.submodules[f"product_{c}"] = product = Product(*factors)
            m.submodules[f"round_{c}"] = shift = RoundingShift(config.sum_bits)
            # ((v << left) * M + 2**30) >> 31 without the bits on the right that are zero
            exact = Cat(Const(0, 1), product.product).as_signed() >> ~left_then
            shifted = registered(m, exact, f"shifted_{c}", signed(config.sum_bits + 1))
            high = registered(m, (shifted + 1) >> 1, f"high_{c}", signed(config.sum_bits))
            m.d.comb += [
                product.a.eq(centred),
                product.b.eq(factor),
                shift.value.eq(high),
                shift.right.eq(right_then),
                shift.up.eq(~high[-1]),  # ties away from zero
                total.eq(shift.result),
            ]
        return m
