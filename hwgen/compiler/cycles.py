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
    # From the start to the operands of the first sum, from there to it, and from pass to pass.
    if run.has("direct"):
        ready, apart = ActivationStreamer.latency, pixels
        way = Direct.latency(config)
    else:
        way = array.rows + array.cols + array.pe.pipeline
        if array.dataflow == "ws":
            apart = max(pixels, array.rows)
            ready = max(WeightStreamer.latency + array.rows, ActivationStreamer.latency)
        else:  # one pass, whose first beat waits for the transposer, and whose last for the others
            apart, summed = array.rows * summed, 1
            ready = ActivationStreamer.latency + array.rows + apart - 1
            pixels, skip = array.rows, array.rows - pixels
    behind = Accumulate.latency + PostProcess.latency(config, raw)
    first = ready + way + behind
    if not to_host:
        return first + (blocks * summed - 1) * apart + pixels
    bits = array.cols * (config.sum_bits if raw else array.pe.activation.bits)
    beats = program.beats_of(bits)
    start = first + (summed - 1) * apart
    if beats == 1:
        return start + (blocks * summed - summed) * apart + pixels + 1
    return _serialized(start, pixels, skip, blocks, summed, apart, behind, beats) + 1


def _serialized(
    start: int, pixels: int, skip: int, blocks: int, summed: int, apart: int, behind: int,
    beats: int,
) -> int:  # fmt: skip
    """Return when the last beat of a run to the host is sent, if a vector takes several.

    While one vector is sent, the serializer takes one more, and then stops all that is behind the
    array; the array hands on one beat more, and stops as soon as it has another.

    Parameters
    ----------
    start : int
        When the first vector is at the serializer.
    pixels, skip, blocks, summed, apart : int
        Beats of a pass, those that are dropped, results in each place, passes that are summed,
        cycles from pass to pass.
    behind, beats : int
        Cycles from the array to the serializer, beats of a vector.
    """
    stops: deque[tuple[int, int]] = deque(maxlen=behind + 1)  # nothing moves behind the array

    def later(cycle: int, count: int) -> int:
        """Return when, from a cycle on, so many have gone by in which things move."""
        then = cycle + count
        for begin, end in stops:
            if begin <= then and cycle < end:
                then += end - max(begin, cycle)
        return then

    # When the array hands on the last sum of the vector, and when the accumulation takes it.
    given = taken = start - behind
    free = 0  # when the serializer is free
    for j in range(blocks * pixels):
        if j % pixels >= skip:
            arrived = later(taken, behind)
            sent = max(arrived, free)
            if sent > arrived:
                stops.append((arrived + 1, sent + 1))
            free = sent + beats
        if (j + 1) % pixels:
            given = taken + 1
            taken = later(given, 0)
            continue
        for i in range(summed):  # the next block's passes, up to the first beat of the last one
            given = max(given + apart - pixels + 1, taken + 1)
            taken = later(given, 0)
            if i < summed - 1 and pixels > 1:
                given = later(taken, pixels - 2) + 1
                taken = later(given, 0)
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
            first = now + 1 + Results.store_latency
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
