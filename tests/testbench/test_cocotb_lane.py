"""The cocotb lane: it passes what is right on both simulators, and fails what is not."""

import dataclasses
import functools
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.config import ArrayConfig
from hwgen.errors import UserError
from hwgen.generate import Generated, generate
from hwgen.tiling import Beats, Tiling
from testbench.cocotb_lane import BenchError, check_array, run_bench, simulators, stream_gemm
from testbench.compiled import CompiledModel, ProtocolError
from testbench.streams import packed_beats, unpack_beats

ICARUS = pytest.param(
    "icarus",
    marks=pytest.mark.skipif(
        shutil.which("iverilog") is None, reason="iverilog is not installed (apt install iverilog)"
    ),
)
on_each_simulator = pytest.mark.parametrize("simulator", ["verilator", ICARUS])
on_icarus = pytest.mark.parametrize("simulator", [ICARUS])
on_each_dataflow = pytest.mark.parametrize("dataflow", ["ws", "os"])

INT8 = {"pe": "int8", "rows": 3, "cols": 5}


@functools.cache
def array(**options: Any) -> Generated[ArrayConfig]:
    return generate(ArrayConfig.from_options(options))


def mutant(
    original: Generated[ArrayConfig], pattern: str, replacement: str
) -> Generated[ArrayConfig]:
    verilog, count = re.subn(pattern, replacement, original.verilog)
    assert count, f"{pattern} is not in the Verilog"
    return dataclasses.replace(original, verilog=verilog)


def gemm(generated: Generated[ArrayConfig]) -> tuple[Beats, Beats, int]:
    """Operands of some passes, and how many beats of sums come of them."""
    config, rng = generated.config, np.random.default_rng(1)
    a = rng.choice(config.pe.activation.values, (7, 8))
    w = rng.choice(config.pe.weight.values, (8, 9))
    tiling = Tiling(config, 7, 8, 9)
    return tiling.activations(a), tiling.weights(w), sum(part.beats for part in tiling)


# ---- what is right ---------------------------------------------------------------------------


