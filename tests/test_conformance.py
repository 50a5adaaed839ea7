"""The conformance suite: every registered PE, alone and in arrays."""

import dataclasses

import numpy as np
import pytest
from amaranth.hdl import Const, signed
from hypothesis import given, settings
from hypothesis import strategies as st

from hwgen.config import ArrayConfig
from hwgen.generate import generate
from pe_library import Accumulator, Addend, BinaryPE, IntegerPE, LightPE, get_pe, list_pes
from testbench.conformance import (
    EXHAUSTIVE_BITS,
    check_array,
    check_format,
    check_pe,
    check_schedule,
    variants,
)
from testbench.golden import golden_gemm
from testbench.simulate import simulate

PES = list_pes()
DATAFLOWS = ("ws", "os")


@pytest.mark.parametrize("name", PES)
def test_formats(name):
    pe = get_pe(name)
    assert check_format(pe.activation) > 0
    assert check_format(pe.weight) > 0


def _pe_cases():
    return [(name, pe) for name in PES for pe in variants(get_pe(name))]


@pytest.mark.parametrize(
    ("name", "pe"),
    _pe_cases(),
    ids=lambda x: x if isinstance(x, str) else f"l{x.lanes}p{x.pipeline}",
)
def test_pe_arithmetic_and_latency(name, pe):
    checks = check_pe(pe, stalls=0.3)
    if pe.lanes == 1 and pe.activation.bits + pe.weight.bits <= EXHAUSTIVE_BITS:
        assert checks == (1 << (pe.activation.bits + pe.weight.bits)) - pe.pipeline
    else:
        assert checks > 4000


class MixedPE(IntegerPE):
    """Sums a product with and a negation with a carry: (a·w + a) + (~a + 1)."""

    def addends(self, m, activations, weights):  # noqa: ARG002
        (a,), (w,) = activations, weights
        one = w.any() | ~w.any()  # a carry that is no constant
        product = Addend(a.as_signed() * w.as_signed() + a.as_signed())
        return [product, Addend(~a.as_signed(), one), Addend(Const(0, signed(2)))]


_PARAMETERS = [
    MixedPE(),
    MixedPE(pipeline=2),
    IntegerPE(multiplier="logic"),
    IntegerPE(multiplier="logic", activation_signed=False, weight_bits=5, pipeline=3, lanes=2),
    IntegerPE(multiplier="logic", activation_bits=16, weight_bits=16, pipeline=1),
    IntegerPE(activation_signed=False),
    IntegerPE(activation_bits=1, weight_bits=1),
    IntegerPE(activation_bits=1, weight_bits=1, multiplier="logic", lanes=5),
    IntegerPE(activation_bits=3, weight_bits=2, multiplier="logic"),
    IntegerPE(activation_bits=2, weight_bits=13),
    LightPE(zero="code"),
    LightPE(zero="code", terms=2, pipeline=2),
    LightPE(terms=3, exponent_bits=2, activation_bits=4, activation_signed=False),
    LightPE(terms=3, lanes=2, pipeline=1),
    LightPE(exponent_bits=4, activation_bits=16, zero="code"),
    LightPE(exponent_bits=1, activation_bits=1),
    BinaryPE(lanes=1),
    BinaryPE(lanes=7, pipeline=2),
    BinaryPE(lanes=33, pipeline=3),
    BinaryPE(lanes=64, pipeline=2),
]


@pytest.mark.parametrize("pe", _PARAMETERS, ids=repr)
def test_pe_parameters(pe):
    assert check_format(pe.activation) > 0
    assert check_format(pe.weight) > 0
    assert check_pe(pe, stalls=0.3) > 0


@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
@pytest.mark.parametrize("name", PES)
def test_pe_narrow_accumulator(name, overflow):
    pe = get_pe(name)
    exact = pe.accumulator_bits(pe.lanes)
    for bits in {max(2, exact - 3), exact + 1}:
        assert check_pe(pe, Accumulator(bits, overflow)) > 0


@pytest.mark.parametrize("name", PES)
def test_pe_widest_accumulator(name):
    assert check_pe(get_pe(name, pipeline=1), Accumulator(64), stalls=0.5) > 0


SHAPES = [(1, 1), (1, 4), (4, 1), (3, 5), (5, 3)]


