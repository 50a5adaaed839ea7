"""The command line.

The only module that may import from every package, and it does so inside the commands, so that
`hwgen --help` answers at once. Exit status: 0 done and right, 1 a simulation found something wrong,
2 bad input or a missing tool (one sentence), 130 interrupted. `compare`: 1 something got worse.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError

if TYPE_CHECKING:
    from .config import ArrayConfig
    from .generate import GeneratedArray

__all__ = ["main"]

#: Flags of a configuration, as in TOML files and in ArrayConfig: kind, metavar, help.
_CONFIGURATION: dict[str, tuple[str, str, str]] = {
    "pe": ("text", "NAME", "processing element, see `hwgen list`"),
    "rows": ("integer", "R", "rows of PEs, 1 to 1024"),
    "cols": ("integer", "C", "columns of PEs, 1 to 1024"),
    "dataflow": ("text", "ws|os", "weight-stationary (default) or output-stationary"),
    "lanes": ("integer", "L", "products per PE and cycle, 1 to 256 (default: the PE's)"),
    "pipeline": ("integer", "P", "registers inside a PE, 0 to 3 (default: the PE's)"),
    "accumulator_bits": ("integer", "B", "width of the sums (default: the least that is exact)"),
    "overflow": ("text", "error|wrap|saturate", "meaning of a narrower one (default: error)"),
    "max_k": ("integer", "K", "longest output-stationary reduction of one pass (default: 4608)"),
    "name": ("text", "NAME", "name of the module and the files (default: the PE's)"),
}


def _integer(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer, not {text!r}") from None


class _Version(argparse.Action):
    """Print the installed version, which is looked up only then."""

    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"hwgen {version('hwgen')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hwgen",
        description="Generate systolic arrays of quantized PEs, and verify them bit for bit.",
    )
    parser.add_argument("--version", action=_Version, help="print the version")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    command = add("list", _list, "List the registered PEs, or the simulators of this machine.")
    command.add_argument("what", nargs="?", choices=("pes", "simulators"), default="pes")
    command.add_argument("--json", action="store_true", help="print JSON")

    command = add("generate", _generate, "Write Verilog, a JSON sidecar and a FuseSoC core.")
    _add_configuration(command)
    command.add_argument("--output", metavar="DIR", required=True, help="folder to write to")
    command.add_argument("--force", action="store_true", help="replace files that exist")

    command = add(
        "simulate", _simulate, "Multiply matrices on the emitted Verilog; check each sum."
    )
    _add_configuration(command)
    command.add_argument("--activations", metavar="A.npy", help="M×K integers on the PE's grid")
    command.add_argument("--weights", metavar="W.npy", help="K×N integers on the PE's grid")
    for size in "mkn":
        command.add_argument(
            f"--{size}", type=_integer, metavar=size.upper(), help="size of random operands (64)"
        )
    command.add_argument(
        "--seed", type=_integer, default=None, metavar="S", help="of random operands (0)"
    )
    command.add_argument(
        "--result", metavar="R.npy", help="write the result, M×N int64 (also of a failed run)"
    )
    command.add_argument("--force", action="store_true", help="replace files that exist")
    command.add_argument(
        "--verilog", metavar="FILE", help="simulate this Verilog (same ports) instead of fresh one"
    )
    command.add_argument("--simulator", choices=("verilator", "icarus"), default="verilator")
    command.add_argument("--waves", metavar="FILE", help="write a VCD trace")
    command.add_argument("--json", action="store_true", help="print JSON")

    command = add(
        "quickstart", _quickstart, "Run a trained, quantized layer through each PE in simulation."
    )
    command.add_argument("--rows", type=_integer, default=8, metavar="R", help="of PEs (8)")
    command.add_argument("--cols", type=_integer, default=8, metavar="C", help="of PEs (8)")
    command.add_argument("--dataflow", choices=("ws", "os"), default="ws", help="(ws)")
    command.add_argument(
        "--seed", type=_integer, default=0, metavar="S", help="of the training and the split (0)"
    )
    command.add_argument("--json", action="store_true", help="print JSON")

    command = add("targets", _targets, "List the synthesis targets, and what each still needs.")
    command.add_argument("--json", action="store_true", help="print JSON")

    command = add(
        "characterize",
        _characterize,
        "Measure area, clock and energy of one configuration, or of a sweep file's.",
    )
    command.add_argument("sweep", nargs="?", metavar="SWEEP.toml", help="a file of many points")
    _add_configuration(command)
    group = command.add_argument_group("one point (without SWEEP.toml)")
    group.add_argument("--target", metavar="NAME[,NAME...]", help="see `hwgen targets`")
    group.add_argument("--unit", metavar="pe|array", help="what is measured (array)")
    group.add_argument("--seeds", type=_integer, metavar="N", help="routings per FPGA point (5)")
    group.add_argument("--objective", metavar="area|fmax|area_delay|energy",
                       help="of the mapping kept (FPGA: area, ASIC: area_delay)")  # fmt: skip
    group.add_argument("--exact-for", type=_integer, metavar="K",
                       help="width of the sums: exact for K products (unit pe: 4608)")  # fmt: skip
    group.add_argument("--hierarchical", action="store_true",
                       help="compose the array of its definitions, unrouted")  # fmt: skip
    group.add_argument("--no-energy", action="store_true", help="skip the simulations for energy")
    group.add_argument("--no-flat-check", action="store_true",
                       help="do not compare a composed area with flat synthesis")  # fmt: skip
    group.add_argument("--time-limit", type=_integer, metavar="SECONDS",
                       help="of each run of a tool (1800)")  # fmt: skip
    command.add_argument("--liberty", action="append", default=[], metavar="[NAME=]FILE",
                         help="a Liberty file, as target NAME; repeatable")  # fmt: skip
    command.add_argument("--store", metavar="DIR",
                         help="folder of results ($HWGEN_STORE or .hwgen/store)")  # fmt: skip
    command.add_argument("--jobs", type=_integer, metavar="N", help="tools at a time (all cores)")
    command.add_argument("--shard", metavar="i/n", help="only the i-th of n parts of the sweep")
    command.add_argument("--scheduler", metavar="ADDRESS", help="let a Dask cluster do the work")
    command.add_argument("--changed", action="store_true",
                         help="keep the rows of --table that nothing has touched")  # fmt: skip
    command.add_argument("--table", metavar="OUT.csv", help="write the table here")
    command.add_argument("--parquet", metavar="OUT.parquet", help="write it as Parquet too")
    command.add_argument("--json", action="store_true", help="print JSON")

    command = add("compare", _compare, "Say what moved between two tables; 1 if it got worse.")
    command.add_argument("old", metavar="OLD.csv")
    command.add_argument("new", metavar="NEW.csv")
    command.add_argument("--threshold", type=float, default=2.0, metavar="PERCENT",
                         help="what counts as worse, beyond noise (2)")  # fmt: skip
    command.add_argument("--markdown", action="store_true", help="print Markdown")
    command.add_argument("--json", action="store_true", help="print JSON")

    command = add("report", _report, "Plot a table, and write one HTML page about it.")
    command.add_argument("table", metavar="TABLE.csv")
    command.add_argument("--output", metavar="DIR", required=True, help="folder to write to")
    command.add_argument("--force", action="store_true", help="replace files that exist")

    command = add("export", _export, "Write a table's costs per PE for Accelergy or ZigZag.")
    command.add_argument("table", metavar="TABLE.csv")
    command.add_argument("--format", choices=("accelergy", "zigzag"), required=True)
    command.add_argument("--output", metavar="DIR", required=True, help="folder to write to")
    command.add_argument("--force", action="store_true", help="replace files that exist")
    return parser


def _add_configuration(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("configuration")
    for name, (kind, metavar, text) in _CONFIGURATION.items():
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=_integer if kind == "integer" else str,
            metavar=metavar,
            help=text,
        )
    group.add_argument(
        "--pe-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a further field of the PE, e.g. weight_bits=4 or multiplier=logic; repeatable",
    )
    group.add_argument("--config", metavar="FILE.toml", help="the same names in a file; flags win")


def _configuration(arguments: argparse.Namespace) -> "ArrayConfig":
    from .config import ArrayConfig

    try:
        return ArrayConfig.from_options(_options(arguments))
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a configuration, of its file and its flags."""
    from .config import ArrayConfig

    options = ArrayConfig.read_options(Path(arguments.config)) if arguments.config else {}
    for name in _CONFIGURATION:
        if (value := getattr(arguments, name)) is not None:
            options[name] = value
    if arguments.pe_option:
        given = dict(_pe_option(text) for text in arguments.pe_option)
        options["pe_options"] = {**options.get("pe_options", {}), **given}
    return options


