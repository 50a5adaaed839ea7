"""One point: a unit of a configuration on a target, measured, as a row of the table.

The mapping is searched on the PE first (:mod:`synth.mapping`, :func:`synth.asic.asic_mappings`);
the unit is then measured with the best one. Every step is a job of the store, so what has been
done already, by whichever point, is looked up.
"""

import ast
import functools
import hashlib
import inspect
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hwgen
import pe_library
import synth
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.config import ArrayConfig
from hwgen.errors import UserError
from hwgen.verilog import tool_versions
from pe_library import ProcessingElement, get_pe
from pe_library.checks import check_choice, check_integer
from testbench.tools import JobFailed

from . import asic, fpga
from .activity import STREAMS
from .hierarchy import decompose
from .liberty import Library, load_library
from .mapping import MULTIPLIERS, FpgaMapping, fpga_mappings, multiplier_options
from .store import Entry, Store, canonical, sha256
from .table import COLUMNS, Row
from .targets import AsicTarget, FpgaTarget, Target, resolve_target
from .units import UNITS, Unit, array_of, make_unit

__all__ = ["METHODS", "OBJECTIVES", "Point", "changed_points", "inputs_digest", "measure"]

#: What the best mapping is the best for.
OBJECTIVES = ("area", "fmax", "area_delay", "energy")
METHODS = ("flat", "hierarchical")
#: A hierarchical row is compared with flat synthesis: of the same array up to this many rows and
#: columns, else of the one of this size.
LARGEST_FLAT = 8
#: Copies of a kind of cell that standard cells are counted on (LightPE-1, NanGate45: a cell by
#: itself gets 4 % more logic than each of four).
COPIES = 4
#: The seeds of a routing: 1 to this many, unless told otherwise.
SEEDS = 5
#: Time limit of one run of one tool, unless told otherwise.
SECONDS = 1800

