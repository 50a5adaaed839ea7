"""A unit in its ring: every port is connected, once, to registers of its own."""

import re

import pytest

from hwgen.accelerator.config import AcceleratorConfig
from hwgen.config import ArrayConfig
from pe_library import get_pe
from synth.units import UNITS, make_unit


def config(name="lightpe1", **options):
    return ArrayConfig.from_options({"pe": name, "rows": 2, "cols": 3, **options})


def of_kind(kind, **options):
    array = config(**options)
    return AcceleratorConfig(array=array) if kind == "accelerator" else array


@pytest.mark.parametrize("dataflow", ["ws", "os"])
@pytest.mark.parametrize("kind", UNITS)
def test_the_ring_connects_every_bit_once(kind, dataflow):
    if kind == "accelerator" and dataflow == "os":
        pytest.skip("accelerators are weight-stationary")
    unit = make_unit(kind, of_kind(kind, dataflow=dataflow))
    ring = unit.ring()
    connections = dict(re.findall(r"\.(\w+)\(([^()]*)\)", ring))
    assert len(re.findall(r"\.(\w+)\(", ring)) == len(connections)  # none twice
    assert connections.pop("clk") == "clk"
    assert connections.pop("rst") == "reset_q"
    assert set(connections) == {name for name, _, _ in unit.ports}
    bits = {"drive_q": [], "seen": []}
    for name, is_input, width in unit.ports:
        bus, high, low = re.fullmatch(r"(\w+)\[(\d+):(\d+)\]", connections[name]).groups()
        assert bus == ("drive_q" if is_input else "seen")
        assert int(high) - int(low) + 1 == width
        bits[bus] += range(int(low), int(high) + 1)
    for bus, used in bits.items():
        (high,) = re.findall(rf"(?:reg|wire) \[(\d+):0\] {bus};", ring)
        assert sorted(used) == list(range(int(high) + 1))


@pytest.mark.parametrize("kind", UNITS)
def test_the_verilog_is_of_the_unit_and_the_same_again(kind):
    unit = make_unit(kind, of_kind(kind))
    assert make_unit(kind, of_kind(kind)) == unit
    assert f"\nmodule {unit.top}(" in "\n" + unit.verilog
    assert not re.search(r"^(//|/\*)", unit.verilog, re.MULTILINE)
    for name, _, _ in unit.ports:
        assert re.search(rf"\b{name}\b", unit.verilog)
    assert len(unit.sha256) == 64


def test_products_of_a_cycle():
    options = {"lanes": 4}
    assert make_unit("pe", config(**options)).macs_per_cycle == 4
    assert make_unit("array", config(**options)).macs_per_cycle == 2 * 3 * 4


def test_the_cell_is_that_of_the_array():
    pe = get_pe("int8")
    a, b = (
        make_unit("pe", ArrayConfig(pe=pe, rows=4, cols=n, accumulator_bits=24)) for n in (1, 9)
    )
    assert a.verilog == b.verilog


def test_an_unknown_kind():
    with pytest.raises(
        ValueError, match=r"^unit must be one of 'pe', 'array', 'accelerator', not 'wheel'$"
    ):
        make_unit("wheel", config())
