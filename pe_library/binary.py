"""XNOR-popcount PE for binarized networks."""

from collections.abc import Sequence
from dataclasses import dataclass

from amaranth.hdl import Module, Signal, Value, signed

from .accumulator import signed_bits
from .formats import Bipolar
from .pe import Addend, ProcessingElement

__all__ = ["BNN32", "BNN64", "BinaryPE"]

#: Lanes that are counted between two registers, where there are registers to count between.
_GROUP = 16


@dataclass(frozen=True, kw_only=True)
class BinaryPE(ProcessingElement):
    """XNOR-popcount dot product of ``lanes`` bipolar pairs: ``2 * popcount(a xnor w) - lanes``.

    The number of lanes may be odd. Lanes left over when K is not a multiple of the lanes are
    filled with +1 · +1, and whoever fills them subtracts that (``padding_product`` is 1).

    All lanes are counted at once, or with a ``pipeline`` of 2 or more, 16 at a time.
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
        size = len(pairs) if self.pipeline < 2 else _GROUP
        addends = []
        for start in range(0, len(pairs), size):
            group = pairs[start : start + size]
            name = f"_{start // size}" if size < len(pairs) else ""
            popcount = Signal(range(len(group) + 1), name=f"popcount{name}")
            # One flat sum: synthesis finds better compressor trees than we would draw.
            m.d.comb += popcount.eq(sum(~(a ^ w) for a, w in group))
            less = 0 if start else len(pairs)  # the first addend has all of the constant
            shape = signed(signed_bits(-less, 2 * len(group) - less))
            dot = Signal(shape, name=f"dot{name}")
            m.d.comb += dot.eq((popcount << 1) - less)
            addends.append(Addend(dot))
        return addends


#: 32 products a cycle.
BNN32 = BinaryPE(lanes=32)
#: 64 products a cycle.
BNN64 = BinaryPE(lanes=64)