@on_each_simulator
@on_each_dataflow
@pytest.mark.parametrize(
    "options",
    [
        INT8,
        {"pe": "lightpe2", "rows": 2, "cols": 2, "pipeline": 1},
        {"pe": "bnn32", "rows": 1, "cols": 3},
        {"pe": "int16", "rows": 4, "cols": 1},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_arrays(simulator: str, dataflow: str, options: dict[str, Any], tmp_path: Path) -> None:
    generated = array(dataflow=dataflow, **options)
    found = check_array(generated, simulator=simulator, directory=tmp_path)
    assert found["tests"] == 13


@on_each_simulator
@on_each_dataflow
def test_both_lanes_agree(simulator: str, dataflow: str) -> None:
    generated = array(dataflow=dataflow, **INT8)
    operands = gemm(generated)
    streamed = stream_gemm(generated, *operands, simulator=simulator)
    with CompiledModel(generated.verilog, "int8") as model:
        (sums,) = model.stream(*operands, generated.sidecar["streams"])
        np.testing.assert_array_equal(streamed.sums.values, sums.values)
        np.testing.assert_array_equal(streamed.sums.last, sums.last)
        np.testing.assert_array_equal(streamed.sums.cycles, sums.cycles)
        assert streamed.cycle == model.cycle
        assert streamed.operand_span == model.operand_span


@on_icarus
def test_idling_changes_times_and_not_sums(simulator: str) -> None:
    generated = array(**INT8)
    operands = gemm(generated)
    at_once = stream_gemm(generated, *operands, simulator=simulator)
    idling = stream_gemm(generated, *operands, simulator=simulator, offer=(0.5, 0.9), accept=0.4)
    np.testing.assert_array_equal(idling.sums.values, at_once.sums.values)
    assert idling.cycle > at_once.cycle


# A traced model needs a run-time of its own, which takes 15 s to compile.
@pytest.mark.parametrize("simulator", [pytest.param("verilator", marks=pytest.mark.slow), ICARUS])
def test_waves(simulator: str, tmp_path: Path) -> None:
    generated = array(**INT8)
    waves = tmp_path / "new folder" / "waves.vcd"
    streamed = stream_gemm(generated, *gemm(generated), simulator=simulator, waves=waves)
    text = waves.read_text()
    assert "$enddefinitions" in text
    assert "i_act__payload" in text
    end = int(text[text.rindex("\n#") + 2 :].split(maxsplit=1)[0])  # ps
    assert end > streamed.cycle * 10_000


def test_environment_does_not_decide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COCOTB_TEST_FILTER", "nothing")
    monkeypatch.setenv("COCOTB_RANDOM_SEED", "7")
    monkeypatch.setenv("WAVES", "1")
    assert check_array(array(**INT8), directory=tmp_path)["tests"] == 13
    assert 'name="random_seed" value="1"' in (tmp_path / "results.xml").read_text()


# ---- what is wrong ---------------------------------------------------------------------------


@on_each_simulator
def test_wrong_sums(simulator: str, tmp_path: Path) -> None:
    broken = mutant(
        array(**INT8),
        r"\$signed\(product_0\) \+ \$signed\(partial_in\)",
        "$signed(product_0) - $signed(partial_in)",
    )
    with pytest.raises(BenchError) as error:
        check_array(broken, simulator=simulator, directory=tmp_path)
    message = str(error.value)
    assert message.startswith("testbench.benches.array_bench: 13 of 13 tests failed")
    assert "Mismatched elements" in message
    assert message.endswith((tmp_path / "simulation.log").read_text()[-100:].rstrip("\n"))


@on_icarus
@pytest.mark.parametrize(
    ("pattern", "replacement", "complaint"),
    [
        (r"assign en = .*;", "assign en = 1'b1;", "o_sum: valid was withdrawn"),
        (r"assign o_sum__payload =", r"\g<0> o_sum__ready ^", "o_sum: payload changed"),
        (r"assign o_sum__payload =", r"\g<0> 1'bx ^", "beat 0 is neither 0 nor 1 everywhere"),
        (r"\.rst\(rst\)", ".rst(1'b0)", "i_act: ready is X"),
    ],
    ids=["withdrawn", "changed", "unknown payload", "unknown ready"],
)
def test_broken_protocol(
    simulator: str, pattern: str, replacement: str, complaint: str, tmp_path: Path
) -> None:
    broken = mutant(array(**INT8), pattern, replacement)
    with pytest.raises(BenchError, match=complaint):
        check_array(broken, simulator=simulator, directory=tmp_path)


@on_each_dataflow
def test_undocumented_latency(dataflow: str) -> None:
    original = array(dataflow=dataflow, **INT8)
    latency = original.sidecar["latency_cycles"] + 1
    broken = dataclasses.replace(original, sidecar={**original.sidecar, "latency_cycles": latency})
    with pytest.raises(BenchError, match="latency"):
        stream_gemm(broken, *gemm(broken))


@pytest.mark.parametrize(
    ("difference", "complaint"),
    [
        (1, "nothing was transferred for 10000 cycles; 1 beats are missing"),
        (-1, "o_sum has beats beyond the 41"),
        (-40, "i_act has beats left that nothing took"),
    ],
)
def test_wrong_number_of_sums(difference: int, complaint: str) -> None:
    activations, weights, beats = gemm(array(**INT8))
    with pytest.raises(BenchError, match=complaint):
        stream_gemm(array(**INT8), activations, weights, beats + difference)


@pytest.mark.parametrize(
    ("bench", "only", "complaint"),
    [
        ("import cocotb", None, "No tests were discovered"),
        ("import no_such_module", None, "No module named 'no_such_module'"),
        ("@cocotb.test(skip=True)\nasync def skipped(dut): pass", None, "no test ran"),
        ("@cocotb.test()\nasync def present(dut): pass", "absent", "no test ran"),
        ("@cocotb.test()\nasync def crash(dut): os._exit(0)", None, "stopped before"),
        ("@cocotb.test()\nasync def crash(dut): os.abort()", None, "stopped before"),
        ("@cocotb.test()\nasync def fails(dut): assert False, 'said why'", None, "said why"),
    ],
    ids=["empty", "no import", "skipped", "filtered", "exit", "crash", "failure"],
)
def test_benches_that_must_not_pass(
    bench: str, only: str | None, complaint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "small_bench.py").write_text(f"import os\nimport cocotb\n{bench}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BenchError, match=complaint):
        run_bench(
            array(**INT8).verilog, "int8", "small_bench",
            seed=1, parameters={}, directory=tmp_path, only=only,
        )  # fmt: skip


@on_each_simulator
def test_refused_verilog(simulator: str, tmp_path: Path) -> None:
    broken = mutant(array(**INT8), "endmodule\n$", "")
    with pytest.raises(UserError, match=f"{simulator} cannot build int8:\n(.*\n)*.*syntax error"):
        check_array(broken, simulator=simulator, directory=tmp_path)


# ---- tools -----------------------------------------------------------------------------------


def test_simulators() -> None:
    found = {entry["name"]: entry for entry in simulators()}
    assert list(found) == ["verilator", "icarus"]
    assert found["verilator"] == {
        "name": "verilator", "available": True, "version": "5.48.0", "remedy": "",
    }  # fmt: skip
    assert found["icarus"]["available"] == (shutil.which("iverilog") is not None)


@pytest.mark.parametrize(
    ("simulator", "present", "compiler", "remedy"),
    [
        ("verilator", [], None, "a C++ compiler must be installed (Debian: apt install g++)"),
        ("verilator", ["g++"], "no-such-c++", "$CXX must name a C++ compiler, not 'no-such-c++'"),
        ("verilator", ["g++"], None, "make must be installed (Debian: apt install make)"),
        ("icarus", [], None, "iverilog must be installed (Debian: apt install iverilog)"),
    ],
)
def test_missing_tool(
    simulator: str, present: list[str], compiler: str | None, remedy: str,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    for program in present:
        (tmp_path / program).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    if compiler is not None:
        monkeypatch.setenv("CXX", compiler)
    with pytest.raises(UserError, match=re.escape(remedy)):
        run_bench(
            "", "int8", "no_bench", simulator=simulator, seed=1, parameters={}, directory=tmp_path
        )
    (entry,) = (entry for entry in simulators() if entry["name"] == simulator)
    assert not entry["available"]
    assert entry["version"] == ""
    assert entry["remedy"].startswith(remedy)


def test_cache_folder_with_a_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("testbench.cocotb_lane.runtime", lambda *_, **__: tmp_path)
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "a b"))
    with pytest.raises(UserError, match=r"a b must be a path without spaces"):
        check_array(array(**INT8), directory=tmp_path)
    assert not [path for path in (tmp_path / "a b").iterdir() if path.is_dir()]


def test_unknown_simulator(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="simulator must be one of 'verilator', 'icarus', not 'modelsim'"
    ):
        check_array(array(**INT8), simulator="modelsim", directory=tmp_path)


# ---- packing ---------------------------------------------------------------------------------


def test_packed_beats() -> None:
    data = np.array([[1, 0], [2, 1], [3, 0xFF]], dtype=np.uint8)
    segments = np.array([[1, 2], [0, 1], [1, 1]])
    assert list(packed_beats(data, segments)) == [0x102, 0xFF03, 1, 0x102]


@pytest.mark.parametrize("bits", [1, 2, 17, 63, 64])
def test_unpack_beats(bits: int) -> None:
    rng = np.random.default_rng(bits)
    values = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (9, 3), dtype=np.int64)
    last = rng.integers(0, 2, 9, dtype=np.uint8)
    beats = []
    for row, mark in zip(values.tolist(), last.tolist(), strict=True):
        digits = [f"{value % (1 << bits):0{bits}b}" for value in reversed(row)]
        beats.append(str(mark) + "".join(digits))
    found_values, found_last = unpack_beats(beats, bits)
    np.testing.assert_array_equal(found_values, values)
    np.testing.assert_array_equal(found_last, last)


def test_unpack_unknown() -> None:
    with pytest.raises(ProtocolError, match="beat 1 is neither 0 nor 1 everywhere: 01x"):
        unpack_beats(["010", "01x"], 1)
