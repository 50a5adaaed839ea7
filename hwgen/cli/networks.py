"""Commands about quantized networks."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwgen.errors import UserError

from .flags import Add, accelerator_of, add_configuration, integer, map_array, options_of

if TYPE_CHECKING:
    from hwgen.accelerator.config import AcceleratorConfig
    from hwgen.compiler.compile import Compiled
    from hwgen.network.graph import Network

__all__ = ["add_commands"]


def add_commands(add: Add) -> None:
    """Add the commands of this module."""
    command = add("quantize", _quantize, "Quantize a float ONNX model with calibration data.")
    command.add_argument("model", metavar="MODEL.onnx")
    command.add_argument("--pe", metavar="NAME", required=True, help="see `hwgen list`")
    command.add_argument("--calibration", metavar="X.npy", required=True,
                         help="a batch of the model's own inputs")  # fmt: skip
    command.add_argument("--per-channel", action="store_true",
                         help="a scale for each output channel of the weights")  # fmt: skip
    command.add_argument("--power-of-two", action="store_true",
                         help="scales that are powers of two, for --requantize shift")  # fmt: skip
    command.add_argument("--output", metavar="Q.onnx", required=True, help="file to write")
    command.add_argument("--force", action="store_true", help="replace a file that exists")

    command = add("compile", _compile, "Make a program of a quantized network.")
    command.add_argument("model", metavar="MODEL", help=".onnx (QDQ, QLinear, QONNX) or .tflite")
    add_configuration(command, accelerator=True)
    _add_projection(command)
    command.add_argument("--output", metavar="DIR", help="folder to write the program to")
    command.add_argument("--force", action="store_true", help="replace files that exist")
    command.add_argument("--explain", action="store_true", help="print a table of the layers")
    command.add_argument("--json", action="store_true", help="print JSON")

    command = add("run", _run, "Run a quantized network on the accelerator.")
    command.add_argument("model", metavar="MODEL", help=".onnx (QDQ, QLinear, QONNX) or .tflite")
    add_configuration(command, accelerator=True)
    _add_projection(command)
    command.add_argument("--simulate", action="store_true",
                         help="in a cycle-accurate simulation of the Verilog")  # fmt: skip
    command.add_argument("--port", metavar="P",
                         help="on the board at this serial port, or spi:BUS.DEV[:HZ]")  # fmt: skip
    command.add_argument("--baud", type=integer, default=1_000_000, metavar="RATE",
                         help="of the board's bitstream (1000000)")  # fmt: skip
    command.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS",
                         help="without progress, until the board is gone (5)")  # fmt: skip
    command.add_argument("--inputs", metavar="X.npy", required=True,
                         help="a batch of the model's own inputs")  # fmt: skip
    command.add_argument("--outputs", metavar="Y.npy", required=True,
                         help="file to write the model's own outputs to")  # fmt: skip
    command.add_argument("--force", action="store_true", help="replace a file that exists")
    command.add_argument("--check", action="store_true",
                         help="compare every layer with the golden model")  # fmt: skip
    command.add_argument("--seed", type=integer, default=1, metavar="S",
                         help="of what memories and registers wake up with (1)")  # fmt: skip
    command.add_argument("--waves", metavar="FILE", help="write a VCD trace")
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_projection(command: argparse.ArgumentParser) -> None:
    command.add_argument("--project-weights", action="store_true",
                         help="move weights that the PE lacks to the nearest it has")  # fmt: skip


def _network(arguments: argparse.Namespace, config: "AcceleratorConfig") -> "Network":
    from hwgen.compiler.compile import project_weights
    from hwgen.compiler.rewrite import fold_stride
    from hwgen.network.load import load_network

    network = load_network(Path(arguments.model))
    if arguments.project_weights:
        network = project_weights(network, config)
    for note in network.notes:
        print(f"hwgen: {note}", file=sys.stderr)
    return fold_stride(network, config)


def _batch(name: str, path: str) -> Any:
    """Read a batch of at least one sample."""
    import numpy as np

    mapped = map_array(f"--{name}", path, "numbers")
    if mapped.ndim == 0 or len(mapped) == 0:
        raise UserError(f"--{name} {path} must hold at least one sample, not {mapped.shape}")
    return np.asarray(mapped)


def _quantize(arguments: argparse.Namespace) -> int:
    from hwgen.generate import check_output, write_files
    from hwgen.network.quantize import quantize_model
    from pe_library import get_pe

    output = Path(arguments.output)
    check_output(output.parent, [output.name], force=arguments.force)
    try:
        pe = get_pe(arguments.pe)
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    model = quantize_model(
        Path(arguments.model),
        pe,
        _batch("calibration", arguments.calibration),
        per_channel=arguments.per_channel,
        power_of_two=arguments.power_of_two,
    )
    data = model.SerializeToString()
    write_files(output.parent, {output.name: data}, force=arguments.force)
    print(f"{output} ({len(data):,} bytes)")
    return 0


def _compile(arguments: argparse.Namespace) -> int:
    from hwgen.compiler.compile import compile_network
    from hwgen.compiler.cycles import cycles_of
    from hwgen.compiler.explain import explain, format_table
    from hwgen.generate import check_output, write_files

    config = accelerator_of(arguments)
    names = [f"{config.name}.program.bin", f"{config.name}.program.json"]
    if arguments.output is not None:
        if not arguments.output:
            raise UserError("--output must name a folder, not ''")
        check_output(Path(arguments.output), names, force=arguments.force)
    compiled = compile_network(_network(arguments, config), config)
    program = _program(compiled)
    reports = explain(compiled)
    cycles = cycles_of(program)
    description = {
        "configuration": config.as_dict(),
        "configuration_sha256": config.digest,
        "network": compiled.network.name,
        "notes": compiled.network.notes,
        "cycles": cycles,
        "input": compiled.describe_input(),
        "answer_beats": program.answer_beats,
        "layers": [report.as_dict() for report in reports],
    }
    if arguments.output is not None:
        files = {
            names[0]: program.beats().tobytes(),
            names[1]: json.dumps(description, indent=2) + "\n",
        }
        for path in write_files(Path(arguments.output), files, force=arguments.force):
            print(f"{path} ({path.stat().st_size:,} bytes)", file=sys.stderr)
    if arguments.json:
        print(json.dumps(description, indent=2))
    elif arguments.explain:
        print(format_table(reports, cycles, config.array.macs_per_cycle))
    else:
        macs = sum(report.macs for report in reports)
        share = macs / (cycles * config.array.macs_per_cycle)
        print(
            f"{len(reports)} layers, {macs:,} MACs, {cycles:,} cycles a sample, {share:.1%} of peak"
        )
    return 0


def _program(compiled: "Compiled") -> Any:
    """Return the program with a sample of zero points, whose place a host overwrites."""
    import numpy as np

    tensor = compiled.network.tensors[compiled.network.input]
    value = tensor.low if tensor.bipolar else tensor.zero_point
    return compiled.program(np.full(tensor.shape, value, np.int64))


def _run(arguments: argparse.Namespace) -> int:
    from hwgen.generate import check_output

    if arguments.simulate == (arguments.port is not None):
        raise UserError("--simulate must be given, or --port: where the network runs")
    if arguments.port is not None:
        for name in ("check", "waves"):
            if getattr(arguments, name):
                raise UserError(f"--{name} must be given with --simulate, not with --port")
    for name in ("outputs", "waves"):
        if getattr(arguments, name) is not None:
            path = Path(getattr(arguments, name))
            check_output(path.parent, [path.name], force=arguments.force)
    return _run_simulated(arguments) if arguments.simulate else _run_on_board(arguments)


def _encoded(arguments: argparse.Namespace, network: "Network") -> Any:
    """Read the inputs as the network's integers."""
    import numpy as np

    return np.asarray(network.encode(_batch("inputs", arguments.inputs)), np.int64)