def _pe_option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"--pe-option must be NAME=VALUE, not {text!r}")
    words = {"true": True, "false": False}
    try:
        return name, words[value] if value in words else int(value, 0)
    except ValueError:
        return name, value


# ---- commands ----------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    if arguments.what == "simulators":
        from testbench.cocotb_lane import simulators

        found = simulators()
        if arguments.json:
            print(json.dumps(found, indent=2))
            return 0
        for entry in found:
            state = entry["version"] if entry["available"] else f"missing: {entry['remedy']}"
            print(f"{entry['name']:<10} {state}")
        return 0

    from pe_library import get_pe, list_pes

    pes = {}
    try:
        names = list_pes()
    except ValueError as error:
        raise UserError(str(error)) from error
    for name in names:
        try:
            pes[name] = get_pe(name)
        except (TypeError, ValueError) as error:  # somebody's package; the others are fine
            print(f"hwgen: {error}", file=sys.stderr)
    if arguments.json:
        print(json.dumps({name: pe.as_dict() for name, pe in pes.items()}, indent=2))
        return 0
    print(f"{'name':<10} {'lanes':>5}  {'activations':<28} weights")
    for name, pe in pes.items():
        print(f"{name:<10} {pe.lanes:>5}  {pe.activation.summary:<28} {pe.weight.summary}")
    return 0 if len(pes) == len(names) else 2


