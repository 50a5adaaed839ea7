"""A virtual board: a design's Verilog, simulated behind a pseudo-terminal.

A host's software finds a serial port that acts as the board's, bit by bit at its pins, only slower:
some hundred thousand cycles a second.
"""

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import tty
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from hwgen.errors import UserError
from pe_library.checks import check_integer
from testbench.verilator import build_design, cached, compile_command, content_key, runtime

from .build import read_build

__all__ = ["VirtualBoard", "build_program", "serve"]

_HARNESS = Path(__file__).with_name("virtual.cpp")
#: Cycles that are still simulated when nothing happens any more: half a second at 12 MHz.
SETTLE = 6_000_000
#: Ports of a core.
CORE_PINS = {"clock": "clk", "reset": "rst", "rx": "rx", "tx": "tx", "busy": "busy"}


def build_program(verilog: str, top: str, pins: Mapping[str, str]) -> Path:
    """Compile the simulation of a board; return the program. Cached by content.

    Parameters
    ----------
    verilog : str
        Every module, from the pins on.
    top : str
    pins : mapping of str
        The top's ports that are ``clock``, ``rx`` and ``tx``; ``reset`` and ``busy`` if it has
        them.

    Raises
    ------
    UserError
        If Verilator or the compiler fails; with their words.
    """
    shared = ["verilated", "verilated_threads"]
    objects = runtime(shared, trace=False)
    header = "".join(
        f"#define {name.upper()} {port.replace('__', '___05F')}\n"
        for name, port in sorted(pins.items())
    )
    command = compile_command(trace=False)
    key = content_key(verilog, top, header, _HARNESS.read_bytes(), objects.name, *command)
    with cached(f"board-{key}") as (entry, building):
        if building is not None:
            (building / "top.v").write_text(verilog, encoding="utf-8")
            (building / "pins.h").write_text(header)
            build_design(building, top, _HARNESS, "board", objects=objects, shared=shared)
    return entry / "board"


class VirtualBoard:
    """A board that runs as a process, from ``with`` on to its end.

    While nothing happens (both lines are idle, the accelerator is too) for ``settle`` cycles, time
    stands still and no processor is used. Clients may come and go.

    Parameters
    ----------
    sources : sequence of str or Path
        Verilog, or files of it.
    top : str
        The top module.
    divisor : int
        Cycles of a bit at its pins.
    pins : mapping of str, optional
        The top's ports that are ``clock``, ``rx`` and ``tx``, and ``reset`` (held for the first
        cycle) and ``busy`` if there are such; by default those of a ``BoardCore``.
    settle : int
        More than the link's time-out.

    Attributes
    ----------
    port : str
        Path of the terminal, as of a serial port.

    Raises
    ------
    UserError
        If the design cannot be built.
    """

    def __init__(
        self,
        sources: Sequence[str | Path],
        top: str,
        *,
        divisor: int,
        pins: Mapping[str, str] | None = None,
        settle: int = SETTLE,
    ) -> None:
        check_integer("divisor", divisor, 4, 65536)
        check_integer("settle", settle, 0, 1 << 40)
        texts = [s.read_text(encoding="utf-8") if isinstance(s, Path) else s for s in sources]
        self.divisor = divisor
        self.settle = settle
        self.port = ""
        self._program = build_program("\n".join(texts), top, CORE_PINS if pins is None else pins)
        self._process: subprocess.Popen[bytes] | None = None
        self._open = contextlib.ExitStack()
        self._counter: mmap.mmap | None = None

    def __enter__(self) -> "VirtualBoard":
        with contextlib.ExitStack() as opened:
            master, slave = os.openpty()
            # The slave end stays open, so that the terminal outlives its clients.
            opened.callback(os.close, slave)
            opened.callback(os.close, master)
            tty.setraw(slave)
            self.port = os.ttyname(slave)
            file = opened.enter_context(tempfile.NamedTemporaryFile())
            file.write(bytes(8))
            file.flush()
            self._counter = mmap.mmap(file.fileno(), 8)
            arguments = [master, self.divisor, self.settle, file.name]
            self._process = subprocess.Popen(
                [str(self._program), *map(str, arguments)],
                stdin=subprocess.PIPE,
                pass_fds=[master],
            )
            self._open = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        with self._open, self._process:
            self._process.terminate()

    @property
    def cycles(self) -> int:
        """Cycles simulated so far."""
        assert self._counter is not None, "the board must be entered"
        return int.from_bytes(self._counter[:8], sys.byteorder)

    def wait(self) -> int:
        """Wait until the process ends, and return its exit status."""
        assert self._process is not None
        return self._process.wait()


def serve(folder: Path) -> None:
    """Simulate the board that ``hwgen build`` has built in a folder, until SIGINT or SIGTERM.

    Prints the path of its port first, and the cycles at the end.

    Raises
    ------
    UserError
        If the folder does not hold such a build, or it cannot be simulated.
    """
    description = read_build(folder)
    if description.get("link") == "spi":
        raise UserError(
            f"{folder} must be a build with a UART to be served behind a pseudo-terminal; it has "
            "SPI: build it without --spi-pins"
        )
    sources = [folder / "core.v"]
    pins = {"clock" if name == "clk" else name: port for name, port in description["pins"].items()}
    if pins["clock"]:
        top = "top"
        sources += [folder / "top.v", Path(__file__).parent / "models" / "pads.v"]
    else:  # its clock is made inside: the core alone
        top, pins = f"{description['configuration']['array']['name']}_core", CORE_PINS

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with VirtualBoard(sources, top, divisor=description["divisor"], pins=pins) as board:
            sys.stdout.write(f"{board.port}\n")
            sys.stdout.flush()
            with contextlib.suppress(KeyboardInterrupt):
                raise UserError(f"simulation ended by itself, with status {board.wait()}")
            sys.stdout.write(f"{board.cycles:,} cycles\n")
    finally:
        signal.signal(signal.SIGTERM, before)
