"""The processing element (PE): parameters, meaning and arithmetic in one frozen object.

A PE is two number formats, a number of ``lanes`` and one expression::

    partial_out = partial_in + Σ_lanes value(activation) · value(weight)

The object both *computes* it (:meth:`ProcessingElement.compute`, NumPy integers built from the
formats' ``decode`` alone) and *creates* it (:meth:`ProcessingElement.create`, an Amaranth
component built from :meth:`ProcessingElement.addends`). A new PE gives two formats and its addends;
``docs/add-a-pe.md`` walks through one.

PEs know nothing of arrays: registers of operands and sums, forwarding and skew belong there. The
registers *inside* a PE are placed here, by the ``pipeline`` parameter.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from amaranth.hdl import Cat, Const, Module, Signal, Value, signed, unsigned
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .accumulator import Accumulator, signed_bits
from .checks import check_integer
from .formats import Integer, NumberFormat, format_parameters, vars_of
from .shared import SharedComponent

__all__ = ["Addend", "Arithmetic", "ProcessingElement", "signed_value"]


class Addend(NamedTuple):
    """A signed number to be summed, ``value + carry``.

    ``value`` is signed. ``carry`` is one bit that enters an adder as its carry-in and so costs
    nothing: a negated ``x`` is ``Addend(~x, 1)``.
    """

    value: Value
    carry: Value = Const(0, 1)


def signed_value(code: Value, number_format: Integer) -> Value:
    """Return the value of an integer's code, signed whatever the format."""
    return code.as_signed() if number_format.signed else Cat(code, Const(0, 1)).as_signed()


def _add(left: Addend, right: Addend) -> Addend:
    """Sum two addends with one adder: its carry-in takes the carry of ``left``."""
    if isinstance(left.carry, Const) and left.carry.value == 0:
        return Addend(left.value + right.value, right.carry)
    # One more place on the right, 1 + carry, makes the carry-in in any HDL and any synthesizer.
    total = Cat(Const(1, 1), right.value).as_signed() + Cat(left.carry, left.value).as_signed()
    return Addend(total[1:].as_signed(), right.carry)


@dataclass(frozen=True, kw_only=True)
class ProcessingElement(ABC):
    """Parameters that every PE has; subclasses add their own as further dataclass fields.

    Parameters
    ----------
    lanes : int
        Products per PE and cycle, 1 to 256. An operand port holds ``lanes`` codes, lane 0 lowest.
    pipeline : int
        Registers between operands and sum, 0 to 3. The first stands before the adder of the
        partial sum, the second before the adders that sum lanes and terms, the third in the
        middle of these adders where two or more lie one behind the other, else at the operands.
        Each adds one cycle of latency to the products and none to the partial sum, so throughput
        stays one sum per cycle.
    """

    lanes: int = 1
    pipeline: int = 0

    def __post_init__(self) -> None:
        check_integer("lanes", self.lanes, 1, 256)
        check_integer("pipeline", self.pipeline, 0, 3)

    @property
    @abstractmethod
    def activation(self) -> NumberFormat:
        """Format of the activations."""

    @property
    @abstractmethod
    def weight(self) -> NumberFormat:
        """Format of the weights."""

    @abstractmethod
    def addends(
        self, m: Module, activations: Sequence[Value], weights: Sequence[Value]
    ) -> list[Addend]:
        """Return numbers whose sum is Σ value(activation) · value(weight).

        ``activations`` and ``weights`` hold ``lanes`` codes as unsigned values. The result is
        combinational; ``m`` is there for intermediate signals.
        """

    # ---- meaning -----------------------------------------------------------------------------

    def compute(
        self, partial: npt.ArrayLike, activations: npt.ArrayLike, weights: npt.ArrayLike
    ) -> npt.NDArray[np.int64]:
        """Return ``partial + Σ_lanes value(activation) · value(weight)`` exactly: the golden model.

        ``activations`` and ``weights`` are codes of shape (..., lanes), ``partial`` is (...).
        """
        products = self.activation.decode(activations) * self.weight.decode(weights)
        return np.asarray(partial, dtype=np.int64) + products.sum(axis=-1)

    @property
    def padding_product(self) -> int:
        """What one unused lane, filled with the formats' paddings, adds to a sum (0 if it can)."""
        return self.activation.padding * self.weight.padding

    def accumulator_bits(self, products: int) -> int:
        """Return the least accumulator width that is exact for any sum of ``products`` products."""
        corners = [
            a * w
            for a in (self.activation.minimum, self.activation.maximum)
            for w in (self.weight.minimum, self.weight.maximum)
        ]
        return signed_bits(min(0, *corners) * products, max(0, *corners) * products)

    # ---- hardware ----------------------------------------------------------------------------

    def create(self, accumulator: Accumulator) -> "Arithmetic":
        """Create the hardware of this PE around sums of the given accumulator."""
        return Arithmetic(self, accumulator)

    # ---- names -------------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        """Class of arithmetic in lower case, e.g. ``lightpe``."""
        return type(self).__name__.removesuffix("PE").lower() + "pe"

    @property
    def parameters(self) -> dict[str, Any]:
        """The dataclass fields by name."""
        return vars_of(self)

    def as_dict(self) -> dict[str, Any]:
        """Describe the PE as plain data: class, parameters and formats."""
        return {
            "class": f"{type(self).__module__}.{type(self).__qualname__}",
            "parameters": self.parameters,
            "activation": format_parameters(self.activation),
            "weight": format_parameters(self.weight),
        }


