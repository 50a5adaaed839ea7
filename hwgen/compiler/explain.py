"""What a compiled network does, layer by layer: a table for a person, or plain data."""

from dataclasses import asdict, dataclass

import numpy as np

from hwgen.accelerator.registers import MODES

from .compile import Compiled
from .cycles import run_cycles, spans
from .program import Run

__all__ = ["LayerReport", "explain", "format_table"]


@dataclass(frozen=True)
class LayerReport:
    """One layer.

    Attributes
    ----------
    name, kind : str
    output : str
        Height × width × channels.
    macs : int
        Useful products.
    tile : str
        Pixels of a run, and how many such tiles the output is cut into.
    loops : str
        Blocks that are summed × blocks of output channels.
    activation_bytes : int
        Of the activation buffer, for input and output (an output to the host takes none).
    load_bytes : int
        Weights and parameters, as they are stored in the buffers.
    weight_bytes : int
        Of the weight buffer, at most at a time.
    cycles : int
        From the end of the layer before to its end.
    utilisation : float
        Useful products per cycle and PE lane.
    bound : str
        ``"compute"``; ``"load"`` where a run waited for its data for more than a tenth of the
        layer; ``"store"`` where results waited for the host for as long.
    """

    name: str
    kind: str
    output: str
    macs: int
    tile: str
    loops: str
    activation_bytes: int
    load_bytes: int
    weight_bytes: int
    cycles: int
    utilisation: float
    bound: str

    def as_dict(self) -> dict[str, object]:
        """Return plain data."""
        return asdict(self)


def explain(compiled: Compiled) -> list[LayerReport]:
    """Return a report of each layer, its cycles by the cycle model."""
    network, config = compiled.network, compiled.config
    tensor = network.tensors[network.input]
    program = compiled.program(np.full(tensor.shape, tensor.low))
    when = dict(zip(map(id, program.commands), spans(program), strict=False))
    sets_before = {id(command): len(sets) for command, sets in program.sets_before_runs()}
    reports: list[LayerReport] = []
    before = 0
    for layer in compiled.layers:
        operation = layer.operation
        runs = [run for job in layer.jobs for run in job.runs]
        loads = [load for job in layer.jobs for load in job.loads]
        end = when[id(runs[-1])].end
        waited = stored = 0
        idle = before
        for run in runs:
            sets = 0 if run is runs[0] and not reports else sets_before[id(run)]
            waited += max(0, when[id(run)].start - idle - sets - 1)
            stored += run_cycles(program, run) - run_cycles(program, _kept(run))
            idle = when[id(run)].end
        cycles = end - before
        out = network.tensors[operation.output].shape
        used = [compiled.places[name].granules for name in operation.inputs]
        if operation.output in compiled.places:
            used.append(compiled.places[operation.output].granules)
        weights = [load.data.shape[0] for load in loads if load.buffer == "weight"]
        reports.append(
            LayerReport(
                name=operation.name,
                kind=type(operation).__name__.lower(),
                output="×".join(map(str, out)),
                macs=layer.macs,
                tile=f"{len(layer.tiles[0])} px × {len(layer.tiles)}",
                loops=f"{layer.passes} × {len(layer.columns)}",
                activation_bytes=sum(used) * config.granule_bits // 8,
                load_bytes=sum(load.data.nbytes for load in loads),
                weight_bytes=max(weights, default=0) * config.weight_bits // 8,
                cycles=cycles,
                utilisation=layer.macs / (cycles * config.array.macs_per_cycle),
                bound="load" if waited > max(cycles / 10, stored)
                else "store" if stored > cycles / 10 else "compute",
            )
        )  # fmt: skip
        before = end
    return reports


def _kept(run: Run) -> Run:
    """Return the run as if its results stayed in the activation buffer."""
    if not run.has("to_host"):
        return run
    outside = 1 << MODES["to_host"] | 1 << MODES["raw"]
    return Run({**run.registers, "mode": run.registers["mode"] & ~outside})


def format_table(reports: list[LayerReport], total_cycles: int, macs_per_cycle: int) -> str:
    """Return the table that `hwgen compile --explain` prints."""
    heads = ("layer", "kind", "output", "MACs", "tile", "loops", "act. bytes", "loaded",
             "weight buf.", "cycles", "util.", "bound")  # fmt: skip
    rows = [
        (
            report.name[:28], report.kind, report.output, f"{report.macs:,}", report.tile,
            report.loops, f"{report.activation_bytes:,}", f"{report.load_bytes:,}",
            f"{report.weight_bytes:,}", f"{report.cycles:,}", f"{report.utilisation:.1%}",
            report.bound,
        )
        for report in reports
    ]  # fmt: skip
    macs = sum(report.macs for report in reports)
    share = macs / (total_cycles * macs_per_cycle)
    loaded = sum(report.load_bytes for report in reports)
    rows.append(("total", "", "", f"{macs:,}", "", "", "", f"{loaded:,}", "",
                 f"{total_cycles:,}", f"{share:.1%}", ""))  # fmt: skip
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    left = {0, 1, 2, 11}

    def line(row: tuple[str, ...]) -> str:
        cells = [
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(heads), line(tuple("-" * width for width in widths)), *map(line, rows)])
