"""Accumulators: the width of a running sum, and what happens beyond it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from amaranth.hdl import Const, Module, Signal, Value, signed

from .checks import check_choice, check_integer

__all__ = ["OVERFLOWS", "Accumulator", "signed_bits"]

OVERFLOWS = ("error", "wrap", "saturate")


def signed_bits(low: int, high: int) -> int:
    """Return the least width of a two's complement number that holds ``low`` to ``high``."""
    return (
        max((~low if low < 0 else low).bit_length(), (~high if high < 0 else high).bit_length()) + 1
    )


@dataclass(frozen=True)
class Accumulator:
    """A two's complement running sum.

    Parameters
    ----------
    bits : int
        Width, 2 to 64 (62 where it saturates).
    overflow : str
        ``"error"``: the width was checked to hold every sum, nothing ever overflows.
        ``"wrap"``: sums are taken modulo ``2**bits``. ``"saturate"``: after every addition the sum
        is clamped to the range, so that the order of additions matters; :meth:`fold` after each
        addition is the definition.
    """

    bits: int
    overflow: Literal["error", "wrap", "saturate"] = "error"

    def __post_init__(self) -> None:
        check_choice("overflow", self.overflow, OVERFLOWS)
        # The golden model clamps sums in 64 bits, so it must see them leave the range.
        check_integer("accumulator_bits", self.bits, 2, 62 if self.overflow == "saturate" else 64)

    @property
    def minimum(self) -> int:
        """The least sum."""
        return -(1 << (self.bits - 1))

    @property
    def maximum(self) -> int:
        """The greatest sum."""
        return (1 << (self.bits - 1)) - 1

    def fold(self, sums: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Bring exact sums (int64) into the accumulator's range: wrap or clamp them."""
        sums = np.asarray(sums, dtype=np.int64)
        if self.overflow == "saturate":
            return sums.clip(self.minimum, self.maximum)
        spare = 64 - self.bits
        return (sums << spare) >> spare

    def fold_hdl(self, m: Module, total: Value) -> Value:
        """Do the same in hardware, for a signed ``total`` wide enough to be exact."""
        if self.overflow != "saturate" or len(total) <= self.bits:
            return total[: self.bits].as_signed() if len(total) > self.bits else total
        folded = Signal(signed(self.bits))
        sign = total[-1]
        # In range exactly when every bit above the sign place repeats the sign.
        with m.If(total[self.bits - 1 :] == sign.replicate(len(total) - self.bits + 1)):
            m.d.comb += folded.eq(total[: self.bits])
        with m.Elif(sign):
            m.d.comb += folded.eq(Const(self.minimum, signed(self.bits)))
        with m.Else():
            m.d.comb += folded.eq(Const(self.maximum, signed(self.bits)))
        return folded
