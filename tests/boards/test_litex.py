"""The accelerator in LiteX: what LiteX emits, simulated by Icarus, runs a network's program."""

import json
import shutil
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.accelerator.axi import IDENTIFICATION, REGISTERS
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.compiler.compile import Compiled, compile_network
from hwgen.compiler.program import Program
from hwgen.errors import UserError
from hwgen.network.graph import Conv, Network, Tensor
from hwgen.network.requantize import RoundingShift
from testbench.golden_network import run_network

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("litex", reason="litex is not installed (pip install litex migen)")
    from litex.build.generic_platform import Pins, Subsignal
    from litex.build.io import CRG
    from litex.build.sim import SimPlatform
    from litex.build.xilinx import XilinxPlatform
    from litex.gen import LiteXModule
    from litex.soc.integration.export import get_csr_json
    from litex.soc.integration.soc_core import SoCMini
    from litex.soc.interconnect import wishbone

    from boards.litex import HwgenAccelerator, add_accelerator

pytestmark = pytest.mark.filterwarnings("ignore")
has_icarus = pytest.mark.skipif(
    shutil.which("iverilog") is None, reason="iverilog is not installed (apt install iverilog)"
)

OPTIONS = {
    "pe": "int8", "rows": 4, "cols": 4, "activation_buffer": 512, "weight_buffer": 512,
    "accumulator_buffer": 256, "parameter_buffer": 256, "requantize": "shift",
}  # fmt: skip
#: Where the SoC of these tests has things.
REGISTERS_AT, MEMORY_AT, MEMORY, ANSWER = 0x8000_0000, 0x4000_0000, 0x4000, 0x2000


@dataclass(frozen=True)
class Case:
    """A network's program and the answer that is the right one."""

    config: AcceleratorConfig
    compiled: Compiled
    program: Program
    expected: np.ndarray

    @property
    def beats(self) -> np.ndarray:
        return self.program.beats()

    def check(self, words: list[str]) -> None:
        """Compare an answer, as hexadecimal numbers of any width, with the golden model's."""
        data = b"".join(bytes.fromhex(word)[::-1] for word in words)
        beats = np.frombuffer(data, np.uint8).reshape(-1, self.config.stream_bits // 8)
        found = self.compiled.outputs(self.program.read_answer(beats))
        np.testing.assert_array_equal(found["out"], self.expected)


def make_case(**options: Any) -> Case:
    """Return a 1×1 convolution of 3 × 2 pixels, from 5 to 6 channels."""
    config = AcceleratorConfig.from_options(OPTIONS | options)
    rng = np.random.default_rng(0)
    tensors = [Tensor("in", (3, 2, 5), -128, 127, 3), Tensor("out", (3, 2, 6), -128, 127, -2)]
    weights = rng.integers(-128, 128, (6, 1, 1, 5))
    layer = Conv(
        "layer", ("in",), "out", RoundingShift(rng.integers(5, 9, 6), -2, -128, 127), weights,
        rng.integers(-500, 500, 6),
    )  # fmt: skip
    network = Network(
        "tiny", {tensor.name: tensor for tensor in tensors}, [layer], "in", "out",
        lambda values: values, lambda values: values,
    )  # fmt: skip
    inputs = rng.integers(-128, 128, (3, 2, 5))
    compiled = compile_network(network, config)
    expected = run_network(network, inputs[None])["out"][0]
    return Case(config, compiled, compiled.program(inputs), expected)


def simulate(folder: Path, files: list[str], bench: str) -> list[str]:
    """Run a test bench on Icarus; return the lines that it prints."""
    (folder / "bench.v").write_text(bench)
    for command in (
        ["iverilog", "-g2005", "-o", "bench", "-s", "bench", "bench.v", *files],
        ["vvp", "-n", "bench"],
    ):
        run = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=100
        )
        assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.splitlines()


# ---- streams ---------------------------------------------------------------------------------


class Streams(LiteXModule):
    """The accelerator with its streams on pads."""

    def __init__(self, platform: Any, case: Case, folder: Path) -> None:
        self.crg = CRG(platform.request("sys_clk"))
        self.accelerator = HwgenAccelerator(platform, case.config, folder)
        into, out = platform.request("sink"), platform.request("source")
        sink, source = self.accelerator.sink, self.accelerator.source
        self.comb += [
            sink.data.eq(into.data), sink.valid.eq(into.valid), sink.last.eq(into.last),
            into.ready.eq(sink.ready), source.ready.eq(out.ready),
            out.data.eq(source.data), out.valid.eq(source.valid), out.last.eq(source.last),
        ]  # fmt: skip


