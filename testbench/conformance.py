"""What every PE and every array must pass; ``tests/test_conformance.py`` applies it to all PEs.

A PE of another package is covered by being registered. To run the checks on one by hand::

    from testbench.conformance import check_format, check_pe
    check_pe(MyPE())

Each check raises AssertionError with the operands of the first failure, and returns the number of
comparisons it made, so that a check that compared nothing can be told from one that passed.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hwgen.config import ArrayConfig
from hwgen.generate import Generated, generate
from hwgen.tiling import Tiling, pack_codes
from hwgen.verilog import emit_verilog
from pe_library import Accumulator, NumberFormat, ProcessingElement

from .compiled import CompiledModel
from .simulate import random_operands, simulate

__all__ = [
    "EXHAUSTIVE_BITS",
    "check_array",
    "check_format",
    "check_pe",
    "check_schedule",
    "operand_codes",
    "variants",
]

IntArray = npt.NDArray[np.int64]

#: Operand pairs of up to so many bits in all are tested exhaustively.
EXHAUSTIVE_BITS = 16


def check_format(number_format: NumberFormat) -> int:
    """Check that a format is consistent: range, encoding, padding, quantization."""
    codes = np.arange(1 << number_format.bits)
    values = number_format.decode(codes)
    assert values.shape == codes.shape, f"{number_format}: decode changes the shape"
    assert (np.unique(values) == number_format.values).all()
    assert number_format.minimum == values.min(), f"{number_format}: minimum"
    assert number_format.maximum == values.max(), f"{number_format}: maximum"
    encoded = number_format.encode(values)
    assert (encoded >= 0).all(), f"{number_format}: a code is negative"
    assert (encoded < 1 << number_format.bits).all(), f"{number_format}: a code is too wide"
    assert (number_format.decode(encoded) == values).all(), f"{number_format}: encode and decode"
    assert number_format.contains(number_format.padding), f"{number_format}: padding"
    # Quantization: each value is its own; what lies between two goes to the nearer one.
    grid = number_format.values
    assert (number_format.quantize(grid * 0.25, 0.25) == grid).all(), f"{number_format}: quantize"
    between = grid[:-1] + np.diff(grid) * 0.49
    assert (number_format.quantize(between) == grid[:-1]).all(), f"{number_format}: nearest"
    assert number_format.quantize(grid[-1] + 1e6) == grid[-1], f"{number_format}: saturation"
    return 3 * len(codes)


def variants(pe: ProcessingElement) -> list[ProcessingElement]:
    """Return a PE as it is and with other lanes (one, an odd number) and pipelines (each)."""
    lanes = dict.fromkeys([pe.lanes, 1, 3])
    found = [
        replace(pe, lanes=n, pipeline=p)
        for n in lanes
        for p in ((0, 2) if n != pe.lanes else range(4))
    ]
    return list(dict.fromkeys(found))


def operand_codes(
    pe: ProcessingElement, rng: np.random.Generator, rows: int = 4096
) -> tuple[IntArray, IntArray]:
    """Return codes of activations and weights, of shape (rows, lanes).

    With one lane and few enough bits: all pairs. Otherwise every pair of corner codes in all lanes
    at once, then every code of either side against random ones, then uniformly random rows.
    """
    a_codes, w_codes = (1 << pe.activation.bits), (1 << pe.weight.bits)
    if pe.lanes == 1 and pe.activation.bits + pe.weight.bits <= EXHAUSTIVE_BITS:
        a, w = np.divmod(np.arange(a_codes * w_codes), w_codes)
        return a[:, None], w[:, None]
    corners = []
    for number_format in (pe.activation, pe.weight):
        extremes = [number_format.minimum, number_format.maximum, number_format.padding]
        ends = [0, (1 << number_format.bits) - 1]
        corners.append(np.unique([*number_format.encode(extremes), *ends]))
    grid = np.array(np.meshgrid(*corners)).reshape(2, -1, 1)
    a = rng.integers(0, a_codes, (rows, pe.lanes))
    w = rng.integers(0, w_codes, (rows, pe.lanes))
    a[: min(rows, a_codes), 0] = np.arange(min(rows, a_codes))
    w[-min(rows, w_codes) :, -1] = np.arange(min(rows, w_codes))
    ones = np.ones((1, grid.shape[1], pe.lanes), dtype=np.int64)
    return np.concatenate([(grid[0] * ones)[0], a]), np.concatenate([(grid[1] * ones)[0], w])


def check_pe(
    pe: ProcessingElement,
    accumulator: Accumulator | None = None,
    *,
    stalls: float = 0.0,
    seed: int = 0,
    verilog: str | None = None,
) -> int:
    """Check the emitted arithmetic of a PE against its meaning, bit for bit, and its latency.

    Parameters
    ----------
    pe : ProcessingElement
        The PE.
    accumulator : Accumulator, optional
        The sums; exact for 64 additions if None.
    stalls : float
        Share of cycles without ``en`` (with other operands at the ports), where there is one.
    seed : int
        Of the partial sums, the random operands and the stalls.
    verilog : str, optional
        Check this text instead of what the PE emits.
    """
    accumulator = accumulator or Accumulator(pe.accumulator_bits(64 * pe.lanes))
    rng = np.random.default_rng(seed)
    a, w = operand_codes(pe, rng)
    partial = rng.integers(accumulator.minimum, accumulator.maximum, len(a), endpoint=True)
    partial[::7] = rng.choice([accumulator.minimum, accumulator.maximum, 0, -1], len(partial[::7]))
    if accumulator.overflow == "error":  # an exact accumulator is never near its ends
        partial //= 2
    expected = accumulator.fold(pe.compute(partial, a, w))

    # Row i of the operands goes in at enabled cycle i, its partial sum `pipeline` cycles later, and
    # the sum is expected then and at no other time.
    late = pe.pipeline
    stalled = rng.geometric(1 - stalls, len(a)) - 1 if late else np.zeros(len(a), dtype=np.int64)
    enabled = np.zeros(len(a) + stalled.sum(), dtype=bool)
    enabled[np.cumsum(stalled + 1) - 1] = True
    place = np.cumsum(enabled) - enabled  # the row that is due in each cycle
    rows = len(enabled)

    def scattered(values: IntArray, bits: int) -> npt.NDArray[np.uint8]:
        cycles = rng.integers(0, 1 << bits, (rows, values.shape[1]))  # what a stall shows
        cycles[enabled] = values
        return pack_codes(cycles, bits)

    inputs = {
        "activations": scattered(a, pe.activation.bits),
        "weights": scattered(w, pe.weight.bits),
        "partial_in": _packed_words(np.roll(partial, late)[place], accumulator.bits),
    }
    if late:
        inputs["en"] = enabled.astype(np.uint8)[:, None]
    component = pe.create(accumulator)
    top = component.definition
    with CompiledModel(verilog or emit_verilog(component), top) as model:
        raw = model.vectors(inputs, "partial_out")
    got = _words(raw, accumulator.bits)[enabled]
    got, wanted = got[late:], expected[: len(expected) - late]
    wrong = np.flatnonzero(got != wanted)
    if len(wrong):
        i = wrong[0]
        raise AssertionError(
            f"{top}: {len(wrong)} of {len(wanted)} sums are wrong; with partial {partial[i]}, "
            f"activations {pe.activation.decode(a[i]).tolist()} and weights "
            f"{pe.weight.decode(w[i]).tolist()} expected {wanted[i]}, got {got[i]}"
        )
    return len(wanted)


def _packed_words(values: IntArray, bits: int) -> npt.NDArray[np.uint8]:
    """Pack one word of up to 64 bits a row."""
    spare = np.uint64(64 - bits)
    words = (values.astype("<u8") << spare) >> spare
    return words[:, None].view(np.uint8)[:, : -(-bits // 8)]


def _words(raw: npt.NDArray[np.uint8], bits: int) -> IntArray:
    """Read one signed word of up to 64 bits a row."""
    padded = np.zeros((len(raw), 8), dtype=np.uint8)
    padded[:, : raw.shape[1]] = raw
    return (padded.view("<u8")[:, 0] << np.uint64(64 - bits)).astype(np.int64) >> (64 - bits)


def check_array(
    config: ArrayConfig,
    m: int,
    k: int,
    n: int,
    *,
    offer: tuple[float, float] = (1.0, 1.0),
    accept: float = 1.0,
    burst: int = 1,
    seed: int = 1,
    generated: Generated[ArrayConfig] | None = None,
) -> int:
    """Check a random GEMM on an array; the traffic's parameters are those of ``simulate``."""
    a, w = random_operands(config, m, k, n, seed)
    found = simulate(config, a, w, generated=generated, offer=offer, accept=accept, burst=burst,
                     seed=seed)  # fmt: skip
    assert found.passed, f"{config}: {found.mismatches} of {found.checks} wrong: {found.examples}"
    return found.checks


