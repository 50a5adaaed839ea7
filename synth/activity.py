"""Switching activity: a mapped netlist simulated on real operands, its toggles counted.

Icarus runs the netlist; the cells are the Liberty file's functions, as Yosys writes them. Two ways:

- ``zero_delay``: every cell answers at once, so a net toggles at most once a cycle. No glitches.
- ``glitch``: every output has the rising and falling delay that OpenSTA found for it at its load
  (the mean over its inputs). Delays are inertial, as of a gate: a pulse that is shorter than the
  delay of the cell it meets is swallowed. Inputs change as late after the clock edge as the unit's
  own flip-flops do, since flip-flops drive them.

Operands are ``uniform`` (random codes) or ``trained``: a layer of the quick start's network, with
held-out images (:mod:`testbench.quickstart`). They are driven as in a running array, without
idling: a new pass follows every 64 vectors. The unit ``pe`` is the cell in the middle row, and the
sums that it takes are those of the cells above it, on the same operands.

What leaves the netlist is compared in every cycle with the golden model, so that a count of
toggles is a check of the synthesis too.
"""

import functools
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.config import ArrayConfig
from hwgen.tiling import Tiling
from testbench.golden import golden_pass
from testbench.quickstart import QuantizedLayer, train
from testbench.streams import packed_beats, unpack_beats
from testbench.tools import PROGRAMS, JobFailed, Program, run_tool, run_yosys

from .liberty import Library
from .netlist import Delays, Netlist
from .store import Entry, Store, sha256
from .units import Unit

__all__ = ["MODES", "STREAMS", "count_toggles", "operands", "read_toggles", "simulate_activity"]

IntArray = npt.NDArray[np.int64]

MODES = ("zero_delay", "glitch")
STREAMS = ("uniform", "trained")

#: Vectors in a pass, and passes that are simulated; the first of them only fill the unit.
VECTORS = 64
PASSES = 12
_WARM_UP = 2
#: To be raised when the same simulation is to give other counts than before.
_VERSION = 1
#: Cycles of reset.
_RESET = 3
#: Half a clock period in ps: longer than the longest path of any unit.
_HALF = 500_000
_VVP = Program("vvp", PROGRAMS["iverilog"].remedy, version_option="-V")


# ---- operands ------------------------------------------------------------------------------------


def operands(
    config: ArrayConfig, stream: str, m: int, k: int, n: int, seed: int
) -> tuple[IntArray, IntArray]:
    """Return activations (m, k) and weights (k, n), values on the PE's grids.

    ``trained``: images, inputs and outputs of the layer in a random order (so that no row of the
    array sees the same pixel always, and a corner at that), again and again if there are too few.
    """
    rng = np.random.default_rng(seed)
    if stream == "uniform":
        pe = config.pe
        return rng.choice(pe.activation.values, (m, k)), rng.choice(pe.weight.values, (k, n))
    network = train()
    weights, (images, _) = network.weights, network.test
    layer = QuantizedLayer(config, weights, network.bias)
    rows, inner, cols = (
        np.resize(rng.permutation(there), wanted)
        for there, wanted in ((len(images), m), (weights.shape[0], k), (weights.shape[1], n))
    )
    return layer.activations(images)[np.ix_(rows, inner)], layer.weights[np.ix_(inner, cols)]


# ---- benches -------------------------------------------------------------------------------------


@dataclass
class _Bench:
    """A simulation of the module ``bench``, with the netlist as its instance ``unit``.

    ``files`` are what it reads, and ``check`` looks at the lines that it writes: it returns how
    many values it compared, or raises JobFailed.
    """

    verilog: str
    files: dict[str, str]
    check: Callable[[list[str]], int]


def _bits(value: int, width: int) -> str:
    return format(value & ((1 << width) - 1), f"0{width}b")


_BENCH = """`timescale 1ps/1ps
module bench;
  reg clk = 0;
  always #{half} clk = ~clk;
  integer cycle = 0;
  integer file;
{declarations}
  {top} unit(.clk(clk){connections});
  initial begin
    file = $fopen("outputs.txt");
    $dumpfile("toggles.vcd");
{initial}
  end
  always @(posedge clk) begin
    cycle <= cycle + 1;
{clocked}
  end
  // All is at rest at the falling edge, so whole cycles are counted.
  always @(negedge clk)
    if (cycle == {start}) $dumpvars(1, bench.unit);
    else if (cycle == {stop}) $finish;
endmodule
"""


