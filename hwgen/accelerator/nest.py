"""Loop nests: counters, and affine functions of them, one step a cycle.

``value = base + Σ index[i] * stride[i]`` needs no multiplier: when loop i steps, and the loops
inside it begin anew, the value changes by ``stride[i] - Σ_{j<i} extent[j] * stride[j]``, a constant
that the compiler provides (:func:`steps_of`).
"""

from collections.abc import Mapping, Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from pe_library.shared import SharedComponent

__all__ = ["LoopNest", "steps_of"]


def steps_of(extents: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Return by how much the affine value changes when each loop steps.

    Parameters
    ----------
    extents : sequence of int
        Repetitions of each loop beyond the first (iterations minus 1), innermost loop first.
    strides : sequence of int
        What one iteration of each loop adds to the value.
    """
    return [
        stride - sum(e * s for e, s in zip(extents[:i], strides[:i], strict=True))
        for i, stride in enumerate(strides)
    ]


class LoopNest(SharedComponent):
    """Nested loops and affine functions of their indices; ``start`` begins, ``next`` steps.

    Whether a loop is in its last iteration is known a step ahead, and one adder for each function
    takes the step of the loop that steps: neither waits for a comparison.

    Parameters
    ----------
    loops : int
        Number of loops, loop 0 innermost.
    bits : int
        Width of the extents.
    values : mapping of name to width in bits
        Affine functions, modulo ``2**width``.

    Members
    -------
    start, next : In(1)
        Begin at the first iteration (in the next cycle); leave the present one.
    extent_I : In(bits)
        For each loop: iterations minus 1; must not change from ``start`` on while ``valid``.
    NAME_base, NAME_step_I, NAME : In(width), In(width), Out(width)
        For each function: first value, change when loop I steps, present value.
    valid : Out(1)
        Whether there is a present iteration.
    at_end : Out(loops)
        For each loop: whether it is in its last iteration.
    odd : Out(loops)
        For each loop: the lowest bit of its index.
    """

    def __init__(self, loops: int, bits: int, values: Mapping[str, int]) -> None:
        self.loops = loops
        self.bits = bits
        self.values = dict(values)
        ports = {f"extent_{i}": In(bits) for i in range(loops)}
        for name, width in self.values.items():
            ports |= {f"{name}_base": In(width), name: Out(width)}
            ports |= {f"{name}_step_{i}": In(width) for i in range(loops)}
        super().__init__(
            {
                "start": In(1),
                "next": In(1),
                "valid": Out(1),
                "at_end": Out(loops),
                "odd": Out(loops),
                **ports,
            }
        )

    @property
    def definition(self) -> str:
        values = (f"{name}{width}" for name, width in self.values.items())
        return "nest_" + "_".join([f"{self.loops}x{self.bits}", *values])

    def body(self) -> Module:
        m = Module()
        # The index of each loop's next iteration; the present one is one less.
        following = [Signal(self.bits, name=f"following_{i}", init=1) for i in range(self.loops)]
        ends = [Signal(name=f"at_end_{i}") for i in range(self.loops)]
        m.d.comb += [self.at_end.eq(Cat(ends)), self.odd.eq(Cat(~n[0] for n in following))]
        inner_ends: Value | int = 1  # whether all loops inside are in their last iteration
        for i, (index, end) in enumerate(zip(following, ends, strict=True)):
            extent = getattr(self, f"extent_{i}")
            with m.If(self.start | (self.next & inner_ends & end)):
                m.d.sync += [index.eq(1), end.eq(extent == 0)]
            with m.Elif(self.next & inner_ends):
                m.d.sync += [index.eq(index + 1), end.eq(index == extent)]
            inner_ends = inner_ends & end
        with m.If(self.start):
            m.d.sync += self.valid.eq(1)
        with m.Elif(self.next & inner_ends):
            m.d.sync += self.valid.eq(0)
        for name in self.values:
            value = getattr(self, name)
            step: Value = getattr(self, f"{name}_step_{self.loops - 1}")
            for i in reversed(range(self.loops - 1)):
                step = Mux(ends[i], step, getattr(self, f"{name}_step_{i}"))
            with m.If(self.start):
                m.d.sync += value.eq(getattr(self, f"{name}_base"))
            with m.Elif(self.next):
                m.d.sync += value.eq(value + step)
        return m
