"""Fixed-point arithmetic in stages that a fast clock allows: products, rounding shifts, delays."""

from math import ceil

from amaranth.hdl import Cat, Const, Module, Mux, ShapeLike, Signal, Value, signed
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from pe_library.shared import SharedComponent

__all__ = ["Product", "RoundingShift", "delayed", "registered", "saturated"]

#: Bits of a digit without its sign: DSP blocks commonly multiply 18 by 18 bits, signed.
DIGIT_BITS = 17


def registered(m: Module, value: Value, name: str, shape: ShapeLike | None = None) -> Value:
    """Return a value one cycle later, of its own shape or cut to another.

    The register is not reset: a reset of all data would be one of an accelerator's widest nets, and
    nobody looks at what is not said to be valid.
    """
    register = Signal(value.shape() if shape is None else shape, name=name, reset_less=True)
    m.d.sync += register.eq(value)
    return register


def delayed(m: Module, value: Value, cycles: int, *, reset: bool = False) -> Value:
    """Return an unsigned value as it was so many cycles ago, 0 from a ``reset`` on if wanted."""
    line = Signal(cycles * len(value), reset_less=not reset)
    m.d.sync += line.eq(Cat(value, line))
    return line[-len(value) :]


def saturated(value: Value, bits: int) -> Value:
    """Return a signed value, or the nearest that so many bits hold."""
    if len(value) <= bits:
        return value
    sign, upper = value[-1], value[bits - 1 :]
    limit = Cat((~sign).replicate(bits - 1), sign)
    fits = upper == sign.replicate(len(upper))
    return Mux(fits, value[:bits], limit).as_signed()


class Product(SharedComponent):
    """The exact product of a signed and an unsigned number; one in each cycle.

    Digits of both are multiplied with each other, each two in a DSP block, and the partial products
    added up in a tree, with registers behind every product and every sum. Operands should come from
    registers.

    Members
    -------
    a, b : In(signed(a_bits)), In(b_bits)
    product : Out(signed(a_bits + b_bits))
        :meth:`latency` cycles later.
    """

    def __init__(self, a_bits: int, b_bits: int) -> None:
        self.a_bits = a_bits
        self.b_bits = b_bits
        super().__init__(
            {
                "a": In(signed(a_bits)),
                "b": In(b_bits),
                "product": Out(signed(a_bits + b_bits)),
            }
        )

    @staticmethod
    def latency(a_bits: int, b_bits: int) -> int:
        """Return the cycles from the operands to the product."""
        digits_a, digits_b = (ceil((bits - 1) / DIGIT_BITS) for bits in (a_bits, b_bits + 1))
        return 1 + ceil_log2(digits_a * digits_b)

    @property
    def definition(self) -> str:
        return f"product_{self.a_bits}x{self.b_bits}"

    def body(self) -> Module:
        m = Module()
        # Terms of a sum, each with the place of its lowest bit, lowest first.
        terms = sorted(
            (
                (place_a + place_b, registered(m, a * b, f"partial_{place_a}_{place_b}"))
                for place_a, a in _digits(self.a)
                for place_b, b in _digits(Cat(self.b, Const(0, 1)).as_signed())
            ),
            key=lambda term: term[0],
        )
        while len(terms) > 1:
            sums = []
            for low, *rest in (terms[i : i + 2] for i in range(0, len(terms), 2)):
                place, value = low
                for above, addend in rest:  # what lies below the addend needs no adder
                    apart = above - place
                    total = Cat(value[:apart], (value >> apart) + addend)
                    value = total[: len(self.product) - place].as_signed()
                sums.append((place, registered(m, value, f"sum_{len(terms)}_{place}")))
            terms = sums
        m.d.comb += self.product.eq(terms[0][1])
        return m


def _digits(value: Value) -> list[tuple[int, Value]]:
    """Return the digits of a signed number, each with the place of its lowest bit.

    All but the highest are unsigned.
    """
    places = range(0, len(value) - 1, DIGIT_BITS)
    digits = [(place, value[place : place + DIGIT_BITS]) for place in places[:-1]]
    return [*digits, (places[-1], value[places[-1] :].as_signed())]


class RoundingShift(SharedComponent):
    """``value >> right``, rounded to the nearest; a tie goes upwards if ``up``, else downwards.

    Members
    -------
    value, right, up : In(signed(bits)), In(5), In(1)
    result : Out(signed(bits))
        :attr:`latency` cycles later.
    """

    #: Cycles from the value to the result.
    latency = 2

    def __init__(self, bits: int) -> None:
        self.bits = bits
        super().__init__(
            {
                "value": In(signed(bits)),
                "right": In(5),
                "up": In(1),
                "result": Out(signed(bits)),
            }
        )

    @property
    def definition(self) -> str:
        return f"rounding_shift_{self.bits}"

    def body(self) -> Module:
        m = Module()
        below_half = Signal(30)  # ones: half the divisor, minus 1
        carry = Signal()
        m.d.comb += [
            below_half.eq((~(Const(-1, signed(31)) << self.right))[1:31]),
            carry.eq(self.up & self.right.any()),
        ]
        # One adder: the bit below the sum carries into it.
        total = (Cat(carry, self.value).as_signed() + Cat(carry, below_half)) >> 1
        nudged = registered(m, total, "nudged")
        shifted = nudged >> registered(m, self.right, "right_then")
        m.d.comb += self.result.eq(registered(m, shifted, "shifted"))
        return m