STREAM_BENCH = """\
module bench;
  reg clk = 0;
  always #5 clk = ~clk;
  reg [{high}:0] program [0:{last}];
  integer index = 0, seed = 1;
  reg ready = 0, valid = 0;
  wire sink_ready, out_valid, out_last;
  wire [{high}:0] data;
  streams dut (.sys_clk(clk), .sim_trace(1'b0),
    .sink_data(program[index]), .sink_valid(valid), .sink_last(index == {last}),
    .sink_ready(sink_ready), .source_data(data), .source_valid(out_valid),
    .source_last(out_last), .source_ready(ready));
  initial begin
    $readmemh("program.hex", program);
    #1000000 $display("timeout");
    $finish;
  end
  always @(posedge clk) begin
    ready <= $random(seed);
    if (!valid || sink_ready) valid <= ($random(seed) & 3) != 0 && index + valid <= {last};
    if (valid && sink_ready) index <= index + 1;
    if (out_valid && ready) begin
      $display("%h", data);
      if (out_last) $finish;
    end
  end
endmodule
"""


@has_icarus
@pytest.mark.parametrize("stream_bits", [64, 128])
def test_program_runs_through_the_streams(stream_bits: int, tmp_path: Path) -> None:
    case = make_case(stream_bits=stream_bits)
    layout = [("data", stream_bits), ("valid", 1), ("ready", 1), ("last", 1)]
    pads = [Subsignal(name, Pins(width)) for name, width in layout]
    platform = SimPlatform(
        "SIM", [("sys_clk", 0, Pins(1)), ("sink", 0, *pads), ("source", 0, *pads)]
    )
    top = Streams(platform, case, tmp_path)
    assert [Path(file) for file, *_ in platform.sources] == [tmp_path / "int8.v"]
    platform.get_verilog(top, name="streams").write(str(tmp_path / "streams.v"))
    beats = case.beats
    (tmp_path / "program.hex").write_text(
        "".join(f"{beat[::-1].tobytes().hex()}\n" for beat in beats)
    )
    bench = STREAM_BENCH.format(high=stream_bits - 1, last=len(beats) - 1)
    case.check(simulate(tmp_path, ["streams.v", "int8.v"], bench))


# ---- a SoC -----------------------------------------------------------------------------------


