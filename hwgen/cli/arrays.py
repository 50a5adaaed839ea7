"""Commands about PEs and arrays."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwgen.errors import UserError

from .flags import (
    ACCELERATOR,
    Add,
    accelerator_of,
    add_configuration,
    configuration_of,
    integer,
    map_array,
)

if TYPE_CHECKING:
    from hwgen.config import ArrayConfig
    from hwgen.generate import Generated

__all__ = ["add_commands"]


def add_commands(add: Add) -> None:
    """Add the commands of this module."""
    command = add("list", _list, "List the registered PEs, or the simulators of this machine.")
    command.add_argument("what", nargs="?", choices=("pes", "simulators"), default="pes")
    command.add_argument("--json", action="store_true", help="print JSON")

    command = add("generate", _generate, "Write Verilog, a JSON sidecar and a FuseSoC core.")
    add_configuration(command, accelerator=True)
    command.add_argument("--accelerator", action="store_true",
                         help="the whole accelerator: array, buffers, sequencer")  # fmt: skip
    command.add_argument("--output", metavar="DIR", required=True, help="folder to write to")
    command.add_argument("--force", action="store_true", help="replace files that exist")

    command = add(
        "simulate", _simulate, "Multiply matrices on the emitted Verilog; check each sum."
    )
    add_configuration(command)
    command.add_argument("--activations", metavar="A.npy", help="M×K integers on the PE's grid")
    command.add_argument("--weights", metavar="W.npy", help="K×N integers on the PE's grid")
    for size in "mkn":
        command.add_argument(
            f"--{size}", type=integer, metavar=size.upper(), help="size of random operands (64)"
        )
    command.add_argument(
        "--seed", type=integer, default=None, metavar="S", help="of random operands (0)"
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
    command.add_argument("--rows", type=integer, default=8, metavar="R", help="of PEs (8)")
    command.add_argument("--cols", type=integer, default=8, metavar="C", help="of PEs (8)")
    command.add_argument("--dataflow", choices=("ws", "os"), default="ws", help="(ws)")
    command.add_argument(
        "--seed", type=integer, default=0, metavar="S", help="of the training and the split (0)"
    )
    command.add_argument("--json", action="store_true", help="print JSON")


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
    from hwgen.config import ArrayConfig
    from hwgen.generate import check_output, generate, generate_accelerator

    if not arguments.accelerator:
        for name in ACCELERATOR:
            if getattr(arguments, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} must go with --accelerator")
    config = accelerator_of(arguments) if arguments.accelerator else configuration_of(arguments)
    if not arguments.output:
        raise UserError("--output must name a folder, not ''")
    directory = Path(arguments.output)
    check_output(directory, [f"{config.name}.{end}" for end in ("v", "json", "core")],
                 force=arguments.force)  # fmt: skip
    generated: Generated[Any]
    if isinstance(config, ArrayConfig):
        generated = generate(config)
        facts = (
            f"{config.rows}×{config.cols} {config.dataflow}, {config.accumulator.bits}-bit sums, "
            f"latency {generated.sidecar['latency_cycles']} cycles"
        )
    else:
        generated, array = generate_accelerator(config), config.array
        facts = (
            f"{array.rows}×{array.cols} {array.dataflow}, {array.macs_per_cycle} MACs a cycle, "
            f"requantization by {config.requantize}"
        )
    for path in generated.write(directory, force=arguments.force):
        print(f"{path} ({path.stat().st_size:,} bytes)")
    print(f"{facts}, {generated.verilog.count(chr(10) + 'endmodule')} modules")
    return 0


def _simulate(arguments: argparse.Namespace) -> int:
    config = configuration_of(arguments)
    from dataclasses import replace

    from hwgen.generate import check_output, generate, save_array
    from testbench.compiled import ProtocolError
    from testbench.simulate import random_operands, simulate

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
    """Read an operand, if its shape is one that can be multiplied."""
    import numpy as np

    from testbench.simulate import check_shape

    mapped = map_array(name, path, "integers")
    if mapped.ndim == 2:
        rows, cols = mapped.shape
        check_shape(config, *((rows, cols, 1) if name == "activations" else (1, rows, cols)))
    return np.asarray(mapped)


def _read_verilog(path: Path, generated: "Generated[ArrayConfig]") -> str:
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
    from hwgen.config import ArrayConfig
    from testbench.quickstart import PES, quickstart

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
