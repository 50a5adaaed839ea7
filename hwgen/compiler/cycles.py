"""The cycle model: how long a program takes, to the cycle.

It holds for a host that offers every beat at once and takes every beat at once; the accelerator
then never waits for anything that this model does not know. Time is counted as the closing beat
counts it: the cycle in which the program's first beat is taken is 1.

Every number below is a property of the RTL (registers on a way) and is checked against simulation
over random layers and configurations (``tests/accelerator/test_accelerator.py``).
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from hwgen.accelerator.accumulate import Accumulate
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.accelerator.direct import Direct
from hwgen.accelerator.postprocess import PostProcess
from hwgen.accelerator.registers import loops_of
from hwgen.accelerator.results import Results
from hwgen.accelerator.sequencer import Sequencer
from hwgen.accelerator.streamers import ActivationStreamer, WeightStreamer

from .program import Load, Program, Run, Store

__all__ = ["Span", "cycles_of", "run_cycles", "spans"]


@dataclass(frozen=True)
class Span:
    """When a command was taken and when it had ended: cycles of the program."""

    start: int
    end: int


def run_cycles(program: Program, run: Run) -> int:
    """Return the cycles from the acceptance of a RUN to the end of its last result."""
    config = program.config
    array = config.array
    loops = loops_of(config)
    pixels, summed, blocks = (
        math.prod(map(run.extent, part)) for part in (loops.inside, loops.summed, loops.outside)
    )
    raw, to_host = run.has("raw"), run.has("to_host")
    skip = 0
    # From the start to the operands of the first sum, from there to its result, and from pass to
    # pass.
    if run.has("direct"):
        ready, apart = ActivationStreamer.latency, pixels
        way = Direct.latency(config)
    else:
        way = array.latency
        if array.dataflow == "ws":
            apart = max(pixels, array.rows)
            weights = WeightStreamer.latency + config.register_slices + array.rows
            ready = max(weights, ActivationStreamer.latency)
        else:  # one pass, whose first beat waits for the transposer, and whose last for the others
            apart, summed = array.rows * summed, 1
            ready = ActivationStreamer.latency + array.rows + apart - 1
            pixels, skip = array.rows, array.rows - pixels
    ready += config.register_slices
    way += config.register_slices + Accumulate.latency(config) + PostProcess.latency(config, raw)
    if not to_host:
        return ready + way + (blocks * summed - 1) * apart + pixels
    bits = array.cols * (config.sum_bits if raw else array.pe.activation.bits)
    beats = program.beats_of(bits)
    if beats == 1:  # they are sent as they come
        fifo = Results.fifo_latency + config.register_slices
        return ready + way + (blocks * summed - 1) * apart + pixels + fifo + 1
    if array.dataflow == "os" and not run.has("direct"):
        # In beats of the array: `apart` for a pass, all sums of which come after the last one.
        issued = _Issue(ready - apart + 1, blocks, 1, apart, apart)
        return _sent(config, issued, way, beats, range(skip, pixels)) + 1
    return _sent(config, _Issue(ready, blocks, summed, pixels, apart), way, beats, None) + 1


@dataclass(frozen=True)
class _Issue:
    """When beats enter the array, or pass it, if nothing holds them.

    Attributes
    ----------
    first : int
        When the first one does.
    blocks, summed, beats, apart : int
        Blocks of output channels, passes that are summed for each, beats of a pass, cycles from
        the first beat of a pass to that of the next at least.
    """

    first: int
    blocks: int
    summed: int
    beats: int
    apart: int


def _sent(
    config: AcceleratorConfig, issue: _Issue, way: int, beats: int, sums: range | None
) -> int:
    """Return the cycle after the last beat that is sent of a run to the host.

    Results wait in the FIFO while others are sent. From some number on (:attr:`.Results.enough`)
    nothing enters the array; what is in it comes all the same.

    Parameters
    ----------
    config, issue
        The accelerator, and what it would do at its own pace.
    way, beats : int
        Cycles from the array to the FIFO, beats of a result.
    sums : range, optional
        The results that come one by one from a pass's last beat on, of those that are wanted;
        if None, there is one for each beat of a block's last pass.
    """
    enough = Results.enough(config)
    waiting: deque[int] = deque()  # when results in the FIFO are taken out, or will be
    coming: deque[int] = deque()  # when results come that are not counted yet
    passed = taken = 0  # when a result went from its stage to the skid buffer, and on
    free = 0  # when the serializer is free

    def count(cycle: int) -> int:
        """Return how many results are in the FIFO at the beginning of a cycle."""
        nonlocal passed, taken, free
        while coming and coming[0] < cycle:
            there = coming.popleft() + Results.fifo_latency
            if config.register_slices:
                left = max(there, passed)
                passed = max(left, taken) + 1
                taken = max(passed, free)
            else:
                left = taken = max(there, free)
            free = taken + beats
            waiting.append(left)
        while waiting and waiting[0] < cycle:
            waiting.popleft()
        return len(waiting)

    def go(cycle: int) -> int:
        """Return the first cycle from this one on in which a beat may enter."""
        while count(cycle - Results.hold_latency(config)) >= enough:
            cycle += 1
        return cycle

    def entered(offered: int, wanted: int) -> int:
        """Return when a beat enters that comes next, and that the array wants from a cycle on."""
        return go(max(offered, wanted))

    now = begun = issue.first - issue.apart
    for _ in range(issue.blocks):
        for number in range(issue.summed):
            begun = now = entered(now + 1, begun + issue.apart)
            final = number == issue.summed - 1
            if not final and len(waiting) + len(coming) < enough:  # nothing will hold them
                now += issue.beats - 1
                continue
            for beat in range(issue.beats):
                now = entered(now + 1, 0) if beat else now
                if final and sums is None:
                    coming.append(now + way)
            if final and sums is not None:
                coming.extend(now + way + i for i in sums)
    count(coming[-1] + 1)
    return free


def spans(program: Program) -> Iterator[Span]:
    """Return when each command was taken and had ended, and last the closing beat."""
    config = program.config
    words = {
        "activation": program.beats_of(config.activation_bits),
        "weight": program.beats_of(config.weight_bits),
        "parameter": program.beats_of(config.parameter_bits),
    }
    now, free = 0, 0  # the last beat taken; the last cycle in which a command would wait
    for command, sets in program.sets_before_runs():
        if sets and config.register_sets == 1:
            now = max(now, free)
        now += len(sets)
        if isinstance(command, Run):
            now = max(now, free) + 1
            ended = now + run_cycles(program, command)
            free = ended + Sequencer.latency
            yield Span(now, ended)
        elif isinstance(command, Store):
            now = max(now, free) + 1
            each = program.beats_of(config.activation_bits)
            first = now + 1 + Results.store_latency + config.register_slices
            ended = first + each + (command.words - 1) * max(2, each)
            free = ended + Sequencer.latency
            yield Span(now, ended)
        else:
            assert isinstance(command, Load)
            alone = {"activation"} | ({"weight"} if config.weight_ports == 1 else set())
            if command.wait or command.buffer in alone:
                now = max(now, free)
            start = now + 1
            now = start + len(command.data) * words[command.buffer]
            yield Span(start, now)
    end = max(now, free) + 1
    yield Span(end, end)


def cycles_of(program: Program) -> int:
    """Return the cycles that the closing beat reports."""
    return list(spans(program))[-1].end