_IDENTITY = [column.name for column in COLUMNS if column.kind == "identity"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """What to measure.

    Parameters
    ----------
    unit : str
        One of :data:`~synth.units.UNITS`. The unit ``pe`` is a cell of an array of 16 rows.
    config : ArrayConfig
        The configuration. A multiplier of its PE that is left at ``"dsp"`` is mapped every way.
    accelerator : tuple of (name, value)
        What differs from an accelerator's defaults, by the names of AcceleratorConfig; of the unit
        ``accelerator`` only.
    target : str
        Name of the target.
    liberty : Path, optional
        The Liberty file, if the user named one for the target.
    method : str
        ``"flat"`` or, of arrays only, ``"hierarchical"`` (:mod:`synth.hierarchy`; not routed).
    objective : str, optional
        One of :data:`OBJECTIVES`: area in LUTs or µm², the clock, their quotient, or the energy of
        a cycle; if None, ``"area"`` on FPGAs and ``"area_delay"`` in standard cells.
    seeds : int
        Routings of an FPGA, with the seeds 1, 2, ...; 0 for none.
    energy : bool
        Whether energy is measured in standard cells (it takes most of the time).
    flat_check : bool
        Whether a hierarchical area is compared with flat synthesis (which takes most of the time).
    seconds : int
        Time limit of each run of a tool.

    Raises
    ------
    TypeError, ValueError
        With a sentence that names the parameter, the value and what is allowed.
    """

    unit: str
    config: ArrayConfig
    target: str
    accelerator: tuple[tuple[str, Any], ...] = ()
    liberty: Path | None = None
    method: str = "flat"
    objective: str | None = None
    seeds: int = SEEDS
    energy: bool = True
    flat_check: bool = True
    seconds: int = SECONDS

    def __post_init__(self) -> None:
        check_choice("unit", self.unit, UNITS)
        check_choice("method", self.method, METHODS)
        if self.objective is not None:
            check_choice("objective", self.objective, OBJECTIVES)
        check_integer("seeds", self.seeds, 0, 1000)
        if not isinstance(self.energy, bool):
            raise TypeError(f"energy must be true or false, not {self.energy!r}")
        check_integer("seconds", self.seconds, 1, 1_000_000)
        if self.accelerator and self.unit != "accelerator":
            name = self.accelerator[0][0]
            raise ValueError(f"{name} must be left out but with unit 'accelerator'")
        self.design(self.config)  # checks it
        if self.method == "hierarchical" and self.unit != "array":
            raise ValueError(f"method must be flat for unit {self.unit}, which is one definition")

    def design(self, config: ArrayConfig) -> ArrayConfig | AcceleratorConfig:
        """Return what is measured around an array: the array itself, or the accelerator."""
        if self.unit != "accelerator":
            return config
        return AcceleratorConfig(array=config, **dict(self.accelerator))

    def check_objective(self) -> None:
        """Check that the objective can be measured on the target.

        Raises
        ------
        UserError
            If it cannot, or there is no such target.
        """
        target = self.resolve()
        if self.unit == "accelerator" and not isinstance(target, FpgaTarget):
            raise UserError(
                f"unit accelerator must be measured on an FPGA, not on {target.name}: its buffers "
                "are block RAM, which standard cells lack"
            )
        if not isinstance(target, FpgaTarget) or self.best_for == "area":
            return
        if self.best_for == "energy":
            raise UserError(f"objective must be area, fmax or area_delay on {target.name}")
        if target.router is None or not self.seeds:
            raise UserError(f"objective must be area on {target.name} without routing")

    def resolve(self) -> Target:
        """Return the target itself."""
        named = {self.target: self.liberty} if self.liberty else {}
        return resolve_target(self.target, named)

    @property
    def best_for(self) -> str:
        """The objective, whether it was given or not."""
        if self.objective is not None:
            return self.objective
        return "area" if isinstance(self.resolve(), FpgaTarget) else "area_delay"

    def identity(self) -> Row:
        """Return the columns of the table that say which point this is."""
        config, pe = self.config, self.config.pe
        alone = self.unit == "pe"
        return {
            "design__unit": self.unit,
            "design__pe": config.name,
            "design__pe_options": " ".join(
                f"{k}={v}" for k, v in (*_differences(config).items(), *self.accelerator)
            ),
            "design__rows": 1 if alone else config.rows,
            "design__cols": 1 if alone else config.cols,
            "design__dataflow": config.dataflow,
            "design__lanes": pe.lanes,
            "design__pipeline": pe.pipeline,
            "design__accumulator_bits": config.accumulator.bits,
            "flow__target": self.target,
            "flow__method": self.method,
            "flow__objective": self.best_for,
        }

    def command(self) -> str:
        """Return the command line that measures this point alone."""
        config = self.config
        words = ["hwgen", "characterize", "--unit", self.unit, "--pe", config.name]
        if self.unit != "pe":
            words += ["--rows", str(config.rows), "--cols", str(config.cols)]
        words += ["--dataflow", config.dataflow]
        words += ["--lanes", str(config.pe.lanes), "--pipeline", str(config.pe.pipeline)]
        words += ["--accumulator-bits", str(config.accumulator.bits)]
        if config.overflow != "error":
            words += ["--overflow", config.overflow]
        if config.max_k is not None:
            words += ["--max-k", str(config.max_k)]
        for name, value in _differences(config).items():
            words += ["--pe-option", f"{name}={value}"]
        for name, value in self.accelerator:
            words += [f"--{name.replace('_', '-')}", str(value)]
        words += ["--target", self.target, "--objective", self.best_for]
        if self.liberty is not None:
            words += ["--liberty", f"{self.target}={self.liberty.name}"]
        elif isinstance(self.resolve(), FpgaTarget) and self.method == "flat":
            words += ["--seeds", str(self.seeds)]
        if isinstance(self.resolve(), AsicTarget) and not self.energy:
            words.append("--no-energy")
        if self.method == "hierarchical":
            words.append("--hierarchical")
            if not self.flat_check:
                words.append("--no-flat-check")
        if self.seconds != SECONDS:
            words += ["--time-limit", str(self.seconds)]
        return shlex.join(words)


def _differences(config: ArrayConfig) -> dict[str, Any]:
    """Return the fields in which a PE differs from the preset that it is named after."""
    preset = get_pe(config.name).parameters
    own = config.pe.parameters
    return {
        name: value
        for name, value in own.items()
        if name not in ("lanes", "pipeline") and preset.get(name) != value
    }


# ---- emission ------------------------------------------------------------------------------------


@functools.cache
def _generator_digest(kind: str) -> str:
    """Return a hash of everything that decides emitted Verilog, short of the configuration."""
    digest = hashlib.sha256(canonical(tool_versions()).encode())
    folders = [Path(str(package.__file__)).parent for package in (pe_library, hwgen)]
    if kind == "accelerator":
        folders.append(folders[-1] / "accelerator")
    for folder in folders:
        for path in sorted(folder.glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _pe_digest(pe: ProcessingElement) -> str:
    """Return a hash of the file that a PE is defined in, which may be of another package."""
    return sha256(Path(inspect.getfile(type(pe))).read_bytes())


def emitted(store: Store, kind: str, config: ArrayConfig | AcceleratorConfig) -> Unit:
    """Return a unit; its Verilog is emitted once for each state of the generator's source."""
    spec = {
        "job": "emit Verilog",
        "unit": kind,
        "configuration": config.as_dict(),
        "generator": _generator_digest(kind),
        "pe": _pe_digest(array_of(config).pe),
    }

    def work(folder: Path) -> Mapping[str, Any]:
        unit = make_unit(kind, config)
        (folder / "unit.v").write_text(unit.verilog)
        return {"top": unit.top, "ports": unit.ports}

    kept = store.run(spec, work)
    ports = tuple((name, is_input, width) for name, is_input, width in kept.result["ports"])
    return Unit(kind, array_of(config), kept.result["top"], kept.text("unit.v"), ports)


def _with(config: ArrayConfig, multiplier: str) -> ArrayConfig:
    """Return a configuration with the multiplier that a mapping wants."""
    if not multiplier:
        return config
    options: dict[str, Any] = {"multiplier": MULTIPLIERS[multiplier][0]}
    return replace(config, pe=replace(config.pe, **options))


def _whole(point: Point, kind: str, config: ArrayConfig) -> ArrayConfig | AcceleratorConfig:
    """Return the configuration of a kind of unit that a point needs."""
    return point.design(config) if kind == point.unit else config


@functools.cache
def _flow_digest() -> str:
    """Return a hash of the source of the flows, comments and docstrings left out."""
    digest = hashlib.sha256()
    names = ["activity", "asic", "energy", "fpga", "hierarchy", "liberty", "mapping", "netlist",
             "targets", "units", "characterize", "dsp"]  # fmt: skip
    for name in names:
        path = Path(str(synth.__file__)).with_name(f"{name}.py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            first = body[0] if isinstance(body, list) and body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                first.value.value = ""
        digest.update(name.encode() + ast.dump(tree).encode())
    return digest.hexdigest()


def inputs_digest(store: Store, point: Point) -> str:
    """Return the hash of everything that decides a row: emitted RTL, flows, tools, library."""
    target = point.resolve()
    kinds = ["pe"] if point.unit == "pe" else ["pe", point.unit]
    rtl = {
        f"{kind} {multiplier}": emitted(
            store, kind, _whole(point, kind, _with(point.config, multiplier))
        ).sha256
        for kind in kinds
        for multiplier in {m and MULTIPLIERS[m][0]: m for m in
                           multiplier_options(point.config.pe)}.values()
    }  # fmt: skip
    library = _library_sha256(target.path) if isinstance(target, AsicTarget) else ""
    return sha256(
        canonical(
            {
                "identity": point.identity(),
                "rtl": rtl,
                "flow": _flow_digest(),
                "tools": target.provenance,
                "library": library,
                "seeds": point.seeds,
                "energy": point.energy,
                "flat_check": point.flat_check,
                "seconds": point.seconds,
            }
        )
    )


def changed_points(
    points: Sequence[Point], rows: Sequence[Row], store: Path
) -> tuple[list[Row], list[Point]]:
    """Return the rows of a table that still hold, and the points that are to be measured.

    A row holds if it was measured from what the point would be measured from now
    (:func:`inputs_digest`); the store need not have its results.
    """
    known = {row["flow__inputs_sha256"]: row for row in rows}
    kept, touched = [], []
    for point in points:
        row = known.get(inputs_digest(Store(store), point))
        if row is None:
            touched.append(point)
        else:
            kept.append(row)
    return kept, touched


@functools.cache
def _library_sha256(path: Path) -> str:
    return load_library(path).sha256


# ---- measurement ---------------------------------------------------------------------------------


def measure(store: Store, point: Point) -> Row:
    """Measure a point.

    A failure of a tool on this design is a row too, with its status and message.

    Raises
    ------
    UserError
        If a tool or library is missing, the store cannot be written, or the objective cannot be
        measured on the target.
    """
    point.check_objective()
    target = point.resolve()
    for program in target.programs:
        program.require()
    row: Row = {
        **point.identity(),
        "flow__status": "ok",
        "flow__message": "",
        "design__macs_per_cycle": (
            point.config.pe.lanes if point.unit == "pe" else point.config.macs_per_cycle
        ),
        "flow__tools": " ".join(f"{k} {v}" for k, v in sorted(_tools(target).items())),
        "flow__command": point.command(),
        "flow__inputs_sha256": inputs_digest(store, point),
        "flow__source": "measured",
    }
    try:
        if isinstance(target, FpgaTarget):
            row |= _measure_fpga(store, point, target)
        else:
            row |= _measure_asic(store, point, load_library(target.path))
    except JobFailed as error:
        row |= {"flow__status": error.status, "flow__message": _portable(str(error), store)}
    return row


def _tools(target: Target) -> dict[str, str]:
    return {"hwgen": tool_versions()["hwgen"], **target.provenance}


def _portable(message: str, store: Store) -> str:
    """Return a message without the path of the store, which differs from user to user."""
    return message.replace(str(store.folder), "STORE")


def _best(
    candidates: Sequence[Any], score: Callable[[Any], float], names: Callable[[Any], str]
) -> tuple[Any, str]:
    """Return the candidate of the lowest score, and what is to be said of those that failed."""
    scores: list[tuple[float, int]] = []
    failures: list[JobFailed] = []
    said = []
    for i, candidate in enumerate(candidates):
        try:
            scores.append((score(candidate), i))
        except JobFailed as error:
            failures.append(error)
            said.append(f"mapping {names(candidate)} was left out: {error.status}")
    if not scores:
        raise failures[0]
    return candidates[min(scores)[1]], "; ".join(said)


def _measure_fpga(store: Store, point: Point, target: FpgaTarget) -> Row:
    config, seconds = point.config, point.seconds
    seeds = range(1, point.seeds + 1)

    def mapped(kind: str, mapping: FpgaMapping, config: ArrayConfig = config) -> Entry:
        unit = emitted(store, kind, _whole(point, kind, _with(config, mapping.multiplier)))
        return fpga.synthesize(store, unit, target, mapping, seconds=seconds)

    def luts(entry: Entry) -> int:
        return fpga.resources(entry.result["cells"], target)["design__lut__count"]

    def score(mapping: FpgaMapping) -> float:
        entry = mapped("pe", mapping)
        if point.best_for == "area":
            return luts(entry)
        routed = fpga.measure_fmax(store, entry, target, seeds, seconds=seconds)
        period: float = routed["timing__period"]
        return period if point.best_for == "fmax" else luts(entry) * period

    mapping, message = _best(fpga_mappings(config.pe, target), score, lambda m: m.name)
    row: Row = {"flow__mapping": mapping.name, "flow__message": message}
    unit = emitted(store, point.unit, point.design(_with(config, mapping.multiplier)))
    row["flow__rtl_sha256"] = unit.sha256

    if point.method == "hierarchical":

        def composed(config: ArrayConfig) -> dict[str, int]:
            here = _with(config, mapping.multiplier)
            array, cell = (emitted(store, kind, here) for kind in ("array", "pe"))
            parts = decompose(store, array, cell, seconds=seconds)
            total: dict[str, int] = {}
            for part, count in [(parts.shell, 1), *parts.cells]:
                entry = fpga.synthesize(store, part, target, mapping, seconds=seconds)
                for name, each in fpga.resources(entry.result["cells"], target).items():
                    total[name] = total.get(name, 0) + int(count) * each
            return total

        row |= composed(config)
        if not point.flat_check:
            return row
        small = _largest_flat(config)
        flat = luts(mapped("array", mapping, small))
        row["flow__area_error"] = 100 * (composed(small)["design__lut__count"] / flat - 1)
        return row

    entry = mapped(point.unit, mapping)
    row |= fpga.resources(entry.result["cells"], target)
    if target.router is not None and seeds:
        row["flow__seeds"] = " ".join(map(str, seeds))
        try:
            row |= fpga.measure_fmax(store, entry, target, seeds, seconds=seconds)
        except JobFailed as error:  # what it maps to is known all the same
            message = "; ".join(filter(None, [_portable(str(error), store), message]))
            return row | {"flow__status": error.status, "flow__message": message}
        unit_macs = unit.macs_per_cycle
        row["perf"] = unit_macs * row["timing__fmax"] / 1000
    return row


def _largest_flat(config: ArrayConfig) -> ArrayConfig:
    """Return the array that stands for a large one where flat synthesis is to be compared."""
    rows, cols = (min(size, LARGEST_FLAT) for size in (config.rows, config.cols))
    # The sums keep their width: it was chosen, or follows from the large array.
    return replace(config, rows=rows, cols=cols, accumulator_bits=config.accumulator.bits)


def _measure_asic(store: Store, point: Point, library: Library) -> Row:
    config, seconds = point.config, point.seconds

    # (multiplier, mapping): Booth rows in the RTL are mapped like any logic.
    ways: list[tuple[str, asic.AsicMapping]] = []
    for multiplier in multiplier_options(config.pe):
        if multiplier in ("", "dsp", "booth-rtl"):
            pe = _with(config, multiplier).pe
            ways += [(multiplier, mapping) for mapping in asic.asic_mappings(pe)]

    def name(way: tuple[str, asic.AsicMapping]) -> str:
        multiplier, mapping = way
        return f"booth-rtl/{mapping.name}" if multiplier == "booth-rtl" else mapping.name

    def score(way: tuple[str, asic.AsicMapping]) -> float:
        multiplier, mapping = way
        unit = emitted(store, "pe", _with(config, multiplier))
        entry = asic.synthesize(store, unit.verilog, unit.top, library, mapping, seconds=seconds)
        area: float = entry.result["area"]
        if point.best_for == "area":
            return area
        if point.best_for == "energy":
            found = asic.measure(
                store, unit, library, mapping, ["uniform"], ["glitch"], seconds=seconds
            )
            return float(found["energy__cycle__uniform__glitch"])
        period: float = asic.analyze(store, unit, entry, library, seconds=seconds).result["period"]
        return period if point.best_for == "fmax" else area * period

    way, message = _best(ways, score, name)
    multiplier, mapping = way
    here = _with(config, multiplier)
    unit = emitted(store, point.unit, here)
    row: Row = {"flow__message": message, "flow__rtl_sha256": unit.sha256,
                "flow__library_sha256": library.sha256}  # fmt: skip
    streams = STREAMS if point.energy else ()
    if point.method == "flat":
        row |= asic.measure(store, unit, library, mapping, streams, seconds=seconds)
        return row | {"flow__mapping": name(way)}

    def composed(config: ArrayConfig) -> Row:
        array, cell = (emitted(store, kind, config) for kind in ("array", "pe"))
        parts = decompose(store, array, cell, seconds=seconds, copies=COPIES)
        total = dict.fromkeys(("area", "sequential", "combinational"), 0.0)
        period, path = 0.0, ""
        for part, count in [(parts.shell, 1), *parts.cells]:
            entry = asic.synthesize(
                store, part.verilog, part.top, library, mapping, seconds=seconds
            )
            for what in total:
                total[what] += count * entry.result[what]
            if part is not parts.shell:
                timed = asic.analyze(store, part, entry, library, seconds=seconds).result
                if timed["period"] > period:
                    period, path = timed["period"], timed["path"]
        macs = config.macs_per_cycle
        return {
            "design__instance__area": total["area"],
            "design__instance__area__sequential": total["sequential"],
            "design__instance__area__combinational": total["combinational"],
            "timing__period": period,
            "timing__fmax": 1000 / period,
            "timing__critical_path": path,
            "perf": macs / period,
            "perf__area": macs / period / total["area"] * 1e6,
        }

    row |= composed(here) | {"flow__mapping": name(way)}
    if not point.flat_check:
        return row
    small = _largest_flat(here)
    array = emitted(store, "array", small)
    entry = asic.synthesize(store, array.verilog, array.top, library, mapping, seconds=seconds)
    error = composed(small)["design__instance__area"] / entry.result["area"] - 1
    return row | {"flow__area_error": 100 * error}
