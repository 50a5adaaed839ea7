"""Commands about boards."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwgen.errors import UserError

from .flags import Add, add_configuration, integer, options_of

if TYPE_CHECKING:
    from boards.build import Build

__all__ = ["add_commands"]


def add_commands(add: Add) -> None:
    """Add the commands of this module."""
    command = add("boards", _boards, "List the boards that open tools can build for.")
    command.add_argument("--json", action="store_true", help="print JSON")

    command = add(
        "build", _build,
        "Make the bitstream of an accelerator for a board: without a configuration, of our own "
        "design for it.",
    )  # fmt: skip
    _add_board(command)
    command.add_argument("--auto-clock", action="store_true",
                         help="the highest clock that the best of the seeds meets")  # fmt: skip
    command.add_argument("--output", metavar="DIR", required=True, help="folder to write to")
    command.add_argument("--force", action="store_true", help="replace files that exist")
    command.add_argument("--json", action="store_true", help="print JSON")

    command = add("fit", _fit, "Find the largest array that a board holds at a clock.")
    _add_board(command)
    command.add_argument("--json", action="store_true", help="print JSON")

    command = add("program", _program, "Load a bitstream into a board, by openFPGALoader.")
    command.add_argument("folder", metavar="DIR", help="what `hwgen build` wrote")

    command = add("virtual-board", _virtual_board, "Simulate a board behind a pseudo-terminal.")
    command.add_argument("folder", metavar="DIR", help="what `hwgen build` wrote")


def _add_board(command: argparse.ArgumentParser) -> None:
    command.add_argument("--board", metavar="B", required=True, help="see `hwgen boards`")
    add_configuration(command, accelerator=True)
    command.add_argument("--clock", type=float, metavar="MHZ",
                         help="of the core (default: the board's oscillator)")  # fmt: skip
    command.add_argument("--seeds", type=integer, default=3, metavar="N",
                         help="of nextpnr that are tried (3)")  # fmt: skip
    command.add_argument("--baud", type=integer, default=1_000_000, metavar="RATE",
                         help="of the UART (1000000)")  # fmt: skip
    command.add_argument("--uart-pins", metavar="RX,TX",
                         help="pins of the FPGA, instead of the board's UART")  # fmt: skip
    command.add_argument("--spi-pins", metavar="SCK,MOSI,MISO,CS",
                         help="pins of the FPGA: SPI in place of a UART")  # fmt: skip
    command.add_argument("--store", metavar="DIR",
                         help="where finished steps are kept (.hwgen/store)")  # fmt: skip


def _boards(arguments: argparse.Namespace) -> int:
    from boards.catalog import XILINX_BOARDS, list_boards

    found = list_boards()
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"{'board':<22} {'device':<22} {'MHz':>6}  {'link':<18} largest arrays, as measured")
    for entry in found:
        fits = ", ".join(
            f"{fit['pe']} {fit['rows']}×{fit['cols']} at {fit['clock_mhz']:g} MHz"
            if fit["rows"]
            else f"no {fit['pe']}"
            for fit in entry["fits"]
        )
        print(
            f"{entry['name']:<22} {entry['device']:<22} {entry['clock_mhz']:>6.4g}  "
            f"{entry['link']:<18} {fits or '-'}"
        )
    print(f"sources for Vivado only: {', '.join(XILINX_BOARDS)}")
    return 0


def _build_of(arguments: argparse.Namespace, **shape: int) -> "Build":
    """Return what the flags describe."""
    from boards.build import Build
    from boards.catalog import find_board
    from boards.designs import designs_of

    board = find_board(arguments.board)
    options: dict[str, Any] = {**shape, **options_of(arguments)}
    clock = arguments.clock
    if not options and (designs := designs_of(board)):
        options = designs[0].options
        clock = designs[0].clock_mhz if clock is None and not arguments.auto_clock else clock
    return Build.of(
        board, options, hz=None if clock is None else clock * 1e6, baud=arguments.baud,
        seeds=arguments.seeds, pins=_pins(arguments),
    )  # fmt: skip


def _pins(arguments: argparse.Namespace) -> dict[str, str] | None:
    """Return the pins that the flags name, if they do."""
    from boards.top import LINES

    given: dict[str, str] = {}
    for transport, wires in LINES.items():
        text = getattr(arguments, f"{transport}_pins")
        if text is None:
            continue
        pins = text.split(",")
        if len(pins) != len(wires) or not all(pins) or len(set(pins)) < len(pins):
            raise UserError(
                f"--{transport}-pins must be {len(wires)} pins of the FPGA, "
                f"{','.join(wires).upper()}, not {text!r}"
            )
        given |= dict(zip(wires, pins, strict=True))
    if len(given) > 4:
        raise UserError("--uart-pins must be left out with --spi-pins")
    return given or None


def _store(arguments: argparse.Namespace) -> Any:
    from synth.store import Store
    from synth.sweep import default_store

    return Store(Path(arguments.store) if arguments.store else default_store())


def _build(arguments: argparse.Namespace) -> int:
    from boards.build import write_build
    from boards.catalog import XilinxBoard

    if arguments.auto_clock and arguments.clock is not None:
        raise UserError("--auto-clock must be given without --clock")
    build = _build_of(arguments)
    output = Path(arguments.output)
    if isinstance(build.board, XilinxBoard):
        return _write_xilinx(arguments, build)
    found = write_build(
        build, _store(arguments), output,
        auto_clock=arguments.auto_clock, force=arguments.force, progress=not arguments.json,
    )  # fmt: skip
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"{output / found['bitstream']} ({(output / found['bitstream']).stat().st_size:,} bytes)")
    _print_design(found)
    return 0


def _write_xilinx(arguments: argparse.Namespace, build: "Build") -> int:
    """Write sources for Vivado, which makes the bitstream."""
    from boards.xilinx import write_xilinx

    for name in ("auto_clock", "uart_pins", "spi_pins"):
        if getattr(arguments, name):
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} must be left out for {build.board.name}: Vivado routes it")
    found = write_xilinx(build, Path(arguments.output), force=arguments.force)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    for name in found["files"]:
        print(Path(arguments.output) / name)
    scripts = [name for name in found["files"] if name.endswith(".tcl")]
    print("sources for Vivado: " + ", ".join(f"vivado -mode batch -source {s}" for s in scripts))
    return 0


def _print_design(found: dict[str, Any]) -> None:
    array = found["configuration"]["array"]
    print(
        f"{array['rows']}×{array['cols']} {array['name']} on {found['board']}: "
        f"{found['clock_hz'] / 1e6:g} MHz (reaches {found['fmax_hz'] / 1e6:.1f}), "
        f"{found['gops_peak']:.1f} GOPS at peak"
    )
    for name, (used, available) in found["utilization"].items():
        print(f"{name.upper():<5} {used:>7,} of {available:>7,}  {used / available:>6.1%}")
    print(f"slowest path: {found['slowest_path']}")


def _fit(arguments: argparse.Namespace) -> int:
    from boards.build import describe
    from boards.catalog import XilinxBoard
    from boards.fit import fit

    for name in ("rows", "cols"):
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name} must be left out: it is what is found")

    def say(text: str) -> None:
        if not arguments.json:
            print(text, file=sys.stderr, flush=True)

    wanted = _build_of(arguments, rows=1, cols=1)
    if isinstance(wanted.board, XilinxBoard):
        raise UserError(f"board must be one that open tools route, not {wanted.board.name}")
    build, built = fit(wanted, options_of(arguments), _store(arguments), say)
    found = describe(build, built)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        _print_design(found)
    return 0


def _program(arguments: argparse.Namespace) -> int:
    from boards.program import load_bitstream

    print(load_bitstream(Path(arguments.folder)))
    return 0


def _virtual_board(arguments: argparse.Namespace) -> int:
    from boards.virtual import serve

    serve(Path(arguments.folder))
    return 0
