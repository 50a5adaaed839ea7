"""The bench of a systolic array: products, protocol, latency, throughput and reset.

Runs in a simulator's process; :mod:`testbench.cocotb_lane` starts it. The host has packed the
operands and, in NumPy, worked out the sums; here beats are only sent, received and compared.

Parameters: ``operands`` and ``result``, paths of files; ``sum_beats``; what the sidecar says of the
array: ``dataflow``, ``rows``, ``latency`` (cycles), ``sum_bits``; for :func:`gemm` the
probabilities ``offer`` (of activations, of weights) and ``accept`` in a cycle.

The operands file holds, for both inputs, packed beats (``act``, ``weight``) and their segments
(``act_segments``, ``weight_segments``); ``pass_ends``, the number of each activation beat that is
the last of its pass; and, unless the host compares for itself, the ``sums`` and ``sums_last`` that
must come out.
"""

import functools
import random
import time
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import numpy.typing as npt

from testbench.streams import Sink, Source, Streams, bench_parameters, packed_beats, unpack_beats


@functools.cache
def parameters() -> dict[str, Any]:
    """Return what the host asked for."""
    return bench_parameters()


@functools.cache
def operands() -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of the operands file."""
    with np.load(parameters()["operands"]) as file:
        return dict(file)


class ArrayRun:
    """Everything sent through the array once, from a reset on.

    Parameters
    ----------
    dut : cocotb handle
        The array.
    streams : Streams
        Its clock and reset.
    offer : pair of float
        Probability that activations, weights are offered in a cycle.
    accept : float
        Probability that a sum is accepted in a cycle.
    """

    def __init__(
        self,
        dut: Any,
        streams: Streams,
        offer: tuple[float, float] = (1.0, 1.0),
        accept: float = 1.0,
    ) -> None:
        self.streams = streams
        given, seed = operands(), cocotb.RANDOM_SEED
        self.act, self.weight = (
            Source(
                dut,
                f"i_{name}",
                packed_beats(given[name], given[f"{name}_segments"]),
                offer=probability,
                seed=seed,
            )
            for name, probability in zip(("act", "weight"), offer, strict=True)
        )
        self.sink = Sink(dut, "o_sum", accept=accept, seed=seed)

    async def run(self, cycles: int | None = None) -> None:
        """Reset the array and send everything, or as much as the given number of cycles allows."""
        await self.streams.reset()
        await self.streams.run(
            (self.act, self.weight), self.sink, beats=parameters()["sum_beats"], cycles=cycles
        )

    async def check(self) -> None:
        """Check that nothing follows, the sums and the latency."""
        # Whatever might still be inside would have left by then.
        spare = 4 * (parameters()["latency"] + parameters()["rows"])
        await self.streams.finish((self.act, self.weight), self.sink, spare)
        self.values, self.last = unpack_beats(self.sink.beats, parameters()["sum_bits"])
        if "sums" in operands():
            np.testing.assert_array_equal(self.values, operands()["sums"])
            np.testing.assert_array_equal(self.last, operands()["sums_last"])
        self._check_latency()

    def moves(self, cycles: list[int]) -> npt.NDArray[np.int64]:
        """Return for each cycle how often the array moved before: cycles without the stalled."""
        return np.array(cycles) - np.searchsorted(self.sink.stalls, cycles)

    def _check_latency(self) -> None:
        """Check the documented latency, of every beat; stalls are not counted."""
        rows, latency = parameters()["rows"], parameters()["latency"]
        accepted = self.moves(self.act.cycles)
        if parameters()["dataflow"] == "ws":  # a beat of sums for each beat of activations
            expected = accepted + latency
        else:  # `rows` of them, one after the other, for each pass
            ends = accepted[operands()["pass_ends"]]
            expected = (ends[:, None] + latency + np.arange(rows)).reshape(-1)
        np.testing.assert_array_equal(self.moves(self.sink.cycles), expected, "latency")


@cocotb.test()
async def gemm(dut: Any) -> None:
    """Multiply with the idling asked for, and write the result file."""
    run = ArrayRun(dut, Streams(dut), parameters()["offer"], parameters()["accept"])
    start = time.perf_counter()
    await run.run()
    seconds, cycle = time.perf_counter() - start, run.streams.cycle
    await run.check()
    operand_cycles = run.act.cycles + run.weight.cycles
    np.savez(
        Path(parameters()["result"]),
        values=run.values,
        last=run.last,
        cycles=np.array(run.sink.cycles),
        cycle=cycle,
        operand_span=(min(operand_cycles), max(operand_cycles)),
        seconds=seconds,
    )


@cocotb.test()
@cocotb.parametrize(offer_act=[1.0, 0.5], offer_weight=[1.0, 0.5], accept=[1.0, 0.3])
async def idle_and_back_pressure(
    dut: Any, offer_act: float, offer_weight: float, accept: float
) -> None:
    """Multiply while inputs idle and sums wait."""
    run = ArrayRun(dut, Streams(dut), (offer_act, offer_weight), accept)
    await run.run()
    await run.check()


@cocotb.test()
async def throughput(dut: Any) -> None:
    """Measure that passes follow each other as closely as documented when nothing idles."""
    run = ArrayRun(dut, Streams(dut))
    await run.run()
    await run.check()
    assert not run.sink.stalls, "sums waited for a sink that never did"
    accepted = np.array(run.act.cycles)
    ends = operands()["pass_ends"]
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = np.maximum(ends + 1 - starts, parameters()["rows"])
    if parameters()["dataflow"] == "ws":
        np.testing.assert_array_equal(np.diff(accepted[starts]), lengths[:-1])
    else:
        np.testing.assert_array_equal(np.diff(accepted[ends]), lengths[1:])


@cocotb.test()
@cocotb.parametrize(accept=[1.0, 0.5, 0.0])
async def reset_midway(dut: Any, accept: float) -> None:
    """Reset at any time, even when the array stands still: nothing may stay behind."""
    streams = Streams(dut)
    rng = random.Random(cocotb.RANDOM_SEED)
    length = 2 * parameters()["sum_beats"] + parameters()["latency"]
    for _ in range(4):
        await ArrayRun(dut, streams, (0.7, 0.7), accept).run(rng.randrange(1, length))
        run = ArrayRun(dut, streams)
        await run.run()
        await run.check()
