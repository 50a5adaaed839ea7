"""Loop nests: counters, and affine functions of them, one step a cycle.

``value = base + Σ index[i] * stride[i]`` needs no multiplier: when loop i steps, and the loops
inside it begin anew, the value changes by ``stride[i] - Σ_{j<i} extent[j] * stride[j]``, a constant
that the compiler provides (:func:`steps_of`).
"""

from collections.abc import Mapping, Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib.wiring import In, Out

from pe_library.shared import SharedComponent

__all__ = ["EXTENT_BITS", "LoopNest", "steps_of"]

#: Width of the register that holds how often a loop repeats.
EXTENT_BITS = 16


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

    Parameters
    ----------
    loops : int
        Number of loops, loop 0 innermost.
    values : mapping of name to width in bits
        Affine functions, modulo ``2**width``.

    Members
    -------
    start, next : In(1)
        Begin at the first iteration (in the next cycle); leave the present one.
    extent_I : In(16)
        For each loop: iterations minus 1; must not change while ``valid``.
    NAME_base, NAME_step_I, NAME : In(width), In(width), Out(width)
        For each function: first value, change when loop I steps, present value.
    valid : Out(1)
        Whether there is a present iteration.
    at_end : Out(loops)
        For each loop: whether it is in its last iteration.
    odd : Out(loops)
        For each loop: the lowest bit of its index.
    """

    def __init__(self, loops: int, values: Mapping[str, int]) -> None:
        self.loops = loops
        self.values = dict(values)
        ports = {"start": In(1), "next": In(1), "valid": Out(1)}
        ports |= {"at_end": Out(loops), "odd": Out(loops)}
        ports |= {f"extent_{i}": In(EXTENT_BITS) for i in range(loops)}
        for name, width in self.values.items():
            ports |= {f"{name}_base": In(width), name: Out(width)}
            ports |= {f"{name}_step_{i}": In(width) for i in range(loops)}
        super().__init__(ports)

    @property
    def definition(self) -> str:
        return "nest_" + "_".join([str(self.loops), *(f"{n}{w}" for n, w in self.values.items())])

    def body(self) -> Module:
        m = Module()
        index = [Signal(EXTENT_BITS, name=f"index_{i}") for i in range(self.loops)]
        extent = [getattr(self, f"extent_{i}") for i in range(self.loops)]
        m.d.comb += [
            self.at_end.eq(Cat(i == e for i, e in zip(index, extent, strict=True))),
            self.odd.eq(Cat(i[0] for i in index)),
        ]
        current = {name: Signal(width, name=f"{name}_now") for name, width in self.values.items()}
        m.d.comb += [getattr(self, name).eq(value) for name, value in current.items()]
        inner_ends: Value | int = 1  # whether all loops inside are in their last iteration
        with m.If(self.next):
            for i in range(self.loops):
                ends_too = self.at_end[: i + 1].all()
                with m.If(inner_ends):
                    m.d.sync += index[i].eq(Mux(self.at_end[i], 0, index[i] + 1))
                    with m.If(~self.at_end[i]):
                        for name, value in current.items():
                            m.d.sync += value.eq(value + getattr(self, f"{name}_step_{i}"))
                inner_ends = ends_too
            with m.If(self.at_end.all()):
                m.d.sync += self.valid.eq(0)
        with m.If(self.start):
            m.d.sync += [
                self.valid.eq(1),
                *(i.eq(0) for i in index),
                *(value.eq(getattr(self, f"{name}_base")) for name, value in current.items()),
            ]
        return m
