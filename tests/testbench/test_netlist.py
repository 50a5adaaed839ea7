"""Post-synthesis netlists of small accelerators, in the benches of the RTL."""

import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from hwgen.accelerator.axi import AxiAccelerator
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.compiler.compile import compile_network
from hwgen.network.graph import Conv
from hwgen.verilog import emit_verilog
from synth.mapping import FpgaMapping
from synth.targets import FPGAS
from testbench.netlist import add_cell_models, between_streams, map_to_cells
from testbench.network import simulate_network
from testbench.random_networks import random_network

pytest.importorskip("cocotbext.axi", reason="cocotbext-axi is not installed")

from testbench.axi import check_axi

needs_icarus = pytest.mark.skipif(
    shutil.which("iverilog") is None, reason="iverilog is not installed (apt install iverilog)"
)
#: Buffers that are block RAM, and that a layer's weights do not fit.
SMALL = {
    "pe": "int8", "rows": 2, "cols": 2, "requantize": "shift", "activation_buffer": 1000,
    "weight_buffer": 600, "accumulator_buffer": 640, "parameter_buffer": 700, "loop_bits": 6,
    "sum_bits": 24,
}  # fmt: skip
CONFIGURATIONS = {
    "int8 shift": SMALL,
    "int8 multiplier": SMALL | {"requantize": "multiplier", "sum_bits": 32},
    "lightpe1 shift": SMALL | {"pe": "lightpe1"},
}
TARGETS = ("ice40-hx8k", "ice40-up5k", "ecp5-25k", "ecp5-25k-nodsp")
DSP_MODEL = Path(str(files("synth"))) / "models" / "ecp5_dsp.v"


def mapped(config, name):
    """Return module and netlist of the accelerator on AXI, mapped as boards and tables have it."""
    target = FPGAS[name]
    accelerator = AxiAccelerator(config)
    mapping = FpgaMapping("dsp" if target.dsp else "default", next(iter(target.family.recipes)))
    top = accelerator.definition
    script = mapping.script(target, top)
    return top, map_to_cells(emit_verilog(accelerator), top, script, target.family.finish)


def with_models(netlist, name):
    family = name.partition("-")[0]
    return add_cell_models(netlist, family, [DSP_MODEL] if family == "ecp5" else [])


def tiled_networks(config, count):
    """Return networks of convolutions first, of which a layer's weights are loaded while it runs."""
    rng = np.random.default_rng(1)
    found = []
    while len(found) < count:
        network = random_network(config, rng, layers=3, size=4)
        if len(network.operations) < 2 or not isinstance(network.operations[0], Conv):
            continue
        compiled = compile_network(network, config)
        inputs = np.zeros(network.tensors[network.input].shape, np.int64)
        beats = len(compiled.program(inputs).beats())
        if beats < 400 and max(len(layer.jobs) for layer in compiled.layers) > 1:
            found.append(network)
    return found


def count(netlist, cell):
    return len(re.findall(rf"^  {cell} ", netlist, re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("ice40-up5k", {"SB_RAM40_4K": 8, "SB_MAC16": 4}),
        ("ecp5-25k", {"DP16KD": 4, "MULT18X18D": 4}),
    ],
)
def test_axi(name, cells, tmp_path):
    """The whole bench: programs, damaged programs, registers, soft resets; every layer."""
    config = AcceleratorConfig.from_options(SMALL)
    top, netlist = mapped(config, name)
    assert all(count(netlist, cell) >= least for cell, least in cells.items())
    if name == "ecp5-25k":
        assert "REG_INPUTA_CLK" in netlist  # registers were moved into blocks
    found = check_axi(
        with_models(netlist, name), top, config, tiled_networks(config, 2), tmp_path
    )  # fmt: skip
    assert found.tests == 9
    assert found.compared == 12


@needs_icarus
def test_a_broken_netlist_is_seen(tmp_path):
    """Inverted outputs of LUTs of the array, in a simulator that knows unknown values; none passes."""
    name = "ice40-up5k"
    config = AcceleratorConfig.from_options(SMALL)
    top, netlist = mapped(config, name)
    networks = tiled_networks(config, 1)
    # The carry chain of a cell's sum has this function.
    adder = re.compile(r"16'h([69a-f]+)(\)\n  \) \\accelerator\.array\.grid\.\S*)")
    assert adder.search(netlist)
    broken = adder.sub(lambda m: f"16'h{0xFFFF ^ int(m[1], 16):04x}{m[2]}", netlist)
    for number, text in enumerate((netlist, broken)):

        def run(text=text, number=number):
            return check_axi(
                with_models(text, name), top, config, networks,
                tmp_path / str(number), simulator="icarus", only="programs_in_a_row/idle=0.0",
            )  # fmt: skip

        if text == netlist:
            assert run().compared == 1
        else:
            with pytest.raises(AssertionError):
                run()


