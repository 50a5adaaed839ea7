"""From a configuration and a board to a bitstream that meets its clock."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hwgen.accelerator.config import AcceleratorConfig
from hwgen.errors import UserError
from hwgen.generate import check_output, write_files
from hwgen.verilog import emit_verilog, tool_versions
from pe_library.checks import check_integer
from pe_library.formats import Bipolar
from synth.store import Entry, Store, sha256
from testbench.tools import JobFailed, stop_all

from .catalog import Board, find_board
from .flow import check_capacity, count_resources, kit_of, map_design, pack, route
from .link.core import BoardCore
from .pll import Setting, choose_setting, settings
from .top import TopFiles, make_top, transport_of

__all__ = [
    "BAUD", "Build", "Built", "attempt", "describe",
    "describe_design", "describe_path", "map_build", "read_build",
    "write_build",
]  # fmt: skip

#: Bits a second of the link, unless told otherwise: what every USB adapter can do.
BAUD = 1_000_000
#: By how much the UART may miss it.
_BAUD_ERROR = 0.02
#: Cells of an array from which on modules are mapped one by one.
_MANY_CELLS = 32
#: Time limit of one run of one tool, in seconds.
SECONDS = 7200


@dataclass(frozen=True, kw_only=True)
class Build:
    """What to build.

    Parameters
    ----------
    board : Board
    config : AcceleratorConfig
    options : mapping
        The plain options that ``config`` was made of; the board tells them to its host.
    hz : float, optional
        The core clock, 1 to 400 MHz; the oscillator's frequency if None.
    baud : int
        Bits a second of the UART.
    seeds : int
        Seeds of nextpnr that are tried, 1 to this many.
    pins : mapping of str, optional
        The package's pins of a UART (rx, tx) or of SPI (sck, mosi, cs, miso), instead of the
        board's UART.

    Raises
    ------
    UserError
        If the clock cannot be made, or the baud rate cannot be made of it.
    """

    board: Board
    config: AcceleratorConfig
    options: Mapping[str, Any]
    hz: float | None = None
    baud: int = BAUD
    seeds: int = 3
    pins: Mapping[str, str] | None = None

    @classmethod
    def of(cls, board: Board, given: Mapping[str, Any], **rest: Any) -> "Build":
        """Return what to build of the options that are given; the board completes them.

        Raises
        ------
        UserError
            If an option is wrong.
        """
        try:
            options = board.complete(given)
            config = AcceleratorConfig.from_options(options)
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from error
        return cls(board=board, config=config, options=options, **rest)

    def __post_init__(self) -> None:
        if self.hz is not None and not 1e6 <= self.hz <= 400e6:
            raise UserError(f"clock must be from 1 to 400 MHz, not {self.hz / 1e6:g}")
        try:
            check_integer("baud", self.baud, 300, 12_000_000)
            check_integer("seeds", self.seeds, 1, 100)
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from error

    @property
    def transport(self) -> Literal["uart", "spi"]:
        """The way to the host."""
        return transport_of(self.pins)

    @property
    def recipe(self) -> str:
        """The family's recipe of mapping that is best for the PE, by `synth/tables/presets.csv`.

        ABC9 takes carry cells as they are, and on ECP5 those of a popcount are worth giving up.
        """
        binary = isinstance(self.config.array.pe.activation, Bipolar)
        return "abc" if binary and self.board.family == "ecp5" else "abc9"

    def setting(self, hz: float | None = None) -> Setting:
        """Return the clock nearest below ``hz``, or the wanted one."""
        wanted = hz or self.hz or self.board.clock_hz
        return choose_setting(self.board.family, self.board.clock_hz, wanted)

    def divisor(self, setting: Setting) -> int:
        """Return the clock cycles of a bit of the UART; SPI has none."""
        if self.transport == "spi":
            return 4
        divisor = max(4, round(setting.hz / self.baud))
        real = setting.hz / divisor
        if abs(real / self.baud - 1) > _BAUD_ERROR:
            raise UserError(
                f"baud must be within 2 % of the core clock of {setting.hz / 1e6:g} MHz divided by "
                f"a whole number from 4, not {self.baud}; the nearest is {real:.0f}"
            )
        return divisor


@dataclass(frozen=True)
class Built:
    """A design that was routed.

    Attributes
    ----------
    setting : Setting
        Its clock.
    core : str
        Verilog of the core.
    top : TopFiles
    seed : int
        The seed of the routing that is kept.
    resources : dict
        LUTs, flip-flops, block RAMs and DSP blocks.
    routed : Entry
        Of the store.
    clocks : dict
        Clock in MHz that each seed reached.
    """

    setting: Setting
    core: str
    top: TopFiles
    seed: int
    resources: dict[str, int]
    routed: Entry
    clocks: dict[int, float] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Whether it meets its clock."""
        return bool(self.routed.result["fmax"] * 1e6 >= self.setting.hz)