def _bench(unit: Unit, stream: str, delay: str) -> _Bench:
    """Return the bench of a unit; ``delay`` is that of its inputs, e.g. ``#90``, or empty."""
    return (_cell_bench if unit.kind == "pe" else _array_bench)(unit, stream, delay)


def _pass_cycles(config: ArrayConfig) -> int:
    return max(VECTORS, config.rows)


def _window(config: ArrayConfig) -> tuple[int, int]:
    """Return the cycles between which toggles are counted."""
    return _RESET + _WARM_UP * _pass_cycles(config), _RESET + PASSES * _pass_cycles(config)


def _cell_bench(unit: Unit, stream: str, delay: str) -> _Bench:
    config = unit.config
    start, stop = _window(config)
    make = {"ws": _weight_stationary, "os": _output_stationary}[config.dataflow]
    inputs, outputs = make(config, stream, stop - _RESET)
    inputs["en"] = [1] * (stop - _RESET)
    widths = {name: width for name, _, width in unit.ports}
    into = [name for name, is_input, _ in unit.ports if is_input]
    out = [name for name, is_input, _ in unit.ports if not is_input]
    words = ["1" + "0" * sum(widths[name] for name in into)] * _RESET
    for values in zip(*(inputs[name] for name in into), strict=True):
        words.append("0" + "".join(map(_bits, values, (widths[name] for name in into))))
    words.append(words[-1])
    size = len(words[0])
    verilog = _BENCH.format(
        half=_HALF, top=unit.top, start=start, stop=stop,
        declarations=f"  reg [{size - 1}:0] words [0:{len(words) - 1}];\n"
        f"  reg [{size - 1}:0] now;\n"
        "  wire rst;\n"
        + "".join(f"  wire [{widths[name] - 1}:0] {name};\n" for name in into + out)
        + f"  assign {{rst, {', '.join(into)}}} = now;",
        connections=", .rst(rst)" + "".join(f", .{name}({name})" for name in into + out),
        initial='    $readmemb("words.txt", words);\n    now = words[0];',
        clocked=f"    now <= {delay} words[cycle + 1];\n"
        f"    $fwrite(file, \"{'%b ' * len(out)}\\n\", {', '.join(out)});",
    )  # fmt: skip

    def check(lines: list[str]) -> int:
        checked = 0
        for cycle, line in enumerate(lines[_RESET:stop]):
            for name, got in zip(out, line.split(), strict=True):
                expected = outputs[name][cycle]
                if expected is None:
                    continue
                checked += 1
                if got != _bits(expected, widths[name]):
                    raise JobFailed(
                        "failed",
                        f"the mapped netlist is wrong: cycle {cycle}, {name} must be "
                        f"{_bits(expected, widths[name])}, not {got}",
                    )
        return checked

    return _Bench(verilog, {"words.txt": "\n".join(words)}, check)


Ports = dict[str, list[Any]]


def _lanes(codes: IntArray, bits: int) -> list[int]:
    """Return the codes of each row, shape (rows, lanes), as one number, lane 0 lowest."""
    return [sum(code << (lane * bits) for lane, code in enumerate(row)) for row in codes.tolist()]