@pytest.mark.parametrize("dataflow", DATAFLOWS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
@pytest.mark.parametrize("name", PES)
def test_array(name, shape, dataflow):
    rows, cols = shape
    options = {"pe": name, "rows": rows, "cols": cols, "dataflow": dataflow}
    config = ArrayConfig.from_options({**options, "pipeline": (rows + cols) % 4})
    generated = generate(config)
    deep = config.pe.lanes * rows
    # (M, K, N) smaller than the array, its size, larger and ragged; idle inputs; back-pressure.
    for m, k, n in [(1, 1, 1), (rows, deep, cols), (2 * rows + 1, 2 * deep + 1, cols + 1)]:
        for offer in [(1.0, 1.0), (0.5, 1.0), (1.0, 0.4), (0.6, 0.6)]:
            for accept in (1.0, 0.3):
                assert check_array(config, m, k, n, offer=offer, accept=accept, seed=m + k,
                                   generated=generated) > 0  # fmt: skip


@pytest.mark.parametrize("dataflow", DATAFLOWS)
@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("pipeline", [0, 1, 3])
def test_documented_latency_and_throughput(rows, pipeline, dataflow):
    options = {"pe": "lightpe1", "rows": rows, "cols": 3, "dataflow": dataflow}
    config = ArrayConfig.from_options({**options, "pipeline": pipeline, "lanes": 2})
    for m, k, n in [(1, 1, 1), (rows, 2 * rows, 7), (3, 5, 4), (9, 20, 7), (13, 3, 5)]:
        assert check_schedule(config, m, k, n) > 0


def test_larger_arrays_are_tiles_of_tiles():
    """Past 16 rows or columns, grids hold grids and skews hold groups, ragged ones too."""
    for rows, cols, dataflow in [(18, 2, "ws"), (2, 18, "os"), (17, 17, "os")]:
        config = ArrayConfig.from_options(
            {"pe": "lightpe1", "rows": rows, "cols": cols, "dataflow": dataflow, "pipeline": 1}
        )
        assert check_array(config, rows + 3, rows + 5, cols + 1, offer=(0.8, 0.9), accept=0.8) > 0


# ---- property tests: any GEMM, any values, any traffic --------------------------------------

_PROPERTY_CONFIGS = [
    {"pe": "int8", "rows": 3, "cols": 2, "dataflow": "ws", "pipeline": 1},
    {"pe": "int8", "rows": 2, "cols": 3, "dataflow": "os", "max_k": 7},
    {"pe": "lightpe2", "rows": 2, "cols": 2, "dataflow": "ws", "lanes": 3},
    {"pe": "bnn32", "rows": 2, "cols": 3, "dataflow": "ws", "lanes": 5},
    {"pe": "bnn32", "rows": 3, "cols": 2, "dataflow": "os", "lanes": 5, "pipeline": 2, "max_k": 12},
    {"pe": "int8", "rows": 3, "cols": 2, "accumulator_bits": 12, "overflow": "wrap"},
    {"pe": "lightpe1", "rows": 2, "cols": 2, "accumulator_bits": 12, "overflow": "saturate"},
    {"pe": "int8", "rows": 2, "cols": 2, "dataflow": "os", "accumulator_bits": 13, "max_k": 6,
     "overflow": "saturate", "lanes": 2},
]  # fmt: skip


@pytest.mark.parametrize("options", _PROPERTY_CONFIGS, ids=lambda o: "-".join(map(str, o.values())))
def test_any_gemm(options):
    config = ArrayConfig.from_options(options)
    generated = generate(config)
    size = st.integers(1, 13)
    chance = st.sampled_from([1.0, 0.7, 0.2])

    @settings(max_examples=60)
    @given(
        m=size, k=size, n=size, act=chance, weight=chance, accept=chance,
        burst=st.sampled_from([1, 5, 60]), seed=st.integers(0, 99),
    )  # fmt: skip
    def run(m, k, n, act, weight, accept, burst, seed):
        assert check_array(config, m, k, n, offer=(act, weight), accept=accept, burst=burst,
                           seed=seed, generated=generated) > 0  # fmt: skip

    run()


@pytest.mark.parametrize("dataflow", DATAFLOWS)
@pytest.mark.parametrize("name", PES)
def test_extremes_fill_the_exact_accumulator(name, dataflow):
    """The longest reduction of extreme operands: the derived width holds it, to the last bit."""
    options = {"pe": name, "rows": 2, "cols": 1, "dataflow": dataflow}
    config = ArrayConfig.from_options({**options, **({"max_k": 129} if dataflow == "os" else {})})
    depth = config.pass_depth
    pe = config.pe
    for a in (pe.activation.minimum, pe.activation.maximum):
        for w in (pe.weight.minimum, pe.weight.maximum):
            found = simulate(config, np.full((2, depth), a), np.full((depth, 1), w))
            assert found.passed
            assert (found.result == depth * a * w).all()
    # One bit less would not do.
    narrow = dataclasses.replace(config, accumulator_bits=config.exact_bits - 1, overflow="wrap")
    assert any(
        golden_gemm(narrow, np.full((1, depth), a), np.full((depth, 1), w)) != depth * a * w
        for a in (pe.activation.minimum, pe.activation.maximum)
        for w in (pe.weight.minimum, pe.weight.maximum)
    )
