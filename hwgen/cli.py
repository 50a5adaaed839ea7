"""The command line.

The only module that may import from every package, and it does so inside the commands, so that
`hwgen --help` answers at once. Exit status: 0 done and right, 1 a simulation found something wrong,
2 bad input or a missing tool (one sentence), 130 interrupted.
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
        options = ArrayConfig.read_options(Path(arguments.config)) if arguments.config else {}
        for name in _CONFIGURATION:
            if (value := getattr(arguments, name)) is not None:
                options[name] = value
        if arguments.pe_option:
            given = dict(_pe_option(text) for text in arguments.pe_option)
            options["pe_options"] = {**options.get("pe_options", {}), **given}
        return ArrayConfig.from_options(options)
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error


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
