"""`hwgen fit`: which array it finds, with formulas in place of the tools."""

import json
from types import SimpleNamespace

import pytest

import boards.fit
from boards.build import Built
from hwgen.cli import main
from testbench.tools import JobFailed

WORDS = ["fit", "--board", "ulx3s_25f", "--pe", "int8", "--clock", "50"]


@pytest.fixture
def tools(monkeypatch):
    """Cells by rows and columns, and clock by products, as the test sets them."""
    formulas = SimpleNamespace(
        cells=lambda rows, cols: 100 * rows * cols + 900 * cols,
        fmax=lambda rows, cols: 100 - rows * cols / 4,
        mapped=[], routed=[],
    )  # fmt: skip

    def map_build(build, _store, _setting):
        array = build.config.array
        assert build.config.layout == "aligned"
        formulas.mapped.append((array.rows, array.cols))
        if (needed := formulas.cells(array.rows, array.cols)) > 24_288:
            raise JobFailed("does-not-fit", f"it needs {needed:,} LUT of 24,288")

    def attempt(build, _store, setting, _say):
        array = build.config.array
        formulas.routed.append((array.rows, array.cols))
        result = {
            "fmax": formulas.fmax(array.rows, array.cols), "path": ["a", "b"], "logic_levels": 3,
            "utilization": {},
        }  # fmt: skip
        return Built(setting, "", SimpleNamespace(pins={}), 1, {}, SimpleNamespace(result=result))

    monkeypatch.setattr(boards.fit, "map_build", map_build)
    monkeypatch.setattr(boards.fit, "attempt", attempt)
    return formulas


def found(capsys) -> tuple[int, int]:
    array = json.loads(capsys.readouterr().out)["configuration"]["array"]
    return array["rows"], array["cols"]


def test_the_largest_that_fits_of_all_ratios(tools, capsys) -> None:
    tools.fmax = lambda *_: 60
    assert main([*WORDS, "--json"]) == 0
    # 12×12 takes 25,200, 20×10 29,000, 28×7 25,900; 10×10 19,000, 16×8 20,000, 24×6 19,800
    assert found(capsys) == (24, 6)
    assert tools.routed == [(24, 6)]
    assert len(tools.mapped) == len(set(tools.mapped))


def test_the_largest_that_meets_the_clock(tools, capsys) -> None:
    tools.fmax = lambda rows, cols: 100 - rows * cols / 2
    assert main([*WORDS, "--json"]) == 0
    assert found(capsys) == (20, 5)  # 24×6 reaches 28 MHz
    assert (24, 6) in tools.routed


def test_none_that_meets_the_clock(tools, capsys) -> None:
    tools.fmax = lambda *_: 49.9
    assert main(WORDS) == 2
    said = capsys.readouterr().err
    assert "no array of int8 fits ulx3s_25f at 50 MHz; 4×1: it reaches 49.9 MHz of 50" in said
    assert "its slowest path is a -> b (3 levels of logic)" in said


def test_none_that_fits(tools, capsys) -> None:
    tools.cells = lambda *_: 30_000
    assert main(WORDS) == 2
    said = capsys.readouterr().err
    assert "no array of int8 fits ulx3s_25f at 50 MHz; 1×1: it needs 30,000 LUT of 24,288" in said
    assert not tools.routed


@pytest.mark.parametrize("flag", ["--rows", "--cols"])
def test_a_shape_is_found_not_given(flag, capsys) -> None:
    assert main([*WORDS, flag, "4"]) == 2
    assert f"{flag} must be left out: it is what is found" in capsys.readouterr().err