def check_schedule(config: ArrayConfig, m: int, k: int, n: int) -> int:
    """Check that every beat of sums comes in the very cycle that the documentation says.

    The latency counts from the acceptance of a beat; passes follow each other in ``max(beats,
    rows)`` cycles, where a pass has as many beats as activations.
    """
    generated = generate(config)
    a, w = random_operands(config, m, k, n, 0)
    tiling = Tiling(config, m, k, n)
    passes = list(tiling)
    with CompiledModel(generated.verilog, config.name) as model:
        chunks = model.stream(
            tiling.activations(a), tiling.weights(w), sum(p.beats for p in passes),
            generated.sidecar["streams"],
        )  # fmt: skip
        got = np.concatenate([sums.cycles for sums in chunks])
    latency = generated.sidecar["latency_cycles"]
    wanted = []
    if config.dataflow == "ws":
        start = config.rows  # the first weights are loaded first
        for part in passes:
            wanted += [start + beat + latency for beat in range(part.beats)]
            start += max(part.beats, config.rows)
    else:
        # A pass's last beat comes `beats` cycles after the last one before it, but never sooner
        # than `rows` cycles.
        last = -config.rows
        for part in passes:
            beats = -(-(part.k.stop - part.k.start + part.padding) // config.pe.lanes)
            last = max(last + config.rows, (0 if not wanted else last + 1) + beats - 1)
            wanted += [last + latency + row for row in range(config.rows)]
    assert got.tolist() == wanted, f"{config}: sums came at cycles {got}, not {wanted}"
    return len(wanted)