def _generate(arguments: argparse.Namespace) -> int:
    config = _configuration(arguments)
    from .generate import check_output, generate

    if not arguments.output:
        raise UserError("--output must name a folder, not ''")
    directory = Path(arguments.output)
    check_output(directory, [f"{config.name}.{end}" for end in ("v", "json", "core")],
                 force=arguments.force)  # fmt: skip
    generated = generate(config)
    for path in generated.write(directory, force=arguments.force):
        print(f"{path} ({path.stat().st_size:,} bytes)")
    print(
        f"{config.rows}×{config.cols} {config.dataflow}, {config.accumulator.bits}-bit sums, "
        f"latency {generated.sidecar['latency_cycles']} cycles, "
        f"{generated.verilog.count(chr(10) + 'endmodule')} modules"
    )
    return 0


def _simulate(arguments: argparse.Namespace) -> int:
    config = _configuration(arguments)
    from dataclasses import replace

    from testbench.compiled import ProtocolError
    from testbench.simulate import random_operands, simulate

    from .generate import check_output, generate, save_array

    if (arguments.activations is None) != (arguments.weights is None):
        raise UserError("--activations and --weights must be given together")
    for name in ("result", "waves"):
        if getattr(arguments, name) is not None:
            path = Path(getattr(arguments, name))
            check_output(path.parent, [path.name], force=arguments.force)
    if arguments.activations is not None:
        for name in ("m", "k", "n", "seed"):
            if getattr(arguments, name) is not None:
                raise UserError(f"--{name} goes with random operands, not with --activations")
        a, w = (
            _load(config, name, getattr(arguments, name)) for name in ("activations", "weights")
        )
    else:
        m, k, n = (64 if size is None else size for size in (arguments.m, arguments.k, arguments.n))
        seed = 0 if arguments.seed is None else arguments.seed
        if seed < 0:
            raise UserError(f"--seed must be at least 0, not {seed}")
        a, w = random_operands(config, m, k, n, seed)

    generated = generate(config)
    if arguments.verilog is not None:
        edited = _read_verilog(Path(arguments.verilog), generated)
        generated = replace(generated, verilog=edited)
    try:
        found = simulate(
            config, a, w,
            generated=generated,
            simulator=arguments.simulator,
            waves=None if arguments.waves is None else Path(arguments.waves),
            progress=True,
        )  # fmt: skip
    except ProtocolError as error:
        print(f"hwgen: the array failed: {error}", file=sys.stderr)
        return 1
    if arguments.result is not None:
        save_array(Path(arguments.result), found.result)
    if arguments.json:
        shape = {"m": a.shape[0], "k": a.shape[1], "n": w.shape[1]}
        print(json.dumps({**found.as_dict(), **shape, "configuration": config.as_dict()}, indent=2))
    else:
        print(f"vectors      {found.vectors:>14,}")
        print(f"mismatches   {found.mismatches:>14,}   (of {found.checks:,} sums)")
        print(f"cycles       {found.cycles:>14,}")
        print(f"utilisation  {found.utilisation:>14.1%}")
        print(f"cycles/s     {found.cycles_per_second:>14,.0f}   (simulated)")
    for example in found.examples:
        print(f"hwgen: {example}", file=sys.stderr)
    if found.mismatches > len(found.examples):
        print(f"hwgen: ... {found.mismatches:,} in all", file=sys.stderr)
    return 0 if found.passed else 1


