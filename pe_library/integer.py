"""Integer multiply-accumulate PE."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from .checks import check_choice
from .formats import Integer
from .pe import Addend, ProcessingElement, signed_value

__all__ = ["INT8", "INT16", "IntegerPE"]


@dataclass(frozen=True, kw_only=True)
class IntegerPE(ProcessingElement):
    """Integer multiply-accumulate of any widths, signed or unsigned activations, signed weights.

    Parameters
    ----------
    activation_bits, weight_bits : int
        Widths of the operands, 1 to 16.
    activation_signed : bool
        Whether activations are two's complement (else plain binary).
    multiplier : str
        ``"dsp"``: the ``*`` operator, which synthesis maps to one DSP block where the target has
        one that fits, and to its own logic multiplier elsewhere. ``"logic"``: radix-4 Booth rows
        (Booth 1951, in MacSorley's form, 1961) as addends of the PE's adder tree; no ``*`` is left
        for synthesis to find, so it never takes a DSP block.
    """

    activation_bits: int = 8
    weight_bits: int = 8
    activation_signed: bool = True
    multiplier: Literal["dsp", "logic"] = "dsp"

    def __post_init__(self) -> None:
        _ = self.activation, self.weight  # their own checks
        check_choice("multiplier", self.multiplier, ("dsp", "logic"))
        super().__post_init__()

    @property
    def activation(self) -> Integer:
        return Integer(self.activation_bits, signed=self.activation_signed)

    @property
    def weight(self) -> Integer:
        return Integer(self.weight_bits)

    def addends(
        self, m: Module, activations: Sequence[Value], weights: Sequence[Value]
    ) -> list[Addend]:
        addends = []
        for lane, (a, w) in enumerate(zip(activations, weights, strict=True)):
            multiplicand = signed_value(a, self.activation)
            if self.multiplier == "dsp":
                product = Signal(signed(len(multiplicand) + len(w)), name=f"product_{lane}")
                m.d.comb += product.eq(multiplicand * w.as_signed())
                addends.append(Addend(product))
            else:
                addends += booth_rows(m, multiplicand, w, f"row_{lane}")
        return addends


def booth_rows(m: Module, multiplicand: Value, multiplier: Value, name: str) -> list[Addend]:
    """Return the radix-4 Booth rows of a signed product, each ``{-2..2} * multiplicand << 2i``."""
    rows = []
    bits = Cat(Const(0, 1), multiplier, multiplier[-1])  # w[-1] = 0, and one sign bit to spare
    for digit in range((len(multiplier) + 1) // 2):
        low, middle, high = bits[2 * digit], bits[2 * digit + 1], bits[2 * digit + 2]
        one = low ^ middle
        two = (high & ~middle & ~low) | (~high & middle & low)
        magnitude = Mux(one, multiplicand, Mux(two, multiplicand << 1, 0))
        row = Signal(signed(len(multiplicand) + 1 + 2 * digit), name=f"{name}_{digit}")
        # The whole shifted row is inverted, so that its carry weighs one, not 4**digit.
        m.d.comb += row.eq(
            Cat(high.replicate(2 * digit), magnitude ^ high.replicate(len(magnitude)))
        )
        rows.append(Addend(row, high))
    return rows


#: 8-bit activations and weights.
INT8 = IntegerPE()
#: 16-bit activations and weights.
INT16 = IntegerPE(activation_bits=16, weight_bits=16)