Say = Callable[[str], None]


def make_core(build: Build, setting: Setting) -> tuple[str, str]:
    """Return the name of the core's module, and its Verilog."""
    core = BoardCore(
        build.config, build.transport, divisor=build.divisor(setting), clock_hz=round(setting.hz),
        board=build.board.name[:16], options=build.options,
    )  # fmt: skip
    return core.definition, emit_verilog(core)


def map_build(
    build: Build, store: Store, setting: Setting
) -> tuple[str, TopFiles, Entry, dict[str, int]]:
    """Emit and map a design; return the core's Verilog, the top, the netlist and its resources.

    Raises
    ------
    JobFailed
        If it needs more of anything than the FPGA has (``does-not-fit``), or Yosys fails.
    """
    board = build.board
    name, core = make_core(build, setting)
    top = make_top(board, setting, name, build.pins)
    array = build.config.array
    mapped = map_design(
        store, board, core, top, recipe=build.recipe, flat=array.rows * array.cols < _MANY_CELLS,
        seconds=SECONDS,
    )  # fmt: skip
    resources = count_resources(mapped, board)
    check_capacity(resources, board)
    return core, top, mapped, resources


def attempt(build: Build, store: Store, setting: Setting, say: Say) -> Built:
    """Map and route a design for a clock with all seeds, or until one meets it.

    Raises
    ------
    JobFailed
        If it does not fit, or every seed fails.
    """
    start = time.monotonic()
    core, top, mapped, resources = map_build(build, store, setting)
    counts = ", ".join(f"{count:,} {name.upper()}" for name, count in resources.items())
    say(f"mapped to {counts} ({time.monotonic() - start:.0f} s)")
    clocks: dict[int, float] = {}
    best: tuple[int, Entry] | None = None
    failure: JobFailed | None = None

    def one(seed: int) -> Entry | JobFailed:
        try:
            return route(store, build.board, mapped, top, setting.hz, seed, seconds=SECONDS)
        except JobFailed as error:
            return error

    with ThreadPoolExecutor(build.seeds) as pool:
        try:
            for seed, found in zip(
                range(1, build.seeds + 1), pool.map(one, range(1, build.seeds + 1)), strict=True
            ):
                if isinstance(found, JobFailed):
                    failure = found
                    say(f"seed {seed}: {found.status}")
                    continue
                clocks[seed] = found.result["fmax"]
                say(f"seed {seed}: {clocks[seed]:.1f} MHz ({time.monotonic() - start:.0f} s)")
                if best is None or clocks[seed] > clocks[best[0]]:
                    best = seed, found
        except KeyboardInterrupt:
            stop_all()
            raise
    if best is None:
        assert failure is not None
        raise failure
    return Built(setting, core, top, best[0], resources, best[1], clocks)


def build_clock(build: Build, store: Store, say: Say) -> Built:
    """Build for the wanted clock.

    Raises
    ------
    UserError
        If no seed meets it; it names the slowest path.
    """
    setting = build.setting()
    built = attempt(build, store, setting, say)
    if not built.met:
        result = built.routed.result
        raise UserError(
            f"clock of {setting.hz / 1e6:g} MHz is not met: the best of {build.seeds} seeds "
            f"reaches "
            f"{result['fmax']:.1f} MHz; its slowest path is {describe_path(result)}; choose a "
            "lower --clock, more --seeds, or --auto-clock"
        )
    return built


def build_auto(build: Build, store: Store, say: Say) -> Built:
    """Build for the highest clock that the best of the seeds meets.

    The clock decides the divider of the UART, and so the netlist a little: what one round reaches,
    the next one is built for, until it is met.

    Raises
    ------
    UserError
        If none is.
    """
    possible = [s for s in settings(build.board.family, build.board.clock_hz) if _baud(build, s)]
    setting = build.setting()
    tried: set[float] = set()
    best: Built | None = None
    while True:
        say(f"trying {setting.hz / 1e6:g} MHz")
        built = attempt(build, store, setting, say)
        tried.add(setting.hz)
        if built.met and (best is None or setting.hz > best.setting.hz):
            best = built
        reached = built.routed.result["fmax"] * 1e6
        below = [
            s for s in possible
            if s.hz <= reached and s.hz not in tried and (best is None or s.hz > best.setting.hz)
        ]  # fmt: skip
        if not below:
            break
        setting = below[-1]
    if best is None:
        raise UserError(
            f"no clock of the PLL is met; the design reaches {reached / 1e6:.1f} MHz: "
            f"{describe_path(built.routed.result)}"
        )
    return best