@pytest.mark.slow
@needs_icarus
@pytest.mark.parametrize("name", TARGETS)
def test_axi_on_icarus(name, tmp_path):
    """Unknown values, collisions in block RAM of ECP5 among them: 1 to 2 minutes each.

    pytest -m slow tests/testbench/test_netlist.py -k icarus
    """
    config = AcceleratorConfig.from_options(SMALL)
    top, netlist = mapped(config, name)
    found = check_axi(
        with_models(netlist, name), top, config, tiled_networks(config, 2), tmp_path,
        simulator="icarus", only="programs_in_a_row",
    )  # fmt: skip
    assert found.compared == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "name"),
    [
        *(("int8 shift", name) for name in TARGETS),
        # Where there are no blocks, multipliers of 32 bits take a model far too long to compile.
        *((options, name) for options in ("int8 multiplier", "lightpe1 shift")
          for name in ("ice40-up5k", "ecp5-25k")),
    ],
)  # fmt: skip
def test_random_networks(options, name):
    """Many networks on the compiled lane, integers and cycles: a minute or two each.

    pytest -m slow tests/testbench/test_netlist.py -k random
    """
    config = AcceleratorConfig.from_options(CONFIGURATIONS[options])
    top, netlist = mapped(config, name)
    text = between_streams(top, config.name, config.stream_bits) + with_models(netlist, name)
    for number, network in enumerate(tiled_networks(config, 20)):
        compiled = compile_network(network, config)
        tensor = network.tensors[network.input]
        rng = np.random.default_rng(number)
        inputs = rng.integers(tensor.low, tensor.high + 1, (2, *tensor.shape))
        smooth = simulate_network(compiled, inputs, check=True, verilog=text)
        assert not any(smooth.mismatches.values()), (number, smooth.mismatches)
        assert smooth.cycles == smooth.predicted
        stalled = simulate_network(
            compiled, inputs, check=True, verilog=text, offer=0.5, accept=0.7, seed=number + 1
        )
        assert not any(stalled.mismatches.values()), (number, stalled.mismatches)


# ---- the model of block RAM ----------------------------------------------------------------------

#: Width of a word, its parts, words, and the bits of addresses that the bench uses.
SHAPES = ((1, 1, 16384, 0x3C03), (2, 1, 8192, 0x1C03), (4, 1, 4096, 0xC03), (9, 1, 2048, 0x403),
          (18, 2, 1024, 0x203), (36, 4, 512, 0x103), (72, 8, 512, 0x103))  # fmt: skip

MEMORY = """module memory_{width}(input clk, input read, input [{parts}-1:0] write,
    input [13:0] from, to, input [{width}-1:0] d, output reg [{width}-1:0] q);
  (* ram_style = "block" *) {attribute}
  reg [{width}-1:0] memory [0:{words}-1];
  integer i;
  always @(posedge clk) begin
    for (i = 0; i < {parts}; i = i + 1)
      if (write[i]) memory[to & {mask}][{part}*i +: {part}] <= d[{part}*i +: {part}];
    if (read) q <= memory[from & {mask}];
  end
endmodule
"""


def memories(attribute):
    texts, lines, total = [], [], 0
    for width, parts, words, mask in SHAPES:
        texts.append(
            MEMORY.format(width=width, parts=parts, part=width // parts, words=words,
                          mask=f"14'd{mask}", attribute=attribute)
        )  # fmt: skip
        lines.append(f"  memory_{width} m{width}(clk, read, write[{parts - 1}:0], from, to, "
                     f"d[{width - 1}:0], q[{total} +: {width}]);\n")  # fmt: skip
        total += width
    return "".join(texts) + (
        "module top(input clk, read, input [7:0] write, input [13:0] from, to, input [71:0] d,\n"
        f"    output [{total - 1}:0] q);\n{''.join(lines)}endmodule\n"
    )


MEMORY_BENCH = """`timescale 1ns / 1ps
module bench;
  reg clk = 0, read = 0;
  reg [7:0] write = 0;
  reg [13:0] from = 0, to = 0;
  reg [71:0] d = 0;
  wire [WIDTH-1:0] was, is;
  integer seed = 1, i, unknown = 0, changes = 0, n;
  reg [WIDTH-1:0] last = 0;
  top x (clk, read, write, from, to, d, was);
  mapped y (clk, read, write, from, to, d, is);
  initial begin
    for (i = 0; i < 4000; i = i + 1) begin
      #1 {read, write, from} = $random(seed);
      to = i % 4 ? $random(seed) : from;
      d = {$random(seed), $random(seed), $random(seed)};
      #1 clk = 1;
      #1 unknown = unknown + (^is === 1'bx);
      for (n = 0; n < WIDTH; n = n + 1)
        if (was[n] !== 1'bx && is[n] !== 1'bx && is[n] !== was[n])
          $fatal(1, "cycle %0d: bit %0d is %b and was %b", i, n, is[n], was[n]);
      changes = changes + (was !== last);
      last = was;
      clk = 0;
    end
    $display("%0d changes, %0d unknown", changes, unknown);
    $finish;
  end
endmodule
"""


@needs_icarus
@pytest.mark.parametrize("attribute", ["", "(* no_rw_check *)"])
def test_block_ram(attribute, tmp_path):
    """Every width of DP16KD does what the Verilog did; unasked for, what collides is unknown."""
    design = memories(attribute)
    netlist = map_to_cells(design, "top", "synth_ecp5 -top top")
    assert count(netlist, "DP16KD") >= len(SHAPES)
    for width in (1, 2, 4, 9, 18, 36):
        assert f".DATA_WIDTH_A(32'd{width})" in netlist
        assert f".DATA_WIDTH_B(32'd{width})" in netlist
    netlist = netlist.replace("module top(", "module mapped(")
    (tmp_path / "all.v").write_text(
        MEMORY_BENCH.replace("WIDTH", str(sum(shape[0] for shape in SHAPES)))
        + design + add_cell_models(netlist, "ecp5")
    )  # fmt: skip
    subprocess.run(
        ["iverilog", "-g2012", "-s", "bench", "-o", "bench.vvp", "all.v"], cwd=tmp_path, check=True
    )
    run = subprocess.run(
        ["vvp", "-n", "bench.vvp"], cwd=tmp_path, check=False, text=True, capture_output=True
    )
    assert run.returncode == 0, run.stdout
    changes, unknown = map(int, re.findall(r"\d+", run.stdout.splitlines()[-1]))
    assert changes > 1500
    assert (unknown > 100) == bool(attribute)