class Soc(SoCMini):
    """Memory with the program, the accelerator with DMA, and in the CPU's place a bus on pads."""

    def __init__(self, platform: Any, case: Case, folder: Path, standard: str, bits: int) -> None:
        self.crg = CRG(platform.request("sys_clk"))
        super().__init__(platform, int(100e6), bus_standard=standard, bus_data_width=bits)
        add_accelerator(self, case.config, "npu", directory=folder, origin=REGISTERS_AT, dma=True)
        words = case.beats.reshape(-1, bits // 8)
        contents = [int.from_bytes(word.tobytes(), "little") for word in words]
        contents += [0] * (MEMORY * 8 // bits - len(contents))
        self.add_ram("memory", MEMORY_AT, MEMORY, contents=contents)
        host = wishbone.Interface()
        self.comb += host.connect_to_pads(platform.request("host"), mode="slave")
        self.bus.add_master("host", host)


SOC_BENCH = """\
module bench;
  reg clk = 0;
  always #5 clk = ~clk;
  reg [31:0] address = 0, written = 0, read;
  reg active = 0, writes = 0;
  wire ack, err;
  wire [31:0] data;
  soc dut (.sys_clk(clk), .sim_trace(1'b0), .host_adr(address[31:2]), .host_dat_w(written),
    .host_dat_r(data), .host_sel(4'hF), .host_cyc(active), .host_stb(active), .host_we(writes),
    .host_ack(ack), .host_err(err), .host_cti(3'd0), .host_bte(2'd0));
  task transfer(input [31:0] where, input we, input [31:0] what);
    begin
      address <= where; written <= what; writes <= we; active <= 1;
      @(posedge clk);
      while (!ack) @(posedge clk);
      read = data;
      if (err) $display("error at %h", where);
      active <= 0;
      @(posedge clk);
    end
  endtask
  task await(input [31:0] where);
    begin
      read = 0;
      while (!read) transfer(where, 0, 0);
    end
  endtask
  integer i;
  initial begin
    repeat (4) @(posedge clk);
{steps}
    $finish;
  end
  initial #1000000 begin
    $display("timeout");
    $finish;
  end
endmodule
"""


@has_icarus
@pytest.mark.parametrize(
    ("standard", "bits"), [("wishbone", 32), ("wishbone", 64), ("axi-lite", 32), ("axi", 32)]
)
def test_program_runs_from_memory(
    standard: str, bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case()
    pads = wishbone.Interface().get_ios("host")
    platform = SimPlatform("SIM", [("sys_clk", 0, Pins(1)), *pads])
    soc = Soc(platform, case, tmp_path, standard, bits)
    soc.finalize()
    monkeypatch.chdir(tmp_path)  # where LiteX writes the memory's contents
    # In the other form one block drives several signals, and Icarus runs in circles.
    platform.get_verilog(soc, name="soc", regular_comb=False).write("soc.v")
    exported = json.loads(get_csr_json(soc.csr_regions, soc.constants, soc.mem_regions))
    csrs = {name: csr["addr"] for name, csr in exported["csr_registers"].items()}
    constants = exported["constants"]
    assert constants["npu_beat_bytes"] == 8
    offsets = {r.name: constants[f"npu_{r.name}_offset"] for r in REGISTERS}
    assert offsets == {register.name: register.offset for register in REGISTERS}

    steps = []

    def write(address: int, value: int) -> None:
        steps.append(f"transfer(32'h{address:x}, 1, 32'h{value:x});")

    def show(address: int) -> None:
        steps.append(f'transfer(32\'h{address:x}, 0, 0); $display("%h", read);')

    answer_bytes = case.program.answer_beats * 8
    for engine, start, length in (
        ("writer", MEMORY_AT + ANSWER, answer_bytes + 64),
        ("reader", MEMORY_AT, case.beats.size),
    ):
        write(csrs[f"npu_{engine}_base"] + 4, start)  # the lower word is behind the upper one
        write(csrs[f"npu_{engine}_length"], length)
        write(csrs[f"npu_{engine}_enable"], 1)
    steps.append(f"await(32'h{csrs['npu_writer_done']:x});")
    names = ("identification", "status", "programs", "errors", "idle")
    for name in names:
        show(REGISTERS_AT + offsets[name])
    show(csrs["npu_writer_offset"])
    for address in range(MEMORY_AT + ANSWER, MEMORY_AT + ANSWER + answer_bytes, 4):
        show(address)
    bench = SOC_BENCH.format(steps="\n".join(f"    {step}" for step in steps))
    lines = simulate(tmp_path, ["soc.v", "int8.v"], bench)
    registers = [int(line, 16) for line in lines[: len(names) + 1]]
    assert registers == [IDENTIFICATION, 0, 1, 0, 1, answer_bytes * 8 // bits]
    case.check(lines[len(names) + 1 :])


def test_vivado_gets_the_verilog(tmp_path: Path) -> None:
    io = [("sys_clk", 0, Pins("E3")), *wishbone.Interface().get_ios("host")]
    platform = XilinxPlatform("xc7a35ticsg324-1L", io, toolchain="vivado")
    soc = Soc(platform, make_case(), tmp_path / "hwgen", "wishbone", 32)
    soc.build(build_dir=str(tmp_path / "gateware"), build_name="arty", run=False)
    script = (tmp_path / "gateware" / "arty.tcl").read_text()
    assert str(tmp_path / "hwgen" / "int8.v") in script
    assert "int8_axi" in (tmp_path / "gateware" / "arty.v").read_text()


# ---- bad input -------------------------------------------------------------------------------


def mini_soc(bits: int = 32) -> SoCMini:
    platform = SimPlatform("SIM", [("sys_clk", 0, Pins(1))])
    return SoCMini(platform, int(100e6), bus_data_width=bits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "bus"}, "name must be an identifier that the SoC has not got yet, not 'bus'"),
        ({"name": "a-b"}, "name must be an identifier that the SoC has not got yet, not 'a-b'"),
        ({"origin": 0x80000010}, "origin must be a multiple of 4096, not 0x80000010"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = AcceleratorConfig.from_options(OPTIONS)
    with pytest.raises(UserError, match=f"^{message}$"):
        add_accelerator(mini_soc(), config, directory=tmp_path, **arguments)


def test_bus_wider_than_the_streams(tmp_path: Path) -> None:
    config = AcceleratorConfig.from_options(OPTIONS)
    with pytest.raises(
        UserError, match=r"^stream_bits must be at least the 128 of the SoC's bus with DMA, not 64$"
    ):
        add_accelerator(mini_soc(128), config, directory=tmp_path, dma=True)


def test_two_accelerators(tmp_path: Path) -> None:
    soc = mini_soc()
    config = AcceleratorConfig.from_options(OPTIONS)
    add_accelerator(soc, config, "first", directory=tmp_path, origin=REGISTERS_AT)
    add_accelerator(soc, config, "second", directory=tmp_path, origin=REGISTERS_AT + 0x1000)
    assert len(soc.platform.sources) == 1
    other = AcceleratorConfig.from_options(OPTIONS | {"rows": 2})
    with pytest.raises(UserError, match=r"^name must be another one than 'int8'"):
        add_accelerator(soc, other, "third", directory=tmp_path)