def _baud(build: Build, setting: Setting) -> bool:
    try:
        build.divisor(setting)
    except UserError:
        return False
    return True


def describe_path(result: Mapping[str, Any]) -> str:
    """Return a routed design's slowest path in the generator's names."""
    first, last = result["path"]
    return f"{first} -> {last} ({result['logic_levels']} levels of logic)"


def write_build(
    build: Build, store: Store, output: Path, *, auto_clock: bool, force: bool, progress: bool
) -> dict[str, Any]:
    """Build, and write bitstream, description and sources into a folder; return the description.

    Files: ``<board>.bin``, ``.bit`` or ``.fs``; ``board.json``; ``core.v``, ``top.v`` and the
    pins; ``accelerator.toml``, the configuration.

    Raises
    ------
    UserError
        If it does not fit (by how much), or misses the clock; nothing is written then.
    """
    board = build.board
    kit = kit_of(board)
    bitstream = f"{board.name}{Path(kit.bitstream).suffix}"
    pins = f"top.{kit.constraints}"
    names = [bitstream, "board.json", "core.v", "top.v", pins, "accelerator.toml"]
    check_output(output, names, force=force)

    def say(text: str) -> None:
        if progress:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    try:
        built = (build_auto if auto_clock else build_clock)(build, store, say)
        data = pack(store, board, built.routed, seconds=SECONDS)
    except JobFailed as error:
        array = build.config.array
        raise UserError(
            f"{array.rows}×{array.cols} {array.name} cannot be built for {board.name}: {error}; "
            f"`hwgen fit --board {board.name} --pe {array.name}` finds what can"
        ) from error
    description = describe(build, built) | {
        "bitstream": bitstream,
        "bitstream_sha256": sha256(data),
    }
    write_files(
        output,
        {
            bitstream: data,
            "core.v": built.core,
            "top.v": built.top.verilog,
            pins: built.top.constraints,
            "accelerator.toml": to_toml(build.options),
            "board.json": json.dumps(description, indent=2) + "\n",
        },
        force=force,
    )
    return description


def describe_design(build: Build, setting: Setting) -> dict[str, Any]:
    """Describe what is built, as plain data."""
    divisor = build.divisor(setting)
    uart = {"baud": setting.hz / divisor, "divisor": divisor}
    macs = build.config.array.macs_per_cycle
    return {
        "board": build.board.name,
        "device": build.board.device,
        "configuration": build.config.as_dict(),
        "configuration_sha256": build.config.digest,
        "options": dict(build.options),
        "clock_hz": setting.hz,
        "link": build.transport,
        **(uart if build.transport == "uart" else {}),
        "macs_per_cycle": macs,
        "gops_peak": 2 * macs * setting.hz / 1e9,
    }


def describe(build: Build, built: Built) -> dict[str, Any]:
    """Describe a built design, and what became of it, as plain data."""
    used = built.routed.result["utilization"]
    names = kit_of(build.board).used
    return describe_design(build, built.setting) | {
        "fmax_hz": built.routed.result["fmax"] * 1e6,
        "seed": built.seed,
        "clocks_mhz": built.clocks,
        "slowest_path": describe_path(built.routed.result),
        "pins": built.top.pins,
        "resources": built.resources,
        "utilization": {name: used[kind] for name, kind in names.items() if kind in used},
        "versions": {**tool_versions(), **build.board.target.provenance},
    }


def to_toml(options: Mapping[str, Any]) -> str:
    """Return options as a TOML file."""
    plain = {name: value for name, value in options.items() if name != "pe_options"}
    lines = [f"{name} = {json.dumps(value)}" for name, value in plain.items()]
    if options.get("pe_options"):
        lines += ["[pe_options]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in options["pe_options"].items()]
    return "\n".join(lines) + "\n"


def read_build(folder: Path) -> dict[str, Any]:
    """Return the description of a build.

    Raises
    ------
    UserError
        If the folder holds none, or not all of its files.
    """
    path = folder / "board.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        find_board(description["board"])
        missing = [n for n in (description["bitstream"], "core.v", "top.v")
                   if not (folder / n).is_file()]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} must be a folder that `hwgen build` wrote; {path.name} is missing or damaged"
        ) from error
    if missing:
        raise UserError(
            f"{folder} lacks {', '.join(missing)}: build it again, or in Vivado if it is for that"
        )
    return dict(description)
