"""The bench of a systolic array: products, protocol, latency, throughput and reset.

Runs in a simulator's process; :mod:`testbench.cocotb_lane` starts it. The host has packed the
operands and, in NumPy, worked out the sums; here beats are only sent, received and compared.

The parameters are the paths ``operands`` and ``result``, the number of ``sum_beats``, what the
sidecar says of the array (``dataflow``, ``rows``, ``latency`` in cycles, ``sum_bits``), and for
:func:`gemm` the probabilities ``offer`` (activations, weights) and ``accept``.

The operands file holds ``activations`` and ``weights`` (packed beats), the ``segments`` of each,
and ``last``, the marks of the activations' beats. Where ``sums`` and ``sums_last`` are there, the
results must equal them.
"""

import functools
import random
from typing import Any

import cocotb
import numpy as np
import numpy.typing as npt

from testbench.streams import Sink, Source, Streams, bench_parameters, packed_beats

IntArray = npt.NDArray[np.int64]


@functools.cache
def parameters() -> dict[str, Any]:
    """Return what the host asked for."""
    return bench_parameters()


@functools.cache
def operands() -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of the operands file."""
    with np.load(parameters()["operands"]) as file:
        return dict(file)


def array_streams(
    dut: Any, seed: int, offer: tuple[float, float], accept: float
) -> tuple[list[Source], Sink]:
    """Make the streams of an array: activations and weights from the operands file, and sums."""
    given = operands()
    sources = [
        Source(
            dut,
            f"i_{short}",
            packed_beats(given[name], given[f"{name}_segments"]),
            offer=probability,
            seed=seed,
        )
        for (short, name), probability in zip(
            (("act", "activations"), ("weight", "weights")), offer, strict=True
        )
    ]
    return sources, Sink(dut, "o_sum", accept=accept, seed=seed)