class Arithmetic(SharedComponent):
    """``partial_out = partial_in + Σ_lanes value(activation) · value(weight)``, folded.

    Latency is ``pipeline`` cycles from the operands and none from ``partial_in``: the partial sum
    is to be given ``pipeline`` (enabled) cycles after its operands. Throughput is one sum a cycle.

    Parameters
    ----------
    pe : ProcessingElement
        The arithmetic.
    accumulator : Accumulator
        Width of the sums and what happens beyond it.

    Members
    -------
    en : In(1)
        Advance enable of the inner registers; only where ``pipeline`` is not 0.
    activations : In(lanes * activation.bits)
        Codes, lane 0 lowest.
    weights : In(lanes * weight.bits)
        Codes, lane 0 lowest.
    partial_in, partial_out : In(signed(bits)), Out(signed(bits))
        The running sum before and after.
    """

    def __init__(self, pe: ProcessingElement, accumulator: Accumulator) -> None:
        self.pe = pe
        self.accumulator = accumulator
        ports = {
            "activations": In(pe.lanes * pe.activation.bits),
            "weights": In(pe.lanes * pe.weight.bits),
            "partial_in": In(signed(accumulator.bits)),
            "partial_out": Out(signed(accumulator.bits)),
        }
        super().__init__(({"en": In(1)} if pe.pipeline else {}) | ports)

    @property
    def definition(self) -> str:
        """Name of the definition in emitted Verilog."""
        pe = self.pe
        overflow = "_sat" if self.accumulator.overflow == "saturate" else ""
        return (
            f"{pe.kind}_{pe.activation.name}_{pe.weight.name}_l{pe.lanes}_p{pe.pipeline}"
            f"_acc{self.accumulator.bits}{overflow}"
        )

    def body(self) -> Module:
        m = Module()
        pe = self.pe

        def register(value: Value, name: str) -> Value:
            if isinstance(value, Const):
                return value
            stage = Signal(value.shape(), name=name, reset_less=True)
            with m.If(self.en):
                m.d.sync += stage.eq(value)
            return stage

        def registers(sums: list[Addend], value: str, carry: str) -> list[Addend]:
            return [
                Addend(register(s.value, f"{value}_{i}_q"), register(s.carry, f"{carry}_{i}_q"))
                for i, s in enumerate(sums)
            ]

        def lanes(operand: Value, bits: int, name: str) -> list[tuple[Signal, Value]]:
            return [
                (
                    Signal(unsigned(bits), name=f"{name}_{lane}"),
                    operand[lane * bits : (lane + 1) * bits],
                )
                for lane in range(pe.lanes)
            ]

        activations = lanes(self.activations, pe.activation.bits, "activation")
        weights = lanes(self.weights, pe.weight.bits, "weight")
        sums = pe.addends(m, [code for code, _ in activations], [code for code, _ in weights])
        levels = ceil_log2(len(sums))
        for code, given in activations + weights:
            operand_register = pe.pipeline == 3 and levels < 2
            m.d.comb += code.eq(register(given, f"{code.name}_q") if operand_register else given)

        if pe.pipeline >= 2:
            sums = registers(sums, "addend", "carry")
        for level in range(1, levels + 1):  # a balanced tree; a carry left over goes on to the next
            sums = [_add(*sums[i : i + 2]) if i + 1 < len(sums) else sums[i]
                    for i in range(0, len(sums), 2)]  # fmt: skip
            if pe.pipeline == 3 and level == levels // 2:
                sums = registers(sums, "middle", "middle_carry")
        total = sums[0]
        if pe.pipeline >= 1:
            total = Addend(register(total.value, "sum_q"), register(total.carry, "sum_carry_q"))

        partial = _add(total, Addend(self.partial_in)).value
        m.d.comb += self.partial_out.eq(self.accumulator.fold_hdl(m, partial))
        return m
