"""Phase-locked loops: from a board's oscillator to the core's clock.

Formulas and limits are those of the vendors' documents: iCE40 sysCLOCK PLL Design User Guide
(Lattice FPGA-TN-02052), ECP5 sysCLOCK PLL/DLL Design and User Guide (FPGA-TN-02200), Gowin Clock
User Guide (UG286), 7 Series Clocking Resources (Xilinx UG472).
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hwgen.errors import UserError

__all__ = ["Setting", "choose_setting", "settings"]


@dataclass(frozen=True)
class Setting:
    """A clock that can be had, and the primitive's parameters for it.

    Attributes
    ----------
    hz : float
        The core clock.
    parameters : mapping
        Of the PLL; empty if the oscillator is the clock.
    """

    hz: float
    parameters: Mapping[str, Any]


def _ice40(source: float) -> Iterator[Setting]:
    """SB_PLL40, simple feedback: ``out = in / (divr + 1) * (divf + 1) / 2**divq``."""
    for divr in range(16):
        compared = source / (divr + 1)
        if not 10e6 <= compared <= 133e6:
            continue
        # The loop filter follows the phase detector's frequency, as IceStorm's icepll has it.
        bounds = (17e6, 26e6, 44e6, 66e6, 101e6)
        filter_range = 1 + sum(compared >= bound for bound in bounds)
        for divf in range(128):
            oscillator = compared * (divf + 1)
            if not 533e6 <= oscillator <= 1066e6:
                continue
            for divq in range(1, 7):
                hz = oscillator / 2**divq
                if 16e6 <= hz <= 275e6:
                    yield Setting(hz, {
                        "FEEDBACK_PATH": "SIMPLE", "DIVR": divr, "DIVF": divf, "DIVQ": divq,
                        "FILTER_RANGE": filter_range,
                    })  # fmt: skip


def _ecp5(source: float) -> Iterator[Setting]:
    """EHXPLLL with feedback from its output: ``out = in / clki * clkfb``, oscillator 400-800 MHz.

    The oscillator is as near the middle of its range as can be, as in Project Trellis' ecppll. The
    phase of the only output decides nothing.
    """
    for clki in range(1, 129):
        if not 3.125e6 <= source / clki <= 400e6:
            continue
        for clkfb in range(1, 81):
            hz = source / clki * clkfb
            dividers = [n for n in range(1, 129) if 400e6 <= hz * n <= 800e6]
            if not (3.125e6 <= hz <= 400e6 and dividers):
                continue
            clkop = min(dividers, key=lambda n: abs(hz * n - 600e6))
            yield Setting(hz, {
                "CLKI_DIV": clki, "CLKFB_DIV": clkfb, "CLKOP_DIV": clkop,
                "CLKOP_CPHASE": clkop // 2,
            })  # fmt: skip


def _gowin(source: float) -> Iterator[Setting]:
    """Gowin's rPLL: ``out = in / (idiv + 1) * (fbdiv + 1)``, oscillator ``out * odiv``.

    The limits hold for all grades that the listed boards have.
    """
    for idiv in range(64):
        if not 3e6 <= source / (idiv + 1) <= 400e6:
            continue
        for fbdiv in range(64):
            hz = source / (idiv + 1) * (fbdiv + 1)
            if not 3.125e6 <= hz <= 400e6:
                continue
            for odiv in (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128):
                if 500e6 <= hz * odiv <= 1200e6:
                    yield Setting(hz, {
                        "IDIV_SEL": idiv, "FBDIV_SEL": fbdiv, "ODIV_SEL": odiv,
                    })  # fmt: skip
                    break


def _xc7(source: float) -> Iterator[Setting]:
    """MMCME2_BASE: ``out = in / divclk * mult / divide``, oscillator 600-1200 MHz.

    The limits are those of the slowest grade (UG472, DS181). The PLLE2 needs 19 MHz at its input,
    more than some boards have. Of what makes the same clock, the fastest oscillator is taken: it
    jitters least.
    """
    period = round(1e9 / source, 3)
    for divclk in range(1, 107):
        compared = source / divclk
        if not 10e6 <= compared <= 450e6:
            continue
        for mult in range(64, 1, -1):
            oscillator = compared * mult
            if not 600e6 <= oscillator <= 1200e6:
                continue
            for divide in range(1, 129):
                hz = oscillator / divide
                if 4.69e6 <= hz <= 400e6:
                    yield Setting(hz, {
                        "CLKIN1_PERIOD": period, "DIVCLK_DIVIDE": divclk,
                        "CLKFBOUT_MULT_F": float(mult), "CLKOUT0_DIVIDE_F": float(divide),
                    })  # fmt: skip


_FAMILIES: dict[str, Callable[[float], Iterator[Setting]]] = {
    "ice40": _ice40,
    "ecp5": _ecp5,
    "gowin": _gowin,
    "xc7": _xc7,
}


@functools.cache
def settings(family: str, source: float) -> tuple[Setting, ...]:
    """Return all clocks that can be made of an oscillator, slowest first.

    Parameters
    ----------
    family : str
        ``"ice40"``, ``"ecp5"``, ``"gowin"`` or ``"xc7"``.
    source : float
        The oscillator's frequency in Hz; it is a clock itself.
    """
    found: dict[int, Setting] = {}
    for setting in (Setting(source, {}), *_FAMILIES[family](source)):
        found.setdefault(round(setting.hz), setting)
    return tuple(found[hz] for hz in sorted(found))


def choose_setting(family: str, source: float, hz: float) -> Setting:
    """Return the fastest clock that is not above ``hz``.

    Raises
    ------
    UserError
        If there is none, or none within 5 % of it.
    """
    found = settings(family, source)
    below = [setting for setting in found if setting.hz <= hz * (1 + 1e-6)]
    if not below or below[-1].hz < 0.95 * hz:
        nearest = min(found, key=lambda setting: abs(setting.hz - hz))
        raise UserError(
            f"clock must be one that the PLL can make of {source / 1e6:g} MHz, not {hz / 1e6:g} "
            f"MHz; the nearest is {nearest.hz / 1e6:g} MHz"
        )
    return below[-1]
