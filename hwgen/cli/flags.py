"""Flags that several commands share, and what they make."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwgen.errors import UserError

if TYPE_CHECKING:
    from hwgen.accelerator.config import AcceleratorConfig
    from hwgen.config import ArrayConfig

__all__ = ["ACCELERATOR", "CONFIGURATION", "Add", "accelerator_of", "add_configuration",
           "configuration_of", "integer", "map_array", "options_of"]  # fmt: skip

#: Adds a command: its name, what runs it, and one sentence.
Add = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]

#: Flags of a configuration, as in TOML files and in ArrayConfig: kind, metavar, help.
CONFIGURATION: dict[str, tuple[str, str, str]] = {
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
#: Further flags of an accelerator, as in AcceleratorConfig.
ACCELERATOR: dict[str, tuple[str, str, str]] = {
    "activation_buffer": ("integer", "BYTES", "for activations (default: 65536)"),
    "weight_buffer": ("integer", "BYTES", "for weights (default: 65536)"),
    "accumulator_buffer": ("integer", "BYTES", "for sums over passes (default: 65536)"),
    "parameter_buffer": ("integer", "BYTES", "for bias and requantization (default: 16384)"),
    "requantize": ("text", "multiplier|shift|threshold", "how sums become codes (multiplier)"),
    "thresholds": ("integer", "T", "of each channel, 1 to 255, with --requantize threshold"),
    "stream_bits": ("integer", "64|128|256|512", "width of the streams outside (64)"),
    "layout": ("text", "packed|aligned", "of activations: less memory (default), or less logic"),
    "loop_bits": ("integer", "B", "width of loop counters and places, 6 to 16 (default: 16)"),
    "register_sets": ("integer", "1|2", "2: the next run is set while one goes on (default)"),
    "weight_ports": ("integer", "1|2", "2: weights are loaded while a run reads others (default)"),
    "register_slices": ("integer", "0|1", "1: registers end the long ways (default)"),
    "sum_bits": ("integer", "B", "width of sums with their bias, 8 to 48 (default: 32 or 48)"),
}


def integer(text: str) -> int:
    """Return the integer that a flag gives, in any of Python's notations."""
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer, not {text!r}") from None


def add_configuration(command: argparse.ArgumentParser, *, accelerator: bool = False) -> None:
    """Add the flags of an array's configuration, or of an accelerator's."""
    group = command.add_argument_group("configuration")
    flags = CONFIGURATION | ACCELERATOR if accelerator else CONFIGURATION
    for name, (kind, metavar, text) in flags.items():
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=integer if kind == "integer" else str,
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


def configuration_of(arguments: argparse.Namespace) -> "ArrayConfig":
    """Return the array that the flags describe."""
    from hwgen.config import ArrayConfig

    try:
        return ArrayConfig.from_options(options_of(arguments))
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error


def accelerator_of(arguments: argparse.Namespace) -> "AcceleratorConfig":
    """Return the accelerator that the flags describe."""
    from hwgen.accelerator.config import AcceleratorConfig

    try:
        return AcceleratorConfig.from_options(options_of(arguments))
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a configuration, of its file and its flags."""
    from hwgen.config import ArrayConfig

    options = ArrayConfig.read_options(Path(arguments.config)) if arguments.config else {}
    for name in CONFIGURATION | ACCELERATOR:
        if (value := getattr(arguments, name, None)) is not None:
            options[name] = value
    if arguments.pe_option:
        given = dict(_pe_option(text) for text in arguments.pe_option)
        options["pe_options"] = {**options.get("pe_options", {}), **given}
    return options


def map_array(what: str, path: str, kind: str) -> Any:
    """Map an array of a .npy file, without allocating what a broken or huge one claims to hold."""
    import numpy as np

    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise UserError(f"{what} {path} must be a readable .npy file: {error}") from error
    except (ValueError, EOFError) as error:
        raise UserError(f"{what} {path} must be a readable .npy file of {kind}") from error
    if not isinstance(mapped, np.ndarray):
        raise UserError(f"{what} {path} must be a .npy file with one array")
    return mapped


def _pe_option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"--pe-option must be NAME=VALUE, not {text!r}")
    words = {"true": True, "false": False}
    try:
        return name, words[value] if value in words else int(value, 0)
    except ValueError:
        return name, value