def _bar(arguments: argparse.Namespace, total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="sample", disable=arguments.json, leave=False)


def _run_on_board(arguments: argparse.Namespace) -> int:
    from boards.host import Accelerator
    from hwgen.compiler.compile import compile_network
    from hwgen.generate import save_array

    config = accelerator_of(arguments) if options_of(arguments) else None
    with Accelerator.open(
        arguments.port, config, baud=arguments.baud, timeout=arguments.timeout
    ) as board:
        if board.config is None:
            raise UserError("--config must be given: this board does not say what it holds")
        network = _network(arguments, board.config)
        compiled = compile_network(network, board.config)
        encoded = _encoded(arguments, network)
        with _bar(arguments, len(encoded)) as bar:
            found = board.run(compiled, encoded, progress=lambda _: bar.update(1) and None)
        clock = board.session.identification.clock_hz
    save_array(Path(arguments.outputs), network.decode(found.outputs))
    report = {
        "samples": len(encoded),
        "cycles": found.cycles,
        "clock_hz": clock,
        "seconds": found.seconds,
        "configuration_sha256": board.config.digest,
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print(f"samples      {len(encoded):>14,}")
        print(f"cycles       {sum(found.cycles):>14,}   (at {clock / 1e6:g} MHz, waiting included)")
        print(f"seconds      {found.seconds:>14.3g}")
    return 0


def _run_simulated(arguments: argparse.Namespace) -> int:
    from hwgen.compiler.compile import compile_network
    from hwgen.generate import save_array
    from testbench.compiled import ProtocolError
    from testbench.network import simulate_network

    config = accelerator_of(arguments)
    network = _network(arguments, config)
    compiled = compile_network(network, config)
    try:
        encoded = _encoded(arguments, network)
        with _bar(arguments, len(encoded)) as bar:
            found = simulate_network(
                compiled, encoded,
                check=arguments.check,
                seed=arguments.seed,
                waves=None if arguments.waves is None else Path(arguments.waves),
                progress=lambda _: bar.update(1) and None,
            )  # fmt: skip
    except ProtocolError as error:
        print(f"hwgen: the accelerator failed: {error}", file=sys.stderr)
        return 1
    save_array(Path(arguments.outputs), network.decode(found.outputs))
    wrong = sum(found.mismatches.values())
    macs = sum(layer.macs for layer in compiled.layers)
    share = macs * len(encoded) / (sum(found.cycles) * config.array.macs_per_cycle)
    report = {
        "samples": len(encoded),
        "cycles": found.cycles,
        "predicted_cycles": found.predicted,
        "utilisation": share,
        "checked": found.compared,
        "mismatches": found.mismatches,
        "configuration_sha256": config.digest,
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print(f"samples      {len(encoded):>14,}")
        print(f"cycles       {sum(found.cycles):>14,}   (predicted {sum(found.predicted):,})")
        print(f"utilisation  {share:>14.1%}")
        if arguments.check:
            print(f"mismatches   {wrong:>14,}   (of {found.compared:,} integers of every layer)")
    for name, count in found.mismatches.items():
        if count:
            print(f"hwgen: {count:,} integers of {name!r} are wrong", file=sys.stderr)
    return 1 if wrong else 0
