"""Commands about synthesis: targets, tables and what is made of them."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from hwgen.errors import UserError

from .flags import ACCELERATOR, CONFIGURATION, Add, add_configuration, integer, options_of

__all__ = ["add_commands"]


def add_commands(add: Add) -> None:
    """Add the commands of this module."""
    command = add("targets", _targets, "List the synthesis targets, and what each still needs.")
    command.add_argument("--json", action="store_true", help="print JSON")

    command = add(
        "characterize",
        _characterize,
        "Measure area, clock and energy of one configuration, or of a sweep file's.",
    )
    command.add_argument("sweep", nargs="?", metavar="SWEEP.toml", help="a file of many points")
    add_configuration(command, accelerator=True)
    group = command.add_argument_group("one point (without SWEEP.toml)")
    group.add_argument("--target", metavar="NAME[,NAME...]", help="see `hwgen targets`")
    group.add_argument("--unit", metavar="pe|array|accelerator", help="what is measured (array)")
    group.add_argument("--seeds", type=integer, metavar="N", help="routings per FPGA point (5)")
    group.add_argument("--objective", metavar="area|fmax|area_delay|energy",
                       help="of the mapping kept (FPGA: area, ASIC: area_delay)")  # fmt: skip
    group.add_argument("--exact-for", type=integer, metavar="K",
                       help="width of the sums: exact for K products (unit pe: 4608)")  # fmt: skip
    group.add_argument("--hierarchical", action="store_true",
                       help="compose the array of its definitions, unrouted")  # fmt: skip
    group.add_argument("--no-energy", action="store_true", help="skip the simulations for energy")
    group.add_argument("--no-flat-check", action="store_true",
                       help="do not compare a composed area with flat synthesis")  # fmt: skip
    group.add_argument("--time-limit", type=integer, metavar="SECONDS",
                       help="of each run of a tool (1800)")  # fmt: skip
    command.add_argument("--liberty", action="append", default=[], metavar="[NAME=]FILE",
                         help="a Liberty file, as target NAME; repeatable")  # fmt: skip
    command.add_argument("--store", metavar="DIR",
                         help="folder of results ($HWGEN_STORE or .hwgen/store)")  # fmt: skip
    command.add_argument("--jobs", type=integer, metavar="N", help="tools at a time (all cores)")
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


#: What a point is measured with: the flag, and the option of a sweep file.
_POINT_FLAGS = ("unit", "seeds", "objective", "exact_for")


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

    from hwgen.generate import check_output
    from synth.characterize import changed_points
    from synth.sweep import default_store, parse_shard, read_sweep, run_points, take_shard
    from synth.table import canonical, read_table, write_parquet, write_table
    from synth.targets import parse_liberty

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


def _refuse_point_flags(arguments: argparse.Namespace) -> None:
    flags = [*_POINT_FLAGS, *CONFIGURATION, *ACCELERATOR, "target", "config", "pe_option",
             "time_limit", "hierarchical", "no_energy", "no_flat_check"]  # fmt: skip
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
        options = options_of(arguments)
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
    from hwgen.generate import write_files
    from synth.exports import export
    from synth.table import read_table

    files = export(read_table(Path(arguments.table)), arguments.format)
    for path in write_files(Path(arguments.output), files, force=arguments.force):
        print(path)
    return 0
