"""LightPE: weights that are sums of signed powers of two, so that a product is shifts and adds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from amaranth.hdl import Module, Mux, Signal, Value, signed

from .formats import Integer, PowerOfTwo
from .pe import Addend, ProcessingElement, signed_value

__all__ = ["LIGHTPE1", "LIGHTPE2", "LightPE"]


@dataclass(frozen=True, kw_only=True)
class LightPE(ProcessingElement):
    """Shift-add multiply-accumulate of LightNN (arXiv 1802.02178): one shift and one adder a term.

    A negative term is the shifted activation inverted, with the adder's carry-in set: negation
    costs no adder of its own, so k terms and one lane are k adders, that of the partial sum
    included.

    Parameters
    ----------
    activation_bits : int
        Width of the activations, 1 to 16.
    activation_signed : bool
        Whether activations are two's complement (else plain binary).
    terms, exponent_bits, zero
        The weights: see :class:`~pe_library.formats.PowerOfTwo`.
    """

    activation_bits: int = 8
    activation_signed: bool = True
    terms: int = 1
    exponent_bits: int = 3
    zero: Literal["none", "code"] = "none"

    def __post_init__(self) -> None:
        _ = self.activation, self.weight  # their own checks
        super().__post_init__()

    @property
    def activation(self) -> Integer:
        return Integer(self.activation_bits, signed=self.activation_signed)

    @property
    def weight(self) -> PowerOfTwo:
        return PowerOfTwo(self.terms, self.exponent_bits, self.zero)

    def addends(
        self, m: Module, activations: Sequence[Value], weights: Sequence[Value]
    ) -> list[Addend]:
        addends = []
        for lane, (a, w) in enumerate(zip(activations, weights, strict=True)):
            activation = signed_value(a, self.activation)
            for term in range(self.terms):
                field = w.word_select(term, self.exponent_bits + 1)
                exponent, negative = field[:-1], field[-1]
                shifted = activation << exponent
                if self.zero == "code":  # exponent 0 is zero, and 2**(e - 1) else: drop a place
                    shifted = Mux(exponent.any(), shifted[1:].as_signed(), 0)
                addend = Signal(signed(len(shifted)), name=f"term_{lane}_{term}")
                m.d.comb += addend.eq(shifted ^ negative.replicate(len(shifted)).as_signed())
                addends.append(Addend(addend, negative))
        return addends


#: LightPE-1: 8-bit activations, 4-bit weights ±2^0 ... ±2^7.
LIGHTPE1 = LightPE()
#: LightPE-2: 8-bit activations, 8-bit weights of two such terms (105 values, zero among them).
LIGHTPE2 = LightPE(terms=2)
