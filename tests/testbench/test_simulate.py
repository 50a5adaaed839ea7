"""Simulation finds what is wrong, says where, and counts right."""

import re
from dataclasses import replace

import numpy as np
import pytest

from hwgen.config import ArrayConfig
from hwgen.errors import UserError
from hwgen.generate import generate
from testbench.compiled import ProtocolError
from testbench.golden import exact_matmul, golden_gemm
from testbench.simulate import random_operands, simulate


def config(**options):
    return ArrayConfig.from_options({"pe": "int8", "rows": 3, "cols": 2, **options})


def broken(made, old, new):
    """Return the array with one place of its Verilog changed."""
    assert len(re.findall(old, made.verilog)) == 1
    return replace(made, verilog=re.sub(old, new, made.verilog))


def test_golden_is_the_integer_product():
    rng = np.random.default_rng(0)
    a, w = rng.integers(-(1 << 15), 1 << 15, (9, 40)), rng.integers(-(1 << 15), 1 << 15, (40, 5))
    plain = [[sum(int(x) * int(y) for x, y in zip(r, c, strict=True)) for c in w.T] for r in a]
    assert exact_matmul(a, w).tolist() == plain
    big = np.full((1, 2), 1 << 30), np.array([[1 << 30], [1]])
    assert exact_matmul(*big).tolist() == [[(1 << 60) + (1 << 30)]]  # beyond float64


@pytest.mark.parametrize(("overflow", "expected"), [("wrap", 300 - 256), ("saturate", 100)])
def test_golden_overflow_by_hand(overflow, expected):
    narrow = config(rows=3, accumulator_bits=8, overflow=overflow)
    a = np.array([[100, 100, 100]])
    # 8 bits hold -128..127: 100, 200, 300 wraps to 44; clamped after each step it is 127 or, with
    # the last product negative, 27 - and 100 where the middle one is -100.
    w = np.array([[1], [1], [1]])
    if overflow == "saturate":
        w = np.array([[1], [-1], [1]])
    assert golden_gemm(narrow, a, w).tolist() == [[expected]]
    assert golden_gemm(narrow, a, np.array([[1], [1], [-1]])).tolist() == (
        [[100]] if overflow == "wrap" else [[27]]
    )


def test_figures():
    a, w = random_operands(config(), 50, 7, 5, 3)
    found = simulate(config(), a, w)
    assert found.passed
    assert (found.result == a @ w).all()
    assert found.vectors == 9 * 50  # 3 passes over K times 3 over N
    assert found.checks == 3 * 50 * (2 + 2 + 1)
    # First weights in cycle 0; 9 passes of 50 beats start in cycle 3; latency 3 + 2.
    assert found.cycles == 1 + 3 + 9 * 50 - 1 + 5
    assert found.utilisation == pytest.approx(50 * 7 * 5 / (6 * (3 + 9 * 50)))


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_a_mismatch_says_where(dataflow):
    made = generate(config(dataflow=dataflow))
    # The product of the cell at row 1, column 1 sees bit 0 of its activation stuck at 1.
    bad = broken(
        made,
        r"cell_1_1 \(\.act_in\(act_1_0\)",
        r"cell_1_1 (.act_in(act_1_0 | 8'd1)",
    )
    a = np.zeros((4, 3), dtype=int)
    w = np.ones((3, 2), dtype=int)
    a[:, 1] = [1, 1, 2, 1]
    if dataflow == "ws":
        found = simulate(made.config, a, w, generated=bad)
        assert [(e.tile, e.row, e.column, e.expected, e.got) for e in found.examples] == [
            (0, 2, 1, 2, 3)
        ]
        assert found.examples[0].cycle == 3 + 2 + 5  # weights, two vectors before it, latency
        assert found.mismatches == 1
    else:
        found = simulate(made.config, a, w, generated=bad)
        assert found.mismatches > 0
        assert {(e.row, e.column) for e in found.examples} == {(1, 1)}
    assert not found.passed
    assert "row" in str(found.examples[0])


def test_an_array_that_stands_still_or_misbehaves_is_reported():
    made = generate(config())
    a, w = random_operands(config(), 4, 3, 2, 0)
    with pytest.raises(ProtocolError, match=r"nothing was transferred for 10000 cycles"):
        simulate(
            config(),
            a,
            w,
            generated=broken(made, r"assign sum_valid = .*;", "assign sum_valid = 1'b0;"),
        )
    with pytest.raises(ProtocolError, match=r"the last bit of o_sum must mark"):
        simulate(
            config(),
            a,
            w,
            generated=broken(made, r"assign sum_last = .*;", "assign sum_last = 1'b0;"),
        )
    stuck = broken(made, r"assign en = .*;", "assign en = 1'b1;")
    with pytest.raises(ProtocolError, match=r"withdrawn|changed"):
        simulate(config(), a, w, generated=stuck, accept=0.3)


def test_waves(tmp_path):
    a, w = random_operands(config(), 4, 3, 2, 0)
    simulate(config(), a, w, waves=tmp_path / "w" / "a.vcd")
    text = (tmp_path / "w" / "a.vcd").read_text()
    assert "$enddefinitions" in text
    assert "o_sum__payload" in text
    assert sorted(p.name for p in (tmp_path / "w").iterdir()) == ["a.vcd"]


@pytest.mark.parametrize(
    ("a", "w", "text"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2), int), "activations must be integers, not of dtype float64"),
        (np.zeros((2, 3), int), np.zeros((4, 2), int),
         "activations (M×K) and weights (K×N) must agree in K, not (2, 3) and (4, 2)"),
        (np.zeros(3, int), np.zeros((3, 2), int),
         "activations must be a matrix with at least one row and column, not of shape (3,)"),
        (np.zeros((0, 3), int), np.zeros((3, 2), int),
         "activations must be a matrix with at least one row and column, not of shape (0, 3)"),
        (np.full((2, 3), 128), np.zeros((3, 2), int),
         "activations must be the integers -128 to 127, not 128 (row 0, column 0; the nearest is 127)"),
        (np.full((2, 3), 2**63, np.uint64), np.zeros((3, 2), int),
         "activations must be the integers -128 to 127, not 9223372036854775808 (row 0, column 0; the nearest is 127)"),
        (np.zeros((2, 3), bool), np.zeros((3, 2), int),
         "activations must be integers, not of dtype bool"),
    ],
)  # fmt: skip
def test_bad_operands(a, w, text):
    with pytest.raises(UserError) as caught:
        simulate(config(), a, w)
    assert str(caught.value) == text


def test_operands_off_a_grid_with_gaps():
    light = ArrayConfig.from_options({"pe": "lightpe1", "rows": 1, "cols": 1})
    with pytest.raises(UserError, match=r"not 3 \(row 1, column 0; the nearest is 4\)"):
        simulate(light, np.ones((1, 2), int), np.array([[1], [3]]))


def test_too_large_is_refused_before_it_is_allocated():
    with pytest.raises(UserError, match=r"must fit into memory: it takes about .* GiB"):
        random_operands(config(), 10**7, 10**7, 1, 0)
    with pytest.raises(UserError, match=r"^M must be at least 1, not 0$"):
        random_operands(config(), 0, 1, 1, 0)
