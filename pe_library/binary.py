"""XNOR-popcount PE for binarized networks."""

from collections.abc import Sequence
from dataclasses import dataclass

from amaranth.hdl import Module, Signal, Value, signed

from .accumulator import signed_bits
from .formats import Bipolar
from .pe import Addend, ProcessingElement

__all__ = ["BNN32", "BNN64", "BinaryPE"]


@dataclass(frozen=True, kw_only=True)
class BinaryPE(ProcessingElement):
    """XNOR-popcount dot product of ``lanes`` bipolar pairs: ``2 * popcount(a xnor w) - lanes``.

    The number of lanes may be odd. Lanes left over when K is not a multiple of the lanes are
    filled with +1 · +1, and whoever fills them subtracts that (``padding_product`` is 1).
    """

    lanes: int = 32

    @property
    def activation(self) -> Bipolar:
        return Bipolar()

    @property
    def weight(self) -> Bipolar:
        return Bipolar()

    def addends(
        self, m: Module, activations: Sequence[Value], weights: Sequence[Value]
    ) -> list[Addend]:
        pairs = list(zip(activations, weights, strict=True))
        popcount = Signal(range(len(pairs) + 1))
        dot = Signal(signed(signed_bits(-len(pairs), len(pairs))))
        m.d.comb += [
            # One flat sum: synthesis finds better compressor trees than we would draw.
            popcount.eq(sum(~(a ^ w) for a, w in pairs)),
            dot.eq((popcount << 1) - len(pairs)),
        ]
        return [Addend(dot)]


#: 32 products a cycle.
BNN32 = BinaryPE(lanes=32)
#: 64 products a cycle.
BNN64 = BinaryPE(lanes=64)