def _weight_stationary(config: ArrayConfig, stream: str, cycles: int) -> tuple[Ports, Ports]:
    """Return inputs and outputs of a cell of :mod:`hwgen.weight_stationary` for each cycle."""
    pe, rows, lanes = config.pe, config.rows, config.pe.lanes
    row, span = rows // 2, _pass_cycles(config)
    ready = 1 + pe.pipeline  # a partial sum comes so many cycles after its activations
    inputs: Ports = {
        name: [0] * cycles for name in ("swap", "load", "act_in", "weight_in", "sum_in")
    }
    outputs: Ports = {name: [None] * cycles for name in ("act_out", "weight_out", "sum_out")}

    def put(values: list[Any], cycle: int, value: int) -> None:
        if cycle < cycles:
            values[cycle] = value

    held = slice(row * lanes, (row + 1) * lanes)
    for part in range(-(-cycles // span)):
        a, w = operands(config, stream, span, rows * lanes, 1, part)
        _, next_w = operands(config, stream, span, rows * lanes, 1, part + 1)
        weights = _lanes(pe.weight.encode(next_w[:, 0]).reshape(rows, lanes), pe.weight.bits)
        codes = pe.activation.encode(a[:, held])
        acts = _lanes(codes, pe.activation.bits)
        above = (
            golden_pass(config, a[:, : held.start], w[: held.start])[:, 0] if row else [0] * span
        )
        own = pe.weight.encode(w[held, 0])
        sums = config.accumulator.fold(pe.compute(above, codes, own))
        for step in range(span):
            cycle = part * span + step
            load = step < rows - row
            # The weights of the rows below pass by, the lowest row's first; then it is at rest.
            passing = weights[max(rows - 1 - step, row - 1, 0)]
            put(inputs["swap"], cycle, int(step == 0))
            put(inputs["load"], cycle, int(load))
            put(inputs["weight_in"], cycle, passing)
            put(inputs["act_in"], cycle, acts[step])
            put(inputs["sum_in"], cycle + ready, int(above[step]))
            put(outputs["act_out"], cycle + 1, acts[step])
            put(outputs["weight_out"], cycle + 1, passing if load else weights[row])
            if part:  # in the first pass there are no weights yet
                put(outputs["sum_out"], cycle + ready + 1, int(sums[step]))
    return inputs, outputs


def _output_stationary(config: ArrayConfig, stream: str, cycles: int) -> tuple[Ports, Ports]:
    """Return inputs and outputs of a cell of :mod:`hwgen.output_stationary` for each cycle."""
    pe, rows, lanes = config.pe, config.rows, config.pe.lanes
    row, span = rows // 2, _pass_cycles(config)
    ready = 1 + pe.pipeline  # products come so many cycles after their operands
    names = ("valid", "last", "shift", "act_in", "weight_in", "sum_in")
    inputs: Ports = {name: [0] * cycles for name in names}
    outputs: Ports = {name: [None] * cycles for name in ("act_out", "weight_out", "sum_out")}

    def put(values: list[Any], cycle: int, value: int) -> None:
        if cycle < cycles:
            values[cycle] = value

    for part in range(-(-cycles // span)):
        a, w = operands(config, stream, row + 1, span * lanes, 1, part)
        acts = _lanes(pe.activation.encode(a[row]).reshape(span, lanes), pe.activation.bits)
        weights = _lanes(pe.weight.encode(w[:, 0]).reshape(span, lanes), pe.weight.bits)
        sums = golden_pass(config, a, w)[:, 0].tolist()
        for step in range(span):
            cycle = part * span + step
            put(inputs["act_in"], cycle, acts[step])
            put(inputs["weight_in"], cycle, weights[step])
            put(outputs["act_out"], cycle + 1, acts[step])
            put(outputs["weight_out"], cycle + 1, weights[step])
            put(inputs["valid"], cycle + ready, 1)
        last = (part + 1) * span - 1 + ready
        put(inputs["last"], last, 1)
        # Until the next last, a cell's drain register holds its sum, then those from above.
        for cycle in range(last, last + span):
            shifts = min(max(0, cycle - (last + rows - row)), row)
            put(inputs["sum_in"], cycle, sums[max(row - 1 - shifts, 0)] if row else 0)
            put(inputs["shift"], cycle, int(0 <= cycle - (last + rows - row) < row))
            put(
                outputs["sum_out"],
                cycle + 1,
                sums[row - min(max(0, cycle + 1 - (last + rows - row)), row)]
                if cycle + 1 > last
                else 0,
            )
    return inputs, outputs


def _array_bench(unit: Unit, stream: str, delay: str) -> _Bench:
    config = unit.config
    start, stop = _window(config)
    span, lanes = _pass_cycles(config), config.pe.lanes
    n = config.cols * PASSES
    m, k = (span, config.pass_depth) if config.dataflow == "ws" else (config.rows, span * lanes)
    a, w = operands(config, stream, m, k, n, 0)
    tiling = Tiling(config, m, k, n)
    sources = {"i_act": tiling.activations(a), "i_weight": tiling.weights(w)}
    beats = sum(part.beats for part in tiling)
    # The last sums are to come too: the array starts when its first weights are there, and ends
    # after its latency (and, output-stationary, the drain of its rows).
    stop += 4 * config.rows + config.cols + config.pe.pipeline
    widths = {name: width for name, _, width in unit.ports}
    declarations, initial, clocked, files = (
        ["  reg rst = 1;", "  reg o_sum__ready = 1;"],
        [],
        [f"    rst <= {delay} cycle < {_RESET - 1};"],
        {},
    )
    for name, data in sources.items():
        width = widths[f"{name}__payload"]
        files[f"{name}.txt"] = "\n".join(
            _bits(beat, width) for beat in packed_beats(data.data, data.segments)
        )
        declarations.append(
            f"  reg [{width - 1}:0] {name} [0:{data.count - 1}];\n"
            f"  reg [{width - 1}:0] {name}__payload;\n"
            f"  reg {name}__valid = 0;\n  wire {name}__ready;\n  integer {name}_beat = 0;"
        )
        initial.append(f'    $readmemb("{name}.txt", {name});\n    {name}__payload = {name}[0];')
        clocked.append(
            f"    if (cycle == {_RESET}) {name}__valid <= {delay} 1;\n"
            f"    else if ({name}__valid && {name}__ready) begin\n"
            f"      {name}_beat <= {name}_beat + 1;\n"
            f"      if ({name}_beat + 1 < {data.count}) "
            f"{name}__payload <= {delay} {name}[{name}_beat + 1];\n"
            f"      else {name}__valid <= {delay} 0;\n    end"
        )
    width = widths["o_sum__payload"]
    declarations.append(f"  wire o_sum__valid;\n  wire [{width - 1}:0] o_sum__payload;")
    clocked.append('    if (o_sum__valid && !rst) $fwrite(file, "%b\\n", o_sum__payload);')
    verilog = _BENCH.format(
        half=_HALF, top=unit.top, start=start, stop=stop,
        declarations="\n".join(declarations),
        connections=", .rst(rst)" + "".join(f", .{name}({name})" for name in widths),
        initial="\n".join(initial), clocked="\n".join(clocked),
    )  # fmt: skip

    def check(lines: list[str]) -> int:
        if len(lines) != beats:
            raise JobFailed(
                "failed",
                f"the mapped netlist is wrong: {beats} beats of sums must come, not {len(lines)}",
            )
        values, _ = unpack_beats(lines, config.accumulator.bits)
        first = 0
        for part in tiling:
            tile = tiling.place(part, values[first : first + part.beats])
            first += part.beats
            wrong = np.argwhere(tile != golden_pass(config, a[part.m, part.k], w[part.k, part.n]))
            if len(wrong):
                raise JobFailed(
                    "failed",
                    f"the mapped netlist is wrong: {len(wrong)} sums of pass {part.index}, the "
                    f"first in row {wrong[0][0]}, column {wrong[0][1]}",
                )
        return int(values.size)

    return _Bench(verilog, files, check)


# ---- simulation ----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def _models(library: Library) -> dict[str, str]:
    """Return the Verilog of each cell's function."""
    text = run_yosys(
        "read_liberty -ignore_miss_func -ignore_miss_dir -ignore_miss_data_latch cells.lib; "
        "write_verilog -noattr cells.v",
        {"cells.lib": library.text},
        ["cells.v"],
    )["cells.v"]
    return {
        name: body
        for body, name in re.findall(r"^(module (\S+?)\(.*?^endmodule\n)", text, re.M | re.S)
    }


def _cells(netlist: Netlist, *, delays: bool) -> str:
    """Return the models of the cells of a netlist, with delays as parameters or without any."""
    library, parts = netlist.library, []
    for name in netlist.cells_by_type:
        model = _models(library)[name]
        if not delays:
            parts.append(model)
            continue
        cell = library.cells[name]
        parts.append(model.replace(f"module {name}(", f"module {name}_function(", 1))
        parameters = ", ".join(f"{pin}_rise = 1, {pin}_fall = 1" for pin in cell.outputs)
        ports = [f"input {pin}" for pin in cell.inputs] + [f"output {pin}" for pin in cell.outputs]
        pins = [f".{pin}({pin})" for pin in cell.inputs]
        pins += [f".{pin}({pin}_now)" for pin in cell.outputs]
        parts.append(
            f"module {name} #(parameter {parameters})({', '.join(ports)});\n"
            + "".join(
                f"  wire {pin}_now;\n  assign #({pin}_rise, {pin}_fall) {pin} = {pin}_now;\n"
                for pin in cell.outputs
            )
            + f"  {name}_function function_of({', '.join(pins)});\nendmodule\n"
        )
    return "`timescale 1ps/1ps\n" + "\n".join(parts)


def simulate_activity(
    store: Store,
    unit: Unit,
    netlist: Netlist,
    delays: Delays,
    stream: str,
    mode: str,
    *,
    seconds: float,
) -> Entry:
    """Run a mapped unit on operands, check what it answers, and count toggles.

    The result has the ``cycles`` that were counted, and how many output values were ``checked``;
    :func:`read_toggles` reads the counts.

    Parameters
    ----------
    store : Store
        Where results are kept.
    unit : Unit
        What was mapped.
    netlist, delays
        What it was mapped to, and its cells' delays.
    stream, mode : str
        Of :data:`STREAMS` and :data:`MODES`.
    seconds : float
        Time limit of the simulation.

    Raises
    ------
    JobFailed
        If a simulator fails, an output is wrong, or a net is unknown or was not seen.
    """
    glitch = mode == "glitch"
    flops = [
        time
        for name, pins in delays.items()
        if netlist.library.cells[netlist.instances[name].cell].flip_flop
        for time in pins.values()
    ]
    edge = f"#{round(sum(map(sum, flops)) / (2 * len(flops)))}" if glitch else ""
    bench = _bench(unit, stream, edge)
    files = bench.files | {
        "bench.v": bench.verilog,
        "cells.v": _cells(netlist, delays=glitch),
        "unit.v": netlist.verilog(delays if glitch else None),
    }
    start, stop = _window(unit.config)

    def work(folder: Path) -> dict[str, Any]:
        for name, text in files.items():
            (folder / name).write_text(text)
        arguments = ["-g2005", "-o", "bench.vvp", "-s", "bench", "cells.v", "unit.v", "bench.v"]
        run_tool(PROGRAMS["iverilog"], arguments, folder, log="iverilog.log", seconds=seconds)
        run_tool(_VVP, ["-n", "bench.vvp"], folder, log="vvp.log", seconds=seconds)
        checked = bench.check((folder / "outputs.txt").read_text().splitlines())
        # X is for sums that nobody has written yet; by now there are none.
        toggles = count_toggles(folder / "toggles.vcd", netlist.nets)
        (folder / "toggles.json").write_text(json.dumps(toggles))
        for name in [*bench.files, "cells.v", "unit.v", "bench.vvp", "outputs.txt", "toggles.vcd"]:
            (folder / name).unlink()
        return {"cycles": stop - start, "checked": checked}

    spec = {
        "job": "count toggles",
        "version": _VERSION,
        "stream": stream,
        "mode": mode,
        "files": {name: sha256(text) for name, text in files.items()},
        "tools": {"iverilog": PROGRAMS["iverilog"].version},
        "seconds": seconds,
    }
    return store.run(spec, work)


def read_toggles(entry: Entry) -> dict[str, float]:
    """Return the toggles per cycle of each net, of :func:`simulate_activity`."""
    cycles = entry.result["cycles"]
    return {net: count / cycles for net, count in json.loads(entry.text("toggles.json")).items()}


def count_toggles(path: Path, nets: Iterable[str]) -> dict[str, int]:
    """Count the changes between 0 and 1 of nets in a VCD trace.

    Raises
    ------
    JobFailed
        If a net is not in the trace, or is X or Z in it.
    """
    ids: dict[bytes, list[str]] = {}
    wanted = set(nets)
    value: dict[bytes, int] = {}
    count: dict[bytes, int] = {}
    with path.open("rb") as lines:
        for line in lines:
            words = line.split()
            if words[:1] == [b"$var"] and (name := words[4].decode()) in wanted:
                ids.setdefault(words[3], []).append(name)
                value[words[3]], count[words[3]] = 0, -1  # the first value is no change
            elif words[:1] == [b"$enddefinitions"]:
                break
        for line in lines:
            # Icarus also writes a net that has moved and come back within one instant.
            if (code := line[1:-1]) in value and line[0] != value[code]:
                if line[0] in b"01":
                    value[code] = line[0]
                    count[code] += 1
                elif line[0] in b"xXzZ":
                    raise JobFailed("failed", f"net {ids[code][0]} is unknown in {path.name}")
    found = {name: count[code] for code, names in ids.items() for name in names}
    missing = wanted - {name for name, changes in found.items() if changes >= 0}
    if missing:
        raise JobFailed(
            "failed", f"{path.name} lacks {len(missing)} nets, {min(missing)} among them"
        )
    return found