def _load(config: "ArrayConfig", name: str, path: str) -> Any:
    """Read an operand, without allocating what a broken or huge file claims to hold."""
    import numpy as np

    from testbench.simulate import check_shape

    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise UserError(f"{name} {path} must be a readable .npy file: {error}") from error
    except (ValueError, EOFError) as error:
        raise UserError(f"{name} {path} must be a readable .npy file of integers") from error
    if not isinstance(mapped, np.ndarray):
        raise UserError(f"{name} {path} must be a .npy file with one array")
    if mapped.ndim == 2:
        rows, cols = mapped.shape
        check_shape(config, *((rows, cols, 1) if name == "activations" else (1, rows, cols)))
    return np.asarray(mapped)


def _read_verilog(path: Path, generated: "GeneratedArray") -> str:
    """Read an edited Verilog file; its ports must still be those of the array."""
    from testbench.compiled import module_ports

    top = generated.config.name
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"verilog {path} must be a readable text file: {error}") from error
    try:
        found = module_ports(text, top)
    except ValueError as error:
        raise UserError(f"verilog {path}: {error}, as `hwgen generate` names it") from error
    for port in generated.sidecar["ports"]:
        name, width = port["name"], port["width"]
        if found.get(name) != width:
            there = f"{found[name]} bits" if name in found else "missing"
            raise UserError(
                f"verilog {path} must be of this configuration: its port {name} must be {width} "
                f"bits, not {there}"
            )
    return text


def _quickstart(arguments: argparse.Namespace) -> int:
    from testbench.quickstart import PES, quickstart

    from .config import ArrayConfig

    try:
        configs = [
            ArrayConfig.from_options(
                {
                    "pe": pe,
                    **{name: getattr(arguments, name) for name in ("rows", "cols", "dataflow")},
                }
            )
            for pe in PES
        ]
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    report = quickstart(configs, seed=arguments.seed, progress=not arguments.json)
    print(json.dumps(report.as_dict(), indent=2) if arguments.json else report)
    return 0 if report.passed else 1


def _interrupt_again(lost: "sys.UnraisableHookArgs") -> None:
    """Python drops a Ctrl-C that arrives within a finalizer (Amaranth has many): repeat it."""
    if isinstance(lost.exc_value, KeyboardInterrupt):
        import _thread
        import threading

        threading.Timer(0.01, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)


def _targets(arguments: argparse.Namespace) -> int:
    from synth.targets import list_targets

    found = list_targets()
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    for entry in found:
        state = "ready" if entry["ready"] else f"needs: {entry['remedy']}"
        print(f"{entry['name']:<22} {entry['meaning']:<62} {state}")
    return 0


def _characterize(arguments: argparse.Namespace) -> int:
    import os

    from synth.characterize import changed_points
    from synth.sweep import default_store, parse_shard, read_sweep, run_points, take_shard
    from synth.table import canonical, read_table, write_parquet, write_table
    from synth.targets import parse_liberty

    from .generate import check_output

    libraries = parse_liberty(arguments.liberty)
    if arguments.sweep is not None:
        _refuse_point_flags(arguments)
        points = read_sweep(Path(arguments.sweep), libraries)
    else:
        points = _points(arguments, libraries)
    unused = libraries.keys() - {point.target for point in points}
    if unused:
        raise UserError(
            f"--liberty {min(unused)} must be the name of a target that is measured; the targets "
            f"are {', '.join(sorted({point.target for point in points}))}"
        )
    if arguments.shard is not None:
        points = take_shard(points, parse_shard(arguments.shard))
    jobs = (os.cpu_count() or 1) if arguments.jobs is None else arguments.jobs
    if jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {jobs}")
    if arguments.changed and arguments.table is None:
        raise UserError("--changed must be given with --table, whose rows it keeps")
    for name in ("table", "parquet"):
        if (text := getattr(arguments, name)) is not None:
            check_output(Path(text).parent, [Path(text).name], force=True)
    store = Path(arguments.store) if arguments.store else default_store()
    rows: list[dict[str, Any]] = []
    if arguments.changed and Path(arguments.table).exists():
        rows, points = changed_points(points, read_table(Path(arguments.table)), store)
        print(f"{len(rows)} points unchanged, {len(points)} to measure", file=sys.stderr)
    try:
        rows += run_points(
            points, store, jobs=jobs, scheduler=arguments.scheduler, progress=not arguments.json
        )
    except KeyboardInterrupt:
        print("hwgen: what is finished is kept; the same command goes on", file=sys.stderr)
        raise
    rows = canonical(rows)
    if arguments.table is not None:
        write_table(Path(arguments.table), rows)
    if arguments.parquet is not None:
        write_parquet(Path(arguments.parquet), rows)
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        _print_rows(rows)
    return 0


