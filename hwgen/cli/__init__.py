"""The command line.

The only package that may import from every other, and it does so inside the commands, so that
`hwgen --help` answers at once. Exit status: 0 done and right, 1 a simulation found something wrong,
2 bad input or a missing tool (one sentence), 130 interrupted. `compare`: 1 something got worse.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from hwgen.errors import UserError

from . import arrays, boards, networks, tables

__all__ = ["main"]


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

    for module in (arrays, networks, tables, boards):
        module.add_commands(add)
    return parser


def _interrupt_again(lost: "sys.UnraisableHookArgs") -> None:
    """Python drops a Ctrl-C that arrives within a finalizer (Amaranth has many): repeat it."""
    if isinstance(lost.exc_value, KeyboardInterrupt):
        import _thread
        import threading

        threading.Timer(0.01, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)


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
