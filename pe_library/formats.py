"""Number formats: what the bits of an operand mean.

A format maps *codes* (bit patterns, unsigned integers of :attr:`NumberFormat.bits` bits) to
*values* (integers on a fixed grid). A real number is ``value * scale``; the scale never enters the
hardware. Everything here is NumPy; nothing here knows a circuit, which is why the golden models
and the formal specifications are built from :meth:`NumberFormat.decode` alone.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .checks import check_choice, check_integer

__all__ = ["Bipolar", "Integer", "NumberFormat", "PowerOfTwo"]

IntArray = npt.NDArray[np.int64]


@lru_cache(maxsize=64)
def _encoding_of(number_format: "NumberFormat") -> tuple[IntArray, IntArray]:
    """Return all values and codes; equal formats, which are made over and over, share them."""
    codes = np.arange(1 << number_format.bits)
    values, first = np.unique(number_format.decode(codes), return_index=True)
    values.setflags(write=False)
    return values, first.astype(np.int64)


class NumberFormat(ABC):
    """A finite set of integers and the bit patterns that stand for them.

    Subclasses are frozen dataclasses; they give :attr:`bits`, :attr:`name` and :meth:`decode`.
    Everything else follows by listing all codes, so a format has at most 16 bits.
    """

    @property
    @abstractmethod
    def bits(self) -> int:
        """Width of one code, in bits (1 to 16)."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name, usable inside a Verilog identifier."""

    @abstractmethod
    def decode(self, codes: npt.ArrayLike) -> IntArray:
        """Return the value of each code (any shape, each 0 to ``2**bits - 1``)."""

    @property
    def _encoding(self) -> tuple[IntArray, IntArray]:
        """All values, ascending, and the lowest code of each."""
        return _encoding_of(self)

    @property
    def values(self) -> IntArray:
        """All values of the format, ascending, without repetition."""
        return self._encoding[0]

    @property
    def minimum(self) -> int:
        """The least value."""
        return int(self.values[0])

    @property
    def maximum(self) -> int:
        """The greatest value."""
        return int(self.values[-1])

    @property
    def padding(self) -> int:
        """Value that fills an unused place: zero where the format has one, else the least positive.

        A pair of paddings contributes ``activation.padding * weight.padding`` to a sum; whoever
        pads subtracts it.
        """
        return 0 if self.contains(0).all() else int(self.values[self.values > 0][0])

    def contains(self, values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Tell, for each of the integers ``values``, whether the format has it."""
        values = np.asarray(values)
        places = np.searchsorted(self.values, values).clip(max=len(self.values) - 1)
        return np.asarray(self.values[places] == values)

    def encode(self, values: npt.ArrayLike) -> IntArray:
        """Return a code of each value (the lowest one where several stand for it).

        Raises
        ------
        ValueError
            If a value is not on the format's grid.
        """
        values = np.asarray(values)
        bad = ~self.contains(values)
        if bad.any():
            raise ValueError(f"{self} has no value {values[bad].flat[0]}; it has {self.summary}")
        return self._encoding[1][np.searchsorted(self.values, values)]

    def quantize(self, x: npt.ArrayLike, scale: npt.ArrayLike = 1.0) -> IntArray:
        """Return the value nearest to each ``x / scale`` (ties go to the greater value).

        ``scale`` is positive and broadcasts against ``x``; what lies beyond the range saturates.
        """
        grid = self.values.astype(np.float64)
        midpoints = (grid[1:] + grid[:-1]) / 2
        return self.values[
            np.searchsorted(midpoints, np.asarray(x) / np.asarray(scale), side="right")
        ]

    @property
    def summary(self) -> str:
        """One phrase that names the values, for messages and listings."""
        if len(self.values) == self.maximum - self.minimum + 1:
            return f"the integers {self.minimum} to {self.maximum}"
        if len(self.values) <= 16:
            return "the integers " + ", ".join(map(str, self.values))
        return f"{len(self.values)} of the integers {self.minimum} to {self.maximum}"


@dataclass(frozen=True)
class Integer(NumberFormat):
    """Two's complement (``signed``) or plain binary integers.

    Parameters
    ----------
    width : int
        Bits, 1 to 16. One signed bit is {-1, 0}.
    signed : bool
        Whether the top bit weighs ``-2**(width - 1)``.
    """

    width: int
    signed: bool = True

    def __post_init__(self) -> None:
        check_integer("Integer width", self.width, 1, 16)
        check_choice("Integer signed", self.signed, (False, True))

    @property
    def bits(self) -> int:
        return self.width

    @property
    def name(self) -> str:
        return f"{'s' if self.signed else 'u'}{self.width}"

    def decode(self, codes: npt.ArrayLike) -> IntArray:
        codes = np.asarray(codes, dtype=np.int64)
        return codes - ((codes >> (self.width - 1)) << self.width) * self.signed


@dataclass(frozen=True)
class PowerOfTwo(NumberFormat):
    """Sums of signed powers of two, the weights of LightNN (arXiv 1802.02178) and FLightNN.

    A code is ``terms`` fields of ``exponent_bits + 1`` bits, the first term lowest; in each field
    the top bit is the sign and the rest the exponent ``e``.

    Parameters
    ----------
    terms : int
        Powers of two in one weight, 1 to 3 (the ``k`` of LightNN-k).
    exponent_bits : int
        Width of an exponent, 1 to 4.
    zero : str
        ``"none"``: a term is ``±2**e`` and never zero; with two or more terms opposite terms make
        zero for free. ``"code"``: exponent 0 means zero and the others ``±2**(e - 1)``; with three
        exponent bits this is the grid {0, ±2^-6 ... ±1} of MSQ and RMSMP, and of a QONNX
        ``FloatQuant`` with three exponent and no mantissa bits.
    """

    terms: int = 1
    exponent_bits: int = 3
    zero: Literal["none", "code"] = "none"

    def __post_init__(self) -> None:
        check_integer("PowerOfTwo terms", self.terms, 1, 3)
        check_integer("PowerOfTwo exponent_bits", self.exponent_bits, 1, 4)
        check_choice("PowerOfTwo zero", self.zero, ("none", "code"))

    @property
    def bits(self) -> int:
        return self.terms * (self.exponent_bits + 1)

    @property
    def name(self) -> str:
        return f"p{self.terms}e{self.exponent_bits}{'z' if self.zero == 'code' else ''}"

    def decode(self, codes: npt.ArrayLike) -> IntArray:
        codes = np.asarray(codes, dtype=np.int64)
        value = np.zeros_like(codes)
        for term in range(self.terms):
            field = codes >> (term * (self.exponent_bits + 1))
            exponent = field & ((1 << self.exponent_bits) - 1)
            magnitude = (1 << exponent) if self.zero == "none" else (1 << exponent) >> 1
            value += np.where((field >> self.exponent_bits) & 1, -magnitude, magnitude)
        return value

    def quantize_log2(self, x: npt.ArrayLike, scale: npt.ArrayLike = 1.0) -> IntArray:
        """Quantize as LightNN trains: round in the logarithm, term after term.

        Each term is ``sign(r) * 2**round(log2|r|)`` of what the terms before it left, its exponent
        clipped to the range (LightNN, arXiv 1802.02178). Where a term can be zero it is zero below
        half of the least power. :meth:`quantize` is never further from ``x``.
        """
        rest = np.asarray(x, dtype=np.float64) / np.asarray(scale)
        value = np.zeros(rest.shape, dtype=np.int64)
        greatest = (1 << self.exponent_bits) - 1 - (self.zero == "code")
        for _ in range(self.terms):
            magnitude = np.maximum(np.abs(rest), 2.0**-64)
            power = np.rint(np.log2(magnitude)).clip(0, greatest).astype(np.int64)
            term = np.where(rest < 0, -1, 1) * (np.int64(1) << power)
            if self.zero == "code":
                term = np.where(magnitude < 0.5, 0, term)
            value += term
            rest = rest - term
        return value


@dataclass(frozen=True)
class Bipolar(NumberFormat):
    """One bit: 1 stands for +1 and 0 for -1 (BinaryNet's sign)."""

    @property
    def bits(self) -> int:
        return 1

    @property
    def name(self) -> str:
        return "b1"

    def decode(self, codes: npt.ArrayLike) -> IntArray:
        return 2 * np.asarray(codes, dtype=np.int64) - 1


def format_parameters(number_format: NumberFormat) -> dict[str, Any]:
    """Describe a format as plain data: kind, bits, range and its own fields."""
    return {
        "kind": type(number_format).__name__,
        "bits": number_format.bits,
        "minimum": number_format.minimum,
        "maximum": number_format.maximum,
        **vars_of(number_format),
    }


def vars_of(obj: Any) -> dict[str, Any]:
    """Return the dataclass fields of ``obj`` by name (cached properties are left out)."""
    return {name: getattr(obj, name) for name in getattr(obj, "__dataclass_fields__", {})}