#: What a point is measured with: the flag, and the option of a sweep file.
_POINT_FLAGS = ("unit", "seeds", "objective", "exact_for")


def _refuse_point_flags(arguments: argparse.Namespace) -> None:
    flags = [*_POINT_FLAGS, *_CONFIGURATION, "target", "config", "pe_option", "time_limit",
             "hierarchical", "no_energy", "no_flat_check"]  # fmt: skip
    for name in flags:
        value = getattr(arguments, name)
        if value is not None and value is not False and value != []:  # 0 is a value
            raise UserError(
                f"--{name.replace('_', '-')} must be left out with a sweep file, which says it"
            )


def _points(arguments: argparse.Namespace, libraries: dict[str, Path]) -> list[Any]:
    from synth.sweep import point_of

    if arguments.target is None:
        raise UserError("--target must be given (see `hwgen targets`), or a sweep file")
    try:
        options = _options(arguments)
        if "name" in options:
            raise ValueError("name must be left out: a table's rows bear the PE's name")
        options |= {
            name: value for name in _POINT_FLAGS if (value := getattr(arguments, name)) is not None
        }
        if arguments.time_limit is not None:
            options["seconds"] = arguments.time_limit
        if arguments.hierarchical:
            options["method"] = "hierarchical"
        if arguments.no_energy:
            options["energy"] = False
        if arguments.no_flat_check:
            options["flat_check"] = False
        names = arguments.target.split(",")
        if len(set(names)) < len(names):
            raise ValueError(f"--target must name no target twice, not {arguments.target!r}")
        return [point_of({**options, "target": name}, libraries) for name in names]
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error


def _print_rows(rows: list[dict[str, Any]]) -> None:
    """Print a table that a person reads: the columns that hold anything, a block for each row."""
    from synth.table import COLUMNS, label

    for row in rows:
        print(label(row))
        for column in COLUMNS:
            value = row[column.name]
            if column.kind == "result" and value not in (None, ""):
                print(f"  {column.name:<40} {value} {column.unit}".rstrip())


def _compare(arguments: argparse.Namespace) -> int:
    from synth.compare import compare
    from synth.table import read_table

    old, new = (read_table(Path(path)) for path in (arguments.old, arguments.new))
    found = compare(old, new, arguments.threshold)
    if arguments.json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        print(found.markdown() if arguments.markdown else found.text(), end="")
    return 1 if found.regressions else 0


def _report(arguments: argparse.Namespace) -> int:
    from synth.report import write_report
    from synth.table import read_table

    path, output = Path(arguments.table), Path(arguments.output)
    for written in write_report(path, read_table(path), output, force=arguments.force):
        print(written)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from synth.exports import export
    from synth.table import read_table

    from .generate import write_files

    files = export(read_table(Path(arguments.table)), arguments.format)
    for path in write_files(Path(arguments.output), files, force=arguments.force):
        print(path)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that has no × shows a ? instead
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    arguments = _parser().parse_args(argv)
    hook, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    try:
        return int(arguments.run(arguments))
    except UserError as error:
        print(f"hwgen: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        import warnings

        warnings.simplefilter("ignore")  # half-elaborated components are not the user's concern
        print("hwgen: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has had enough
        sys.stdout = None
        return 0
    finally:
        sys.unraisablehook = hook


if __name__ == "__main__":
    sys.exit(main())
