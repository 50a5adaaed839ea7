"""Number formats and processing elements: meaning and arithmetic side by side.

Read in this order: ``formats`` (what bits mean), ``pe`` (what a PE is), then any one PE:
``integer``, ``lightpe``, ``binary``. This package needs Amaranth and NumPy only.
"""

from .accumulator import Accumulator
from .binary import BNN32, BNN64, BinaryPE
from .formats import Bipolar, Integer, NumberFormat, PowerOfTwo
from .integer import INT8, INT16, IntegerPE
from .lightpe import LIGHTPE1, LIGHTPE2, LightPE
from .pe import Addend, Arithmetic, ProcessingElement
from .registry import get_pe, list_pes

__all__ = [
    "BNN32",
    "BNN64",
    "INT8",
    "INT16",
    "LIGHTPE1",
    "LIGHTPE2",
    "Accumulator",
    "Addend",
    "Arithmetic",
    "BinaryPE",
    "Bipolar",
    "Integer",
    "IntegerPE",
    "LightPE",
    "NumberFormat",
    "PowerOfTwo",
    "ProcessingElement",
    "get_pe",
    "list_pes",
]
